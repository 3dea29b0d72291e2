//go:build integration && unix

package tiers

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/fixture"
	"github.com/floelog/floe/integration/history"
	"github.com/floelog/floe/integration/nemesis"
)

var (
	duration  = flag.Duration("tiers.duration", time.Minute, "how long faults are fired; every one is fired once at least")
	seedFlag  = flag.Uint64("tiers.seed", 0, "seed of the faults and the load; 0: by the clock")
	traceFlag = flag.String("tiers.trace", "", "file that the histories are written to, with the agents' logs beside it")
)

const (
	agents = 3
	lease  = 3 * time.Second
	// patience is how long the cluster may take for anything once it is whole. It is far more
	// than it needs, for a machine that runs every test at once.
	patience = 2 * time.Minute
	backoff  = 50 * time.Millisecond
	// clientPatience is how long clients wait for an answer: half of what they do by default, and
	// more than an agent is stopped for.
	clientPatience = 15 * time.Second
)

// fast are the settings under which a minute is what weeks are by default.
var fast = []string{
	"--lease-ttl", lease.String(), "--shards", "16", "--cache-size", "48MiB",
	"--rollup-age", "1s", "--rollup-size", "64KiB", "--carry-age", "500ms",
	"--snapshot-age", "2s", "--snapshot-records", "100",
	"--merge-age", "100ms", "--merge-target", "64KiB", "--manifest-extents", "8",
	"--clean-interval", "200ms", "--clean-min-bytes", "0B", "--clean-memory", "1MiB",
	"--retention-check-interval", "200ms", "--gc-interval", "500ms", "--gc-grace", "500ms",
}

// cluster is what the load is put on and faults are fired at.
type cluster struct {
	t      testing.TB
	floe   *fixture.Floe
	store  *nemesis.Store
	direct string // URL of the store behind its faults
	seed   uint64
	trace  func(line string)
	meter  *meter
}

func start(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{t: t, seed: *seedFlag}
	if c.seed == 0 {
		c.seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	t.Logf("seed %d", c.seed)
	c.trace = newTrace(t)
	minio := fixture.StartMinIO(t)
	store, err := nemesis.NewStore(minio.Addr(), c.seed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	c.store = store
	c.floe, c.direct = fixture.AgentsThrough(t, agents, minio, store.Addr(), fixture.StoreS3, fast...)
	if *traceFlag != "" {
		t.Cleanup(func() {
			for i := range c.floe.Processes() {
				c.keep(fmt.Sprintf("process-%d", i), c.floe.Logs(i))
			}
		})
	}
	c.meter = startMeter(t, c.floe)
	return c
}

// keep writes something beside the trace.
func (c *cluster) keep(what, text string) {
	name := fmt.Sprintf("%s.%s.%s", *traceFlag, strings.ReplaceAll(c.t.Name(), "/", "-"), what)
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		c.t.Error(err)
	}
}

// keepStacks keeps what every agent is doing, when something is stuck.
func (c *cluster) keepStacks() {
	if *traceFlag == "" {
		return
	}
	for i := range c.floe.Addrs() {
		c.keep(fmt.Sprintf("agent-%d.goroutines-%s", i, time.Now().UTC().Format("150405")), c.floe.Goroutines(i))
	}
}

// newTrace returns where the histories are written to, which may be nowhere.
func newTrace(t testing.TB) func(line string) {
	t.Helper()
	if *traceFlag == "" {
		return func(string) {}
	}
	f, err := os.Create(*traceFlag + "." + strings.ReplaceAll(t.Name(), "/", "-"))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex // against the end of the test
	closed := false
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		closed = true
		if err := f.Close(); err != nil {
			t.Errorf("trace: %v", err)
		}
	})
	return func(line string) {
		mu.Lock()
		defer mu.Unlock()
		if !closed {
			fmt.Fprintf(f, "%s %s\n", time.Now().UTC().Format("15:04:05.000"), line)
		}
	}
}

// cutOff reports whether a client gave up because an agent ended before its first answer to a
// connection: franz-go takes that for a listener with TLS, and does not try again.
func cutOff(err error) bool {
	var closed *kgo.ErrFirstReadEOF
	return errors.As(err, &closed)
}

// answered repeats a request that may be repeated until an agent has answered it. It ends, since
// agents that are killed are started again.
func answered(f func() error) error {
	for {
		if err := f(); !cutOff(err) {
			return err
		}
	}
}

// note writes a line into the trace.
func (c *cluster) note(format string, args ...any) { c.trace(fmt.Sprintf(format, args...)) }

// errorf fails the test, unless it has ended: then everything fails.
func (c *cluster) errorf(format string, args ...any) {
	if c.t.Context().Err() == nil {
		c.t.Errorf(format, args...)
	}
}

// history makes one whose lines begin with its name.
func (c *cluster) history(name string, cfg history.Config) *history.History {
	if *traceFlag != "" {
		cfg.Trace = func(line string) { c.trace(name + ": " + line) }
	}
	return history.New(cfg)
}

// rand returns a generator of its own for each number.
func (c *cluster) rand(n uint64) *rand.Rand { return rand.New(rand.NewPCG(c.seed, n)) }

// client makes a client that tries for ever.
func (c *cluster) client(name string, opts ...kgo.Opt) *kgo.Client {
	c.t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(c.floe.Addrs()...), kgo.ClientID(name), kgo.MetadataMinAge(backoff),
		kgo.RequestTimeoutOverhead(clientPatience), kgo.ProduceRequestTimeout(5 * time.Second),
		kgo.RetryBackoffFn(func(int) time.Duration { return backoff }), kgo.FetchMaxWait(500 * time.Millisecond),
		kgo.RetryTimeout(patience), kgo.RequestRetries(1 << 20), // the timeout decides
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0),
		kgo.WithLogger(clientLog{c, name}),
	}, opts...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	return client
}

// clientLog writes what a client warns of into the trace.
type clientLog struct {
	c    *cluster
	name string
}

// Level implements kgo.Logger.
func (clientLog) Level() kgo.LogLevel { return kgo.LogLevelWarn }

// Log implements kgo.Logger.
func (l clientLog) Log(_ kgo.LogLevel, msg string, keyvals ...any) {
	l.c.note("%s logs: %s %v", l.name, msg, keyvals)
}

// await asks until check returns nil, and fails the test if it does not in time.
func (c *cluster) await(what string, check func(ctx context.Context) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			c.note("%s: %v", what, err)
			c.keepStacks()
			c.t.Fatalf("%s: not after %v: %v", what, patience, err)
		}
	}
}
