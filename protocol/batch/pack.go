package batch

import (
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// spool is how much a packer gathers before it compresses as a stream. Smaller: ordinary batches, of
// 1 MiB at most, would be streams, which readers of zstd do not know the size of in advance.
// Larger: only more memory. A multiple of xerialBlock.
const spool = 1 << 20

// packWindow is the window of zstd streams, which the encoder holds. Smaller: what repeats itself at a distance takes
// more room. Larger: more memory.
const packWindow = 4 << 20

// errGrown says that compressed output became larger than it may.
var errGrown = errors.New("it compresses to more than it may")

// packer compresses what is written to it behind out. It holds no more than spool of what comes in,
// the compressor's own memory, and limit bytes of output.
type packer struct {
	codec Codec
	out   limitWriter
	held  []byte         // not compressed yet, less than spool
	w     io.WriteCloser // once there is more than spool; nil before
	done  func()         // gives w back
	err   error
}

// limitWriter is an appendWriter that takes limit bytes more.
type limitWriter struct {
	appendWriter
	limit int
}

func (w *limitWriter) Write(p []byte) (int, error) {
	if len(p) > w.limit {
		return 0, errGrown
	}
	w.limit -= len(p)
	return w.appendWriter.Write(p)
}

func newPacker(dst []byte, c Codec, limit int) *packer {
	return &packer{codec: c, out: limitWriter{appendWriter{dst}, limit}}
}

// Write takes the next bytes. After an error it takes no more; close tells that again.
func (p *packer) Write(b []byte) (int, error) {
	n := len(b)
	if p.codec == None && p.err == nil {
		_, p.err = p.out.Write(b)
		return n, p.err
	}
	for len(b) > 0 && p.err == nil {
		step := min(len(b), spool-len(p.held))
		p.held = append(p.held, b[:step]...)
		b = b[step:]
		if len(p.held) == spool {
			p.flush()
		}
	}
	return n, p.err
}

// flush has the stream take what is held.
func (p *packer) flush() {
	if p.w == nil && p.err == nil {
		p.open()
	}
	if p.err == nil {
		_, p.err = p.w.Write(p.held)
	}
	p.held = p.held[:0]
}

// open begins a stream.
func (p *packer) open() {
	switch p.codec {
	case Gzip:
		w := gzipWriters.Get().(*gzip.Writer)
		w.Reset(&p.out)
		p.w, p.done = w, func() { w.Reset(io.Discard); gzipWriters.Put(w) }
	case LZ4:
		w := lz4Writers.Get().(*lz4.Writer)
		w.Reset(&p.out)
		p.w, p.done = w, func() { w.Reset(io.Discard); lz4Writers.Put(w) }
	case Snappy:
		p.w, p.done = &snappyStream{out: &p.out}, func() {}
	case Zstd:
		// Not pooled: it holds a channel (see zstds) and is needed for the largest batches only.
		w, err := zstd.NewWriter(&p.out, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(packWindow))
		p.w, p.done, p.err = w, func() {}, err
	default:
		p.err = fmt.Errorf("%v cannot be written", p.codec)
	}
}

// close compresses what is left, gives the compressor back and returns dst with all behind it.
func (p *packer) close() ([]byte, error) {
	if p.w == nil {
		return p.closeShort()
	}
	if len(p.held) > 0 {
		p.flush()
	}
	if err := p.w.Close(); p.err == nil {
		p.err = err
	}
	p.done()
	return p.out.b, p.err
}

// closeShort ends a packer that never began a stream.
func (p *packer) closeShort() ([]byte, error) {
	if p.err != nil || len(p.held) == 0 {
		return p.out.b, p.err
	}
	before := len(p.out.b)
	out, err := compress(p.out.b, p.codec, p.held)
	if err == nil && len(out)-before > p.out.limit {
		err = errGrown
	}
	return out, err
}

// snappyStream writes the framing of the Java library; every Write but the last is of whole blocks.
type snappyStream struct {
	out   *limitWriter
	begun bool
	block []byte
}

func (s *snappyStream) Write(b []byte) (int, error) {
	if s.block = s.block[:0]; !s.begun {
		s.block, s.begun = appendXerialHeader(s.block), true
	}
	s.block = appendXerialBlocks(s.block, b)
	if _, err := s.out.Write(s.block); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (s *snappyStream) Close() error { return nil }
