//go:build integration && unix

package clients

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// frame returns a request: header version 1 and a body.
func frame(key, version int16, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(4+4+2+4+len(body)))
	b = binary.BigEndian.AppendUint16(b, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, 42) // correlation id
	b = append(b, 0, 4, 't', 'e', 's', 't')
	return append(b, body...)
}

func tcp(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// send writes bytes and returns all that comes until the agent closes the connection.
func send(t *testing.T, addr string, b []byte, halfClose bool) []byte {
	t.Helper()
	conn := tcp(t, addr)
	_, err := conn.Write(b) // may fail, if the agent has closed already
	if err == nil && halfClose {
		err = conn.CloseWrite()
	}
	answer, readErr := io.ReadAll(conn)
	if errors.Is(errors.Join(err, readErr), os.ErrDeadlineExceeded) {
		t.Errorf("%.20q: the connection is still open", b)
	}
	return answer
}

// exchange sends a request and returns its answer, without the length.
func exchange(t *testing.T, addr string, b []byte) []byte {
	t.Helper()
	conn := tcp(t, addr)
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		t.Errorf("no answer: %v", err)
		return nil
	}
	answer := make([]byte, min(binary.BigEndian.Uint32(size[:]), 1<<20))
	if _, err := io.ReadFull(conn, answer); err != nil {
		t.Errorf("no whole answer: %v", err)
	}
	return answer
}

// testMalformed sends what is no Kafka, and Kafka with wrong contents.
func testMalformed(t *testing.T, e *env) {
	addr := e.floe.Addrs()[0]
	huge := bytes.Repeat([]byte{0x7f}, 64)
	for _, tt := range []struct {
		name string
		sent []byte
	}{
		{"HTTP", []byte("GET / HTTP/1.1\r\nHost: floe\r\n\r\n")},
		{"TLS", []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")},
		{"a negative length", []byte{0xff, 0xff, 0xff, 0xff, 0, 0}},
		{"the greatest length", []byte{0x7f, 0xff, 0xff, 0xff, 0, 0}},
		{"no length", []byte{0, 0, 0, 0, 0, 0}},
		{"less than a header", []byte{0, 0, 0, 3, 0, 18, 0}},
		{"an unknown API", frame(999, 0, nil)},
		{"a negative API", frame(-1, 0, nil)},
		{"a version too new", frame(3, 99, nil)},
		{"a version too old", frame(1, 0, nil)},
		{"Produce with nothing in it", frame(0, 3, nil)},
		{"Produce of 2 billion topics", frame(0, 3, append([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, huge...))},
		{"Fetch of 2 billion topics", frame(1, 4, bytes.Repeat([]byte{0x7f}, 40))},
		{"Metadata of 2 billion topics", frame(3, 1, huge)},
		{"CreateTopics of garbage", frame(19, 2, huge)},
	} {
		if got := send(t, addr, tt.sent, false); len(got) > 0 {
			t.Errorf("%s is answered with %d bytes: %.40q", tt.name, len(got), got)
		}
	}

	// ApiVersions alone is answered whatever its version is, in version 0 (KIP-511).
	for _, tt := range []struct {
		version int16
		want    *kerr.Error
	}{{0, nil}, {99, kerr.UnsupportedVersion}, {-1, kerr.UnsupportedVersion}} {
		got := exchange(t, addr, frame(18, tt.version, nil))
		code := int16(0)
		if tt.want != nil {
			code = tt.want.Code
		}
		if len(got) < 10 || binary.BigEndian.Uint32(got) != 42 ||
			int16(binary.BigEndian.Uint16(got[4:])) != code || binary.BigEndian.Uint32(got[6:]) == 0 {
			t.Errorf("ApiVersions version %d is answered %.40q, want code %d and the APIs", tt.version, got, code)
		}
	}

	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		b := make([]byte, 1+random.IntN(300))
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		if random.IntN(2) == 0 { // past the length, at least
			b = frame(int16(random.IntN(80)), int16(random.IntN(14)), b)
		}
		send(t, addr, b, true)
	}

	// Promises of 99 MiB each reserve nothing before the bytes come.
	const promised, connections = 99 << 20, 60
	before := e.floe.Metric("go_memstats_heap_inuse_bytes")
	var open []*net.TCPConn
	for range connections {
		conn := tcp(t, addr)
		b := binary.BigEndian.AppendUint32(nil, promised)
		if _, err := conn.Write(append(b, frame(0, 3, huge)[4:]...)); err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	const most = 200 << 20
	if grown := e.floe.Metric("go_memstats_heap_inuse_bytes") - before; grown > most {
		t.Errorf("%d promises of %d bytes took %.0f MB of memory", connections, promised, grown/1e6)
	}
	for _, conn := range open {
		conn.Close()
	}
	for i, addr := range e.floe.Addrs() {
		eventually(t, fmt.Sprintf("agent %d is ready", i), func() (bool, string) { // a shard may just be on its way to it
			err := e.floe.Ready(i)
			return err == nil, fmt.Sprint(err)
		})
		topic := topicName(t, fmt.Sprint(i))
		createTopic(t, []string{addr}, topic, 1)
		sent := franz{}.produce(t, []string{addr}, topic, "none", samples(0))
		compare(t, "after it all", franz{}.consume(t, []string{addr}, topic, 1, len(sent)), sent)
	}
}
