package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The API keys that the connection itself knows.
const (
	keyProduce            = 0
	keyControlledShutdown = 7
	keySASLHandshake      = 17
	keyApiVersions        = 18
	keySASLAuthenticate   = 36
)

// ofHandshake reports whether clients send a request to get to know an agent, before
// those that they connected for.
func ofHandshake(key int16) bool {
	return key == keyApiVersions || key == keySASLHandshake || key == keySASLAuthenticate
}

const (
	// minFrame is the shortest request: key, version, correlation id.
	minFrame = 8
	// maxHeaderTags bounds the tagged fields of a request header. Kafka has defined none
	// so far; each costs two bytes to send, so an unbounded count is an attack.
	maxHeaderTags = 16
)

// ErrMalformed is the class of everything that is wrong with a request's bytes: it does
// not decode, or decoding it would cost more than Floe allows. The connection is closed,
// or answered with INVALID_REQUEST where the API can say so.
var ErrMalformed = errors.New("malformed request")

// Request is one frame as it arrived.
type Request struct {
	Key           int16
	Version       int16
	CorrelationID int32
	ClientID      string    // "" for null
	Body          []byte    // what follows the header; aliases the frame, which is never reused
	Size          int       // bytes of the frame, without its length
	Received      time.Time // when the frame was complete
	Charge        *Charge   // the frame's part of the memory budget; see TakeCharge

	taken bool
}

// TakeCharge moves the frame's charge to the caller, who must release it when the
// frame's bytes are no longer needed. Without it, the connection releases the charge
// once the request's Pending is resolved. To be called within Handler.Serve only.
func (r *Request) TakeCharge() *Charge {
	r.taken = true
	return r.Charge
}

// IsFlexible reports whether the request and its response use compact encodings and
// tagged fields (KIP-482).
func (r *Request) IsFlexible() bool { return isFlexible(r.Key, r.Version) }

// An api is what kmsg knows of an API key.
type api struct {
	known    bool
	max      int16 // highest version that can be decoded
	flexible int16 // first flexible version
}

// apis is indexed by API key.
var apis = func() (t [kmsg.MaxKey + 1]api) {
	for key := range t {
		r := kmsg.RequestForKey(int16(key))
		if r == nil {
			continue
		}
		t[key] = api{known: true, max: r.MaxVersion(), flexible: math.MaxInt16}
		for v := r.MaxVersion(); v >= 0; v-- {
			if r.SetVersion(v); r.IsFlexible() {
				t[key].flexible = v
			}
		}
	}
	return t
}()

// lookup returns what is known of a key, nothing for a key that does not exist.
func lookup(key int16) api {
	if key < 0 || int(key) >= len(apis) {
		return api{}
	}
	return apis[key]
}

func isFlexible(key, version int16) bool {
	a := lookup(key)
	return a.known && version >= a.flexible
}

// header is a parsed request header; clientID and body alias the frame.
//
//	+---------+---------+----------------+-------------------+----------------+---
//	| API key | version | correlation id | client id         | tagged fields  | body
//	| i16     | i16     | i32            | i16 length, bytes | if flexible    |
//	+---------+---------+----------------+-------------------+----------------+---
//
// The client id is never compact, so that any version of it can be read before versions
// are agreed on. ControlledShutdown version 0 has none.
type header struct {
	key, version  int16
	correlationID int32
	clientID      []byte
	body          []byte
}

// parseID reads the part of the header that has the same form for every API.
func parseID(frame []byte) (h header, ok bool) {
	if len(frame) < minFrame {
		return h, false
	}
	h.key = int16(binary.BigEndian.Uint16(frame))
	h.version = int16(binary.BigEndian.Uint16(frame[2:]))
	h.correlationID = int32(binary.BigEndian.Uint32(frame[4:]))
	h.body = frame[minFrame:]
	return h, true
}

// rest parses what follows the ids of a known key and version.
func (h *header) rest() error {
	if h.key == keyControlledShutdown && h.version == 0 {
		return nil
	}
	b := h.body
	if len(b) < 2 {
		return fmt.Errorf("%w: its header ends before the client id", ErrMalformed)
	}
	n := int(int16(binary.BigEndian.Uint16(b)))
	b = b[2:]
	if n < -1 || n > len(b) {
		return fmt.Errorf("%w: the length %d of its client id", ErrMalformed, n)
	}
	if n > 0 {
		h.clientID, b = b[:n], b[n:]
	}
	if isFlexible(h.key, h.version) {
		var ok bool
		if b, ok = skipTags(b, maxHeaderTags); !ok {
			return fmt.Errorf("%w: the tagged fields of its header", ErrMalformed)
		}
	}
	h.body = b
	return nil
}

// skipTags steps over a section of tagged fields that nobody knows.
func skipTags(b []byte, most uint32) (rest []byte, ok bool) {
	n, b, ok := uvarint(b)
	if !ok || n > most {
		return nil, false
	}
	for range n {
		var size uint32
		if _, b, ok = uvarint(b); !ok {
			return nil, false
		}
		if size, b, ok = uvarint(b); !ok || uint64(size) > uint64(len(b)) {
			return nil, false
		}
		b = b[size:]
	}
	return b, true
}

// uvarint reads an unsigned varint of at most 32 bits.
func uvarint(b []byte) (x uint32, rest []byte, ok bool) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint32(b[0]), b[1:], true
	}
	u, n := binary.Uvarint(b[:min(len(b), 5)])
	if n <= 0 || u > math.MaxUint32 {
		return 0, nil, false
	}
	return uint32(u), b[n:], true
}
