package agent

import (
	"context"

	"github.com/floelog/floe/agent/peer"
	"github.com/floelog/floe/metadata/catalogue"
)

// identity is what other agents know this one by, and it them.
func (a *Agent) identity(c catalogue.Cluster) peer.Identity {
	return peer.Identity{Cluster: c.ID, Secret: a.secret, TLS: a.parts.PeerTLS}
}

// keepSecret stores the agents' secret again if the metadata store has lost it: one that is restored ends all sessions.
func (a *Agent) keepSecret(ctx context.Context) error {
	same, err := catalogue.KeepSecret(ctx, a.parts.Meta, a.keys, a.secret)
	if err == nil && !same {
		a.parts.Log.Error("the metadata store has another secret than this agent: agents that started since refuse its calls", "remedy", "restart this agent")
	}
	return err
}

// servePeers serves other agents until ctx ends. An agent that drains has stopped it
// before; one that has no session when it is told to stop has nothing to drain.
func (a *Agent) servePeers(ctx context.Context) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		a.peerServer.Stop(ctx)
	})
	err := a.peerServer.Serve(a.parts.RPCListener)
	if !stop() {
		<-stopped
	}
	return err
}
