package agent

import (
	"context"
	"errors"
	"net"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/protocol"
)

// Listener is where Kafka clients connect to, beside the default listener. What they are
// told of other agents are the addresses of those on the listener of the same name; agents
// that have none are left out.
type Listener struct {
	Name      string // not kafka.DefaultListener
	Advertise string // host:port that its clients are told
	net.Listener
}

// advertised returns the addresses of the further listeners, as the agent registers them.
func (a *Agent) advertised() map[string]string {
	if len(a.parts.Listeners) == 0 {
		return nil
	}
	m := make(map[string]string, len(a.parts.Listeners))
	for _, l := range a.parts.Listeners {
		m[l.Name] = l.Advertise
	}
	return m
}

// servers are the servers of all listeners for Kafka clients: one handler, whose budgets they
// share, with limits of connections for each. They serve and end together.
type servers []*protocol.Server

// newServers connects the Kafka handlers to the listeners.
func (a *Agent) newServers(h *kafka.Handler) (servers, error) {
	observer := newTraffic(a.parts.Registry)
	all := append([]Listener{{Name: kafka.DefaultListener, Listener: a.parts.Listener}}, a.parts.Listeners...)
	var out servers
	for _, l := range all {
		s, err := protocol.NewServer(l.Listener, h, protocol.Config{
			Name:            l.Name,
			ProduceBudget:   a.budget,
			ControlBudget:   a.control,
			MaxRequestBytes: int(a.cfg.MaxRequestBytes),
			MaxControlBytes: maxControlBytes,
			MaxConns:        a.cfg.MaxConnections,
			IdleTimeout:     a.cfg.IdleTimeout,
			Log:             a.parts.Log,
			Observer:        observer,
		})
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// Serve serves until Shutdown or ctx's end; if one listener fails for good, all end.
func (s servers) Serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, server := range s {
		g.Go(func() error { return server.Serve(ctx) })
	}
	return g.Wait()
}

// Shutdown shuts all of them down at the same time, each as protocol.Server.Shutdown does.
func (s servers) Shutdown(ctx context.Context) error {
	errs := make([]error, len(s))
	var wg sync.WaitGroup
	for i, server := range s {
		wg.Go(func() { errs[i] = server.Shutdown(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
