package segment_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/segment"
)

// However batches lie across slices, each gets its own base offset and epoch, and the chunk's
// checksum is that of what is stored.
func TestStampAcrossSlices(t *testing.T) {
	var plain []byte
	counts := []int32{3, 1, 70, 2}
	for _, n := range counts {
		plain = append(plain, batch(n, 5, 9, bytes.Repeat([]byte{byte(n)}, int(n)))...)
	}
	epoch := func(at tiering.Offset) tiering.LeaderEpoch { return tiering.LeaderEpoch(at / 50) }
	for _, step := range []int{1, 7, 16, 17, 61, 64, 200, len(plain)} {
		var in [][]byte
		for b := plain; len(b) > 0; b = b[min(step, len(b)):] {
			in = append(in, b[:min(step, len(b))])
		}
		before := bytes.Clone(plain)
		out, end, err := segment.Stamp([][]byte{{}}, in, 40, epoch)
		if err != nil || end != 40+76 {
			t.Fatalf("slices of %d: end %d, %v", step, end, err)
		}
		if !bytes.Equal(before, plain) {
			t.Fatalf("slices of %d: the input was changed", step)
		}
		built := build(t, segment.Header{Level: 1}, []segment.Chunk{{TopicPartition: partition(1, 0), Base: 40, Slices: out}})
		object := built.Body.Bytes()
		seg, err := segment.Open(built.Size, reader(object, nil))
		if err != nil {
			t.Fatal(err)
		}
		got, err := seg.ReadChunk(seg.Entries[0], reader(object, nil)) // verifies
		if err != nil {
			t.Fatalf("slices of %d: %v", step, err)
		}
		at, want := tiering.Offset(40), plain
		for _, n := range counts {
			size := 61 + int(n)
			if b := binary.BigEndian.Uint64(got); tiering.Offset(b) != at {
				t.Errorf("slices of %d: base %d, want %d", step, b, at)
			}
			if e := binary.BigEndian.Uint32(got[12:]); tiering.LeaderEpoch(e) != epoch(at) {
				t.Errorf("slices of %d: epoch %d at %d", step, e, at)
			}
			if !bytes.Equal(got[16:size], want[16:size]) || !bytes.Equal(got[8:12], want[8:12]) {
				t.Errorf("slices of %d: the batch at %d is another one", step, at)
			}
			at, got, want = at+tiering.Offset(n), got[size:], want[size:]
		}
	}
	if out, end, err := segment.Stamp([][]byte{{1}}, [][]byte{plain[:100]}, 4, epoch); !errors.Is(err, segment.ErrCorrupt) || len(out) != 1 || end != 4 {
		t.Errorf("half a batch: %d slices, end %d, %v", len(out), end, err)
	}
}
