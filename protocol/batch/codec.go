package batch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Codec is a batch's compression.
type Codec int8

// The codecs of Kafka; zstd is KIP-110.
const (
	None Codec = iota
	Gzip
	Snappy
	LZ4
	Zstd
)

var codecNames = [...]string{"none", "gzip", "snappy", "lz4", "zstd"}

// Known reports whether c is a codec that Kafka defines.
func (c Codec) Known() bool { return c >= None && c <= Zstd }

// String returns the codec's name in Kafka's configuration.
func (c Codec) String() string {
	if c.Known() {
		return codecNames[c]
	}
	return fmt.Sprintf("codec %d", int8(c))
}

// ParseCodec reads what String wrote, and Kafka's synonym "uncompressed".
func ParseCodec(s string) (Codec, error) {
	if s == "uncompressed" {
		return None, nil
	}
	for i, n := range codecNames {
		if n == s {
			return Codec(i), nil
		}
	}
	return None, fmt.Errorf("compression %q: want none, gzip, snappy, lz4 or zstd", s)
}

// zstdWindow is the largest zstd window that is taken. Every level up to 19 needs at
// most 8 MiB; the windows of the ultra levels (to 128 MiB) would be allocated for any
// batch of a few bytes that claims one.
const zstdWindow = 8 << 20

// snappyRatio is above the best that the format can do (64 bytes for a 3-byte copy), so
// a block that claims more is a lie, refused before its output is allocated.
const snappyRatio = 24

// An inflater decompresses one payload and goes back to its pool on release.
type inflater interface {
	io.Reader
	release()
}

// openInflater starts decompressing payload; limit bounds what the caller will accept,
// for codecs that must produce their output in one piece.
func openInflater(c Codec, payload []byte, limit int64) (inflater, error) {
	switch c {
	case Gzip:
		g := gzips.Get().(*gzipInflater)
		g.src.Reset(payload)
		if err := g.r.Reset(&g.src); err != nil {
			gzips.Put(g)
			return nil, err
		}
		return g, nil
	case Snappy:
		s := snappies.Get().(*snappyInflater)
		s.src, s.out, s.limit = payload, nil, limit
		s.xerial = bytes.HasPrefix(payload, xerialMagic)
		return s, nil
	case LZ4:
		l := lz4s.Get().(*lz4Inflater)
		l.src.Reset(payload)
		l.r.Reset(&l.src)
		return l, nil
	case Zstd:
		z := takeZstd()
		z.src.Reset(payload)
		if err := z.r.Reset(&z.src); err != nil {
			z.release()
			return nil, err
		}
		return z, nil
	}
	return nil, fmt.Errorf("%v cannot be read", c)
}

type gzipInflater struct {
	src bytes.Reader
	r   gzip.Reader
}

var gzips = sync.Pool{New: func() any { return new(gzipInflater) }}

func (g *gzipInflater) Read(p []byte) (int, error) { return g.r.Read(p) }
func (g *gzipInflater) release()                   { g.src.Reset(nil); gzips.Put(g) }

type lz4Inflater struct {
	src bytes.Reader
	r   *lz4.Reader
}

var lz4s = sync.Pool{New: func() any {
	l := &lz4Inflater{r: lz4.NewReader(nil)}
	if err := l.r.Apply(lz4.ConcurrencyOption(1)); err != nil {
		panic("batch: lz4 option: " + err.Error())
	}
	return l
}}

func (l *lz4Inflater) Read(p []byte) (int, error) { return l.r.Read(p) }
func (l *lz4Inflater) release()                   { l.src.Reset(nil); l.r.Reset(nil); lz4s.Put(l) }

type zstdInflater struct {
	src    bytes.Reader
	r      *zstd.Decoder
	pooled bool
}

// A zstd.Decoder holds a channel, and testing/synctest ties a channel to the bubble that
// made it. So the pooled decoders are all made here, outside any bubble, and one made
// later, when these are out, is dropped after use. A decoder is small until it is used.
var zstds = func() chan *zstdInflater {
	n := max(4, runtime.GOMAXPROCS(0))
	c := make(chan *zstdInflater, n)
	for range n {
		z := newZstd()
		z.pooled = true
		c <- z
	}
	return c
}()

func newZstd() *zstdInflater {
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(zstdWindow))
	if err != nil {
		panic("batch: zstd options: " + err.Error())
	}
	return &zstdInflater{r: r}
}

func takeZstd() *zstdInflater {
	select {
	case z := <-zstds:
		return z
	default:
		return newZstd()
	}
}

func (z *zstdInflater) Read(p []byte) (int, error) { return z.r.Read(p) }

func (z *zstdInflater) release() {
	z.src.Reset(nil)
	// Reset(nil) lets the input go; it reports that there is none, which is the intent.
	if err := z.r.Reset(nil); err != nil && !errors.Is(err, zstd.ErrDecoderNilInput) {
		z.pooled = false
	}
	if z.pooled {
		zstds <- z
		return
	}
	z.r.Close()
}

// Snappy comes raw, as one block (librdkafka, Go clients), or in the framing of the
// Java library (xerial): 16 bytes of magic and versions, then blocks, each behind its
// length. Both are read; the framing is what is written, for everybody reads it.
//
//	+------------------+---------+---------+--------+-----------+--------+---
//	| 82 S N A P P Y 0 | version | compat. | length | block     | length | ...
//	| 8 bytes          | 1, i32  | 1, i32  | i32    | <= 32 KiB |        |
//	+------------------+---------+---------+--------+-----------+--------+---
var xerialMagic = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

const (
	xerialHeader = 16
	xerialBlock  = 32 << 10
)

type snappyInflater struct {
	src    []byte // not yet decoded
	out    []byte // decoded, not yet read
	buf    []byte // reused between blocks and batches
	limit  int64
	xerial bool
}

var snappies = sync.Pool{New: func() any { return new(snappyInflater) }}

func (s *snappyInflater) release() {
	s.src, s.out = nil, nil
	if cap(s.buf) > keepWindow {
		s.buf = nil
	}
	snappies.Put(s)
}

func (s *snappyInflater) Read(p []byte) (int, error) {
	for len(s.out) == 0 {
		if len(s.src) == 0 {
			return 0, io.EOF
		}
		if err := s.block(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

// block decodes the next block into out.
func (s *snappyInflater) block() error {
	in := s.src
	s.src = nil
	if s.xerial {
		if bytes.HasPrefix(in, xerialMagic) { // the first, or a second stream behind it
			if len(in) < xerialHeader {
				return io.ErrUnexpectedEOF
			}
			in = in[xerialHeader:]
			if len(in) == 0 {
				return nil
			}
		}
		if len(in) < 4 {
			return io.ErrUnexpectedEOF
		}
		n := int64(binary.BigEndian.Uint32(in))
		if in = in[4:]; n > int64(len(in)) {
			return io.ErrUnexpectedEOF
		}
		in, s.src = in[:n], in[n:]
	}
	n, err := s2.DecodedLen(in)
	switch {
	case err != nil:
		return err
	case int64(n) > s.limit:
		return errTooMuch
	case n > snappyRatio*len(in):
		return s2.ErrCorrupt
	}
	if cap(s.buf) < n {
		s.buf = make([]byte, n)
	}
	s.out, err = s2.Decode(s.buf[:n], in)
	return err
}

// appendWriter is a byte slice as a writer.
type appendWriter struct{ b []byte }

func (w *appendWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

var gzipWriters = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

var lz4Writers = sync.Pool{New: func() any {
	w := lz4.NewWriter(nil)
	// Java's reader takes blocks of any size but allocates what the header says.
	if err := w.Apply(lz4.ConcurrencyOption(1), lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false)); err != nil {
		panic("batch: lz4 options: " + err.Error())
	}
	return w
}}

// zstdWriter serves all goroutines. Its first use makes its channel, which must happen
// outside any synctest bubble: here.
var zstdWriter = func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(min(4, runtime.GOMAXPROCS(0))), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic("batch: zstd options: " + err.Error())
	}
	e.EncodeAll(nil, nil)
	return e
}()

// compress appends src, compressed, to dst.
func compress(dst []byte, c Codec, src []byte) ([]byte, error) {
	switch c {
	case None:
		return append(dst, src...), nil
	case Snappy:
		return appendXerialBlocks(appendXerialHeader(dst), src), nil
	case Zstd:
		return zstdWriter.EncodeAll(src, dst), nil
	case Gzip:
		w := gzipWriters.Get().(*gzip.Writer)
		defer gzipWriters.Put(w)
		return compressWith(w, dst, src)
	case LZ4:
		w := lz4Writers.Get().(*lz4.Writer)
		defer lz4Writers.Put(w)
		return compressWith(w, dst, src)
	}
	return nil, fmt.Errorf("%v cannot be written", c)
}

func appendXerialHeader(dst []byte) []byte {
	return append(append(dst, xerialMagic...), 0, 0, 0, 1, 0, 0, 0, 1)
}

func appendXerialBlocks(dst, src []byte) []byte {
	for len(src) > 0 {
		n := min(len(src), xerialBlock)
		at := len(dst)
		dst = append(dst, make([]byte, 4+s2.MaxEncodedLen(n))...)
		size := len(s2.EncodeSnappy(dst[at+4:], src[:n]))
		binary.BigEndian.PutUint32(dst[at:], uint32(size))
		dst, src = dst[:at+4+size], src[n:]
	}
	return dst
}

func compressWith(w interface {
	io.WriteCloser
	Reset(io.Writer)
}, dst, src []byte) ([]byte, error) {
	out := appendWriter{b: dst}
	w.Reset(&out)
	if _, err := w.Write(src); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	w.Reset(io.Discard)
	return out.b, nil
}

// maxBatch is the largest batch that the length field can express.
const maxBatch = math.MaxInt32 - lengthOverhead
