//go:build planted

package planted

import (
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group"
	"github.com/floelog/floe/agent/kafka"
)

// machine is a coordinator's machine with a bug.
type machine struct {
	coordinator.Machine
	on    func(b *machine, ev coordinator.Event, now time.Time) coordinator.Effects
	steps int // that it has made
}

func (b *machine) Step(ev coordinator.Event, now time.Time) coordinator.Effects {
	b.steps++
	return b.on(b, ev, now)
}

// onStep plants a bug in the machines of a name.
func onStep(name string, on func(b *machine, ev coordinator.Event, now time.Time) coordinator.Effects) func() bug {
	return func() bug {
		return bug{machines: func(_ *host, of string, m coordinator.Machine) coordinator.Machine {
			if of != name {
				return m
			}
			return &machine{Machine: m, on: on}
		}}
	}
}

// onConclude plants a bug in what transactions want to be concluded.
func onConclude(change func(b *machine, calls []coordinator.Call)) func() bug {
	return onStep("transactions", func(b *machine, ev coordinator.Event, now time.Time) coordinator.Effects {
		out := b.Machine.Step(ev, now)
		out.Calls = slices.Clone(out.Calls)
		change(b, out.Calls)
		return out
	})
}

// turn makes a commit an abort.
func turn(calls []coordinator.Call, i int) {
	if c, ok := calls[i].(coordinator.Conclude); ok && c.Group == "" {
		c.Commit = false
		calls[i] = c
	}
}

func onTxns(wrap func(*host, kafka.Transactions) kafka.Transactions) func() bug {
	return func() bug {
		return bug{clients: func(h *host, parts *kafka.Parts) { parts.Transactions = wrap(h, parts.Transactions) }}
	}
}

func txnBugs() map[string]func() bug {
	return map[string]func() bug{
		"markers-forgotten": onStep("transactions", func(b *machine, ev coordinator.Event, now time.Time) coordinator.Effects {
			out := b.Machine.Step(ev, now)
			if b.steps == 1 {
				out.Calls = nil
			}
			return out
		}),
		"marker-aborts": onConclude(func(_ *machine, calls []coordinator.Call) {
			if n := len(calls); n > 1 {
				turn(calls, n-1)
			}
		}),
		"aborted-offsets-applied": onStep("groups", func(b *machine, ev coordinator.Event, now time.Time) coordinator.Effects {
			if r, ok := ev.(coordinator.Request); ok {
				if c, ok := r.Body.(group.Conclude); ok {
					c.Commit = true
					r.Body = c
					ev = r
				}
			}
			return b.Machine.Step(ev, now)
		}),
		"end-answered-early": onTxns(func(_ *host, t kafka.Transactions) kafka.Transactions { return &hastyEnd{t} }),
		"epoch-not-raised":   onTxns(func(_ *host, t kafka.Transactions) kafka.Transactions { return &flat{t} }),
	}
}

// hastyEnd answers an EndTxn that commits before it has been decided.
type hastyEnd struct{ kafka.Transactions }

func (h *hastyEnd) Ask(ctx context.Context, from kafka.From, id string, req kmsg.Request) (kmsg.Response, error) {
	end, ok := req.(*kmsg.EndTxnRequest)
	if !ok || !end.Commit || end.Version < 5 {
		return h.Transactions.Ask(ctx, from, id, req)
	}
	time.AfterFunc(200*time.Millisecond, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_, _ = h.Transactions.Ask(ctx, from, id, req) // nobody waits for it
	})
	resp := end.ResponseKind().(*kmsg.EndTxnResponse)
	resp.ProducerID, resp.ProducerEpoch = end.ProducerID, end.ProducerEpoch+1
	return resp, nil
}

// flat ends transactions of the second protocol as those of the first.
type flat struct{ kafka.Transactions }

func (f *flat) Ask(ctx context.Context, from kafka.From, id string, req kmsg.Request) (kmsg.Response, error) {
	end, ok := req.(*kmsg.EndTxnRequest)
	if !ok || end.Version < 5 {
		return f.Transactions.Ask(ctx, from, id, req)
	}
	older := *end
	older.Version = 4
	resp, err := f.Transactions.Ask(ctx, from, id, &older)
	if got, ok := resp.(*kmsg.EndTxnResponse); ok {
		got.ProducerID, got.ProducerEpoch = end.ProducerID, end.ProducerEpoch
	}
	return resp, err
}
