package sim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
)

// polledRecord is a record of a compacted partition as it was read.
type polledRecord struct {
	at tiering.Offset
	id uint64
}

// everKnown returns all partitions there ever were.
func (w *world) everKnown() []*partition {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.partitions)
}

// records takes the records of a batch apart.
func (c *consumer) records(p *process, part *partition, v batch.View) (out []polledRecord) {
	for r, err := range v.Records(nil) {
		if err != nil {
			c.w.fail("corruption", part, "%s was served records by %s that cannot be read: %v", c.name, p.name, err)
			return out
		}
		out = append(out, polledRecord{tiering.Offset(v.BaseOffset()) + tiering.Offset(r.OffsetDelta), recordDigest(&r, v.Timestamp(r))})
	}
	return out
}

// stands reports whether a batch stands for nothing but removed offsets, as one does with
// which an answer ends in a hole.
func (b *polled) stands() bool {
	return len(b.records) == 0 && !b.control && !b.transactional && b.producer < 0
}

// checkCompacted: invariants 1 and 2 over an answer from a compacted partition: every record
// is the one that was committed there, and what is left out had been removed by then.
func (w *world) checkCompacted(p *poll, log *auditedLog) {
	next := p.offset
	skip := func(to tiering.Offset) {
		for ; next < min(to, tiering.Offset(len(log.records))); next++ {
			if r := &log.records[next]; r.removed == 0 || r.removed > p.to {
				w.fail("poll skip", p.part, "%s was not given offset %d (key %q) by %s, which log compaction has not removed (%d)", p.client, next, r.key, p.agent, r.removed)
			}
		}
		next = max(next, to)
	}
	for j, b := range p.batches {
		k, ok := log.find(b.base)
		switch {
		case !ok || log.batches[k].base != b.base && !b.stands():
			w.fail("one value", p.part, "%s read a batch at offset %d from %s at %d, where none was committed (%d of %d: %+v)", p.client, b.base, p.agent, p.offset, j, len(p.batches), b)
			return
		case log.batches[k].epoch != b.epoch:
			w.fail("one value", p.part, "%s read offset %d from %s with epoch %d, not %d", p.client, b.base, p.agent, b.epoch, log.batches[k].epoch)
		case log.batches[k].revision > p.to:
			w.fail("one value", p.part, "%s read offset %d from %s before it was committed", p.client, b.base, p.agent)
		}
		if b.base < next && j > 0 || b.base+offsetOf(b.count) <= p.offset {
			w.fail("contiguity", p.part, "%s read offset %d from %s, %d comes next", p.client, b.base, p.agent, next)
		}
		if b.control {
			if is := &log.batches[k]; !is.control || is.producer != b.producer || is.commit != b.marker {
				w.fail("one value", p.part, "%s read another marker at offset %d from %s than was committed", p.client, b.base, p.agent)
			}
			b.records = []polledRecord{{at: b.base}}
		}
		for _, r := range b.records {
			if r.at >= tiering.Offset(len(log.records)) || log.records[r.at].id != r.id {
				w.fail("one value", p.part, "%s read another record at offset %d from %s than was committed", p.client, r.at, p.agent)
				return
			}
			if r.at >= next {
				skip(r.at)
				next++
			}
		}
		skip(b.base + offsetOf(b.count))
	}
	if next > p.high {
		w.fail("one value", p.part, "%s read up to %d from %s, beyond the high watermark %d", p.client, next, p.agent, p.high)
	}
}

// checkAbortedList: a reader of what is committed is told of exactly the aborted transactions
// that have offsets among what it was given; of those whose markers log compaction has removed,
// perhaps.
func (w *world) checkAbortedList(p *poll, log *auditedLog) {
	if !p.committed || len(p.batches) == 0 {
		return
	}
	last := p.batches[len(p.batches)-1]
	end := last.base + offsetOf(last.count)
	told := map[kafka.AbortedTransaction]bool{}
	for _, t := range p.aborted {
		told[kafka.AbortedTransaction{ProducerID: t.ProducerID, First: t.First}] = true
	}
	for _, t := range log.aborts {
		if t.First >= end || t.Last < p.offset {
			continue
		}
		is := kafka.AbortedTransaction{ProducerID: t.ProducerID, First: t.First}
		if !told[is] && (t.removed == 0 || t.removed > p.to) {
			w.fail("aborted lists", p.part, "%s was not told by %s that producer %d's records from %d to %d are void; it read %d to %d", p.client, p.agent, t.ProducerID, t.First, t.Last, p.offset, end)
		}
		delete(told, is)
	}
	for t := range told {
		w.fail("aborted lists", p.part, "%s was told by %s that records of producer %d from %d on are void, which are not among %d to %d", p.client, p.agent, t.ProducerID, t.First, p.offset, end)
	}
}

const (
	// tidyTime is how long agents may take to delete what nothing names once everything is
	// healed and nobody writes any more: two sweeps, the grace, and a leader of shard 0 that
	// has just begun.
	tidyTime = 90 * time.Second
	// latePuts is how long after the end of all faults a PUT may still arrive.
	latePuts = 12 * time.Second
)

// awaitTidy waits until the bucket has nothing that should not be there: invariant 8.
func (w *world) awaitTidy(ctx context.Context) {
	began := time.Now()
	poked := false
	for {
		if !w.audit.await(ctx, w.server.Revision()) {
			return
		}
		left, overdue := w.audit.unnamed(ctx), w.audit.overdue()
		if len(left) == 0 && len(overdue) == 0 {
			return
		}
		if time.Since(began) > latePuts && !poked {
			poked = true // a cluster in which nothing has happened since is swept again in half an hour only
			w.poke(ctx)
		}
		if time.Since(began) > tidyTime || !sleep(ctx, 500*time.Millisecond) {
			for _, what := range overdue {
				w.fail("overdue", nil, "%v after nobody works any more %s", time.Since(began), what)
			}
			if len(left) == 0 {
				return
			}
			w.fail("garbage", nil, "%v after nobody works any more %d objects that nothing names are still there: %v", time.Since(began), len(left), left[:min(4, len(left))])
			return
		}
	}
}

// poke has one more batch written.
func (w *world) poke(ctx context.Context) {
	p := w.newProducer(99, false)
	p.left = 1
	p.run(ctx)
}

// overdue says what retention and log compaction should have done by now.
func (a *auditor) overdue() (out []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := &a.w.config
	for _, s := range a.shards {
		for _, tp := range s.state.Partitions() {
			p, log := s.state.Partition(tp), a.log(tp)
			all := slices.DeleteFunc(log.tiers.all(), func(e tiering.Extent) bool { return e.End() <= p.LogStart })
			if log.part.gone.Load() || len(all) == 0 {
				continue
			}
			keeps, bytes := log.part.keeps, int64(0)
			for i := range all {
				bytes += int64(all[i].Length)
			}
			policy := keeps.bytes
			if keeps.confirmed {
				policy = keeps.least.Load()
			}
			if policy >= 0 && bytes-int64(all[0].Length) >= policy {
				out = append(out, fmt.Sprintf("%s has %d bytes, %d without its first extent; retention.bytes is %d", log.part.name, bytes, bytes-int64(all[0].Length), policy))
			}
			latest := time.UnixMilli(all[0].MaxTimestamp)
			if keeps.age >= 0 && !all[0].IsHole() && time.Since(latest) > keeps.age+min(2*c.RetentionInterval, 5*time.Second) {
				out = append(out, fmt.Sprintf("%s has an extent of %v; retention.ms is %v", log.part.name, latest, keeps.age))
			}
			last := log.batches[len(log.batches)-1]
			settled := keeps.compact && (keeps.confirmed || !keeps.later) && keeps.maxLag < time.Minute && s.state.InlineExtents() == 0
			if settled && p.Cleaned < last.base && p.LogStart < last.base && time.Since(time.UnixMilli(last.time)) > keeps.maxLag+min(5*c.CleanEvery, 10*time.Second) {
				out = append(out, fmt.Sprintf("%s is compacted up to offset %d of %d (last batch at %d); max.compaction.lag.ms is %v", log.part.name, p.Cleaned, p.Next, last.base, keeps.maxLag))
			}
		}
	}
	return out
}
