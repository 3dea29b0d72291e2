package objstore

import (
	"errors"
	"hash/crc32"
	"io"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Body is an object's content as a list of slices, so that record batches go from the
// sockets they came in on to the store without being put together in memory.
type Body [][]byte

// Size returns the number of bytes.
func (b Body) Size() int64 {
	var n int64
	for _, p := range b {
		n += int64(len(p))
	}
	return n
}

// CRC32C returns the Castagnoli checksum of the whole body.
func (b Body) CRC32C() uint32 {
	var crc uint32
	for _, p := range b {
		crc = crc32.Update(crc, castagnoli, p)
	}
	return crc
}

// SliceSize is the size of the slices that GetUpTo returns, apart from the last, which may be
// half as large again. Not smaller: each is an allocation, and of a file a read. Not larger:
// whoever keeps a part of one keeps all of it in memory, or has to copy.
const SliceSize = 512 << 10

// ReadSlices makes a body of n bytes, each slice of which read fills in turn, given its position
// within the body. The error is read's.
func ReadSlices(n int64, read func(at int64, p []byte) error) (Body, error) {
	b := make(Body, 0, max(n/SliceSize, 1))
	for at := int64(0); at < n; {
		size := min(n-at, SliceSize)
		if n-at <= SliceSize+SliceSize/2 {
			size = n - at
		}
		p := make([]byte, size)
		if err := read(at, p); err != nil {
			return nil, err
		}
		b = append(b, p)
		at += size
	}
	return b, nil
}

// Bytes returns the body in one slice, copying unless it is in one piece already.
func (b Body) Bytes() []byte {
	if len(b) == 1 {
		return b[0]
	}
	return b.Copy()
}

// Copy returns the body in one fresh slice that shares nothing with it.
func (b Body) Copy() []byte {
	out := make([]byte, 0, b.Size())
	for _, p := range b {
		out = append(out, p...)
	}
	return out
}

// Reader returns a fresh reader of the body, with random access for clients that
// rewind before a retry.
func (b Body) Reader() *BodyReader { return &BodyReader{body: b, size: b.Size()} }

// BodyReader reads a Body. It is an io.ReadSeeker, io.ReaderAt and io.WriterTo. Only
// ReadAt may be called concurrently.
type BodyReader struct {
	body Body
	size int64
	pos  int64

	// The slice that pos lies in and the position of its first byte, so that reading
	// on costs no search: a flush has thousands of slices and HTTP reads 32 KiB at a
	// time. start <= pos always; part may be behind the slice of pos, never ahead.
	part  int
	start int64
}

var errSeek = errors.New("objstore: seek before the start, or from nowhere")

// Read implements io.Reader.
func (r *BodyReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n := 0
	for n < len(p) {
		rest := r.rest()
		if rest == nil {
			break
		}
		k := copy(p[n:], rest)
		n += k
		r.pos += int64(k)
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// rest returns what is left of the slice at pos, nil at the end.
func (r *BodyReader) rest() []byte {
	for ; r.part < len(r.body); r.part++ {
		part := r.body[r.part]
		if skip := r.pos - r.start; skip < int64(len(part)) {
			return part[skip:]
		}
		r.start += int64(len(part))
	}
	return nil
}

// ReadAt implements io.ReaderAt.
func (r *BodyReader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errSeek
	}
	n := 0
	for _, part := range r.body {
		if n == len(p) {
			break
		}
		if off >= int64(len(part)) {
			off -= int64(len(part))
			continue
		}
		n += copy(p[n:], part[off:])
		off = 0
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteTo implements io.WriterTo, handing over each slice as it is.
func (r *BodyReader) WriteTo(w io.Writer) (int64, error) {
	var done int64
	for {
		rest := r.rest()
		if rest == nil {
			return done, nil
		}
		n, err := w.Write(rest)
		done += int64(n)
		r.pos += int64(n)
		if err != nil {
			return done, err
		}
		if n < len(rest) {
			return done, io.ErrShortWrite
		}
	}
}

// Seek implements io.Seeker.
func (r *BodyReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.size
	default:
		return r.pos, errSeek
	}
	if offset < 0 {
		return r.pos, errSeek
	}
	if offset < r.start {
		r.part, r.start = 0, 0
	}
	r.pos = offset
	return offset, nil
}

// Size returns the length of the whole body.
func (r *BodyReader) Size() int64 { return r.size }

// Sum computes the CRC-32C of what is written to it. It is an io.Writer; the zero value
// is the sum of nothing.
type Sum struct{ crc uint32 }

// Write implements io.Writer. It never fails.
func (s *Sum) Write(p []byte) (int, error) {
	s.crc = crc32.Update(s.crc, castagnoli, p)
	return len(p), nil
}

// CRC32C returns the Castagnoli checksum so far.
func (s *Sum) CRC32C() uint32 { return s.crc }
