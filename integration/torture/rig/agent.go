//go:build linux

package rig

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"

	"github.com/floelog/floe/integration/nemesis"
)

// Agent is a `floe agent` process and the links around it. What its links do may be changed at any time.
type Agent struct {
	*Process
	Number int             // from 0; its node id is one more
	Kafka  *nemesis.Link   // clients come through it, wherever they are; knows requests
	RPC    *nemesis.Link   // other agents come through it
	Etcd   []*nemesis.Link // to each member
	S3     *nemesis.Link   // to Store
	Store  *nemesis.Store  // S3 with faults of its own, for this agent alone

	addr, admin string
	cache       string
}

// Addr returns HOST:PORT that the agent listens on, past its link.
func (a *Agent) Addr() string { return a.addr }

// Admin returns HOST:PORT of the agent's metrics.
func (a *Agent) Admin() string { return a.admin }

// CacheDir returns the folder of the agent's disk cache.
func (a *Agent) CacheDir() string { return a.cache }

// NodeID returns the agent's id for Kafka's clients.
func (a *Agent) NodeID() int32 { return int32(a.Number + 1) }

// fast are settings under which minutes are what weeks are by default.
func fast() []string {
	return []string{
		"--lease-ttl", LeaseTTL.String(), "--shards", "16", "--memory-budget", "256MiB", "--cache-size", "48MiB", "--cache-disk-bytes", "256MiB",
		"--rollup-age", "2s", "--rollup-size", "256KiB", "--carry-age", "1s", "--etcd-history", "10s",
		"--snapshot-age", "4s", "--snapshot-records", "300",
		"--merge-age", "500ms", "--merge-target", "1MiB", "--manifest-extents", "16", "--jobs-rate", "24MiB",
		"--clean-interval", "500ms", "--clean-min-bytes", "0B", "--clean-memory", "1MiB",
		"--retention-check-interval", "500ms", "--gc-interval", "2s", "--gc-grace", "2s",
		"--consumer-session-timeout", "10s", "--consumer-heartbeat-interval", "1s",
	}
}

// Args returns the flags of `floe agent` on this cluster, as agent i with that node id; listeners come from the
// caller.
func (c *Cluster) args(i int, nodeID int, s3 string, etcd []*nemesis.Link) []string {
	var endpoints []string
	for _, l := range etcd {
		endpoints = append(endpoints, l.Addr())
	}
	args := []string{
		"agent", "--cluster", clusterName, "--node-id", fmt.Sprint(nodeID), "--zone", Zone(i),
		"--etcd", strings.Join(endpoints, ","), "--store", c.storeURL(s3), "--drain-timeout", "15s",
	}
	return append(append(args, fast()...), c.cfg.Args...)
}

// Zone returns the zone of an agent; each has one of its own.
func Zone(agent int) string { return fmt.Sprintf("zone-%d", agent) }

func (c *Cluster) storeURL(endpoint string) string {
	return fmt.Sprintf("s3://%s/%s?driver=s3&region=us-east-1&endpoint=%s", bucket, clusterName, url.QueryEscape("http://"+endpoint))
}

// newAgent makes the links of an agent, which is not started.
func (c *Cluster) newAgent(i int) (*Agent, error) {
	a := &Agent{Number: i, addr: c.at(100+i, 9092), admin: c.at(100+i, 9644), cache: filepath.Join(c.dir, fmt.Sprintf("cache-%d", i))}
	var err error
	if a.Store, err = nemesis.NewStore(c.at(2, 9000), c.cfg.Seed+uint64(i)); err != nil {
		return nil, err
	}
	c.closers = append(c.closers, a.Store.Close)
	rpc := c.at(100+i, 9093)
	for _, l := range []struct {
		link           **nemesis.Link
		target, listen string
		kafka          bool
	}{
		{&a.Kafka, a.addr, c.at(110+i, 9092), true},
		{&a.RPC, rpc, c.at(120+i, 9093), false},
		{&a.S3, a.Store.Addr(), c.at(80+i, 9000), false},
	} {
		if *l.link, err = c.link(l.target, l.listen, l.kafka); err != nil {
			return nil, err
		}
	}
	for m := range Members {
		l, err := c.link(c.at(10+m, 2379), c.at(40+10*i+m, 2379), false)
		if err != nil {
			return nil, err
		}
		a.Etcd = append(a.Etcd, l)
	}
	a.Process = c.process(fmt.Sprintf("agent-%d", i), c.floe, append(c.args(i, i+1, a.S3.Addr(), a.Etcd),
		"--addr", a.addr, "--advertise", a.Kafka.Addr(), "--rpc-addr", rpc, "--rpc-advertise", a.RPC.Addr(),
		"--admin-addr", a.admin, "--cache-disk-dir", a.cache))
	return a, nil
}

// Twin returns a process with an agent's node id and zone, and listeners of its own, which is not started:
// what a copied configuration is.
func (c *Cluster) Twin(a *Agent) *Process {
	return c.process(fmt.Sprintf("twin-%d", a.Number), c.floe, append(c.args(a.Number, a.Number+1, a.S3.Addr(), a.Etcd),
		"--addr", c.at(130+a.Number, 9092), "--rpc-addr", c.at(130+a.Number, 9093), "--admin-addr", c.at(130+a.Number, 9644)))
}

// process returns one that is not started; agents say by a line when they serve.
func (c *Cluster) process(name, path string, args []string) *Process {
	return &Process{
		name: name, path: path, args: args, log: filepath.Join(c.logs, name+".log"),
		env: append([]string{"AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + secretKey}, c.cfg.Env...),
		ready: func(ctx context.Context, out *output) error {
			select {
			case <-out.whole:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		},
		died: c.died,
	}
}

// each calls do for all of them at once and returns the first error.
func each[T any](all []T, do func(T) error) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, one := range all {
		wg.Go(func() { errs[i] = do(one) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// StartAll starts those of the agents that do not run.
func StartAll(ctx context.Context, agents []*Agent) error {
	return each(agents, func(a *Agent) error { return a.Start(ctx) })
}
