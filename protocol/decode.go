package protocol

import (
	"fmt"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// decodeFactor bounds a decoded request's memory, in multiples of its bytes. Clients'
	// largest requests (fetch, offset fetch, metadata of many partitions) take up to four
	// times; hostile ones, full of empty structures, fifty.
	decodeFactor = 8
	// decodeFloor is what any request may take. Smaller refuses short requests whose Go
	// structure is larger than their bytes; larger lets idle chatter fill the budget.
	decodeFloor = 16 << 10
	// maxUnknownTags bounds one section of tagged fields. Kafka's requests have up to two
	// known ones; a newer client adds a few.
	maxUnknownTags = 64
	// tagMem is what kmsg's map takes for one unknown tag, tagMapMem for the first.
	tagMem, tagMapMem = 96, 512
)

// decodeCharge is what decoding a body may cost besides its own bytes.
func decodeCharge(body int) int64 { return max(decodeFloor, decodeFactor*int64(body)) }

// DecodeRequest decodes the body of any request. It allocates in proportion to the
// body, within what the frame's charge has already paid for, whatever the body claims.
// Strings are copies; byte fields alias the frame. Errors are ErrMalformed; the caller
// closes the connection. Produce has a decoder of its own, see DecodeProduce.
func DecodeRequest(r *Request) (req kmsg.Request, err error) {
	a := lookup(r.Key)
	if !a.known || r.Version < 0 || r.Version > a.max {
		return nil, fmt.Errorf("%w: key %d version %d is unknown", ErrMalformed, r.Key, r.Version)
	}
	if err := measure(r); err != nil {
		return nil, fmt.Errorf("%w: %s version %d: %s", ErrMalformed, kmsg.NameForKey(r.Key), r.Version, err)
	}
	defer func() {
		if p := recover(); p != nil {
			req, err = nil, fmt.Errorf("%w: %s version %d: decoder panic: %v", ErrMalformed, kmsg.NameForKey(r.Key), r.Version, p)
		}
	}()
	req = kmsg.RequestForKey(r.Key)
	req.SetVersion(r.Version)
	if err := req.ReadFrom(r.Body); err != nil {
		return nil, fmt.Errorf("%w: %s version %d: %s", ErrMalformed, kmsg.NameForKey(r.Key), r.Version, err)
	}
	return req, nil
}

// A flaw is what measuring finds wrong.
type flaw string

func (f flaw) Error() string { return string(f) }

const (
	flawShort    flaw = "it ends too early"
	flawTrailing flaw = "bytes follow its end"
	flawTags     flaw = "it has too many tagged fields"
	flawUTF8     flaw = "a string is not UTF-8"
	flawCost     flaw = "it would take too much memory"
)

// measure walks a body by its shape, allocating nothing.
func measure(r *Request) error {
	s := shapeOf(r.Key, r.Version)
	m := measurer{flexible: isFlexible(r.Key, r.Version), left: decodeCharge(len(r.Body)) - s.mem}
	b := kbin.Reader{Src: r.Body}
	m.walk(s, &b)
	switch {
	case m.flaw != "":
		return m.flaw
	case !b.Ok():
		return flawShort
	case len(b.Src) > 0:
		return flawTrailing
	}
	return nil
}

// measurer adds up what decoding will allocate. It reads numbers through the same kbin
// that kmsg does, so both see the same lengths.
type measurer struct {
	flexible bool
	left     int64 // bytes of memory that may still be allocated
	flaw     flaw  // the first, "" if none
}

func (m *measurer) fail(f flaw) {
	if m.flaw == "" {
		m.flaw = f
	}
}

// cost takes n bytes and reports whether they are granted.
func (m *measurer) cost(n int64) bool {
	if m.left -= n; m.left < 0 {
		m.fail(flawCost)
	}
	return m.left >= 0
}

// done reports whether going on is pointless.
func (m *measurer) done(b *kbin.Reader) bool { return m.flaw != "" || !b.Ok() }

func (m *measurer) walk(s *shape, b *kbin.Reader) {
	switch s.kind {
	case kindFixed:
		b.Span(s.wire)
	case kindString, kindNullable:
		m.text(s, b)
	case kindBytes:
		n := 0
		if m.flexible {
			n = int(b.Uvarint()) - 1
		} else {
			n = int(b.Int32())
		}
		b.Span(max(n, 0))
	case kindArray:
		m.array(s.elem, b)
	case kindStruct:
		m.structure(s, b)
	case kindPointer:
		if b.Int8() != -1 && b.Ok() && m.cost(s.elem.mem) {
			m.structure(s.elem, b)
		}
	}
}

func (m *measurer) text(s *shape, b *kbin.Reader) {
	n := 0
	if m.flexible {
		n = int(b.Uvarint()) - 1
	} else {
		n = int(b.Int16())
	}
	if n < 0 {
		if s.kind == kindString {
			m.fail(flawShort)
		}
		return
	}
	text := b.Span(n)
	if !utf8.Valid(text) {
		m.fail(flawUTF8)
	}
	if s.kind == kindNullable {
		m.cost(16)
	}
	m.cost(int64(n) + n8(n))
}

// n8 is the most that rounding up to an allocation's size class adds.
func n8(n int) int64 { return int64(n/8) + 8 }

func (m *measurer) array(elem *shape, b *kbin.Reader) {
	n := 0
	if m.flexible {
		n = int(b.CompactArrayLen())
	} else {
		n = int(b.ArrayLen())
	}
	if n <= 0 || !b.Ok() {
		return
	}
	size := int64(n) * elem.mem
	if !m.cost(size + size/8) {
		return
	}
	if elem.kind == kindFixed {
		b.Span(n * elem.wire)
		return
	}
	for range n {
		if m.walk(elem, b); m.done(b) {
			return
		}
	}
}

func (m *measurer) structure(s *shape, b *kbin.Reader) {
	for _, f := range s.fields {
		if m.walk(f, b); m.done(b) {
			return
		}
	}
	if !m.flexible {
		return
	}
	n := b.Uvarint()
	if n == 0 || !b.Ok() {
		return
	}
	if n > maxUnknownTags {
		m.fail(flawTags)
		return
	}
	m.cost(tagMapMem)
	for range n {
		num, size := b.Uvarint(), b.Uvarint()
		content := b.Span(int(size))
		if m.done(b) {
			return
		}
		m.tagged(s, num, content)
	}
}

// tagged measures the content of one tagged field.
func (m *measurer) tagged(s *shape, num uint32, content []byte) {
	for _, t := range s.tags {
		if t.num != num {
			continue
		}
		sub := kbin.Reader{Src: content}
		if m.walk(t.shape, &sub); !sub.Ok() {
			m.fail(flawShort)
		}
		return
	}
	m.cost(tagMem)
}
