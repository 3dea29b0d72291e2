//go:build integration && unix

package fleet

import (
	"context"
	"encoding/binary"
	"net"
	"syscall"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// conn is a client's connection that knows whether the agent had closed it, in silence and with
// everything answered, when the client wrote to it all the same. franz-go looks at an idle connection only
// when it needs it; what it writes then reaches nobody, and it tries again at once. That is not a request
// that an agent left without an answer.
type conn struct {
	net.Conn
	w *watch
}

// dial connects as franz-go does unless it is told otherwise.
func (w *watch) dial(ctx context.Context, network, host string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, host)
	if err != nil {
		return nil, err
	}
	return &conn{c, w}, nil
}

// Write is given a whole request: its length, then its API key.
func (c *conn) Write(b []byte) (int, error) {
	if len(b) >= 6 && c.ended() {
		c.w.late(kmsg.NameForKey(int16(binary.BigEndian.Uint16(b[4:]))))
	}
	return c.Conn.Write(b)
}

// ended reports whether the end of the stream has arrived, with nothing before it.
func (c *conn) ended() bool {
	raw, err := c.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return false
	}
	end := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		end = err == nil && n == 0 || err == syscall.ECONNRESET
	})
	return err == nil && end
}
