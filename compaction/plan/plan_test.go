package plan_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/floelog/floe/compaction/plan"
	"github.com/floelog/floe/tiering"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

var rules = plan.Rules{Target: 32 * mib, Fan: 12, Extents: 96, Manifest: 256}

// log is a partition that is written to and merged; each extent holds as many offsets as
// thousandths of a second have passed since the one before.
type log struct {
	plan.Partition
	next     tiering.Offset
	appended int64 // bytes
	written  int64 // bytes, by merges
	archived int
	seq      uint64
}

func (l *log) add(e tiering.Extent) {
	l.seq++
	e.Base = l.next
	if e.Length > 0 && e.Inline == nil {
		e.Segment = tiering.SegmentID{Seq: l.seq}
	}
	l.next = e.End()
	l.appended += int64(e.Length)
	l.Extents = append(l.Extents, e)
}

func (l *log) append(length int64, timestamp int64) {
	l.add(tiering.Extent{Count: 1, MaxTimestamp: timestamp, Length: int32(length)})
}

// merge applies what is planned until nothing is, and checks what is promised of it.
func (l *log) merge(t *testing.T, r plan.Rules) {
	t.Helper()
	for range 1000 {
		merges := r.Merges(&l.Partition)
		n := r.Archive(&l.Partition, merges)
		if len(merges) == 0 && n == 0 {
			l.settled(t, r)
			return
		}
		l.apply(t, r, merges)
		if n > 0 {
			for _, e := range l.Extents[:n] {
				if e.IsInline() {
					t.Fatal("an inline extent was archived")
				}
			}
			l.Extents = l.Extents[n:]
			l.archived += n
		}
	}
	t.Fatal("merging does not come to an end")
}

func (l *log) apply(t *testing.T, r plan.Rules, merges []plan.Merge) {
	t.Helper()
	size := r.Target
	if l.SegmentBytes > 0 {
		size = min(size, l.SegmentBytes)
	}
	var out []tiering.Extent
	at := 0
	for _, m := range merges {
		if m.From < at || m.To > len(l.Extents) || m.To-m.From < 2 {
			t.Fatalf("merge %+v after %d of %d extents", m, at, len(l.Extents))
		}
		out = append(out, l.Extents[at:m.From]...)
		l.seq++
		with := tiering.Extent{Base: l.Extents[m.From].Base, MaxTimestamp: -1, Segment: tiering.SegmentID{Seq: l.seq}}
		biggest, sum := int64(0), int64(0)
		oldest, newest := int64(math.MaxInt64), int64(math.MinInt64/2)
		for _, e := range l.Extents[m.From:m.To] {
			if e.IsInline() {
				t.Fatalf("merge %+v holds an inline extent", m)
			}
			if c := l.Cleaned; c > with.Base && e.End() > c {
				t.Fatalf("merge %+v crosses what has been cleaned", m)
			}
			with.Count += e.Count
			sum += int64(e.Length)
			biggest = max(biggest, int64(e.Length))
			with.MaxTimestamp = max(with.MaxTimestamp, e.MaxTimestamp)
			if !e.IsHole() {
				oldest, newest = min(oldest, e.MaxTimestamp), max(newest, e.MaxTimestamp)
			}
		}
		switch {
		case sum != m.Bytes || sum > size:
			t.Fatalf("merge %+v is of %d bytes, at most %d", m, sum, size)
		case biggest >= size/4:
			t.Fatalf("merge %+v writes an extent of %d bytes again", m, biggest)
		case sum > 0 && l.Extents[m.From].IsHole():
			t.Fatalf("merge %+v begins with a hole that nothing can cover", m)
		case sum > 0 && m.Why == plan.Tier && (sum < int64(max(2, r.Fan/2))*biggest || m.To-m.From < r.Fan):
			t.Fatalf("merge %+v is not worth it: its greatest extent has %d bytes", m, biggest)
		case m.Why == plan.Full && sum <= size*3/4:
			t.Fatalf("merge %+v does not fill an extent of %d bytes", m, size)
		case m.Why != plan.Pressed && l.SegmentMs > 0 && oldest <= newest && newest-oldest > l.SegmentMs:
			t.Fatalf("merge %+v spans %d ms", m, newest-oldest)
		}
		l.written += sum
		with.Length = int32(sum)
		out = append(out, with)
		at = m.To
	}
	l.Extents = append(out, l.Extents[at:]...)
}

// settled checks a partition for which nothing is planned.
func (l *log) settled(t *testing.T, r plan.Rules) {
	t.Helper()
	size := r.Target
	if l.SegmentBytes > 0 {
		size = min(size, l.SegmentBytes)
	}
	small := func(i int) bool { return i >= 0 && i < len(l.Extents) && int64(l.Extents[i].Length) < size/4 }
	n := 0
	for i := range l.Extents {
		if small(i) && (small(i-1) || small(i+1)) {
			n++
		}
	}
	if slack := 4; n > r.Extents+slack { // to both sides of the offset of cleaning, and of what is inline
		t.Fatalf("%d of %d extents are small and have small neighbours", n, len(l.Extents))
	}
	if len(l.Extents) > r.Manifest*3/2+1 && l.Cleaned == 0 {
		t.Fatalf("%d extents are not archived", len(l.Extents))
	}
}

// However a partition is written to, it has few extents, and its bytes are written few times.
func TestAnyArrivalPattern(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 2))
	pick := func(sizes ...int64) func(int) int64 {
		return func(int) int64 { return sizes[rng.IntN(len(sizes))] }
	}
	for name, c := range map[string]struct {
		size    func(i int) int64
		n       int
		written float64 // times that a byte is, at most
		extents int     // most that are left
	}{
		"tiny":         {pick(200), 50_000, 5, 60},
		"small":        {pick(64 * kib), 20_000, 3.1, 400},
		"a mebibyte":   {pick(mib), 5_000, 1.1, 400},
		"large":        {pick(8 * mib), 5_000, 0, 400},
		"two sizes":    {pick(kib, mib), 5_000, 4, 400},
		"all sizes":    {func(int) int64 { return int64(math.Exp(rng.Float64()*11.5)) + 61 }, 20_000, 4, 400},
		"alternating":  {func(i int) int64 { return []int64{kib, 7 * mib}[i%2] }, 4_000, 2, 400},
		"small, large": {func(i int) int64 { return []int64{kib, 9 * mib}[i%2] }, 4_000, 0, 400},
		"ruler": {func(i int) int64 { // the order that most splits what could be merged
			return 100 << min(16, trailingZeros(i+1))
		}, 20_000, 8, 400},
		"shrinking": {func(i int) int64 { return int64(7*mib) >> (i % 17) }, 10_000, 6, 400},
		"growing":   {func(i int) int64 { return 64 << (i % 17) }, 10_000, 6, 400},
	} {
		for _, every := range []int{1, 17, 240} {
			t.Run(fmt.Sprintf("%s, looked at after every %d", name, every), func(t *testing.T) {
				var l log
				most := 0
				for i := range c.n {
					l.append(c.size(i), int64(i))
					if i%every == 0 {
						l.merge(t, rules)
						most = max(most, len(l.Extents))
					}
				}
				l.merge(t, rules)
				if amp := float64(l.written) / float64(l.appended); amp > c.written {
					t.Errorf("each byte was written %.2f times, want at most %.2f", amp, c.written)
				} else {
					t.Logf("%.2f times, at most %d extents, %d archived", amp, most, l.archived)
				}
				if most > c.extents {
					t.Errorf("%d extents, want at most %d", most, c.extents)
				}
			})
		}
	}
}

func trailingZeros(i int) (n int) {
	for ; i%2 == 0; i /= 2 {
		n++
	}
	return n
}

// What may not be merged is not, whatever lies in a partition.
func TestRandomPartitions(t *testing.T) {
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 7))
		r := plan.Rules{Target: int64(rng.IntN(4)+1) * mib, Fan: 2 + rng.IntN(15), Extents: 2 + rng.IntN(90), Manifest: 16 + rng.IntN(200)}
		l := log{Partition: plan.Partition{SegmentBytes: int64(rng.IntN(2)) * mib, SegmentMs: int64(rng.IntN(3)) * 50}}
		for i := range 1 + rng.IntN(800) {
			e := tiering.Extent{Count: 1 + rng.Int64N(5), MaxTimestamp: int64(i) + rng.Int64N(40), Length: int32(61 + math.Exp(rng.Float64()*13))}
			switch rng.IntN(20) {
			case 0:
				e.Length, e.MaxTimestamp = 0, tiering.NoTimestamp
			case 1:
				if i%100 > 97 { // few: the roll-up sees to them
					e.Length, e.Inline = 100, make([]byte, 100)
				}
			case 2:
				e.MaxTimestamp = 0 // of a client whose clock stands still
			}
			l.add(e)
			if rng.IntN(300) == 0 {
				l.Cleaned = l.next
			}
		}
		l.mergeSome(t, r)
		for i := 1; i < len(l.Extents); i++ {
			if c := l.Cleaned; l.Extents[i-1].IsHole() && l.Extents[i].IsHole() && (l.Extents[i-1].Base >= c || l.Extents[i].End() <= c) {
				t.Errorf("seed %d: two holes side by side are left at %d of %d", seed, i, len(l.Extents))
			}
		}
	}
}

// mergeSome applies plans to the end; inline extents stay, so the bounds of settled do not hold.
func (l *log) mergeSome(t *testing.T, r plan.Rules) {
	t.Helper()
	for range 1000 {
		merges := r.Merges(&l.Partition)
		if len(merges) == 0 {
			return
		}
		before := len(l.Extents)
		l.apply(t, r, merges)
		if len(l.Extents) >= before {
			t.Fatal("merges that leave as many extents as there were")
		}
	}
	t.Fatal("merging does not come to an end")
}

func TestWhatIsNotWorthAMerge(t *testing.T) {
	var l log
	for range 11 {
		l.append(kib, 0)
	}
	if m := rules.Merges(&l.Partition); len(m) != 0 {
		t.Errorf("eleven of %d: %+v", rules.Fan, m)
	}
	l.append(kib, 0)
	if m := rules.Merges(&l.Partition); len(m) != 1 || m[0] != (plan.Merge{From: 0, To: 12, Bytes: 12 * kib, Why: plan.Tier}) {
		t.Errorf("twelve: %+v", m)
	}
	l.SegmentMs = 10
	l.Extents[6].MaxTimestamp = 100
	if m := rules.Merges(&l.Partition); len(m) != 0 {
		t.Errorf("across segment.ms: %+v", m)
	}
	l.SegmentMs, l.Cleaned = 0, 6
	if m := rules.Merges(&l.Partition); len(m) != 0 {
		t.Errorf("across what has been cleaned: %+v", m)
	}
	if n := rules.Archive(&l.Partition, nil); n != 0 {
		t.Errorf("%d of 12 extents would be archived", n)
	}
}

// What is trimmed of a manifest stays until all of it is, so a manifest is a small part of its
// partition, but for partitions of few extents.
func TestAManifestIsASmallPartOfItsPartition(t *testing.T) {
	r := plan.Rules{Target: 32 * mib, Fan: plan.DefaultFan, Extents: plan.DefaultExtents, Manifest: 256}
	for _, tt := range []struct{ extents, archived, want int }{
		{384, 0, 0}, // they are few enough
		{385, 0, 48},
		{385, 615, 125},
		{385, 4000, 256},
	} {
		var l log
		for range tt.extents {
			l.append(32*mib, 0)
		}
		l.Archived = int64(tt.archived) * 32 * mib
		if n := r.Archive(&l.Partition, nil); n != tt.want {
			t.Errorf("of %d extents, with as much as %d of them in manifests, %d move, want %d", tt.extents, tt.archived, n, tt.want)
		}
	}
	var small log
	for range 10 * 385 {
		small.append(1, 0)
	}
	small.Extents[0].Length = 1 << 30
	if n := r.Archive(&small.Partition, nil); n > 32 {
		t.Errorf("where the first extent is most of the partition %d extents move, want 32 at most", n)
	}
}

// A look at a partition for which nothing is planned: most of them, every second.
func BenchmarkNothingToMerge(b *testing.B) {
	var l log
	for i := range 40 {
		l.append(int64(100<<(i%4*4)), 0)
	}
	rules := rules
	rules.Fan = 100
	b.ReportAllocs()
	for b.Loop() {
		if len(rules.Merges(&l.Partition)) != 0 {
			b.Fatal("something is planned")
		}
	}
}
