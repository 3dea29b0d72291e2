package objstore_test

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"testing"
	"testing/iotest"

	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/objstoretest"
)

var bodies = map[string]objstore.Body{
	"nil":     nil,
	"empty":   {{}, nil},
	"one":     {[]byte("hello")},
	"holes":   {{}, []byte("he"), nil, {}, []byte("l"), []byte("lo"), {}},
	"slices":  objstoretest.Body(1, 10_000, 37),
	"unequal": {make([]byte, 5000), {1}, objstoretest.Body(2, 70_000, 1<<20)[0]},
}

// shape cuts data at places that cuts gives, into slices that may be empty.
func shape(data, cuts []byte) objstore.Body {
	var b objstore.Body
	for _, c := range cuts {
		n := min(int(c)%9, len(data))
		b = append(b, data[:n])
		data = data[n:]
	}
	return append(b, data)
}

func TestBody(t *testing.T) {
	for name, b := range bodies {
		t.Run(name, func(t *testing.T) {
			want := bytes.Join(b, nil)
			if b.Size() != int64(len(want)) || b.Reader().Size() != b.Size() {
				t.Errorf("size %d, want %d", b.Size(), len(want))
			}
			if sum := crc32.Checksum(want, crc32.MakeTable(crc32.Castagnoli)); b.CRC32C() != sum {
				t.Errorf("CRC-32C %08x, want %08x", b.CRC32C(), sum)
			}
			if !bytes.Equal(b.Bytes(), want) || !bytes.Equal(b.Copy(), want) {
				t.Error("Bytes or Copy differ from the slices joined")
			}
			if err := iotest.TestReader(b.Reader(), want); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCopySharesNothing(t *testing.T) {
	b := objstore.Body{[]byte("abc")}
	b.Copy()[0] = 'x'
	if string(b[0]) != "abc" {
		t.Error("a copy of a body in one piece is the body")
	}
}

func TestSeekRefusesNonsense(t *testing.T) {
	r := objstore.Body{[]byte("abc")}.Reader()
	for _, c := range []struct {
		offset int64
		whence int
	}{{-1, io.SeekStart}, {-4, io.SeekEnd}, {-1, io.SeekCurrent}, {0, 3}} {
		if pos, err := r.Seek(c.offset, c.whence); err == nil || pos != 0 {
			t.Errorf("seek %+v: position %d, %v; want an error at 0", c, pos, err)
		}
	}
	if _, err := r.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("ReadAt before the start worked")
	}
}

// limitedWriter takes max bytes and then fails.
type limitedWriter struct {
	bytes.Buffer
	max int
}

var errFull = errors.New("full")

func (w *limitedWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.max-w.Len())
	w.Buffer.Write(p[:n])
	if n < len(p) {
		return n, errFull
	}
	return n, nil
}

func TestWriteToGoesOnWhereItFailed(t *testing.T) {
	b := bodies["slices"]
	r := b.Reader()
	w := &limitedWriter{max: 1000}
	n, err := r.WriteTo(w)
	if n != 1000 || !errors.Is(err, errFull) {
		t.Fatalf("first part: %d, %v", n, err)
	}
	w.max = 1 << 20
	if n, err = r.WriteTo(w); n != 9000 || err != nil {
		t.Fatalf("rest: %d, %v", n, err)
	}
	if !bytes.Equal(w.Bytes(), b.Bytes()) {
		t.Error("other bytes were written")
	}
}

// FuzzBodyReader does the same to a BodyReader and to a bytes.Reader.
func FuzzBodyReader(f *testing.F) {
	f.Add([]byte("hello, world"), []byte{3, 0, 0, 4}, []byte{0, 3, 1, 7, 2, 0, 3, 9, 0, 200, 4, 0})
	f.Add([]byte{}, []byte{0, 0}, []byte{0, 1, 4, 0})
	f.Fuzz(func(t *testing.T, data, cuts, steps []byte) {
		got, want := shape(data, cuts).Reader(), bytes.NewReader(data)
		for ; len(steps) >= 2; steps = steps[2:] {
			arg := int64(steps[1])
			var a, b []byte
			var m, n int64
			var errA, errB error
			switch steps[0] % 5 {
			case 0: // the whole of a short read is not promised by io.Reader, but by both
				a, b = make([]byte, arg), make([]byte, arg)
				k, e := got.Read(a)
				l, f := want.Read(b)
				m, n, errA, errB = int64(k), int64(l), e, f
				if arg == 0 {
					errA, errB = nil, nil // either is allowed of an empty read
				}
			case 1:
				m, errA = got.Seek(arg, io.SeekStart)
				n, errB = want.Seek(arg, io.SeekStart)
			case 2:
				m, errA = got.Seek(arg-128, io.SeekCurrent)
				n, errB = want.Seek(arg-128, io.SeekCurrent)
			case 3:
				m, errA = got.Seek(-arg, io.SeekEnd)
				n, errB = want.Seek(-arg, io.SeekEnd)
			case 4:
				var x, y bytes.Buffer
				m, errA = got.WriteTo(&x)
				n, errB = want.WriteTo(&y)
				a, b = x.Bytes(), y.Bytes()
			}
			if (errA == nil) != (errB == nil) {
				t.Fatalf("step %v: error %v, want %v", steps[:2], errA, errB)
			}
			if errA == nil && m != n || !bytes.Equal(a, b) {
				t.Fatalf("step %v: %d %q, want %d %q", steps[:2], m, a, n, b)
			}
		}
	})
}

func BenchmarkCRC32C(b *testing.B) {
	body := objstoretest.Body(1, 8<<20, 4000)
	b.SetBytes(8 << 20)
	var sum uint32
	for b.Loop() {
		sum ^= body.CRC32C()
	}
	_ = sum
}

func BenchmarkRead32KiB(b *testing.B) {
	body := objstoretest.Body(1, 8<<20, 1000)
	buf := make([]byte, 32<<10)
	b.SetBytes(8 << 20)
	for b.Loop() {
		n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{body.Reader()}, buf)
		if err != nil || n != 8<<20 {
			b.Fatal(n, err)
		}
	}
}
