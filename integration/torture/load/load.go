// Package load is the clients of a torture run, all written on franz-go: producers that are
// idempotent, plain and transactional, consumers that are assigned partitions and members of
// groups of both protocols, transactions that consume and produce, topics that come and go,
// zombies, observers, and the probes by which recovery is measured. Whatever they do and hear
// goes to a check.Recorder.
//
// Start starts them; they run, crash and are replaced by themselves until Settle, which ends
// the writing, waits until everybody is through, and has fresh clients read everything at
// both isolation levels. All goroutines have ended when Settle or Close returns. The methods
// of a Load are for one goroutine.
package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/history"
	"github.com/floelog/floe/integration/torture/check"
)

// Config is what a load consists of. Zero fields have the values of Default.
type Config struct {
	Agents []string // HOST:PORT of each, through its proxy
	Racks  []string // zones that consumers say they are in; none: none
	Seed   uint64

	Small       int           // records a second of 12 bytes to 8 KiB, of all producers together
	Large       int           // bytes a second of records of 16 KiB to 512 KiB
	Partitions  int32         // of each topic
	Crash       time.Duration // how long a client lives about, before it crashes or leaves
	Rotate      time.Duration // how long a topic of large records is written
	Transaction bool          // transactional clients too
	FinalLimit  time.Duration // how long everything may take to be seen after the end
	StuckLimit  time.Duration // how long a client may be without progress after the end
}

// Default returns the load that the fleet has to bear.
func Default() Config {
	return Config{
		Small: 1200, Large: 11 << 20, Partitions: 6, Crash: 25 * time.Second, Rotate: time.Minute,
		Transaction: true, FinalLimit: 200 * time.Second, StuckLimit: 30 * time.Second,
	}
}

// The topics that stay for the whole run.
const (
	topicPlain  = "torture-plain"
	topicTxn    = "torture-txn"
	topicIn     = "torture-in"
	topicOut    = "torture-out"
	topicProbe  = "torture-probe"
	topicObject = "torture-probe-large"
)

func stable() []string {
	return []string{topicPlain, topicTxn, topicIn, topicOut, topicProbe, topicObject}
}

// Clients ask again soon, so that the time that they stand still is the cluster's. Much less
// would be a load of its own while nothing answers.
const (
	retryPause     = 50 * time.Millisecond
	produceTimeout = 4 * time.Second
	patience       = 3 * time.Second // beyond a request's own time limit
	dialTimeout    = 2 * time.Second
)

// Load is a load that runs.
type Load struct {
	rec   *check.Recorder
	cfg   Config
	names atomic.Uint64

	write      context.Context // ends when nothing new is to be written
	stopWrite  context.CancelFunc
	read       context.Context // ends when nothing is to be read any more
	stopRead   context.CancelFunc
	copy       context.Context // ends when groups are through that consume and produce
	stopCopy   context.CancelFunc
	writers    sync.WaitGroup
	copiers    sync.WaitGroup
	closing    sync.WaitGroup // clients that have crashed
	readers    sync.WaitGroup
	admin      *kadm.Client
	adminKgo   *kgo.Client
	groups     []*group
	processing []*group   // whose members consume and produce in transactions
	mu         sync.Mutex // guards the following
	retired    []retired  // topics whose records are all written and not all verified
	live       map[*client]bool
}

// Start creates the topics and starts the clients. The context is that of the whole load.
func Start(ctx context.Context, rec *check.Recorder, cfg Config) (*Load, error) {
	l := &Load{rec: rec, cfg: cfg, live: map[*client]bool{}}
	l.read, l.stopRead = context.WithCancel(ctx)
	l.copy, l.stopCopy = context.WithCancel(l.read)
	l.write, l.stopWrite = context.WithCancel(l.read)
	c, err := l.client("admin")
	if err != nil {
		return nil, err
	}
	l.adminKgo, l.admin = c.Client, kadm.NewClient(c.Client)
	for _, topic := range stable() {
		if _, err := l.createTopic(ctx, topic); err != nil {
			c.Close()
			return nil, fmt.Errorf("create topic %s: %w", topic, err)
		}
	}
	l.startProducers()
	if cfg.Transaction {
		l.startTransactions()
		l.startProcessors()
	}
	l.startFollowers()
	l.startGroups()
	l.startRotation()
	l.startChurn()
	l.startObservers()
	l.startProbes()
	return l, nil
}

// Close ends everything at once, if Settle has not. Clients that begin meanwhile end with
// the goroutines that use them.
func (l *Load) Close() {
	l.stopWrite()
	l.stopRead()
	l.crashAll()
	l.writers.Wait()
	l.copiers.Wait()
	l.readers.Wait()
	l.closing.Wait()
	l.adminKgo.Close()
}

// random returns the randomness of one goroutine.
func (l *Load) random(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(l.cfg.Seed, stream)) }

// name makes a client's name, which nobody else has.
func (l *Load) name(kind string) string { return fmt.Sprintf("%s.%d", kind, l.names.Add(1)) }

// createTopic returns the id of a topic, which may exist.
func (l *Load) createTopic(ctx context.Context, topic string) (id [16]byte, err error) {
	for {
		resp, err := l.admin.CreateTopic(ctx, l.cfg.Partitions, int16(1), nil, topic)
		if err == nil {
			return resp.ID, nil
		}
		if errors.Is(err, kerr.TopicAlreadyExists) { // an earlier attempt did it
			if details, err := l.admin.ListTopics(ctx, topic); err == nil && details[topic].Err == nil {
				return details[topic].ID, nil
			}
		}
		if !pause(ctx, 4*retryPause) {
			return id, fmt.Errorf("%w (last: %w)", ctx.Err(), err)
		}
	}
}

// pause waits, and reports whether ctx lives.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// lifetime draws how long a client lives.
func (l *Load) lifetime(r *rand.Rand) time.Duration {
	return l.cfg.Crash/2 + time.Duration(r.Int64N(int64(l.cfg.Crash)))
}

func (l *Load) part(topic string, p int32) history.Partition {
	return history.Partition{Topic: topic, ID: p}
}

func (l *Load) all() []int32 {
	var out []int32
	for p := range l.cfg.Partitions {
		out = append(out, p)
	}
	return out
}
