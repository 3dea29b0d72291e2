package sim

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/agent/peer"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// network carries submissions between agents.
type network struct {
	w *world

	mu      sync.Mutex // guards the following, and the links' random sources
	rates   linkRates
	blocked map[[2]int32]bool // from, to: nothing gets through
	fired   map[string]int
}

// linkRates say how often what happens to a message between agents.
type linkRates struct {
	slow, lost, lostReply, double float64
	slowBy, doubleBy              time.Duration
}

func (n *network) count(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fired[what]++
}

func (n *network) cut(a, b int32, blocked bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if blocked {
		n.fired["peer cut"]++
	}
	n.blocked[[2]int32{a, b}] = blocked
}

func (n *network) isCut(a, b int32) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.blocked[[2]int32{a, b}]
}

// link is one process's way to the other agents: agent.Peers.
type link struct {
	net *network
	p   *process
	rnd *rand.Rand // guarded by net.mu
}

// journey is what will happen to one message.
type journey struct {
	there, back           time.Duration
	lost, lostReply, twin bool
	twinAfter             time.Duration
}

func (l *link) draw() journey {
	n := l.net
	n.mu.Lock()
	defer n.mu.Unlock()
	upTo := func(d time.Duration) time.Duration { return time.Duration(l.rnd.Int64N(int64(max(d, 1)))) }
	j := journey{there: upTo(2 * time.Millisecond), back: upTo(2 * time.Millisecond)}
	r := &n.rates
	if l.rnd.Float64() < r.slow {
		n.fired["peer slow"]++
		j.there += upTo(r.slowBy)
		j.back += upTo(r.slowBy)
	}
	j.lost, j.lostReply, j.twin = l.rnd.Float64() < r.lost, l.rnd.Float64() < r.lostReply, l.rnd.Float64() < r.double
	j.twinAfter = upTo(r.doubleBy)
	return j
}

// Sequence implements agent.Peers.
func (l *link) Sequence(ctx context.Context, addr string, id tiering.ShardID, s *shard.Submission) ([]shard.Outcome, error) {
	message := s.Encode(nil)
	return carry(ctx, l, addr, func(to *agent.Agent) ([]shard.Outcome, error) {
		s, err := shard.DecodeSubmission(message)
		if err != nil {
			return nil, errors.Join(metadata.ErrInvalid, err)
		}
		return to.SequenceHere(l.net.w.live, id, s)
	})
}

// Ask implements agent.Peers.
func (l *link) Ask(ctx context.Context, addr string, q peer.Question) ([]byte, error) {
	return carry(ctx, l, addr, func(to *agent.Agent) ([]byte, error) { return to.AnswerHere(l.net.w.live, q) })
}

// carry brings a message to the agent at addr and its answer back. It may be lost, late or
// doubled, and what it does there goes on when the caller has given up.
func carry[T any](ctx context.Context, l *link, addr string, message func(to *agent.Agent) (T, error)) (none T, err error) {
	to := l.net.w.nodeAt(addr)
	if to == nil {
		return none, errUnreachable
	}
	j := l.draw()
	if err := l.p.gate.pass(ctx); err != nil {
		return none, err
	}
	if j.twin {
		l.net.count("peer double")
		l.net.w.tasks.Go(func() {
			if sleep(l.net.w.live, j.there+j.twinAfter) {
				_, _ = deliver(l, to, message) // nobody waits for this answer
			}
		})
	}
	type answer struct {
		out T
		err error
	}
	back := make(chan answer, 1)
	l.net.w.tasks.Go(func() {
		if !sleep(l.net.w.live, j.there) {
			return
		}
		if j.lost || l.net.isCut(l.p.node.id, to.id) {
			l.net.count("peer lost")
			return
		}
		out, err := deliver(l, to, message)
		if !sleep(l.net.w.live, j.back) {
			return
		}
		if j.lostReply || l.net.isCut(to.id, l.p.node.id) {
			l.net.count("peer lost reply")
			return
		}
		back <- answer{out, err}
	})
	select {
	case a := <-back:
		if err := l.p.gate.pass(ctx); err != nil {
			return none, err
		}
		return a.out, a.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// deliver hands a message to the agent that runs on a node now.
func deliver[T any](l *link, to *node, message func(*agent.Agent) (T, error)) (none T, err error) {
	p := to.serving()
	if p == nil {
		return none, errUnreachable
	}
	if err := p.gate.pass(l.net.w.live); err != nil {
		return none, err
	}
	out, err := message(p.agent)
	if err := p.gate.pass(l.net.w.live); err != nil {
		return none, err // what a dead process says is heard by nobody
	}
	return out, err
}

// Close implements agent.Peers.
func (l *link) Close() {}
