package protocol

import (
	"encoding/binary"
	"net"
	"sync/atomic"
	"time"
)

// Response is the answer to one request.
type Response struct {
	// Buffers are the body, without length and header, in order. They are not written
	// to, but the outer slice is consumed.
	Buffers net.Buffers
	// Release, if set, is called once the buffers are written or will not be.
	Release func()
	// ErrorCode is for the Observer alone.
	ErrorCode int16
	// None means that the client expects no answer (acks=0).
	None bool
	// Close ends the connection after this answer.
	Close bool
	// Throttle is for how long nothing more is read from the connection once this answer is
	// written (KIP-219): the client was told so in its body. At most MaxThrottle.
	Throttle time.Duration
}

// MaxThrottle bounds Response.Throttle. Shorter: clients that are told to wait come back before
// anything has changed. Longer: the end of what they were throttled for goes unnoticed.
const MaxThrottle = 5 * time.Second

// Pending is an answer that may still have to come. Resolve it exactly once.
type Pending struct {
	done     chan struct{}
	resolved atomic.Bool
	resp     Response
}

// NewPending returns an unresolved Pending.
func NewPending() *Pending { return &Pending{done: make(chan struct{})} }

var closedChan = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Answer returns a Pending that is already resolved.
func Answer(r Response) *Pending {
	p := &Pending{done: closedChan, resp: r}
	p.resolved.Store(true)
	return p
}

// Resolve gives the answer. A second one is a bug of the caller: it is dropped, its
// buffers released, and false returned.
func (p *Pending) Resolve(r Response) bool {
	if !p.resolved.CompareAndSwap(false, true) {
		if r.Release != nil {
			r.Release()
		}
		return false
	}
	p.resp = r
	close(p.done)
	return true
}

// Done is closed when the answer is there.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Response returns the answer. It may be called once Done is closed.
func (p *Pending) Response() Response { return p.resp }

func (p *Pending) isDone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// appendResponseHeader appends the length and the header of an answer with a body of
// size bytes.
//
//	+--------+----------------+----------------+---
//	| length | correlation id | tagged fields  | body
//	| i32    | i32            | 0, if flexible |
//	+--------+----------------+----------------+---
//
// The answer to ApiVersions never has tagged fields in its header: the client does not
// yet know what the agent can do (KIP-511).
func appendResponseHeader(dst []byte, key, version int16, correlationID int32, size int) []byte {
	tagged := isFlexible(key, version) && key != keyApiVersions
	length := 4 + size
	if tagged {
		length++
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(length))
	dst = binary.BigEndian.AppendUint32(dst, uint32(correlationID))
	if tagged {
		dst = append(dst, 0)
	}
	return dst
}

// unsupportedApiVersions is the body, in version 0, that tells a client which versions
// of ApiVersions itself are served (KIP-511).
func unsupportedApiVersions(lowest, highest int16) []byte {
	const unsupportedVersion = 35
	b := binary.BigEndian.AppendUint16(nil, unsupportedVersion)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint16(b, keyApiVersions)
	b = binary.BigEndian.AppendUint16(b, uint16(lowest))
	return binary.BigEndian.AppendUint16(b, uint16(highest))
}
