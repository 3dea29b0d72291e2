package agent

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/sync/errgroup"

	"github.com/floelog/floe/agent/fetch"
	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/agent/produce"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// questionsAtOnce bounds how many partitions of one request are asked for their offsets
// at a time. Each may read an extent from the object store.
const questionsAtOnce = 16

// syncTimeout bounds how long a question about offsets waits for the metadata store. A
// client that is told NOT_LEADER_OR_FOLLOWER asks again; one that hears nothing holds its
// connection.
const syncTimeout = 10 * time.Second

// producer hands batches to the pipeline of the session that lives now.
type producer struct {
	set     *journal.Set
	current *atomic.Pointer[life]
	refused chan<- struct{} // told, if it has room, when clients are refused
	parting *atomic.Pointer[parting]
}

// Append implements kafka.Producer.
func (p *producer) Append(batches []*kafka.AppendBatch, done func()) {
	out := make([]*produce.Batch, len(batches))
	store := make([]produce.Batch, len(batches))
	for i, b := range batches {
		store[i] = produce.Batch{Partition: b.Partition, Shard: b.Shard, Data: b.Data, Meta: b.Meta}
		out[i] = &store[i]
	}
	finish := func() {
		for i, b := range batches {
			b.Base, b.Code, b.LogStart = store[i].Base, store[i].Code, -1
			if b.Code == 0 {
				p.set.View(b.Shard).Read(func(s *shard.State) { b.LogStart = s.Partition(b.Partition).LogStart })
			}
		}
		done()
	}
	l := p.current.Load()
	if l == nil {
		// Between two sessions, or leaving: nothing was taken, the client tries again.
		noteRefused(p.refused)
		left := p.parting.Load()
		for i := range store {
			store[i].Code, store[i].Base = kerr.NotLeaderForPartition.Code, -1
			batches[i].Moved = left != nil && left.moved[batches[i].Shard]
		}
		go finish()
		return
	}
	l.pipeline.Append(out, finish)
}

// noteRefused tells, if there is room, that a client was refused.
func noteRefused(refused chan<- struct{}) {
	select {
	case refused <- struct{}{}:
	default:
	}
}

// reader translates fetches, and refuses them when the agent is about to leave.
type reader struct {
	r       *fetch.Reader
	refused chan<- struct{}
	parting *atomic.Pointer[parting]
}

// Fetch implements kafka.Reader.
func (r reader) Fetch(ctx context.Context, req kafka.FetchRequest) []kafka.FetchResult {
	in := fetch.Request{MinBytes: req.MinBytes, MaxBytes: req.MaxBytes, MaxWait: req.MaxWait, ReadCommitted: req.ReadCommitted, Partitions: make([]fetch.Partition, len(req.Partitions))}
	if req.Admit != nil {
		in.Admit = func(ctx context.Context, lane fetch.Lane, bytes int) (int, bool) {
			return req.Admit(ctx, lane == fetch.Lagging, bytes)
		}
	}
	for i, p := range req.Partitions {
		in.Partitions[i] = fetch.Partition{Partition: p.TopicPartition, Shard: p.Shard, Offset: p.Offset, MaxBytes: p.MaxBytes}
	}
	out := make([]kafka.FetchResult, len(req.Partitions))
	if r.parting.Load() != nil {
		noteRefused(r.refused)
		for i := range out {
			out[i] = kafka.FetchResult{Code: kerr.NotLeaderForPartition.Code, HighWatermark: -1, LastStable: -1, LogStart: -1}
		}
		return out
	}
	for i, res := range r.r.Fetch(ctx, &in) {
		out[i] = kafka.FetchResult{Code: res.Code, HighWatermark: res.HighWatermark, LastStable: res.LastStable, LogStart: res.LogStart, Records: res.Records, Lagging: res.Lane == fetch.Lagging}
		for _, t := range res.Aborted {
			out[i].Aborted = append(out[i].Aborted, kafka.AbortedTransaction{ProducerID: t.ProducerID, First: t.First})
		}
	}
	return out
}

// offsets answers questions about offsets, each partition on its own.
type offsets struct {
	r   *fetch.Reader
	set *journal.Set
}

// List implements kafka.Offsets.
func (o offsets) List(ctx context.Context, queries []kafka.OffsetQuery) []kafka.OffsetAnswer {
	out := make([]kafka.OffsetAnswer, len(queries))
	if err := o.sync(ctx, len(queries), func(i int) tiering.ShardID { return queries[i].Shard }); err != nil {
		for i := range out {
			out[i] = kafka.OffsetAnswer{Code: kerr.NotLeaderForPartition.Code, Offset: -1, Timestamp: -1, Epoch: -1}
		}
		return out
	}
	each(len(queries), func(i int) { out[i] = o.list(ctx, &queries[i]) })
	return out
}

func (o offsets) list(ctx context.Context, q *kafka.OffsetQuery) kafka.OffsetAnswer {
	var at fetch.Offset
	var err error
	switch q.Kind {
	case kafka.EarliestOffset:
		at = o.r.Earliest(q.Shard, q.TopicPartition)
	case kafka.LatestOffset:
		at = o.r.Latest(q.Shard, q.TopicPartition, q.ReadCommitted)
		if l := o.set.Leadership(q.Shard); l.Epoch > at.Epoch {
			at.Epoch = l.Epoch
		}
	case kafka.TimestampOffset:
		at, err = o.r.ByTimestamp(ctx, q.Shard, q.TopicPartition, q.Timestamp, q.ReadCommitted)
	case kafka.MaxTimestamp:
		at, err = o.r.MaxTimestamp(ctx, q.Shard, q.TopicPartition, q.ReadCommitted)
	}
	a := kafka.OffsetAnswer{Offset: at.Offset, Timestamp: at.Timestamp, Epoch: at.Epoch}
	if err != nil {
		a = kafka.OffsetAnswer{Code: kerr.KafkaStorageError.Code, Offset: -1, Timestamp: -1, Epoch: -1}
	}
	return a
}

// EpochEnds implements kafka.Offsets.
func (o offsets) EpochEnds(ctx context.Context, queries []kafka.EpochQuery) []kafka.EpochAnswer {
	out := make([]kafka.EpochAnswer, len(queries))
	err := o.sync(ctx, len(queries), func(i int) tiering.ShardID { return queries[i].Shard })
	for i, q := range queries {
		if err != nil {
			out[i] = kafka.EpochAnswer{Code: kerr.NotLeaderForPartition.Code, Epoch: -1, End: -1}
			continue
		}
		out[i].Epoch, out[i].End = o.r.EpochEnd(q.Shard, q.TopicPartition, q.Epoch)
	}
	return out
}

// Producers implements kafka.Offsets.
func (o offsets) Producers(ctx context.Context, partitions []kafka.Partition) []kafka.ProducersAnswer {
	out := make([]kafka.ProducersAnswer, len(partitions))
	err := o.sync(ctx, len(partitions), func(i int) tiering.ShardID { return partitions[i].Shard })
	for i, p := range partitions {
		if err != nil {
			out[i].Code = kerr.NotLeaderForPartition.Code
			continue
		}
		o.set.View(p.Shard).Read(func(s *shard.State) { out[i].Producers = s.Partition(p.TopicPartition).ProducerStates() })
	}
	return out
}

// Sizes implements kafka.Offsets.
func (o offsets) Sizes(_ context.Context, partitions []kafka.Partition) []int64 {
	out := make([]int64, len(partitions))
	for i, p := range partitions {
		o.set.View(p.Shard).Read(func(s *shard.State) { out[i] = s.Partition(p.TopicPartition).Bytes() })
	}
	return out
}

// sync brings the views of all shards that a request asks about up to what was committed
// before it.
func (o offsets) sync(ctx context.Context, n int, shardOf func(int) tiering.ShardID) error {
	seen := map[tiering.ShardID]bool{}
	var ids []tiering.ShardID
	for i := range n {
		if id := shardOf(i); !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	return o.set.Sync(ctx, ids...)
}

// trimmer moves log starts.
type trimmer struct {
	set *journal.Set
}

// Trim implements kafka.Records. Only the shard's leader can trim, and clients ask the
// leader: others answer NOT_LEADER_OR_FOLLOWER.
func (t trimmer) Trim(ctx context.Context, queries []kafka.TrimQuery) []kafka.TrimAnswer {
	out := make([]kafka.TrimAnswer, len(queries))
	each(len(queries), func(i int) { out[i] = t.trim(ctx, &queries[i]) })
	return out
}

func (t trimmer) trim(ctx context.Context, q *kafka.TrimQuery) kafka.TrimAnswer {
	l := t.set.Leader(q.Shard)
	if l == nil {
		return kafka.TrimAnswer{Code: kerr.NotLeaderForPartition.Code, LogStart: -1}
	}
	type result struct {
		answer kafka.TrimAnswer
		wrote  bool
		err    error
	}
	done := make(chan result, 1)
	var answer kafka.TrimAnswer
	var write bool
	l.Propose(&journal.Proposal{
		Size: 128,
		Draft: func(d *shard.Draft) error {
			var to tiering.Offset
			if answer, to, write = judgeTrim(d.State(), q); write {
				d.Add(shard.Trim{Partition: q.TopicPartition, LogStart: to})
			}
			return nil
		},
		Done: func(_ uint64, err error) { done <- result{answer, write, err} },
	})
	select {
	case r := <-done:
		switch {
		case r.err != nil:
			return kafka.TrimAnswer{Code: kerr.NotLeaderForPartition.Code, LogStart: -1}
		case r.wrote:
			return r.answer
		}
		return t.prove(ctx, q)
	case <-ctx.Done():
		return kafka.TrimAnswer{Code: kerr.RequestTimedOut.Code, LogStart: -1}
	}
}

// prove gives an answer for which nothing was written: it needs a proof of its own that
// this agent has not been passed over meanwhile.
func (t trimmer) prove(ctx context.Context, q *kafka.TrimQuery) (answer kafka.TrimAnswer) {
	if err := t.set.Sync(ctx, q.Shard); err != nil {
		return kafka.TrimAnswer{Code: kerr.NotLeaderForPartition.Code, LogStart: -1}
	}
	t.set.View(q.Shard).Read(func(s *shard.State) {
		var write bool
		if answer, _, write = judgeTrim(s, q); write {
			answer = kafka.TrimAnswer{Code: kerr.NotLeaderForPartition.Code, LogStart: -1} // it moved: ask again
		}
	})
	return answer
}

// judgeTrim says what a state answers to a trim, and whether a record has to be written.
func judgeTrim(s *shard.State, q *kafka.TrimQuery) (answer kafka.TrimAnswer, to tiering.Offset, write bool) {
	p := s.Partition(q.TopicPartition)
	if to = q.Offset; to == -1 {
		to = p.Next
	}
	if to < 0 || to > p.Next {
		return kafka.TrimAnswer{Code: kerr.OffsetOutOfRange.Code, LogStart: -1}, 0, false
	}
	return kafka.TrimAnswer{LogStart: max(to, p.LogStart)}, to, to > p.LogStart
}

// each calls f for 0 to n-1, a bounded number at a time, and waits for all.
func each(n int, f func(int)) {
	if n == 1 {
		f(0)
		return
	}
	var g errgroup.Group
	g.SetLimit(questionsAtOnce)
	var mu sync.Mutex
	next := 0
	for range min(n, questionsAtOnce) {
		g.Go(func() error {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= n {
					return nil
				}
				f(i)
			}
		})
	}
	_ = g.Wait() // the functions return nil
}
