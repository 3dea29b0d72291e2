package nemesis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Traffic is what happens to the bytes of one direction of a Link.
type Traffic struct {
	// Blackhole holds all bytes, and the end of a connection, until it is lifted: what a network
	// does that is cut without telling. With one direction only, the connection is half open.
	Blackhole bool
	// Delay holds each burst of bytes for a while; Jitter is the most that is drawn on top.
	Delay, Jitter time.Duration
	Rate          int // bytes per second that pass; 0: no limit
}

func (t Traffic) clean() bool { return !t.Blackhole && t.Delay == 0 && t.Jitter == 0 && t.Rate == 0 }

// Trouble is what a Link does wrong. Up is the direction from who connects to who listens.
type Trouble struct {
	Up, Down Traffic
	Refuse   bool // connections are reset as soon as they are made
	// CutOnLift resets, when the trouble is lifted, the connections that it touched, as
	// a firewall does that has forgotten them; else they go on with what was held.
	CutOnLift bool
}

// merged is what several troubles amount to: the worst of each.
func (t Trouble) merged(o Trouble) Trouble {
	t.Up, t.Down, t.Refuse = t.Up.merged(o.Up), t.Down.merged(o.Down), t.Refuse || o.Refuse
	return t
}

func (t Traffic) merged(o Traffic) Traffic {
	t.Blackhole = t.Blackhole || o.Blackhole
	t.Delay, t.Jitter = max(t.Delay, o.Delay), max(t.Jitter, o.Jitter)
	if t.Rate == 0 || o.Rate != 0 && o.Rate < t.Rate {
		t.Rate = o.Rate
	}
	return t
}

// Link is a TCP proxy on the loopback address. Without trouble the kernel moves the bytes (splice), so that
// it costs next to nothing. Troubles are imposed and lifted independently of each other; several together do
// the worst of each.
type Link struct {
	target   string
	kafka    bool
	listener *net.TCPListener
	work     sync.WaitGroup
	ctx      context.Context // ends with Close
	end      context.CancelFunc

	mu       sync.Mutex // guards the following, and the read deadlines of connections; never held across I/O
	rand     *rand.Rand
	imposed  map[*Imposition]bool
	now      Trouble       // all of them together
	changed  chan struct{} // closed when now changes
	pairs    map[*pair]bool
	drops    []*Imposition // one for each answer that is still to be dropped
	captures []*capture
	err      error

	bytes, connections atomic.Int64
}

// LinkConfig says where a Link stands.
type LinkConfig struct {
	Target string // HOST:PORT that it leads to
	Listen string // HOST:PORT that it listens on; empty: a free port
	// Kafka makes the link look at requests, so that frames can be captured. All its
	// bytes from clients are then copied by this process.
	Kafka bool
	Seed  uint64 // of jitter
}

// NewLink listens until Close.
func NewLink(c LinkConfig) (*Link, error) {
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	addr, err := net.ResolveTCPAddr("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("link to %s: %w", c.Target, err)
	}
	ln, err := net.ListenTCP("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("link to %s: %w", c.Target, err)
	}
	l := &Link{
		target: c.Target, kafka: c.Kafka, listener: ln, rand: rand.New(rand.NewPCG(c.Seed, 1)),
		imposed: map[*Imposition]bool{}, changed: make(chan struct{}), pairs: map[*pair]bool{},
	}
	l.ctx, l.end = context.WithCancel(context.Background())
	l.work.Go(l.accept)
	return l, nil
}

// Addr returns HOST:PORT of the link.
func (l *Link) Addr() string { return l.listener.Addr().String() }

// Target returns HOST:PORT that the link leads to.
func (l *Link) Target() string { return l.target }

// Bytes returns how many bytes went through in both directions, of connections that have ended.
func (l *Link) Bytes() int64 { return l.bytes.Load() }

// Connections returns how many were made in all.
func (l *Link) Connections() int64 { return l.connections.Load() }

// Close ends the link and all that goes through it.
func (l *Link) Close() error {
	l.end()
	err := l.listener.Close()
	l.Cut()
	l.work.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(err, l.err)
}

// Imposition is a trouble while it lasts, and what it has done.
type Imposition struct {
	link    *Link
	trouble Trouble
	effects atomic.Int64
	touched map[*pair]bool // guarded by link.mu
}

// Impose makes the link do something wrong until the imposition is lifted. Bytes that are on their way at that moment
// may still pass.
func (l *Link) Impose(t Trouble) *Imposition {
	i := &Imposition{link: l, trouble: t, touched: map[*pair]bool{}}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.imposed[i] = true
	l.recompute()
	return i
}

// Effects returns how often the trouble met something: bursts that were held or slowed down, and
// connections that were refused.
func (i *Imposition) Effects() int { return int(i.effects.Load()) }

// Lift ends the trouble and returns its effects. What was held goes on.
func (i *Imposition) Lift() int {
	l := i.link
	l.mu.Lock()
	if l.imposed[i] {
		delete(l.imposed, i)
		l.recompute()
	}
	var cut []*pair
	if i.trouble.CutOnLift {
		for p := range i.touched {
			cut = append(cut, p)
		}
	}
	clear(i.touched)
	l.mu.Unlock()
	for _, p := range cut {
		p.reset()
	}
	return i.Effects()
}

// recompute tells all connections what the trouble is now. l.mu is held.
func (l *Link) recompute() {
	l.now = Trouble{}
	for i := range l.imposed {
		l.now = l.now.merged(i.trouble)
	}
	close(l.changed)
	l.changed = make(chan struct{})
	past := time.Unix(1, 0)
	for p := range l.pairs {
		_ = p.client.SetReadDeadline(past) // wakes its reader, which looks again; one that is closed needs no waking
		if p.server != nil {
			_ = p.server.SetReadDeadline(past)
		}
	}
}

// felt counts an effect for every imposition that has a part in it.
func (l *Link) felt(p *pair, has func(Trouble) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.imposed {
		if has(i.trouble) {
			i.effects.Add(1)
			i.touched[p] = true
		}
	}
}

// Cut resets all connections, and returns how many there were.
func (l *Link) Cut() int {
	l.mu.Lock()
	all := make([]*pair, 0, len(l.pairs))
	for p := range l.pairs {
		all = append(all, p)
	}
	l.mu.Unlock()
	for _, p := range all {
		p.reset()
	}
	return len(all)
}

// DropReplies cuts the connection instead of handing the answer on, for each of the next n answers:
// what was asked has been done, and who asked does not hear of it. Effects of what it returns counts
// them, and Lift gives up those that have not come.
func (l *Link) DropReplies(n int) *Imposition {
	i := &Imposition{link: l, touched: map[*pair]bool{}}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.imposed[i] = true
	for range n {
		l.drops = append(l.drops, i)
	}
	l.recompute() // so that bytes stop going by unseen
	return i
}

// dropped reports whether an answer is to be dropped, and counts it.
func (l *Link) dropped() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.drops) > 0 {
		i := l.drops[0]
		l.drops = l.drops[1:]
		if l.imposed[i] {
			i.effects.Add(1)
			return true
		}
	}
	return false
}

// Await returns when the trouble has had n effects, or ctx ends.
func (i *Imposition) Await(ctx context.Context, n int) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i.Effects() < n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// accept makes a pair of each connection.
func (l *Link) accept() {
	for {
		conn, err := l.listener.AcceptTCP()
		if err != nil {
			if l.ctx.Err() == nil {
				l.mu.Lock()
				l.err = err
				l.mu.Unlock()
			}
			return
		}
		l.connections.Add(1)
		p := &pair{link: l, client: conn, done: make(chan struct{})}
		l.mu.Lock()
		refuse := l.now.Refuse
		l.pairs[p] = !refuse
		l.mu.Unlock()
		if refuse {
			l.felt(p, func(t Trouble) bool { return t.Refuse })
			p.reset()
			l.forget(p)
			continue
		}
		l.work.Go(func() {
			p.run()
			l.forget(p)
		})
	}
}

func (l *Link) forget(p *pair) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pairs, p)
	for i := range l.imposed {
		delete(i.touched, p)
	}
}

// dialTimeout bounds a connection to the target, which is on the same machine: only a process that is
// stopped with a full backlog takes longer.
const dialTimeout = 10 * time.Second

func (l *Link) dial() (*net.TCPConn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(l.ctx, "tcp", l.target)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}
