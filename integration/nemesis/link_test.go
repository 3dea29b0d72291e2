package nemesis_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/floelog/floe/integration/nemesis"
)

// patience is how long a test waits for what must come, and a moment how long for what must not.
const (
	patience = 10 * time.Second
	moment   = 50 * time.Millisecond
)

// echo is a server that answers each connection with what it reads, and keeps it.
type echo struct {
	listener net.Listener
	work     sync.WaitGroup
	mu       sync.Mutex
	got      []string // what each read brought, in order
	heard    chan struct{}
}

func (e *echo) run() {
	for {
		conn, err := e.listener.Accept()
		if err != nil {
			return
		}
		e.work.Go(func() {
			defer conn.Close()
			buf := make([]byte, 64<<10)
			for {
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				e.mu.Lock()
				e.got = append(e.got, string(buf[:n]))
				e.mu.Unlock()
				e.heard <- struct{}{}
				if _, err := conn.Write(buf[:n]); err != nil || string(buf[:n]) == "bye" {
					return
				}
			}
		})
	}
}

func newLink(t *testing.T, kafka bool) (*nemesis.Link, *echo) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{listener: listener, heard: make(chan struct{}, 10_000)}
	e.work.Go(e.run)
	l, err := nemesis.NewLink(nemesis.LinkConfig{Target: listener.Addr().String(), Kafka: kafka})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		listener.Close()
		e.work.Wait()
	})
	return l, e
}

// watch makes the link look at all that passes from now on. Bytes that the kernel moves may still pass just
// after an imposition, which no real fault would mind; a test does.
func watch(l *nemesis.Link) {
	l.Impose(nemesis.Trouble{Up: nemesis.Traffic{Jitter: 1}, Down: nemesis.Traffic{Jitter: 1}})
}

// await waits for an effect.
func await(t *testing.T, i *nemesis.Imposition) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if !i.Await(ctx, 1) {
		t.Fatal("the trouble had no effect")
	}
}

func dial(t *testing.T, l *nemesis.Link) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", l.Addr(), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

// read reads as much as text has, and compares.
func read(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("read %q, %v, want %q", got, err, text)
	}
}

// silent checks that nothing comes for a moment.
func silent(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(moment))
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes, %v, where nothing should come", n, err)
	}
}

// reset checks that a connection is reset.
func reset(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the connection ended with %v, want a reset", err)
	}
}

func TestALinkMovesBytes(t *testing.T) {
	for _, kafka := range []bool{false, true} {
		l, _ := newLink(t, kafka)
		conn := dial(t, l)
		body := bytes.Repeat([]byte("0123456789"), 300_000)
		binary.BigEndian.PutUint32(body, uint32(len(body)-4)) // one frame
		go func() { _, _ = conn.Write(body) }()
		read(t, conn, string(body))
	}
}

func TestABlackholeHoldsAndGoesOn(t *testing.T) {
	for name, trouble := range map[string]nemesis.Trouble{
		"up":   {Up: nemesis.Traffic{Blackhole: true}},
		"down": {Down: nemesis.Traffic{Blackhole: true}},
		"both": {Up: nemesis.Traffic{Blackhole: true}, Down: nemesis.Traffic{Blackhole: true}},
	} {
		t.Run(name, func(t *testing.T) {
			l, e := newLink(t, false)
			watch(l)
			conn := dial(t, l)
			send(t, conn, "before")
			read(t, conn, "before")
			<-e.heard
			i := l.Impose(trouble)
			send(t, conn, "during")
			await(t, i)
			silent(t, conn)
			if arrived := len(e.heard) > 0; arrived == trouble.Up.Blackhole {
				t.Errorf("what was sent has arrived: %v", arrived)
			}
			if n := i.Lift(); n != 1 {
				t.Errorf("%d effects, want 1", n)
			}
			read(t, conn, "during")
		})
	}
}

func TestABlackholeHidesTheEndOfAConnection(t *testing.T) {
	l, e := newLink(t, false)
	watch(l)
	conn := dial(t, l)
	send(t, conn, "x")
	read(t, conn, "x")
	<-e.heard
	i := l.Impose(nemesis.Trouble{Down: nemesis.Traffic{Blackhole: true}})
	send(t, conn, "bye")
	<-e.heard
	silent(t, conn)
	i.Lift()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(conn); string(got) != "bye" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestConnectionsAreCut(t *testing.T) {
	l, _ := newLink(t, false)
	conn := dial(t, l)
	send(t, conn, "x")
	read(t, conn, "x")
	if n := l.Cut(); n != 1 {
		t.Errorf("cut %d connections, want 1", n)
	}
	reset(t, conn)
}

func TestLiftCutsWhatWasTouched(t *testing.T) {
	l, _ := newLink(t, false)
	watch(l)
	touched, other := dial(t, l), dial(t, l)
	for _, conn := range []net.Conn{touched, other} {
		send(t, conn, "x")
		read(t, conn, "x")
	}
	i := l.Impose(nemesis.Trouble{Up: nemesis.Traffic{Blackhole: true}, CutOnLift: true})
	send(t, touched, "y")
	await(t, i)
	i.Lift()
	reset(t, touched)
	send(t, other, "z")
	read(t, other, "z")
}

func TestTroublesAddUp(t *testing.T) {
	l, _ := newLink(t, false)
	watch(l)
	a := l.Impose(nemesis.Trouble{Up: nemesis.Traffic{Blackhole: true}})
	b := l.Impose(nemesis.Trouble{Up: nemesis.Traffic{Blackhole: true}})
	conn := dial(t, l)
	send(t, conn, "x")
	await(t, a)
	await(t, b)
	a.Lift()
	silent(t, conn)
	b.Lift()
	read(t, conn, "x")
}

func TestRefusedDelayedThrottled(t *testing.T) {
	l, _ := newLink(t, false)
	i := l.Impose(nemesis.Trouble{Refuse: true})
	if conn, err := net.DialTimeout("tcp", l.Addr(), patience); err == nil {
		reset(t, conn)
		conn.Close()
	} else if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a refused connection: %v", err)
	}
	if n := i.Lift(); n != 1 {
		t.Errorf("refused %d, want 1", n)
	}
	i = l.Impose(nemesis.Trouble{Up: nemesis.Traffic{Delay: 2 * moment, Jitter: moment}})
	conn := dial(t, l)
	start := time.Now()
	send(t, conn, "late")
	read(t, conn, "late")
	if took := time.Since(start); took < 2*moment || i.Lift() != 1 {
		t.Errorf("a delayed answer took %v, want %v at least; %d effects", took, 2*moment, i.Effects())
	}
	i = l.Impose(nemesis.Trouble{Up: nemesis.Traffic{Rate: 100_000}})
	start = time.Now()
	body := bytes.Repeat([]byte{'x'}, 10_000)
	send(t, conn, string(body))
	read(t, conn, string(body))
	if took := time.Since(start); took < 80*time.Millisecond || i.Lift() == 0 {
		t.Errorf("10 kB at 100 kB/s took %v; %d effects", took, i.Effects())
	}
}

func TestDroppedReplies(t *testing.T) {
	l, e := newLink(t, false)
	watch(l)
	conn := dial(t, l)
	send(t, conn, "x")
	read(t, conn, "x")
	<-e.heard
	i := l.DropReplies(1)
	send(t, conn, "y")
	reset(t, conn)
	<-e.heard // it was processed all the same
	if i.Effects() != 1 {
		t.Errorf("%d effects, want 1", i.Effects())
	}
	conn = dial(t, l)
	send(t, conn, "z")
	read(t, conn, "z")
	i.Lift()
}

// frame is a request of Kafka's protocol.
func frame(key int16, text string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(4+len(text)))
	b = binary.BigEndian.AppendUint16(b, uint16(key))
	return string(append(b, "\x00\x01"+text...))
}

func TestRequestsAreReplayed(t *testing.T) {
	l, e := newLink(t, true)
	conn := dial(t, l)
	i := l.Capture(nemesis.Frames{Keys: []int16{26}, Most: 1})
	first, second := frame(3, "metadata"), frame(26, "end")
	for _, c := range first + second { // byte by byte, so that frames are found wherever they lie
		send(t, conn, string(c))
	}
	read(t, conn, first+second)
	await(t, i)
	send(t, conn, second)
	read(t, conn, second) // one was ordered
	if i.Lift() != 1 {
		t.Errorf("%d effects, want 1", i.Effects())
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, got := range e.got {
		if got == second {
			n++
		}
	}
	if n < 1 {
		t.Errorf("of %q none is the replayed request", e.got)
	}
}

func TestRequestsAreHeldBack(t *testing.T) {
	l, e := newLink(t, true)
	conn := dial(t, l)
	i := l.Capture(nemesis.Frames{Keys: []int16{26}, Most: 1, Hold: true, After: moment})
	held := frame(26, "end")
	start := time.Now()
	send(t, conn, held)
	reset(t, conn)
	if heard := len(e.heard) != 0; heard && time.Since(start) < moment { // later, it may have come
		t.Error("the request went through at once")
	}
	await(t, i)
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.got) != 1 || e.got[0] != held {
		t.Errorf("the server got %q, want %q", e.got, held)
	}
	i.Lift()
}

func TestACrowd(t *testing.T) {
	_, e := newLink(t, false)
	c := &nemesis.Crowd{Addr: e.listener.Addr().String()}
	if n := c.Open(t.Context(), 30); n != 30 {
		t.Errorf("opened %d connections, want 30", n)
	}
	for range 20 { // the others say nothing
		<-e.heard
	}
	if n := c.Open(t.Context(), 3000); n != 2000-30 {
		t.Errorf("opened %d more, want %d", n, 2000-30)
	}
	c.Close()
	if n, err := nemesis.OpenFiles(os.Getpid()); err != nil || n == 0 {
		t.Errorf("%d open files, %v", n, err)
	}
}
