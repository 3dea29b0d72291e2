package batch

import (
	"crypto/sha256"
	"hash"
	"io"
	"iter"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Head is what a record is judged by.
type Head struct {
	OffsetDelta    int32
	TimestampDelta int64
	HasKey         bool              // the key is not null
	HasValue       bool              // the value is not null: no tombstone
	KeySum         [sha256.Size]byte // SHA-256 of the key, if it was asked for
}

// Heads is Records for who needs no record as a whole: of none is more than a window (64 KiB) held,
// however large it is. sums asks for Head.KeySum.
//
// What this, Thin and Recompress hold of a compressed batch is bounded, beyond windows and output, by the
// codec: 16 MiB of decoder and encoder, but for a batch that is one raw block of snappy, which is
// decoded in one piece, of 24 times the batch's bytes at most.
func (v View) Heads(sums bool, a *Allowance) iter.Seq2[Head, error] {
	return func(yield func(Head, error) bool) {
		s, err := openRecords(v, a)
		if err != nil {
			yield(Head{}, err)
			return
		}
		defer s.close()
		for i := range v.Count() {
			h, err := s.head(sums)
			if err != nil {
				err.Record = i
				yield(Head{}, err)
				return
			}
			if !yield(h, nil) {
				return
			}
		}
		if err := s.end(); err != nil {
			yield(Head{}, err)
		}
	}
}

// head reads the next record.
func (s *recordStream) head(sums bool) (Head, *Error) {
	n, err := s.size()
	if err != nil {
		return Head{}, err
	}
	if n > window {
		var sum hash.Hash
		if sums {
			sum = sha256.New()
		}
		return s.big(n, sum)
	}
	body, err := s.body(n)
	if err != nil {
		return Head{}, err
	}
	var r Record
	if !r.parse(body) {
		return Head{}, refuse(kerr.InvalidRecord, "its fields do not fill its length")
	}
	h := Head{OffsetDelta: r.OffsetDelta, TimestampDelta: r.TimestampDelta, HasKey: r.Key != nil, HasValue: r.Value != nil}
	if sums && h.HasKey {
		h.KeySum = sha256.Sum256(r.Key)
	}
	return h, nil
}

// big reads a record of n bytes that does not fit the window; sum takes its key, if it is not nil.
func (s *recordStream) big(n int, sum hash.Hash) (Head, *Error) {
	r := bigRecord{s: s, left: n}
	r.skip(1)
	h := Head{TimestampDelta: r.number(10), OffsetDelta: int32(r.number(5))}
	var key io.Writer
	if sum != nil {
		key = sum
	}
	h.HasKey = !r.nullable(key)
	h.HasValue = !r.nullable(nil)
	headers := r.number(5)
	if headers < 0 || headers > int64(r.left) {
		r.fail("its header count is impossible")
	}
	for range headers {
		if r.nullable(nil) {
			r.fail("a header's key is null")
		}
		if r.nullable(nil); r.err != nil {
			break
		}
	}
	if r.err == nil && r.left != 0 {
		r.fail("its fields do not fill its length")
	}
	if sum != nil {
		sum.Sum(h.KeySum[:0])
	}
	return h, r.err
}
