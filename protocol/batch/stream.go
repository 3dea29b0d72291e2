package batch

import (
	"errors"
	"io"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Limits bound what decompressing on behalf of one request may cost.
type Limits struct {
	// Bytes of output over all batches of the request.
	Bytes int64
	// Records over all batches of the request.
	Records int64
	// Ratio of output to input for one batch, held once the output passes RatioFloor; 0: any.
	Ratio int64
}

// DefaultLimits suit one produce request. Bytes: a request of 10 MiB that compresses
// 50 : 1 is still taken; more would let one request hold a core for seconds. Records: at
// the least size of a record the bytes would allow 75 million; no client batches that
// many. Ratio: gzip ends at 1032 : 1 and real data far below; zstd can claim 30,000 : 1.
var DefaultLimits = Limits{Bytes: 512 << 20, Records: 10 << 20, Ratio: 1100}

// storedLimits are those of a batch that was taken once: rewritten with changed timestamps it may be
// somewhat larger than what was sent, and in another codec much smaller.
var storedLimits = Limits{Bytes: 2 * DefaultLimits.Bytes, Records: DefaultLimits.Records}

// RatioFloor is the output up to which no ratio is too high: a full batch of equal
// bytes is odd, not hostile. Smaller would refuse such batches, larger would make the
// ratio pointless, for a batch is 1 MiB by default.
const RatioFloor = 4 << 20

// Allowance is what is left of one request's Limits. It belongs to one goroutine.
type Allowance struct {
	bytes, records, ratio int64
}

// NewAllowance starts a request's allowance.
func NewAllowance(l Limits) *Allowance {
	return &Allowance{bytes: l.Bytes, records: l.Records, ratio: l.Ratio}
}

// errTooMuch marks output beyond the allowance; inflaters return it too.
var errTooMuch = errors.New("decompressed size is beyond the limit")

const (
	// window is the buffer between a decompressor and the record scanner. Most records fit;
	// smaller means more copying of cut-off records, larger falls out of the L2 cache.
	window = 64 << 10
	// keepWindow is the largest buffer that goes back to the pool after a large record.
	keepWindow = 1 << 20
)

// recordStream delivers the bodies of a batch's records one after the other.
// Invariant: 0 <= r <= w <= len(buf); buf[r:w] is read and not yet delivered.
type recordStream struct {
	buf  []byte
	r, w int
	// Of a compressed batch only:
	src  inflater // nil once everything is in buf
	left int64    // output this batch may still give
	a    *Allowance
	own  *window64 // where buf came from
	eof  bool
}

type window64 struct{ b []byte }

var windows = sync.Pool{New: func() any { return &window64{b: make([]byte, window)} }}

// openRecords starts reading v's records, charging what is decompressed to a; nil: storedLimits.
func openRecords(v View, a *Allowance) (recordStream, *Error) {
	codec, payload := v.Codec(), v.Payload()
	if codec == None {
		return recordStream{buf: payload, w: len(payload), eof: true}, nil
	}
	if a == nil {
		a = NewAllowance(storedLimits)
	}
	if a.records -= int64(v.Count()); a.records < 0 {
		return recordStream{}, refuse(kerr.MessageTooLarge, "the request holds too many compressed records")
	}
	left := a.bytes
	if a.ratio > 0 {
		left = min(left, max(RatioFloor, a.ratio*int64(len(payload))))
	}
	src, err := openInflater(codec, payload, left)
	if err != nil {
		return recordStream{}, inflateError(err)
	}
	own := windows.Get().(*window64)
	return recordStream{buf: own.b, src: src, left: left, a: a, own: own}, nil
}

func inflateError(err error) *Error {
	if errors.Is(err, errTooMuch) {
		return refuse(kerr.MessageTooLarge, "%v", err)
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return refuse(kerr.InvalidRecord, "decompressing: %v", err)
}

// close gives the decompressor and the window back.
func (s *recordStream) close() {
	if s.src != nil {
		s.src.release()
		s.src = nil
	}
	if s.own != nil {
		if cap(s.buf) <= keepWindow {
			s.own.b = s.buf[:cap(s.buf)]
		}
		windows.Put(s.own)
		s.own, s.buf = nil, nil
	}
}

// fill reads on until n undelivered bytes are there or the input ends. The buffer
// doubles as bytes arrive; a claimed n alone allocates nothing.
func (s *recordStream) fill(n int) *Error {
	for s.w-s.r < n && !s.eof {
		if s.r > 0 {
			s.w = copy(s.buf, s.buf[s.r:s.w])
			s.r = 0
		}
		if s.w == len(s.buf) {
			s.buf = append(s.buf, make([]byte, len(s.buf))...)
		}
		if err := s.more(); err != nil {
			return err
		}
	}
	return nil
}

// more reads into the free end of the buffer, which is not empty.
func (s *recordStream) more() *Error {
	m, err := s.src.Read(s.buf[s.w:])
	s.w += m
	s.left -= int64(m)
	s.a.bytes -= int64(m)
	switch {
	case s.left < 0 || s.a.bytes < 0:
		return inflateError(errTooMuch)
	case err == io.EOF:
		s.eof = true
	case err != nil:
		return inflateError(err)
	case m == 0:
		return inflateError(io.ErrNoProgress)
	}
	return nil
}

// size reads the next record's length.
func (s *recordStream) size() (int, *Error) {
	const longest = 5
	if s.w-s.r < longest && !s.eof {
		if err := s.fill(longest); err != nil {
			return 0, err
		}
	}
	n, i := varint(s.buf[:s.w], s.r)
	if i > s.w {
		return 0, refuse(kerr.InvalidRecord, "the batch ends before the record")
	}
	if n < 0 {
		return 0, refuse(kerr.InvalidRecord, "its length is %d", n)
	}
	s.r = i
	return int(n), nil
}

// next returns the next record's body, valid until the call after.
func (s *recordStream) next() ([]byte, *Error) {
	n, err := s.size()
	if err != nil {
		return nil, err
	}
	return s.body(n)
}

// body returns the n bytes that follow; the buffer grows as far as n and the allowance say.
func (s *recordStream) body(n int) ([]byte, *Error) {
	if s.w-s.r < n {
		if !s.eof && int64(n-(s.w-s.r)) > s.left {
			return nil, inflateError(errTooMuch)
		}
		if err := s.fill(n); err != nil {
			return nil, err
		}
		if s.w-s.r < n {
			return nil, refuse(kerr.InvalidRecord, "its length %d is beyond the batch's end", n)
		}
	}
	b := s.buf[s.r : s.r+n : s.r+n]
	s.r += n
	return b, nil
}

// end checks that nothing follows the last record.
func (s *recordStream) end() *Error {
	if s.r == s.w {
		if err := s.fill(1); err != nil {
			return err
		}
	}
	if s.r < s.w {
		return refuse(kerr.InvalidRecord, "bytes follow the last of the records that the header counts")
	}
	return nil
}

// bigRecord reads one record that is larger than the window, field by field, without
// ever holding it whole. Invariant: left bytes of the record are still unread.
type bigRecord struct {
	s    *recordStream
	left int
	err  *Error
}

func (b *bigRecord) fail(reason string) {
	if b.err == nil {
		b.err = refuse(kerr.InvalidRecord, "%s", reason)
	}
	b.left = 0
}

// number reads a varint of at most longest bytes.
func (b *bigRecord) number(longest int) int64 {
	if b.err != nil {
		return 0
	}
	if err := b.s.fill(min(longest, b.left)); err != nil {
		b.err = err
		return 0
	}
	in := b.s.buf[b.s.r:min(b.s.w, b.s.r+b.left)]
	var x int64
	var n int
	if longest == 5 {
		var y int32
		y, n = varint(in, 0)
		x = int64(y)
	} else {
		x, n = varlong(in, 0)
	}
	if n > len(in) {
		b.fail("a number is cut off or too long")
		return 0
	}
	b.s.r += n
	b.left -= n
	return x
}

// skip steps over n bytes of the record.
func (b *bigRecord) skip(n int64) { b.pass(n, nil) }

// pass steps over n bytes of the record; to takes them, if it is not nil.
func (b *bigRecord) pass(n int64, to io.Writer) {
	if b.err != nil {
		return
	}
	if n > int64(b.left) {
		b.fail("a field is longer than the record")
		return
	}
	b.left -= int(n)
	for n > 0 {
		if b.s.r == b.s.w {
			if err := b.s.fill(1); err != nil {
				b.err = err
				return
			}
			if b.s.r == b.s.w {
				b.fail("the batch ends before the record")
				return
			}
		}
		step := min(n, int64(b.s.w-b.s.r))
		if to != nil {
			if _, err := to.Write(b.s.buf[b.s.r : b.s.r+int(step)]); err != nil {
				b.fail(err.Error())
				return
			}
		}
		b.s.r += int(step)
		n -= step
	}
}

// nullable steps over a length and its bytes, which to takes if it is not nil, and tells whether they
// were null.
func (b *bigRecord) nullable(to io.Writer) (null bool) {
	n := b.number(5)
	if n < -1 {
		b.fail("a length is negative")
	}
	if n > 0 {
		b.pass(n, to)
	}
	return n < 0
}
