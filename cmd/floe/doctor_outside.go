package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/agent/peer"
	"github.com/floelog/floe/cmd/floe/settings"
	"github.com/floelog/floe/compaction/retain"
	"github.com/floelog/floe/compaction/sweep"
	"github.com/floelog/floe/diagnosis"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/etcd"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore/open"
)

// outsidePatience bounds the look at one store: a test of the object store takes some fifteen
// requests, and etcd may be electing a leader.
const outsidePatience = 30 * time.Second

// outsideLook is a look at the stores from outside of any agent.
type outsideLook struct {
	p        process
	settings *settings.Settings
	log      *slog.Logger
	ask      bool // the registered agents, because nobody has

	agents []diagnosis.Examined // that were asked
}

// run looks at whatever is named.
func (o *outsideLook) run(ctx context.Context) *diagnosis.Snapshot {
	s := &diagnosis.Snapshot{Outside: &diagnosis.Outside{}}
	if len(o.settings.Etcd) > 0 {
		o.lookAtEtcd(ctx, s)
	}
	if o.settings.Store != "" {
		o.lookAtStore(ctx, s)
	}
	return s
}

// lookAtEtcd asks its members, and who is registered.
func (o *outsideLook) lookAtEtcd(ctx context.Context, s *diagnosis.Snapshot) {
	ctx, cancel := context.WithTimeout(ctx, outsidePatience)
	defer cancel()
	s.Outside.Metadata = true
	client, err := openEtcd(ctx, o.settings, o.log)
	if err != nil {
		s.Outside.MetadataErr = oneLine(err)
		return
	}
	defer func() {
		if err := client.Close(); err != nil {
			o.log.Info("closing etcd", "err", err)
		}
	}()
	s.Members = agent.DiagnoseMembers(o.members(ctx, client))
	keys := metadata.NewKeys(o.settings.Cluster)
	agents, err := membership.Registered(ctx, client, keys)
	if err != nil {
		s.Outside.MetadataErr = oneLine(err)
		return
	}
	s.Outside.Agents, s.Outside.Registered = true, float64(len(agents))
	for _, a := range agents {
		s.Agents = append(s.Agents, diagnosis.Agent{Node: int32(a.NodeID), Zone: a.Zone, Version: a.Version})
	}
	if o.ask && len(agents) > 0 {
		if err := o.askRegistered(ctx, client, agents); err != nil {
			fmt.Fprintf(o.p.stderr, "floe doctor: the agents were not asked: %s\n", oneLine(err))
		}
	}
}

// askRegistered asks the registered agents themselves, as another agent would.
func (o *outsideLook) askRegistered(ctx context.Context, client metadata.Store, agents []membership.Agent) error {
	v := &view{settings: o.settings, meta: client}
	keys, cluster, err := v.cluster(ctx)
	if err != nil {
		return err
	}
	kvs, _, err := client.Get(ctx, keys.RPCSecret())
	if err != nil {
		return err
	}
	identity := peer.Identity{Cluster: cluster.ID}
	if kvs[0].Exists() { // else they are of a version that asks for none: nothing is to be created here
		if identity.Secret, err = catalogue.EnsureSecret(ctx, client, keys); err != nil {
			return err
		}
	}
	if identity.TLS, err = rpcTLS(o.settings); err != nil {
		return err
	}
	peers := peer.NewClient(identity)
	defer peers.Close()
	o.agents = make([]diagnosis.Examined, len(agents))
	var asking sync.WaitGroup
	for i, a := range agents {
		asking.Go(func() { o.agents[i] = agent.AskDoctor(ctx, peers, a) })
	}
	asking.Wait()
	return nil
}

// members asks etcd's members, each of which has some seconds.
func (o *outsideLook) members(ctx context.Context, client *etcd.Client) []metadata.MemberStatus {
	ctx, cancel := context.WithTimeout(ctx, outsidePatience/6)
	defer cancel()
	return client.Members(ctx)
}

// lookAtStore tries the object store out, and compares clocks.
func (o *outsideLook) lookAtStore(ctx context.Context, s *diagnosis.Snapshot) {
	ctx, cancel := context.WithTimeout(ctx, outsidePatience)
	defer cancel()
	s.Outside.Store = true
	began := time.Now()
	store, err := open.Open(ctx, o.settings.Store, open.Options{})
	if err == nil {
		err = open.SelfTest(ctx, store, rand.Text())
	}
	if err != nil {
		s.Outside.StoreErr = oneLine(err)
		return
	}
	s.Outside.StoreTook = time.Since(began)
	var session tiering.SessionID // nobody's: what is left behind if this ends now is swept away
	_, _ = rand.Read(session[:])  // never fails
	clock := retain.Clock{
		Objects: store, Now: time.Now, Passed: func() time.Duration { return time.Since(began) },
		Key: func() string { return sweep.ClockKey(session, binary.LittleEndian.Uint64(session[:8])) },
		Compared: func(ahead time.Duration) {
			s.Levels.StoreSkew, s.Levels.StoreSkewMeasured = ahead, true
		},
	}
	if err := clock.Check(ctx); err != nil {
		o.log.Info("comparing clocks", "err", err) // a clock that differs has been told of by Compared
	}
}
