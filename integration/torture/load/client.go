package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/history"
	"github.com/floelog/floe/integration/torture/check"
)

// client is a client that can crash.
type client struct {
	*kgo.Client
	name string
	wire *wire
	load *Load
}

// wire is the connections of one client. Cut ends them all, and no others are made: nobody
// hears of the client again, as if its process had ended.
type wire struct {
	dialer net.Dialer

	mu    sync.Mutex // guards the following
	conns map[net.Conn]bool
	cut   bool
}

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := w.dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	held := &wired{conn, w}
	w.conns[held] = true
	return held, nil
}

func (w *wire) end() {
	w.mu.Lock()
	conns := w.conns
	w.conns, w.cut = map[net.Conn]bool{}, true
	w.mu.Unlock()
	for c := range conns {
		_ = c.Close() // it may have ended by itself
	}
}

type wired struct {
	net.Conn
	w *wire
}

func (c *wired) Close() error {
	c.w.mu.Lock()
	delete(c.w.conns, c)
	c.w.mu.Unlock()
	return c.Conn.Close()
}

func newWire() *wire {
	return &wire{dialer: net.Dialer{Timeout: dialTimeout}, conns: map[net.Conn]bool{}}
}

// options are those of every client.
func (l *Load) options(c *client) []kgo.Opt {
	return []kgo.Opt{
		kgo.SeedBrokers(l.cfg.Agents...), kgo.ClientID(c.name), kgo.Dialer(c.wire.dial), kgo.MetadataMinAge(retryPause),
		kgo.MetadataMaxAge(5 * time.Second), kgo.RequestTimeoutOverhead(patience), kgo.RetryBackoffFn(func(int) time.Duration { return retryPause }),
		kgo.RetryTimeout(30 * time.Second), kgo.RequestRetries(1 << 20), // the timeout decides
		kgo.UnknownTopicRetries(-1), kgo.WithLogger(noted{l.rec, c.name}),
	}
}

// client makes a client.
func (l *Load) client(kind string, opts ...kgo.Opt) (*client, error) {
	c := l.newClient(kind)
	cl, err := kgo.NewClient(append(l.options(c), opts...)...)
	if err != nil {
		return nil, fmt.Errorf("client %s: %w", c.name, err)
	}
	l.lives(c, cl)
	return c, nil
}

func (l *Load) newClient(kind string) *client {
	return &client{name: l.name(kind), wire: newWire(), load: l}
}

// lives notes a client until it ends.
func (l *Load) lives(c *client, cl *kgo.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.Client = cl
	l.live[c] = true
}

func (c *client) dies() {
	c.load.mu.Lock()
	defer c.load.mu.Unlock()
	delete(c.load.live, c)
}

// Close ends a client in order.
func (c *client) Close() {
	c.dies()
	c.CloseAllowingRebalance()
}

// must is client of options that this package chose; a mistake in them ends the test.
func (l *Load) must(kind string, opts ...kgo.Opt) *client {
	c, err := l.client(kind, opts...)
	if err != nil {
		panic(err)
	}
	return c
}

// crash ends a client without a word to anybody. What it still tries, for up to half a minute, fails beside
// its successor, and Load.Close waits for it.
func (c *client) crash() { c.crashWith(c.CloseAllowingRebalance) }

// crashWith is crash of a client that is closed by other means.
func (c *client) crashWith(end func()) {
	c.dies()
	c.wire.end()
	c.load.closing.Go(end)
}

// noted writes what a client warns of into the history.
type noted struct {
	rec  *check.Recorder
	name string
}

// Level implements kgo.Logger.
func (noted) Level() kgo.LogLevel { return kgo.LogLevelError }

// Log implements kgo.Logger.
func (n noted) Log(_ kgo.LogLevel, msg string, keyvals ...any) {
	n.rec.Note(n.name, "%s %v", msg, keyvals)
}

// producing is the options of all clients that produce. They try for ever, so that their
// only errors are those that a retry does not cure.
func producing() []kgo.Opt {
	return []kgo.Opt{
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProduceRequestTimeout(produceTimeout), kgo.MaxBufferedRecords(maxBuffered),
		kgo.MaxBufferedBytes(maxBufferedBytes), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(0),
	}
}

// producer makes a client that produces.
func (l *Load) producer(kind string, opts ...kgo.Opt) *client {
	lost := kgo.ProducerOnDataLossDetected(func(topic string, p int32) {
		l.rec.Anomaly(check.SequenceLost, kind, "sequence numbers were lost in %s/%d", topic, p)
	})
	return l.must(kind, append(append(producing(), lost), opts...)...)
}

// What a client holds of records under way: seconds of its load. More would be written long
// after it was sent, less would make the load smaller after each fault.
const (
	maxBuffered      = 4000
	maxBufferedBytes = 64 << 20
)

// size draws a record's size: many that are committed inline, some that fill a batch.
func size(r *rand.Rand) int {
	switch n := r.IntN(100); {
	case n < 80:
		return history.MinSize + r.IntN(300)
	case n < 98:
		return 300 + r.IntN(2<<10)
	default:
		return 2<<10 + r.IntN(6<<10)
	}
}

// largeSize draws the size of a record that needs an object.
func largeSize(r *rand.Rand) int { return 16<<10 + r.IntN(496<<10) }

// send records a record, in a transaction if txn is not 0, and hands it to a client.
func (l *Load) send(c *client, idempotent bool, txn uint64, topic string, to history.Partition, size int, done func(error)) {
	ev := check.Event{Op: check.OpSend, Who: c.name, Part: to, A: int64(size), ID: txn}
	if idempotent {
		ev.B = 1
	}
	v := l.rec.Add(ev)
	record := &kgo.Record{Topic: topic, Partition: to.ID, Value: history.Payload(history.Value(v), size)}
	// Its context must not end: that would give up a record whose outcome is not known.
	c.Produce(context.Background(), record, func(rec *kgo.Record, err error) {
		if err != nil {
			// Whatever arrives here may come after attempts whose outcome is not known.
			l.rec.Add(check.Event{Op: check.OpUnknown, Who: c.name, ID: v, Text: err.Error()})
		} else {
			l.rec.Add(check.Event{Op: check.OpAcked, Who: c.name, ID: v, A: rec.Offset})
		}
		if done != nil {
			done(err)
		}
	})
}
