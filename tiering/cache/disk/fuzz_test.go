package disk

import (
	"bytes"
	"hash/crc32"
	"io"
	"path/filepath"
	"testing"

	"github.com/floelog/floe/tiering"
)

var fuzzKey = key{tiering.SegmentID{Session: tiering.SessionID{1}, Seq: 2}, 4096}

func fileOf(pieces ...string) []byte {
	var b []byte
	lo := int64(0)
	for _, p := range pieces {
		b = append(append(b, encodeFrame(fuzzKey, lo, []byte(p))...), p...)
		lo += int64(len(p))
	}
	return b
}

// Whatever a file holds, its frames lie within it, follow each other, and none of them names
// another block.
func FuzzReadFrames(f *testing.F) {
	good := fileOf("one", "two", "three and more")
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(good[:60])
	f.Add([]byte(frameMagic))
	f.Add(append(fileOf("x"), fileOf("y")...))
	f.Fuzz(func(t *testing.T, b []byte) {
		frames, err := readFrames(fuzzKey, int64(len(b)), func(p []byte, at int64) error {
			n, err := bytes.NewReader(b).ReadAt(p, at)
			if n == len(p) {
				err = nil
			}
			return err
		})
		if err != nil {
			return
		}
		if len(frames) == 0 || len(frames) > maxFrames {
			t.Fatalf("%d frames", len(frames))
		}
		lo, at := int64(0), int64(0)
		for _, fr := range frames {
			if fr.lo != lo || fr.hi <= fr.lo || fr.at != at+frameHeader || fr.end() > int64(len(b)) {
				t.Fatalf("frame %+v of %d bytes, behind %d at %d", fr, len(b), lo, at)
			}
			lo, at = fr.hi, fr.end()
			payload := b[fr.at:fr.end()]
			if crc32.Checksum(payload, castagnoli) == fr.crc && !bytes.Equal(encodeFrame(fuzzKey, fr.lo, payload), b[fr.at-frameHeader:fr.at]) {
				t.Fatalf("frame %+v does not survive encoding", fr)
			}
		}
	})
}

func TestReadFramesTellsErrorsOfTheDisk(t *testing.T) {
	_, err := readFrames(fuzzKey, 1000, func([]byte, int64) error { return io.ErrClosedPipe })
	if err == nil || ofOneFile(err) {
		t.Errorf("error %v", err)
	}
}

func FuzzParseName(f *testing.F) {
	f.Add(fileName(fuzzKey))
	f.Add(filepath.Join("00", "a-b-c.blk"))
	f.Fuzz(func(t *testing.T, name string) {
		if k, ok := parseName(name); ok && fileName(k) != name {
			t.Fatalf("%q is read as %+v, whose file is %q", name, k, fileName(k))
		}
	})
}
