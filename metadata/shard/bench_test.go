package shard_test

import (
	"fmt"
	"testing"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// flush is a submission of some batches for each of some partitions, of one idempotent
// producer each, that goes on from round to round.
func flush(round uint64, partitions, batches int, inline bool) *shard.Submission {
	s := &shard.Submission{Session: session, Seq: round + 1}
	for p := range partitions {
		var bs []shard.Batch
		for i := range batches {
			bs = append(bs, idempotent(int64(p), 0, int32(int(round)*batches+i)*10, 10))
		}
		tp := tiering.TopicPartition{Topic: tpA.Topic, Partition: int32(p)}
		if inline {
			s.Parts = append(s.Parts, inlinePart(tp, bs...))
		} else {
			s.Parts = append(s.Parts, part(tp, bs...))
		}
	}
	return s
}

var shapes = []struct {
	name                string
	partitions, batches int
	inline              bool
}{
	{"6 partitions x 8 batches", 6, 8, false},
	{"1 inline batch", 1, 1, true},
}

func BenchmarkSubmit(b *testing.B) {
	for _, c := range shapes {
		b.Run(c.name, func(b *testing.B) {
			s := shard.New()
			commitRound(b, s, flush(0, c.partitions, c.batches, c.inline))
			next := flush(1, c.partitions, c.batches, c.inline)
			b.ReportAllocs()
			for b.Loop() {
				d := shard.NewDraft(s, 1, leader, 1, 1)
				if _, err := d.Submit(next); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func commitRound(b *testing.B, s *shard.State, sub *shard.Submission) shard.Record {
	d := shard.NewDraft(s, 1, leader, 1, int64(sub.Seq))
	if _, err := d.Submit(sub); err != nil {
		b.Fatal(err)
	}
	r := d.Record()
	if err := s.Apply(r); err != nil {
		b.Fatal(err)
	}
	return r
}

// BenchmarkApply applies prepared records, read back as a follower has them. A new state
// every thousand records keeps the memory small.
func BenchmarkApply(b *testing.B) {
	for _, c := range shapes {
		b.Run(c.name, func(b *testing.B) {
			records := make([]shard.Record, 1000)
			s := shard.New()
			for i := range records {
				r, err := shard.DecodeRecord(commitRound(b, s, flush(uint64(i), c.partitions, c.batches, c.inline)).Encode(nil))
				if err != nil {
					b.Fatal(err)
				}
				records[i] = r
			}
			b.ReportAllocs()
			i := 0
			s = shard.New()
			for b.Loop() {
				if i == len(records) {
					i, s = 0, shard.New()
				}
				if err := s.Apply(records[i]); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}

func BenchmarkRecordCodec(b *testing.B) {
	for _, c := range shapes {
		r := commitRound(b, shard.New(), flush(0, c.partitions, c.batches, c.inline))
		enc := r.Encode(nil)
		b.Run(fmt.Sprintf("encode %s, %d bytes", c.name, len(enc)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				enc = r.Encode(enc[:0])
			}
		})
		b.Run(fmt.Sprintf("decode %s, %d bytes", c.name, len(enc)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := shard.DecodeRecord(enc); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkTransaction decides about a transaction in one partition: a batch, its marker
// and the offsets that go with it.
func BenchmarkTransaction(b *testing.B) {
	s := shard.New()
	begun := tx(1, 0, 1)
	sub := submission(1, inlinePart(tpA, transactional(begun, 0, 10)))
	b.ReportAllocs()
	for b.Loop() {
		d := shard.NewDraft(s, 1, leader, 1, 1)
		if _, err := d.Submit(sub); err != nil {
			b.Fatal(err)
		}
		if out := d.Mark(shard.Marker{Partition: tpA, Transaction: begun, Commit: true}); out.Base != 10 {
			b.Fatal(out)
		}
		d.Add(commitOffsets(begun, offset(tpB, 1)))
		d.Add(conclude(begun, true))
	}
}
