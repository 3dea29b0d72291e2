package sim

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/tiering"
)

// errNoAnswer says that a client heard nothing: what it asked for may have been done, or
// may still be done.
var errNoAnswer = errors.New("no answer came")

// serveTime bounds how long an agent works on one request, as its handlers do.
const serveTime = 25 * time.Second

// from is who the clients say they are.
var from = kafka.From{ClientID: "sim", Host: "/192.0.2.1"}

// call lets a process serve a request. What the client has given up is served all the same,
// perhaps much later; but a patient client waits until that cannot happen any more.
func call[T any](ctx context.Context, p *process, rnd *rand.Rand, patient bool, serve func(context.Context) (T, error)) (none T, err error) {
	w := p.node.w
	type answer struct {
		out T
		err error
	}
	back := make(chan answer, 1)
	late := time.Duration(rnd.Int64N(int64(3 * time.Millisecond)))
	lost := false
	if !w.isHealed() {
		lost = rnd.IntN(40) == 0
		if rnd.IntN(40) == 0 {
			late += time.Duration(rnd.Int64N(int64(8 * time.Second)))
		}
	}
	w.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(w.live, serveTime)
		defer cancel()
		if !sleep(ctx, late) || p.gate.pass(ctx) != nil {
			back <- answer{err: errNoAnswer}
			return
		}
		out, err := serve(ctx)
		if lost || p.gate.pass(w.live) != nil {
			err = errNoAnswer
		}
		back <- answer{out, err}
	})
	patience := requestTimeout
	if patient {
		patience = 10 * serveTime
	}
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case a := <-back:
		return a.out, a.err
	case <-timeout.C:
		return none, errNoAnswer
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// copyLater delivers a request once more, seconds later, through any agent. Nobody hears the
// answer.
// It reports whether it will.
func (w *world) copyLater(rnd *rand.Rand, what string, serve func(context.Context, *process)) bool {
	if w.isHealed() || rnd.IntN(10) > 0 {
		return false
	}
	after := 200*time.Millisecond + time.Duration(rnd.Int64N(int64(8*time.Second)))
	n := w.anyNode(rnd)
	w.zombies.Add(1)
	w.note("zombie " + what)
	w.tasks.Go(func() {
		defer w.zombies.Done()
		ctx, cancel := context.WithTimeout(w.live, serveTime)
		defer cancel()
		if p := n.serving(); sleep(ctx, after) && p != nil && p.gate.pass(ctx) == nil {
			serve(ctx, p)
		}
	})
	return true
}

// serving returns any process that serves, or nil.
func (w *world) serving(rnd *rand.Rand) *process { return w.anyNode(rnd).serving() }

// coordinator returns the process that some agent says coordinates a group or transactional
// id; now and then, any. Nil: nobody serves there.
func (w *world) coordinator(rnd *rand.Rand, name string) *process {
	p := w.serving(rnd)
	if p == nil || rnd.IntN(10) == 0 {
		return p
	}
	node, _ := p.ports().Cluster.Leader(tiering.ShardOfName(name, w.config.Shards))
	if node < 1 || int(node) > len(w.nodes) {
		return nil
	}
	return w.nodes[node-1].serving()
}

// answered is what an agent answers to a request: a response, and the store's revision by then.
type answered[R kmsg.Response] struct {
	resp     R
	revision int64
}

// again reports whether a code says no more than that the client should ask again.
func again(code int16) bool {
	switch code {
	case kerr.NotCoordinator.Code, kerr.CoordinatorNotAvailable.Code, kerr.CoordinatorLoadInProgress.Code,
		kerr.ConcurrentTransactions.Code, kerr.RequestTimedOut.Code, kerr.NotLeaderForPartition.Code, kerr.KafkaStorageError.Code,
		kerr.NotEnoughReplicas.Code, kerr.NotEnoughReplicasAfterAppend.Code:
		return true
	}
	return false
}

// fenced reports whether a code says that another producer has taken the transactional id.
func fenced(code int16) bool {
	return code == kerr.ProducerFenced.Code || code == kerr.InvalidProducerEpoch.Code || code == kerr.InvalidProducerIDMapping.Code
}

// askTxn asks the coordinator of a transactional id.
func askTxn[R kmsg.Response](ctx context.Context, p *process, id string, req kmsg.Request) (answered[R], error) {
	_, txns := p.coordinators()
	resp, err := txns.Ask(ctx, from, id, req)
	out := answered[R]{revision: p.node.w.server.Revision()}
	if err != nil {
		return out, err
	}
	out.resp = resp.(R)
	return out, nil
}

// askGroup asks the coordinator of a group.
func askGroup[R kmsg.Response](ctx context.Context, p *process, group string, req kmsg.Request) (answered[R], error) {
	groups, _ := p.coordinators()
	resp, err := groups.Ask(ctx, from, group, req)
	out := answered[R]{revision: p.node.w.server.Revision()}
	if err != nil {
		return out, err
	}
	out.resp = resp.(R)
	return out, nil
}
