package segment_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"reflect"
	"testing"

	"github.com/floelog/floe/tiering/segment"
)

func known(err error) bool {
	return errors.Is(err, segment.ErrCorrupt) || errors.Is(err, segment.ErrVersion)
}

// put writes the checksum of b[:len(b)-4] behind it, so that a fuzzer gets past it.
func put(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) >= 4 {
		n := len(b) - 4
		binary.BigEndian.PutUint32(b[n:], crc32.Checksum(b[:n], castagnoli))
	}
	return b
}

func FuzzParseHeader(f *testing.F) {
	built, err := segment.Build(header(), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(built.Body[0]))
	f.Add([]byte("floe.seg"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := segment.ParseHeader(b); err != nil && !known(err) {
			t.Fatal(err)
		}
		b = put(b)
		h, err := segment.ParseHeader(b)
		if err != nil {
			if !known(err) {
				t.Fatal(err)
			}
			return
		}
		again, err := segment.Build(h, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(b, again.Body[0]) {
			t.Fatalf("%x parses to %+v, which encodes as %x", b, h, again.Body[0])
		}
	})
}

func FuzzParseFooterAndIndex(f *testing.F) {
	built, err := segment.Build(header(), chunks())
	if err != nil {
		f.Fatal(err)
	}
	tail := built.Body[len(built.Body)-1]
	f.Add([]byte(tail), built.Size)
	f.Add([]byte(tail[len(tail)-segment.FooterBytes:]), built.Size)
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		if _, err := segment.ParseFooter(b, size); err != nil && !known(err) {
			t.Fatal(err)
		}
		if n := len(b) - segment.FooterBytes; n >= 0 {
			b = append(bytes.Clone(b[:n]), put(b[n:])...)
		}
		footer, err := segment.ParseFooter(b, size)
		if err != nil {
			if !known(err) {
				t.Fatal(err)
			}
			return
		}
		if int64(footer.IndexPosition)+footer.IndexLength+segment.FooterBytes != size {
			t.Fatalf("footer %+v of an object of %d bytes", footer, size)
		}
		index := b[:len(b)-segment.FooterBytes]
		footer.IndexCRC = crc32.Checksum(index, castagnoli)
		entries, err := segment.ParseIndex(index, footer)
		if err != nil {
			if !known(err) {
				t.Fatal(err)
			}
			return
		}
		for i, e := range entries {
			if e.Position < 0 || e.End() > footer.IndexPosition || i > 0 && e.Position != entries[i-1].End() {
				t.Fatalf("entry %d: %+v", i, e)
			}
		}
	})
}

func FuzzVerifyBatches(f *testing.F) {
	two := append(batch(1, 1, 1, []byte("abc")), batch(2, 1, 1, nil)...)
	f.Add(two, 0)
	f.Add(two, 70)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		if cut < 0 || cut > len(b) {
			cut = len(b) / 2
		}
		whole := segment.VerifyBatches([][]byte{b})
		parts := segment.VerifyBatches([][]byte{b[:cut], nil, b[cut:]})
		if (whole == nil) != (parts == nil) || whole != nil && (!known(whole) || whole.Error() != parts.Error()) {
			t.Fatalf("in one: %v; cut at %d: %v", whole, cut, parts)
		}
		if whole != nil || len(b) == 0 {
			return
		}
		built, err := segment.Build(segment.Header{}, []segment.Chunk{{Slices: [][]byte{b[:cut], b[cut:]}}})
		if err != nil {
			t.Fatal(err)
		}
		if got := built.Entries[0]; got.CRC != crc32.Checksum(b, castagnoli) {
			t.Fatalf("chunk %+v of bytes with CRC %08x", got, crc32.Checksum(b, castagnoli))
		}
	})
}

func FuzzOpenAndDump(f *testing.F) {
	built, err := segment.Build(header(), chunks())
	if err != nil {
		f.Fatal(err)
	}
	object := built.Body.Bytes()
	f.Add(object)
	f.Fuzz(func(t *testing.T, b []byte) {
		read := reader(b, nil)
		seg, err := segment.Open(int64(len(b)), read)
		if err != nil && !known(err) {
			t.Fatal(err)
		}
		if err == nil && reflect.DeepEqual(seg, &segment.Segment{}) {
			t.Fatal("nothing was read, without an error")
		}
		if err := segment.Dump(io.Discard, int64(len(b)), read, true); err != nil && !known(err) {
			t.Fatal(err)
		}
	})
}
