package nemesis

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// FuzzFramer: whatever comes, in whatever pieces, goes on unchanged, up to what is no frame; and what is captured is
// whole frames of the key that was asked for.
func FuzzFramer(f *testing.F) {
	f.Add([]byte{0, 0, 0, 4, 0, 26, 0, 1, 0, 0, 0, 5, 0, 3, 0, 0, 9}, uint8(3))
	f.Add([]byte{255, 255, 255, 255, 0, 26, 0, 1}, uint8(1))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 4, 0, 26}, uint8(200))
	f.Fuzz(func(t *testing.T, in []byte, piece uint8) {
		kept, asked := 0, 0
		fr := &framer{
			take: func(key int16, size int) *capture {
				if key != 26 || size > mostFrame {
					return nil
				}
				asked++
				return &capture{}
			},
			done: func(_ *capture, frame []byte) {
				if len(frame) != 4+int(binary.BigEndian.Uint32(frame)) || binary.BigEndian.Uint16(frame[4:]) != 26 || !bytes.Contains(in, frame) {
					t.Fatalf("captured %x, of %x", frame, in)
				}
				kept++
			},
		}
		var out []byte
		ended := false
		for rest := in; len(rest) > 0 && !ended; {
			n := min(len(rest), int(piece)+1)
			got, ok := fr.pass(rest[:n])
			out, rest, ended = append(out, got...), rest[n:], !ok
		}
		if !bytes.HasPrefix(in, out) || !ended && len(in)-len(out) >= headerSize {
			t.Fatalf("of %x came %x", in, out)
		}
		if kept > asked || asked > kept+1 {
			t.Fatalf("%d frames were asked for, %d captured", asked, kept)
		}
	})
}
