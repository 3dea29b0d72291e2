package segment_test

import (
	"testing"

	"github.com/floelog/floe/tiering/segment"
)

func TestWholeBatchesEndWhereABatchDoes(t *testing.T) {
	var all []byte
	ends := []int64{0}
	for i, n := range []int{3, 0, 200} {
		all = append(all, batch(int32(i+1), 1, 1, make([]byte, n))...)
		ends = append(ends, int64(len(all)))
	}
	for n := range len(all) + 1 {
		want := int64(0)
		for _, e := range ends {
			if e <= int64(n) {
				want = e
			}
		}
		for _, cut := range []int{0, n / 3, n} {
			if got := segment.WholeBatches([][]byte{all[:cut], nil, all[cut:n]}); got != want {
				t.Fatalf("of %d bytes, cut at %d: %d, want %d", n, cut, got, want)
			}
		}
	}
}

func FuzzWholeBatches(f *testing.F) {
	two := append(batch(1, 1, 1, []byte("abc")), batch(2, 1, 1, nil)...)
	f.Add(two, 70)
	f.Add(two[:100], 3)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		if cut < 0 || cut > len(b) {
			cut = len(b) / 2
		}
		n := segment.WholeBatches([][]byte{b})
		if m := segment.WholeBatches([][]byte{b[:cut], b[cut:]}); m != n || n < 0 || n > int64(len(b)) {
			t.Fatalf("%d of %d bytes, %d when cut at %d", n, len(b), m, cut)
		}
		if segment.WholeBatches([][]byte{b[:n]}) != n {
			t.Fatal("whole batches are not whole")
		}
		if segment.VerifyBatches([][]byte{b}) == nil && n != int64(len(b)) {
			t.Fatalf("%d of %d good bytes are whole", n, len(b))
		}
	})
}
