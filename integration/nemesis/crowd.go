package nemesis

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// mostCrowd bounds the connections of a Crowd: what a test machine's process may have open, and far more than
// sane clients make.
const mostCrowd = 2000

// Crowd is connections to a server that are of no use: some say nothing, some say the length of a request and
// then a byte now and then, some announce one of 90 MB and stop.
type Crowd struct {
	Addr string // HOST:PORT

	mu    sync.Mutex // guards the following
	conns []net.Conn
}

// Open makes n more connections and returns how many the server took.
func (c *Crowd) Open(ctx context.Context, n int) (opened int) {
	limited, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var d net.Dialer
	for i := range n {
		c.mu.Lock()
		full := len(c.conns) >= mostCrowd
		c.mu.Unlock()
		if full {
			break
		}
		conn, err := d.DialContext(limited, "tcp", c.Addr)
		if err != nil {
			break // nobody else would get in, either
		}
		first := [][]byte{nil, {0, 0, 4, 0, 0}, {5, 93, 74, 128}}[i%3]
		_, _ = conn.Write(first) // it may be closed again already
		c.mu.Lock()
		c.conns = append(c.conns, conn)
		c.mu.Unlock()
		opened++
	}
	c.drip()
	return opened
}

// drip sends another byte on all connections that have begun a request.
func (c *Crowd) drip() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, conn := range c.conns {
		if i%3 == 1 {
			_ = conn.SetWriteDeadline(time.Now().Add(time.Millisecond))
			_, _ = conn.Write([]byte{0}) // it may be closed
		}
	}
}

// Close ends all of them.
func (c *Crowd) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close() // the server may have closed it
	}
	c.conns = nil
}

// OpenFiles returns how many files a process has open. Linux only.
func OpenFiles(pid int) (int, error) {
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(all), err
}
