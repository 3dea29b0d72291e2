package shard_test

import (
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// The figures of large states: bytes of memory, bytes of snapshots, and the time in which an
// agent encodes all of them, or decodes them when it starts.
//
//	go test -run '^$' -bench Scale -benchtime 3x ./metadata/shard

// heap returns the bytes that are reachable.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what the first one finalised
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// merged is an extent of a merged segment after base.
func merged(rnd *rand.Rand, base tiering.Offset, seq int) tiering.Extent {
	return tiering.Extent{
		Base: base, Count: 20000 + rnd.Int64N(20000), MaxTimestamp: 1700000000000 + int64(seq)*60000, Length: 32<<20 - rnd.Int32N(1<<20),
		Segment: tiering.SegmentID{Session: tiering.SessionID{byte(seq >> 10), 1}, Seq: uint64(seq)}, Position: 4096,
	}
}

// retained is a shard whose only partition holds 1 TiB: extents of 32 MiB, all but the last few
// hundred in manifests of 512.
func retained(b testing.TB) *shard.State {
	const total, perManifest, left = 1 << 40 / (32 << 20), 512, 256
	rnd := rand.New(rand.NewPCG(1, 1))
	s := shard.New()
	apply := func(epoch int, changes ...shard.Change) {
		if err := s.Apply(shard.Record{Seq: s.Seq + 1, Epoch: tiering.LeaderEpoch(epoch), Leader: leader, Changes: changes}); err != nil {
			b.Fatal(err)
		}
	}
	for seq := range total {
		e := merged(rnd, s.Partition(tpA).Next, seq)
		apply(seq/3000, shard.Append{Partition: tpA, Base: e.Base, Extents: []tiering.Extent{e}})
		if run := s.Partition(tpA).Extents; len(run) == perManifest+left {
			run = run[:perManifest]
			m := shard.ManifestOf(tiering.SegmentID{Session: session, Seq: uint64(seq)}, 8<<10, run)
			apply(seq/3000, shard.Archive{Partition: tpA, Of: shard.DigestOf(run), Manifest: m})
		}
	}
	return s
}

func BenchmarkScaleOneTiB(b *testing.B) {
	before := heap()
	encoded := retained(b).EncodeSnapshot(nil)
	s, err := shard.DecodeSnapshot(encoded)
	if err != nil {
		b.Fatal(err)
	}
	used := heap() - before - int64(len(encoded))
	p := s.Partition(tpA)
	if total := p.Bytes(); total < 1<<40*9/10 || len(p.Extents) >= 768 {
		b.Fatalf("%d bytes in %d manifests and %d extents", total, len(p.Manifests), len(p.Extents))
	}
	for b.Loop() {
		if _, err := shard.DecodeSnapshot(encoded); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(used), "bytes-memory")
	b.ReportMetric(float64(len(encoded)), "bytes-snapshot")
	b.ReportMetric(float64(len(p.Manifests)), "manifests")
	runtime.KeepAlive(s)
}

const (
	scaleShards     = 64
	scalePartitions = 100_000
)

// populated is one of the shards of a cluster with many partitions: each with three extents of
// merged segments, one of a flush and one inline, and one producer that has written its last ten
// batches.
func populated(b testing.TB, shardID, shards, partitions int) *shard.State {
	rnd := rand.New(rand.NewPCG(uint64(shardID), 1))
	s := shard.New()
	for p := shardID; p < partitions; p += shards {
		tp := tiering.TopicPartition{Topic: tiering.TopicID{byte(p >> 14), byte(p >> 6), 1}, Partition: int32(p % 64)}
		a := shard.Append{Partition: tp}
		next := tiering.Offset(0)
		add := func(e tiering.Extent) {
			e.Base = next
			next = e.End()
			a.Extents = append(a.Extents, e)
		}
		for seq := range 3 {
			add(merged(rnd, next, 1000*p+seq))
		}
		flush := merged(rnd, next, p)
		flush.Length, flush.Count = 16<<10, 200
		add(flush)
		add(tiering.Extent{Count: 1, MaxTimestamp: 1700000000000, Length: 150, Inline: make([]byte, 150)})
		for i := range 10 {
			a.Producers = append(a.Producers, shard.ProducerAppend{
				ProducerID: int64(p), FirstSeq: int32(i), LastSeq: int32(i), Base: next - tiering.Offset(10-i), Timestamp: 1700000000000,
			})
		}
		if err := s.Apply(shard.Record{Seq: s.Seq + 1, Epoch: 1, Leader: leader, Time: 1700000000000, Changes: []shard.Change{a}}); err != nil {
			b.Fatal(err)
		}
	}
	return s
}

// BenchmarkScaleManyPartitions: each agent has all shards in memory.
func BenchmarkScaleManyPartitions(b *testing.B) {
	snapshots := make([][]byte, scaleShards)
	total := 0
	var encoding time.Duration
	for i := range snapshots {
		s := populated(b, i, scaleShards, scalePartitions)
		began := time.Now()
		snapshots[i] = s.EncodeSnapshot(nil)
		encoding += time.Since(began)
		total += len(snapshots[i])
	}
	states := make([]*shard.State, scaleShards)
	began, runs := time.Now(), 0
	before := heap()
	for b.Loop() {
		clear(states)
		for i, enc := range snapshots {
			s, err := shard.DecodeSnapshot(append([]byte(nil), enc...)) // as read from the store: inline bytes alias it
			if err != nil {
				b.Fatal(err)
			}
			states[i] = s
		}
		runs++
	}
	decoding := time.Since(began) / time.Duration(runs)
	used := heap() - before
	n := 0
	for _, s := range states {
		n += len(s.Partitions())
	}
	if n != scalePartitions {
		b.Fatalf("%d partitions", n)
	}
	b.ReportMetric(float64(used)/scalePartitions, "bytes-memory/partition")
	b.ReportMetric(float64(used)/(1<<20), "MiB-memory")
	b.ReportMetric(float64(total)/(1<<20), "MiB-snapshots")
	b.ReportMetric(encoding.Seconds(), "s-encode")
	b.ReportMetric(decoding.Seconds(), "s-decode")
}

// TestLargeStatesAreSlim holds states to what 100,000 partitions and years of retention may take:
// a quarter of 1 GiB, the rest is for bursts of extents and for everything else that an agent has.
func TestLargeStatesAreSlim(t *testing.T) {
	const partitions, perPartition = 4000, 1 << 28 / scalePartitions
	before := heap()
	s := populated(t, 0, 1, partitions)
	applied := heap() - before
	enc := s.EncodeSnapshot(nil)
	s = nil
	before = heap()
	back, err := shard.DecodeSnapshot(enc)
	if err != nil || len(back.Partitions()) != partitions {
		t.Fatal(err)
	}
	decoded := heap() - before + int64(len(enc))
	for how, bytes := range map[string]int64{"built up by records": applied, "read from a snapshot": decoded} {
		if bytes > partitions*perPartition {
			t.Errorf("%s: %d bytes for each partition, want at most %d", how, bytes/partitions, perPartition)
		}
	}
	runtime.KeepAlive(back)
	one := retained(t)
	if enc := one.EncodeSnapshot(nil); len(enc) > 64<<10 {
		t.Errorf("a partition of 1 TiB takes %d bytes of a snapshot", len(enc))
	}
	if p := one.Partition(tpA); p.Bytes() < 1<<40*9/10 || len(p.Manifests) == 0 || len(p.Extents) >= 768 {
		t.Errorf("%d bytes in %d manifests and %d extents", p.Bytes(), len(p.Manifests), len(p.Extents))
	}
	t.Logf("%d and %d bytes for each partition", applied/partitions, decoded/partitions)
}
