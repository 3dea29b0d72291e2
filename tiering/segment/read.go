package segment

import (
	"fmt"

	"github.com/floelog/floe/tiering"
)

// ReadFunc returns exactly n bytes of the object from position off, or an error. Nobody
// may change them afterwards.
type ReadFunc func(off tiering.Position, n int64) ([]byte, error)

// First reads that spare a second one in the usual case. Not larger: most of what comes
// with them is of no use.
const (
	tailRead   = 64 << 10 // footer and the index of 800 chunks
	headerRead = 16 << 10 // a header that carries a few journal records
)

// Segment is what a segment says about itself at its end.
type Segment struct {
	Size    int64
	Footer  Footer
	Entries []Entry
}

// Open reads footer and index of an object of size bytes: one read, or two if the index
// is large. Errors are ErrCorrupt, ErrVersion, or come from read.
func Open(size int64, read ReadFunc) (*Segment, error) {
	if size < headerMin+FooterBytes {
		return nil, corrupt("object: %d bytes, a segment has at least %d", size, headerMin+FooterBytes)
	}
	n := min(size, tailRead)
	tail, err := exactly(read, tiering.Position(size-n), n)
	if err != nil {
		return nil, fmt.Errorf("reading the footer: %w", err)
	}
	f, err := ParseFooter(tail, size)
	if err != nil {
		return nil, err
	}
	index := tail[:len(tail)-FooterBytes]
	if int64(len(index)) >= f.IndexLength {
		index = index[int64(len(index))-f.IndexLength:]
	} else if index, err = exactly(read, f.IndexPosition, f.IndexLength); err != nil {
		return nil, fmt.Errorf("reading the index: %w", err)
	}
	entries, err := ParseIndex(index, f)
	if err != nil {
		return nil, err
	}
	return &Segment{Size: size, Footer: f, Entries: entries}, nil
}

// ReadHeader reads the header: one read, or two if it carries much. Errors are as
// Open's.
func (s *Segment) ReadHeader(read ReadFunc) (Header, error) {
	b, err := exactly(read, 0, min(int64(s.Footer.HeaderLength), headerRead))
	if err != nil {
		return Header{}, fmt.Errorf("reading the header: %w", err)
	}
	n, err := headerLength(b)
	if err != nil {
		return Header{}, err
	}
	if n != s.Footer.HeaderLength {
		return Header{}, corrupt("header: length %d, the footer has %d", n, s.Footer.HeaderLength)
	}
	if n > len(b) {
		rest, err := exactly(read, tiering.Position(len(b)), int64(n-len(b)))
		if err != nil {
			return Header{}, fmt.Errorf("reading the header: %w", err)
		}
		b = append(b[:len(b):len(b)], rest...)
	}
	return ParseHeader(b)
}

// ReadChunk reads the chunk of an entry and verifies it.
func (s *Segment) ReadChunk(e Entry, read ReadFunc) ([]byte, error) {
	b, err := exactly(read, e.Position, e.Length)
	if err != nil {
		return nil, fmt.Errorf("reading the chunk at %d: %w", e.Position, err)
	}
	return b, VerifyChunk(e, [][]byte{b})
}

func exactly(read ReadFunc, off tiering.Position, n int64) ([]byte, error) {
	b, err := read(off, n)
	if err == nil && int64(len(b)) != n {
		err = corrupt("%d bytes at %d, asked for %d", len(b), off, n)
	}
	return b, err
}
