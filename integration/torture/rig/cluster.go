//go:build linux

// Package rig runs a cluster to be tortured: three agents, three members of etcd and MinIO, as processes, and
// before each of them a proxy for everyone who speaks to it (nemesis.Link, nemesis.Store).
//
//	clients -> Agent.Kafka -> agent -> Agent.Etcd[m] -> member m     member -> Member.Peer -> member
//	agents  -> Agent.RPC   -> agent -> Agent.S3 -> Agent.Store -> MinIO
//
// All of it listens on a block of loopback addresses of its own, 127.x.y.*, so that ports stay the same over
// restarts and are never taken by outgoing connections, and several rigs may run beside each other. All data
// is in one folder, which is removed at the end; logs stay if that was asked for.
//
// Faults act through the links' and processes' methods, which may be called concurrently; Start and Stop are for
// one goroutine.
package rig

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/floelog/floe/integration/fixture/program"
	"github.com/floelog/floe/integration/nemesis"
)

const (
	// Agents and Members are how many there are.
	Agents  = 3
	Members = 3
	// LeaseTTL is how long etcd keeps the leadership of an agent that is not heard of.
	LeaseTTL = 3 * time.Second
)

// Config is what a cluster is made of. The zero value is one with settings that are thousands of times faster.
type Config struct {
	Seed uint64
	Dir  string   // folder for all data; empty: one in .cache of the repository
	Logs string   // folder for logs, which stay; empty: in Dir
	Args []string // more flags for the agents
	Tags string   // build tags of the agents, such as that of planted bugs
	Floe string   // the agents' binary; empty: it is built
	Env  []string // more of the agents' environment, NAME=value
}

// Cluster is what is tortured.
type Cluster struct {
	cfg            Config
	dir, logs      string
	floe, etcd     string
	block          [2]byte // of its addresses
	reserved       net.Listener
	agents         []*Agent
	members        []*Member
	peers          []*nemesis.Link
	minio          *Process
	objects        *minio.Client
	client         *clientv3.Client
	meter          *meter
	closers        []func() error
	mu             sync.Mutex // guards the following
	unexpectedEnds []string
	stopping       bool
}

// Start builds what is missing, starts everything, and returns when it serves.
func Start(ctx context.Context, cfg Config) (c *Cluster, err error) {
	root, err := program.Root()
	if err != nil {
		return nil, err
	}
	c = &Cluster{cfg: cfg}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if err := c.folders(root); err != nil {
		return c, err
	}
	if c.etcd, err = program.Etcd(ctx, root); err != nil {
		return c, err
	}
	minio, err := program.MinIO(ctx, root)
	if err != nil {
		return c, err
	}
	if err := c.build(ctx, root); err != nil {
		return c, err
	}
	if err := c.reserve(); err != nil {
		return c, err
	}
	if err := errors.Join(c.startEtcd(ctx), c.startMinIO(ctx, minio)); err != nil {
		return c, err
	}
	for i := range Agents {
		a, err := c.newAgent(i)
		if err != nil {
			return c, err
		}
		c.agents = append(c.agents, a)
	}
	if err := StartAll(ctx, c.agents); err != nil {
		return c, err
	}
	c.meter = startMeter(c)
	return c, nil
}

func (c *Cluster) folders(root string) (err error) {
	parent := c.cfg.Dir
	if parent == "" {
		parent = filepath.Join(root, ".cache")
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	if c.dir, err = os.MkdirTemp(parent, "torture-"); err != nil {
		return err
	}
	if c.logs = c.cfg.Logs; c.logs == "" {
		c.logs = filepath.Join(c.dir, "logs")
	}
	return os.MkdirAll(c.logs, 0o755)
}

// build makes the agents' binary, unless there is one.
func (c *Cluster) build(ctx context.Context, root string) error {
	if c.floe = c.cfg.Floe; c.floe != "" {
		return nil
	}
	c.floe = filepath.Join(c.dir, "floe")
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", c.cfg.Tags, "-o", c.floe, "./cmd/floe")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build floe: %w\n%s", err, out)
	}
	return nil
}

// reserve takes a block of addresses that no other rig has.
func (c *Cluster) reserve() (err error) {
	r := rand.New(rand.NewPCG(uint64(os.Getpid()), uint64(time.Now().UnixNano())))
	for range 20 {
		c.block = [2]byte{byte(64 + r.IntN(128)), byte(r.IntN(256))}
		if c.reserved, err = net.Listen("tcp", c.at(1, 9)); err == nil {
			return nil
		}
	}
	return fmt.Errorf("no block of loopback addresses is free: %w", err)
}

// at returns HOST:PORT of a host of the cluster's block.
func (c *Cluster) at(host, port int) string {
	return fmt.Sprintf("127.%d.%d.%d:%d", c.block[0], c.block[1], host, port)
}

func (c *Cluster) link(target, listen string, kafka bool) (*nemesis.Link, error) {
	l, err := nemesis.NewLink(nemesis.LinkConfig{Target: target, Listen: listen, Kafka: kafka, Seed: c.cfg.Seed})
	if err == nil {
		c.closers = append(c.closers, l.Close)
	}
	return l, err
}

// Bootstrap returns the addresses that clients connect to: those of the links, which agents advertise too.
func (c *Cluster) Bootstrap() []string {
	var all []string
	for _, a := range c.agents {
		all = append(all, a.Kafka.Addr())
	}
	return all
}

// Agents returns all agents.
func (c *Cluster) Agents() []*Agent { return c.agents }

// Members returns the members of etcd.
func (c *Cluster) Members() []*Member { return c.members }

// Floe returns the path of the agents' binary.
func (c *Cluster) Floe() string { return c.floe }

// Dir returns the folder of the cluster's data, for what else belongs to the run.
func (c *Cluster) Dir() string { return c.dir }

// Logs returns the folder of logs.
func (c *Cluster) Logs() string { return c.logs }

// Heal makes the cluster whole: everything runs. Troubles of links are lifted by those who imposed them.
func (c *Cluster) Heal(ctx context.Context) error {
	whole := func(resume func(), start func(context.Context) error) error {
		resume()
		return start(ctx)
	}
	if err := each(c.members, func(m *Member) error { return whole(m.Resume, m.Start) }); err != nil {
		return err
	}
	if c.minio != nil {
		if err := whole(c.minio.Resume, c.minio.Start); err != nil {
			return err
		}
	}
	return each(c.agents, func(a *Agent) error { return whole(a.Resume, a.Start) })
}

// died records that a process ended although nobody had ended it.
func (c *Cluster) died(p *Process, state string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopping {
		c.unexpectedEnds = append(c.unexpectedEnds, fmt.Sprintf("%s ended by itself: %s\n%s", p.Name(), state, p.LogTail()))
	}
}

// UnexpectedEnds returns the processes that ended although nobody had ended them, with the ends of
// their logs: each is a bug.
func (c *Cluster) UnexpectedEnds() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.unexpectedEnds...)
}

// Stop ends everything and removes its data.
func (c *Cluster) Stop() error {
	c.mu.Lock()
	c.stopping = true
	c.mu.Unlock()
	if c.meter != nil {
		c.meter.stop()
	}
	for _, a := range c.agents {
		a.Kill()
	}
	var errs []error
	for i := len(c.closers) - 1; i >= 0; i-- {
		errs = append(errs, c.closers[i]())
	}
	for _, m := range c.members {
		m.Kill()
	}
	if c.minio != nil {
		c.minio.Kill()
	}
	if c.reserved != nil {
		errs = append(errs, c.reserved.Close())
	}
	if c.dir != "" {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}

// quiet is a logger for etcd's client, whose complaints about members that are down are no news.
func quiet() *zap.Logger { return zap.NewNop() }
