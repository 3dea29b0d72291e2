package membership

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/level"
	"github.com/floelog/floe/metadata/retry"
	"github.com/floelog/floe/tiering"
)

const (
	// DefaultTTL is how long an agent's shards stay leaderless when it dies without a word.
	// Shorter: an election in etcd, one to two seconds with reconnecting, could end the
	// sessions of all agents at once. Longer: producers wait longer for nothing.
	DefaultTTL = 5 * time.Second

	minTTL = 2 * time.Second // what etcd grants at least, with its default election timeout
	maxTTL = time.Hour       // beyond it, a dead agent would block its shards for ever

	// renewals is how often a lease is renewed within its time to live. Fewer leave less
	// time to an etcd election: four fifths of the time stay now. More cost etcd a message
	// each and win little.
	renewals = 5

	// attempts is how many renewals at a member that hangs fit into the time to live.
	attempts = 4

	// lastPause is the attempt whose pause, 160 ms, is not exceeded between renewals. Shorter
	// pauses load a store in trouble; longer ones could pass over its recovery.
	lastPause = 4

	// DefaultPublish is the least time between two publications of the low watermark, each
	// a write per busy agent. Shorter costs the metadata store for no use; longer keeps
	// the orphans of a live session longer.
	DefaultPublish = 10 * time.Second
)

// SessionConfig says who registers.
type SessionConfig struct {
	TTL        time.Duration // 0: DefaultTTL
	NodeID     NodeID        // 0: the lowest that is free
	Address    string        // host:port that Kafka clients are told
	RPCAddress string        // host:port for other agents
	Zone       string
	Version    string
	Roles      []string
	Levels     level.Range       // that it reads and writes; zero: level.Own()
	Listeners  map[string]string // see Agent

	Publish time.Duration // least time between publications of the low watermark; 0: DefaultPublish
	Random  io.Reader     // safe for concurrent use; nil: crypto/rand.Reader
	Log     *slog.Logger  // nil: none
}

// Session is one life of an agent.
type Session struct {
	store metadata.Store
	keys  metadata.Keys
	cfg   SessionConfig
	pacer *retry.Pacer

	agent Agent
	lease metadata.LeaseID

	// start is the zero of deadline, by the monotonic clock. That clock stands still while
	// a machine is suspended; then only the conditions of transactions protect.
	start    time.Time
	deadline atomic.Int64 // nanoseconds after start; dead for ever once it is lostMark

	lost  chan struct{}
	cause error // valid once lost is closed

	low    atomic.Uint64
	lowSet chan struct{}          // capacity 1: low has grown
	value  atomic.Pointer[[]byte] // that the session's key has, as far as is known
	cancel context.CancelFunc
	wg     sync.WaitGroup // renewal, watchdog and publication; Close waits
}

const lostMark = math.MinInt64

// Start registers an agent and keeps its lease until Close, or until it is lost. ctx
// bounds the registration only. It returns ErrNodeIDTaken, after the time that a dead
// holder's lease might take to end, if another live agent has the node id, and ErrLevel if
// the cluster's level is none of cfg.Levels.
func Start(ctx context.Context, store metadata.Store, keys metadata.Keys, cfg SessionConfig) (*Session, error) {
	if cfg.TTL == 0 {
		cfg.TTL = DefaultTTL
	}
	if cfg.Levels == (level.Range{}) {
		cfg.Levels = level.Own()
	}
	if cfg.Publish <= 0 {
		cfg.Publish = DefaultPublish
	}
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.TTL < minTTL || cfg.TTL > maxTTL:
		return nil, fmt.Errorf("session time to live %v: want %v to %v", cfg.TTL, minTTL, maxTTL)
	case cfg.NodeID < 0:
		return nil, fmt.Errorf("node id %d: want 1 or more, or 0 for any", cfg.NodeID)
	case cfg.Address == "":
		return nil, errors.New("advertised address is empty: say where clients find this agent")
	}
	reg, err := register(ctx, store, keys, cfg)
	if err != nil {
		return nil, fmt.Errorf("registering the agent: %w", err)
	}
	s := &Session{store: store, keys: keys, cfg: cfg, pacer: reg.pacer, agent: reg.agent, lease: reg.lease,
		start: reg.renewed, lost: make(chan struct{}), lowSet: make(chan struct{}, 1)}
	s.deadline.Store(int64(cfg.TTL))
	s.value.Store(&reg.value)
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.wg.Go(func() { s.renew(run) })
	s.wg.Go(func() { s.watchdog(run) })
	s.wg.Go(func() { s.publish(run) })
	return s, nil
}

// ID is the session's id, drawn at its start.
func (s *Session) ID() tiering.SessionID { return s.agent.Session }

// NodeID is the agent's node id.
func (s *Session) NodeID() NodeID { return s.agent.NodeID }

// Agent is the registration.
func (s *Session) Agent() Agent { return s.agent }

// Lease is the lease that keys are bound to which must die with the session.
func (s *Session) Lease() metadata.LeaseID { return s.lease }

// Alive reports whether the store cannot have ended the session yet. It is cheap. False
// is for ever: then the agent must claim nothing. True is a hint and no permission, since
// it may be false by the time the caller acts on it.
func (s *Session) Alive() bool {
	d := s.deadline.Load()
	if d == lostMark {
		return false
	}
	if int64(time.Since(s.start)) < d {
		return true
	}
	s.expire(d)
	return s.deadline.Load() != lostMark
}

// Lost is closed when the session is not alive any more, be it lost or closed.
func (s *Session) Lost() <-chan struct{} { return s.lost }

// Err says why the session is not alive any more: ErrClosed after Close, an error that is
// metadata.ErrLeaseLost or metadata.ErrSessionDead otherwise; nil while it is alive.
func (s *Session) Err() error {
	select {
	case <-s.lost:
		return s.cause
	default:
		return nil
	}
}

// Leave tells everybody that this agent is about to end, while the session lives on: it
// gets no shards any more, and clients are sent elsewhere. Leaving twice is no error.
func (s *Session) Leave(ctx context.Context) error {
	before := s.agent
	after := before
	after.Leaving = true
	old, err := before.encode()
	if err != nil {
		return err
	}
	value, err := after.encode()
	if err != nil {
		return err
	}
	key := s.keys.Agent(int32(s.agent.NodeID))
	res, _, err := retry.Txn(ctx, s.store, s.pacer, metadata.Txn{
		If:   []metadata.Condition{metadata.Equals(key, old)},
		Then: []metadata.Op{metadata.PutLeased(key, value, s.lease)},
		Else: []string{key},
	})
	switch {
	case err != nil:
		return fmt.Errorf("leaving as agent %d: %w", s.agent.NodeID, err)
	case !res.Succeeded && string(res.Else[0].Value) != string(value):
		return fmt.Errorf("leaving as agent %d: %w: its registration is gone", s.agent.NodeID, metadata.ErrConflict)
	}
	return nil
}

// Close ends the session at once: nothing must hang on it any more. It may be called
// more than once. An error means that the lease ends by itself, later.
func (s *Session) Close(ctx context.Context) error {
	s.lose(s.deadline.Load(), ErrClosed, true)
	s.cancel()
	s.wg.Wait()
	_, err := retry.Read(ctx, s.pacer, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.store.Revoke(ctx, s.lease)
	})
	if err != nil && !errors.Is(err, metadata.ErrLeaseLost) {
		return fmt.Errorf("ending the session of agent %d: %w", s.agent.NodeID, err)
	}
	return nil
}

// lose ends the session locally if its deadline is still seen, or whatever it is.
func (s *Session) lose(seen int64, cause error, whatever bool) {
	for seen != lostMark {
		if s.deadline.CompareAndSwap(seen, lostMark) {
			s.cause = cause
			close(s.lost)
			s.cancel()
			return
		}
		if !whatever {
			return
		}
		seen = s.deadline.Load()
	}
}

// expire ends the session because the deadline that was seen has passed.
func (s *Session) expire(seen int64) {
	s.lose(seen, fmt.Errorf("%w: not renewed within %v", metadata.ErrLeaseLost, s.cfg.TTL), false)
}

// extend moves the deadline after a renewal that began at the given time. A renewal whose
// answer came after the deadline is too late: somebody may have seen the session dead.
func (s *Session) extend(began time.Time) {
	d := int64(began.Sub(s.start) + s.cfg.TTL)
	for {
		old := s.deadline.Load()
		if old == lostMark || d <= old {
			return
		}
		if int64(time.Since(s.start)) >= old {
			s.expire(old)
			return
		}
		if s.deadline.CompareAndSwap(old, d) {
			return
		}
	}
}

// watchdog ends the session when its deadline passes, even while a renewal hangs.
func (s *Session) watchdog(ctx context.Context) {
	t := time.NewTimer(s.cfg.TTL)
	defer t.Stop()
	for s.Alive() {
		d := s.deadline.Load()
		if d == lostMark {
			return
		}
		t.Reset(time.Duration(d) - time.Since(s.start))
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// renew renews the lease in good time, and again at once when that fails.
func (s *Session) renew(ctx context.Context) {
	t := time.NewTimer(s.cfg.TTL / renewals)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		for attempt := 0; ; attempt++ {
			began := time.Now()
			err := s.keepAlive(ctx)
			if err == nil {
				s.extend(began)
				break
			}
			if errors.Is(err, metadata.ErrLeaseLost) {
				s.lose(s.deadline.Load(), err, true)
				return
			}
			if ctx.Err() == nil {
				s.cfg.Log.Warn("session not renewed; trying again", "node", s.agent.NodeID, "err", err)
			}
			if s.pacer.Pause(ctx, min(attempt, lastPause)) != nil {
				return
			}
		}
		t.Reset(s.cfg.TTL / renewals)
	}
}

func (s *Session) keepAlive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.TTL/attempts)
	defer cancel()
	return s.store.KeepAlive(ctx, s.lease)
}

// SetLowWatermark says that every segment of this session with a running number below
// seq has been committed or never will be. It is published soon, not at once, and never
// goes back.
func (s *Session) SetLowWatermark(seq uint64) {
	for {
		old := s.low.Load()
		if seq <= old {
			return
		}
		if s.low.CompareAndSwap(old, seq) {
			break
		}
	}
	select {
	case s.lowSet <- struct{}{}:
	default: // publish is told already, and reads low afterwards
	}
}

// Value returns what the session's key has, as far as this agent knows: the key may have a later
// value for a moment. An append that demands it fails for ever once the watermark has moved on, so
// no object below the watermark is named by something that is late. Nobody may change it.
func (s *Session) Value() []byte { return *s.value.Load() }

// publish writes the low watermark into the session's key. Each write demands the value before,
// so that an attempt without an answer that is applied late does not bring a watermark back.
func (s *Session) publish(ctx context.Context) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		select {
		case <-s.lowSet:
		case <-ctx.Done():
			return
		}
		value, err := SessionState{s.agent.NodeID, s.low.Load()}.encode()
		if err != nil {
			s.cfg.Log.Error("low watermark cannot be encoded", "err", err)
			return
		}
		switch err := s.write(ctx, value); {
		case errors.Is(err, metadata.ErrLeaseLost), errors.Is(err, metadata.ErrSessionDead):
			s.lose(s.deadline.Load(), err, true)
		case err != nil && ctx.Err() == nil:
			s.cfg.Log.Error("low watermark not published", "node", s.agent.NodeID, "err", err)
		}
		t.Reset(s.cfg.Publish)
	}
}

// write puts a value into the session's key, in the place of the one before.
func (s *Session) write(ctx context.Context, value []byte) error {
	key, before := s.keys.Session(s.agent.Session), s.Value()
	res, _, err := retry.Txn(ctx, s.store, s.pacer, metadata.Txn{
		If:   []metadata.Condition{metadata.Equals(key, before)},
		Then: []metadata.Op{metadata.PutLeased(key, value, s.lease)},
		Else: []string{key},
	})
	switch {
	case err != nil:
		return err
	case res.Succeeded || bytes.Equal(res.Else[0].Value, value):
		s.value.Store(&value)
		return nil
	case !res.Else[0].Exists():
		return fmt.Errorf("%w: its key is gone", metadata.ErrSessionDead)
	}
	// An earlier write whose outcome was unknown, or another hand: it is what counts now.
	s.value.Store(&res.Else[0].Value)
	select {
	case s.lowSet <- struct{}{}:
	default:
	}
	return nil
}
