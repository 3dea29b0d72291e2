//go:build integration && unix

package tiers

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/history"
)

const (
	txnTopic      = "txn"
	txnPartitions = 80
	txnCompacted  = "compacted-txn"
	txnGroup      = "txn-readers"
	txnWriters    = 3
)

// transactions are producers that commit and abort, into a log and into a compacted topic
// at once, and a group that reads what was committed.
type transactions struct {
	c    *cluster
	h    *history.History
	keys *keyed

	committed, aborted, unknown atomic.Int64
	stop                        context.CancelFunc
	members                     sync.WaitGroup

	mu      sync.Mutex // guards the following
	written map[uint64]bool
	seen    map[uint64]bool
	offsets map[int32]int64 // that the group has committed
}

func (c *cluster) newTransactions(keys *keyed) *transactions {
	x := &transactions{c: c, keys: keys, h: c.history("txn", history.Config{Gaps: true}), written: map[uint64]bool{}, seen: map[uint64]bool{}, offsets: map[int32]int64{}}
	client := c.client("creator")
	defer client.Close()
	c.create(client, txnTopic, txnPartitions, nil)
	ctx, stop := context.WithCancel(context.Background())
	x.stop = stop
	c.t.Cleanup(func() {
		stop()
		x.members.Wait()
	})
	for i := range 2 {
		x.members.Go(func() { x.read(ctx, fmt.Sprintf("txn-reader-%d", i)) })
	}
	x.members.Go(func() { x.watch(ctx) })
	return x
}

// sent is a record of a transaction whose end is not known yet.
type sent struct {
	inLog  bool
	v      history.Value
	offset int64
	err    error
}

// write begins and ends transactions until ctx ends.
func (x *transactions) write(ctx context.Context, n int) {
	r := x.c.rand(uint64(4000 + n))
	who := history.Producer{Name: fmt.Sprintf("txn-%d", n), Idempotent: true}
	for ctx.Err() == nil {
		client := x.c.client(who.Name, kgo.TransactionalID(who.Name), kgo.TransactionTimeout(20*time.Second), kgo.ProducerBatchCompression(kgo.ZstdCompression()))
		for ctx.Err() == nil {
			if err := x.transact(client, who, r.IntN(10) < 7, 1+r.IntN(20), r.Uint64()); err != nil {
				x.c.note("%s begins anew: %v", who.Name, err)
				break
			}
		}
		client.Close()
	}
}

// transact is one transaction. After an error the client is of no more use.
func (x *transactions) transact(client *kgo.Client, who history.Producer, commit bool, records int, seed uint64) error {
	if err := client.BeginTransaction(); err != nil {
		return err
	}
	all := x.send(client, who, records, seed)
	ctx, cancel := context.WithTimeout(x.c.t.Context(), patience)
	defer cancel()
	err := client.Flush(ctx)
	for _, s := range all {
		if err == nil {
			err = s.err
		}
	}
	if err != nil {
		commit = false
	}
	if failed := client.EndTransaction(ctx, kgo.TransactionEndTry(commit)); failed != nil {
		x.unknown.Add(1)
		x.resolve(all, func(s *sent) { x.doubt(s, failed) })
		return failed
	}
	if !commit {
		x.aborted.Add(1)
		x.resolve(all, x.fail)
		return err
	}
	x.committed.Add(1)
	x.resolve(all, x.acked)
	return nil
}

func (x *transactions) send(client *kgo.Client, who history.Producer, records int, seed uint64) []*sent {
	r := x.c.rand(seed)
	compacted := compactedTopics[len(compactedTopics)-1]
	var all []*sent
	for range records {
		s := &sent{inLog: r.IntN(2) == 0}
		var record *kgo.Record
		if s.inLog {
			p, size := history.Partition{Topic: txnTopic, ID: r.Int32N(txnPartitions)}, history.MinSize+r.IntN(1000)
			s.v = x.h.Send(who, p, size)
			record = &kgo.Record{Topic: p.Topic, Partition: p.ID, Value: history.Payload(s.v, size)}
		} else {
			record, s.v = x.keys.draw(r, compacted, who.Name)
		}
		client.Produce(context.Background(), record, func(rec *kgo.Record, err error) { s.offset, s.err = rec.Offset, err })
		all = append(all, s)
	}
	return all
}

func (x *transactions) resolve(all []*sent, how func(*sent)) {
	for _, s := range all {
		how(s)
	}
}

func (x *transactions) acked(s *sent) {
	if !s.inLog {
		x.keys.h.Acked(s.v, s.offset)
		return
	}
	x.h.Acked(s.v, s.offset)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.written[uint64(s.v)] = true
}

func (x *transactions) fail(s *sent) {
	if s.inLog {
		x.h.Failed(s.v, errAborted)
	} else {
		x.keys.h.Failed(s.v)
	}
}

func (x *transactions) doubt(s *sent, why error) {
	if s.inLog {
		x.h.Unknown(s.v, why)
	} else {
		x.keys.h.Unknown(s.v)
	}
}

// read is one member of the group.
func (x *transactions) read(ctx context.Context, name string) {
	client := x.c.client(name, kgo.ConsumerGroup(txnGroup), kgo.ConsumeTopics(txnTopic), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer client.CloseAllowingRebalance()
	for {
		fetches := client.PollRecords(ctx, 1000)
		if ctx.Err() != nil {
			return
		}
		x.mu.Lock()
		fetches.EachRecord(func(r *kgo.Record) { x.seen[binary.BigEndian.Uint64(r.Value)] = true })
		x.mu.Unlock()
		if err := client.CommitUncommittedOffsets(ctx); err != nil {
			x.c.note("%s commits: %v", name, err) // with what follows
		}
		client.AllowRebalance()
	}
}

// watch asks for the group's offsets again and again: none may go back.
func (x *transactions) watch(ctx context.Context) {
	client := x.c.client("txn-watcher")
	defer client.Close()
	adm := kadm.NewClient(client)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		got, err := adm.FetchOffsets(ctx, txnGroup)
		if err != nil {
			continue // nobody answers just now
		}
		x.mu.Lock()
		got.Each(func(o kadm.OffsetResponse) {
			switch was := x.offsets[o.Partition]; {
			case o.Err != nil:
			case o.At < was:
				x.c.t.Errorf("the committed offset of partition %d went from %d to %d", o.Partition, was, o.At)
			default:
				x.offsets[o.Partition] = o.At
			}
		})
		x.mu.Unlock()
	}
}

// settle writes a last record to each partition and waits until the group has committed it.
func (x *transactions) settle() map[int32]int64 {
	x.c.t.Helper()
	client := x.c.client("txn-last")
	defer client.Close()
	who := history.Producer{Name: "txn-last", Idempotent: true}
	for p := range int32(txnPartitions) {
		at := history.Partition{Topic: txnTopic, ID: p}
		s := &sent{inLog: true, v: x.h.Send(who, at, history.MinSize)}
		client.Produce(context.Background(), &kgo.Record{Topic: txnTopic, Partition: p, Value: history.Payload(s.v, history.MinSize)}, func(r *kgo.Record, err error) {
			if s.offset = r.Offset; err != nil {
				x.doubt(s, err)
				return
			}
			x.acked(s)
		})
	}
	x.c.await("the last records after transactions", func(ctx context.Context) error { return client.Flush(ctx) })
	ends := map[int32]int64{}
	for p := range int32(txnPartitions) {
		ends[p] = x.h.AckedEnd(history.Partition{Topic: txnTopic, ID: p})
	}
	x.c.await("the group's offsets", func(context.Context) error {
		x.mu.Lock()
		defer x.mu.Unlock()
		if !reached(x.offsets, ends) {
			return fmt.Errorf("committed %v, want %v", x.offsets, ends)
		}
		return nil
	})
	x.stop()
	x.members.Wait()
	missed := 0
	for v := range maps.Keys(x.written) {
		if !x.seen[v] {
			missed++
		}
	}
	if missed > 0 {
		x.c.t.Errorf("the group committed offsets beyond %d committed records that its members were not given", missed)
	}
	return ends
}

// finish reads what was committed with a new client and judges.
func (x *transactions) finish(ends map[int32]int64) history.Report {
	x.c.t.Helper()
	from, next := map[int32]kgo.Offset{}, map[int32]int64{}
	for p := range ends {
		from[p] = kgo.NewOffset().At(0)
		x.h.Assigned("txn-last-reader", history.Partition{Topic: txnTopic, ID: p}, 0)
	}
	client := x.c.client("txn-last-reader", kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{txnTopic: from}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	defer client.Close()
	ctx, cancel := context.WithTimeout(x.c.t.Context(), patience)
	defer cancel()
	for !reached(next, ends) && ctx.Err() == nil {
		client.PollFetches(ctx).EachPartition(func(p kgo.FetchTopicPartition) {
			if p.Err != nil || len(p.Records) == 0 {
				return
			}
			reads := make([]history.Read, len(p.Records))
			for i, r := range p.Records {
				reads[i] = history.Read{Offset: r.Offset, Record: r.Value}
			}
			x.h.Polled("txn-last-reader", history.Partition{Topic: txnTopic, ID: p.Partition}, history.Watermarks{LogStart: -1, LastStable: -1, High: p.HighWatermark}, reads)
			next[p.Partition] = reads[len(reads)-1].Offset + 1
		})
	}
	if !reached(next, ends) {
		x.c.t.Errorf("after %v of peace committed records were read up to %v of %v", patience, next, ends)
		return x.h.Check()
	}
	for p, end := range ends {
		x.h.ReadWhole("txn-last-reader", history.Partition{Topic: txnTopic, ID: p}, 0, end)
	}
	return x.h.Check()
}
