package txn_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/txn"
	"github.com/floelog/floe/metadata/shard"
)

// BenchmarkTransaction is the coordinator's part of a whole transaction of the second
// protocol over the given number of partitions and a group: joining in two requests, the
// end, and the result of every conclusion; among a thousand other ids.
func BenchmarkTransaction(b *testing.B) {
	for _, partitions := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("partitions=%d", partitions), func(b *testing.B) { benchmarkTransaction(b, partitions) })
	}
}

func benchmarkTransaction(b *testing.B, partitions int) {
	m, err := txn.NewLoad(txn.DefaultSettings())(1, 1, shard.New(), catalog{}, time.UnixMilli(1))
	if err != nil {
		b.Fatal(err)
	}
	now := time.UnixMilli(1_000_000)
	nextID := int64(1)
	step := func(ev coordinator.Event) coordinator.Effects {
		now = now.Add(time.Millisecond)
		effects := m.Step(ev, now)
		for len(effects.Calls) == 1 {
			c, ok := effects.Calls[0].(coordinator.NewProducerID)
			if !ok {
				break
			}
			nextID++
			effects = m.Step(coordinator.Result{Call: c, Value: nextID}, now)
		}
		return effects
	}
	for i := range 1000 {
		req := initRequest(nil)
		id := fmt.Sprint("other-", i)
		req.TransactionalID = &id
		step(coordinator.Request{ID: 1, Body: req})
	}
	first := step(coordinator.Request{ID: 1, Body: initRequest(nil)}).Replies[0].Body.(*kmsg.InitProducerIDResponse)
	join := txn.Enlist{ID: "x", ProducerID: first.ProducerID, Epoch: first.ProducerEpoch, Add: true, Version: 2}
	for i := range partitions {
		p, _ := target(fmt.Sprint("a", i))
		join.Partitions = append(join.Partitions, p)
	}
	end := endRequest([]string{"commit", "0/0", "v5"})
	_, g := target("g:q")
	b.ReportAllocs()
	for b.Loop() {
		step(coordinator.Request{ID: 2, Body: join})
		offsets := join
		offsets.Partitions, offsets.Groups = nil, []txn.Group{g}
		step(coordinator.Request{ID: 3, Body: offsets})
		end.ProducerID, end.ProducerEpoch = join.ProducerID, join.Epoch
		effects := step(coordinator.Request{ID: 4, Body: end})
		next := effects.Replies[0].Body.(*kmsg.EndTxnResponse)
		if next.ErrorCode != 0 || len(effects.Calls) != partitions+1 {
			b.Fatalf("EndTxn: %+v, %d calls", next, len(effects.Calls))
		}
		for _, c := range effects.Calls {
			effects = step(coordinator.Result{Call: c})
		}
		if len(effects.Changes) != 1 {
			b.Fatal("the transaction is not complete")
		}
		join.ProducerID, join.Epoch = next.ProducerID, next.ProducerEpoch
	}
}

// BenchmarkEnlisted is the question that most produce requests ask: whether a partition is
// part of the open transaction, which it is.
func BenchmarkEnlisted(b *testing.B) {
	w := newWorld(b, txn.DefaultSettings())
	w.play(`
		init => 1000/0
		add 1000/0 2 a0 a1 a2 a3 b0 b1 b2 b3 => #1
	`)
	var ev coordinator.Event = coordinator.Request{ID: 1, Body: enlistRequest([]string{"add", "1000/0", "2", "b2"})}
	b.ReportAllocs()
	for b.Loop() {
		if effects := w.machine.Step(ev, w.now); len(effects.Replies) != 1 || len(effects.Changes) != 0 {
			b.Fatalf("%+v", effects)
		}
	}
}
