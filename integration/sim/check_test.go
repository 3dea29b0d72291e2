package sim

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// check compares what clients were told with what was committed. The auditor must have
// replayed everything.
func (w *world) check() {
	w.audit.mu.Lock()
	defer w.audit.mu.Unlock()
	w.checkLogs()
	w.checkAnswers()
	w.checkPolls()
	w.checkMonotonic()
	w.checkLists()
	w.checkTrims()
	w.checkTransactions()
	w.checkGroups()
}

// checkLogs: invariants 2 and 5 over the logs as they were committed.
func (w *world) checkLogs() {
	stored := map[uint64]int{}
	for tp, log := range w.audit.logs {
		part := w.find(tp)
		if part.gone.Load() {
			continue
		}
		next := tiering.Offset(0)
		for _, b := range log.batches {
			if b.base != next {
				w.fail("one value", part, "offset %d follows offset %d", b.base, next)
			}
			next = b.base + tiering.Offset(b.count)
			if b.control {
				continue // the auditor has compared it with its record
			}
			s := w.sent[b.digest]
			switch {
			case s == nil:
				w.fail("one value", part, "offset %d holds what nobody sent", b.base)
				continue
			case s.part != part:
				w.fail("one value", part, "offset %d holds %s, which was sent to %s", b.base, s.name, s.part.name)
			}
			stored[b.digest]++
			if n := stored[b.digest]; s.meta.ProducerID >= 0 && n > 1 {
				w.fail("exactly once", part, "%s is stored %d times, now at offset %d", s.name, n, b.base)
			} else if n > s.attempts {
				w.fail("exactly once", part, "%s was sent %d times and is stored %d times", s.name, s.attempts, n)
			}
		}
		if end := log.marks[len(log.marks)-1].next; end != next {
			w.fail("one value", part, "the log ends at %d, its batches at %d", end, next)
		}
	}
	w.checkOrder()
}

// checkOrder: what one idempotent producer sent to a partition is in the order of its
// sequence numbers, without gaps.
func (w *world) checkOrder() {
	type key struct {
		part  *partition
		id    int64
		epoch int16
	}
	for tp, log := range w.audit.logs {
		if w.find(tp).gone.Load() {
			continue
		}
		next := map[key]int32{}
		for _, b := range log.batches {
			s := w.sent[b.digest]
			if s == nil || s.meta.ProducerID < 0 {
				continue
			}
			k := key{w.find(tp), s.meta.ProducerID, s.meta.ProducerEpoch}
			if s.meta.FirstSeq != next[k] {
				w.fail("sequence", k.part, "%s at offset %d, but sequence number %d is next", s.name, b.base, next[k])
			}
			next[k] = s.meta.FirstSeq + s.meta.Count
		}
	}
}

// checkAnswers: invariant 1 and 5, every success is the commit of that very batch, from
// before the success was told.
func (w *world) checkAnswers() {
	for _, s := range w.sent {
		if s.part.gone.Load() {
			continue
		}
		log := w.audit.logs[s.part.TopicPartition]
		for _, a := range s.answers {
			if log == nil {
				w.fail("durability", s.part, "%s was acknowledged at offset %d by %s and nothing was committed", s.name, a.base, a.who)
				continue
			}
			i, ok := log.find(a.base)
			if !ok || log.batches[i].digest != s.digest || log.batches[i].base != a.base {
				held := "nothing"
				if ok {
					held = w.sent[log.batches[i].digest].describe()
				}
				w.fail("durability", s.part, "%s was acknowledged at offset %d by %s, which holds %s", s.name, a.base, a.who, held)
			} else if log.batches[i].revision > a.revision {
				w.fail("durability", s.part, "%s was acknowledged by %s at revision %d and committed at revision %d", s.name, a.who, a.revision, log.batches[i].revision)
			}
			if s.meta.ProducerID >= 0 && a.base != s.answers[0].base {
				w.fail("exactly once", s.part, "%s was acknowledged at offset %d and at offset %d", s.name, s.answers[0].base, a.base)
			}
		}
	}
}

func (s *sent) describe() string {
	if s == nil {
		return "what nobody sent"
	}
	return s.name
}

// checkPolls: invariants 1 and 2 over what consumers saw.
func (w *world) checkPolls() {
	for i := range w.polls {
		p := &w.polls[i]
		if p.part.gone.Load() {
			continue
		}
		log := w.audit.log(p.part.TopicPartition)
		from, to := log.at(p.from), log.at(p.to)
		if p.code == kerr.OffsetOutOfRange.Code {
			if p.offset >= to.start && p.offset <= from.next {
				w.fail("out of range", p.part, "%s was told by %s that offset %d is out of range; the log was %d to %d", p.client, p.agent, p.offset, to.start, from.next)
			}
			continue
		}
		if p.code != 0 {
			continue
		}
		switch {
		case p.high > to.next || p.logStart > to.start || p.stable > p.high:
			w.fail("monotonic", p.part, "%s says that the log is %d to %d (stable %d); it is %d to %d", p.agent, p.logStart, p.high, p.stable, to.start, to.next)
		case p.offset > p.high:
			w.fail("monotonic", p.part, "%s answered a fetch at %d with high watermark %d", p.agent, p.offset, p.high)
		}
		if p.part.keeps.compact {
			w.checkCompacted(p, log)
		} else {
			w.checkPolled(p, log)
		}
		w.checkAbortedList(p, log)
	}
}

func (w *world) checkPolled(p *poll, log *auditedLog) {
	next := p.offset
	for j, b := range p.batches {
		if j == 0 && b.base <= next && b.base+tiering.Offset(b.count) > next {
			next = b.base // whole batches are read, the first may begin earlier
		}
		if b.base != next {
			w.fail("contiguity", p.part, "%s read offset %d from %s, %d comes next", p.client, b.base, p.agent, next)
		}
		next = b.base + tiering.Offset(b.count)
		k, ok := log.find(b.base)
		switch {
		case !ok:
			w.fail("one value", p.part, "%s read offset %d from %s, which was never committed", p.client, b.base, p.agent)
		case log.batches[k].digest != b.digest || log.batches[k].base != b.base || log.batches[k].count != b.count:
			w.fail("one value", p.part, "%s read other bytes at offset %d from %s than were committed", p.client, b.base, p.agent)
		case log.batches[k].epoch != b.epoch:
			w.fail("one value", p.part, "%s read offset %d from %s with epoch %d, not %d", p.client, b.base, p.agent, b.epoch, log.batches[k].epoch)
		case log.batches[k].revision > p.to:
			w.fail("one value", p.part, "%s read offset %d from %s before it was committed", p.client, b.base, p.agent)
		}
	}
	if next > p.high {
		w.fail("one value", p.part, "%s read up to %d from %s, beyond the high watermark %d", p.client, next, p.agent, p.high)
	}
}

// checkMonotonic: invariant 4, per client and node: also when another process took over there.
func (w *world) checkMonotonic() {
	type key struct {
		client string
		node   int32
		part   *partition
	}
	last := map[key]*poll{}
	for i := range w.polls {
		p := &w.polls[i]
		if p.part.gone.Load() {
			continue
		}
		k := key{p.client, p.node, p.part}
		if l := last[k]; l != nil && p.epoch < l.epoch {
			w.fail("monotonic", p.part, "%s saw epoch %d at %s after epoch %d at %s", p.client, p.epoch, p.agent, l.epoch, l.agent)
		}
		if p.code != 0 {
			continue
		}
		if l := last[k]; l != nil && p.stable < l.stable {
			w.fail("last stable offset", p.part, "%s was told %d by %s after %d by %s", p.client, p.stable, p.agent, l.stable, l.agent)
		}
		if l := last[k]; l != nil && (p.high < l.high || p.logStart < l.logStart) {
			w.fail("monotonic", p.part, "%s saw the log %d to %d at %s after %d to %d at %s", p.client, p.logStart, p.high, p.agent, l.logStart, l.high, l.agent)
		}
		last[k] = p
	}
}

// checkLists: answers to questions about offsets are as of some time between question and answer.
func (w *world) checkLists() {
	for i := range w.lists {
		l := &w.lists[i]
		if l.part.gone.Load() {
			continue
		}
		log := w.audit.log(l.part.TopicPartition)
		from, to := log.at(l.from), log.at(l.to)
		lo, hi, what := from.start, to.start, "first"
		if l.latest {
			lo, hi, what = from.next, to.next, "last"
		}
		if l.committed {
			lo, hi, what = from.stable, to.stable, "last stable"
		}
		if l.offset < lo || l.offset > hi {
			w.fail("linearizable", l.part, "%s was told by %s that the %s offset is %d; it was %d to %d", l.client, l.agent, what, l.offset, lo, hi)
		}
	}
}

func (w *world) checkTrims() {
	for i := range w.trims {
		t := &w.trims[i]
		if t.part.gone.Load() {
			continue
		}
		if m := w.audit.log(t.part.TopicPartition).at(t.revision); m.start < t.logStart {
			w.fail("durability", t.part, "%s promised log start %d, it was %d at that time", t.agent, t.logStart, m.start)
		}
	}
}

// checkStates: invariant 9, every agent's view of a shard is what the auditor's replay was
// at the same record; and what a newcomer would read from the stores is the newest.
func (w *world) checkStates(ctx context.Context) {
	for id := tiering.ShardID(0); id < tiering.ShardID(w.config.Shards); id++ {
		for _, n := range w.nodes {
			p := n.serving()
			if p == nil {
				w.fail("progress", nil, "node %d serves nobody at the end", n.id)
				continue
			}
			var seq, got uint64
			p.agent.ReadShard(id, func(s *shard.State) { seq, got = s.Seq, stateDigest(s) })
			w.audit.mu.Lock()
			want, known := w.audit.shard(id).states[seq]
			w.audit.mu.Unlock()
			if !known || got != want {
				w.fail("same state", nil, "shard %d: the view of %s at record %d is not that of a replay", id, p.name, seq)
			}
		}
		w.checkFresh(ctx, id)
	}
}

// checkFresh reads a shard from snapshot and journal, as an agent does that has just started.
func (w *world) checkFresh(ctx context.Context, id tiering.ShardID) {
	from := w.keys.Shard(id)
	page, err := w.audit.store.Range(ctx, from, metadata.PrefixEnd(from), 0, 0)
	if err != nil || !w.audit.await(ctx, page.Revision) {
		w.fail("audit", nil, "shard %d: %v", id, err)
		return
	}
	w.audit.mu.Lock()
	defer w.audit.mu.Unlock()
	s := w.audit.shard(id)
	state := shard.New()
	if s.snapshot.Key != "" {
		data, err := w.raw.GetRange(ctx, s.snapshot.Key, 0, s.snapshot.Size)
		if err == nil {
			state, err = shard.DecodeSnapshot(data)
		}
		if err != nil {
			w.fail("objects", nil, "shard %d: snapshot: %v", id, err)
			return
		}
	}
	for _, kv := range page.KVs {
		k, err := w.keys.ParseShardKey(kv.Key)
		if err != nil || k.Name != "journal" || k.Seq <= state.Seq {
			continue
		}
		r, err := shard.DecodeRecord(kv.Value)
		if err == nil {
			err = state.Apply(r)
		}
		if err != nil {
			w.fail("same state", nil, "shard %d: record %d: %v", id, k.Seq, err)
			return
		}
	}
	if want, ok := s.states[state.Seq]; !ok || stateDigest(state) != want {
		w.fail("same state", nil, "shard %d: snapshot and journal give another state of record %d than all records did", id, state.Seq)
	}
}

// checkObjects: invariant 8, every extent's bytes are there and still the same.
func (w *world) checkObjects() {
	w.audit.mu.Lock()
	defer w.audit.mu.Unlock()
	for id, s := range w.audit.shards {
		w.audit.checkSnapshot(id, s)
		for _, tp := range s.state.Partitions() {
			part, log := w.find(tp), w.audit.log(tp)
			for _, e := range log.tiers.all() {
				for _, b := range w.audit.cut(part, e) {
					k, ok := log.find(b.base)
					want := uint64(0)
					if ok {
						want = log.batches[k].digest
					}
					if part.keeps.compact {
						want = log.stored[b.base].digest
					}
					if want != digest(b.View) {
						w.fail("objects", part, "the bytes at offset %d have changed since they were committed", b.base)
					}
				}
			}
		}
	}
}

// awaitDropped waits until no state holds a deleted topic any more.
func (w *world) awaitDropped(ctx context.Context) {
	left := func() (out []string) {
		w.mu.Lock()
		deleted := maps.Clone(w.deleted)
		w.mu.Unlock()
		w.audit.mu.Lock()
		defer w.audit.mu.Unlock()
		for _, s := range w.audit.shards {
			for topic := range s.state.Topics() {
				if deleted[topic] {
					out = append(out, topic.String())
				}
			}
		}
		return out
	}
	for deadline := time.Now().Add(time.Minute); len(left()) > 0; sleep(ctx, time.Second) {
		if time.Now().After(deadline) || ctx.Err() != nil {
			w.fail("progress", nil, "deleted topics are still there a minute after all was healed: %v", left())
			return
		}
	}
}

// checkMemory: invariant 11, as far as agents have bounds for what they hold here.
func (w *world) checkMemory() {
	for _, n := range w.nodes {
		for _, p := range n.all {
			g, err := p.metrics.gauges()
			held, limit := g["floe_cache_block_bytes"]+g["floe_cache_tail_bytes"], g["floe_cache_capacity_bytes"]
			if err != nil || held > limit || limit == 0 {
				w.fail("memory", nil, "the cache of %s holds %.0f bytes, the limit is %.0f (%v)", p.name, held, limit, err)
			}
		}
	}
}

// readAll reads all partitions from their beginning to their end from every agent.
func (w *world) readAll(ctx context.Context) {
	for _, n := range w.nodes {
		for _, committed := range []bool{false, true} {
			if !w.readAllFrom(ctx, n, committed) {
				return
			}
		}
	}
}

// readAllFrom reads all partitions from an agent, of one isolation level.
func (w *world) readAllFrom(ctx context.Context, n *node, committed bool) bool {
	c := w.newConsumer(100 + int(n.id))
	if committed {
		c = w.newConsumer(150 + int(n.id))
		c.committed = true
		w.finals = append(w.finals, c)
	}
	deadline := time.Now().Add(30 * time.Second)
	for !c.caughtUp(n) {
		if time.Now().After(deadline) || ctx.Err() != nil {
			w.fail("progress", nil, "node %d did not let a reader reach the end: %s", n.id, c.positions())
			return false
		}
		if read, _ := c.poll(ctx, n, w.known(), 0, 1<<20); !read {
			sleep(ctx, 50*time.Millisecond)
		}
	}
	return true
}

// caughtUp reports whether the consumer is at the end of all logs, as the auditor knows them.
func (c *consumer) caughtUp(*node) bool {
	a := c.w.audit
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, part := range c.w.known() {
		log := a.log(part.TopicPartition)
		if c.at[part] < log.marks[len(log.marks)-1].next {
			return false
		}
	}
	return true
}

func (c *consumer) positions() (out string) {
	for _, part := range c.w.known() {
		out += fmt.Sprintf(" %s at %d", part.name, c.at[part])
	}
	return out
}
