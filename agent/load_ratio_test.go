package agent

import (
	"math"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/protocol"
)

func TestParseNetwork(t *testing.T) {
	const table = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 9999999  1000    0    0    0     0          0         0  9999999    1000    0    0    0     0       0          0
  eth0: 1500      10    0    0    0     0          0         0   2500      20    0    0    0     0       0          0
  eth1:500 1 0 0 0 0 0 0 50 1 0 0 0 0 0 0
  odd0: some text that is not a number here at all, of more than nine fields
`
	if in, out, ok := parseNetwork([]byte(table)); in != 2000 || out != 2550 || !ok {
		t.Errorf("received %d and sent %d (%v), want 2000 and 2550", in, out, ok)
	}
	if _, _, ok := parseNetwork([]byte("what is this?\n")); ok {
		t.Error("a text without interfaces is read")
	}
}

func FuzzParseNetwork(f *testing.F) {
	f.Add([]byte(" eth0: 1 2 3 4 5 6 7 8 9\n"))
	f.Add([]byte("::: -1\n:"))
	f.Fuzz(func(t *testing.T, table []byte) {
		if _, _, ok := parseNetwork(table); ok && len(table) < 10 {
			t.Errorf("%q is read as a table", table)
		}
	})
}

// TestRatio drives the shares by hand.
func TestRatio(t *testing.T) {
	b := protocol.NewBudget(1000)
	r := newRatio(&Config{Uploads: 4, NetworkRate: 1000}, b)
	at := ratioSample{at: time.Unix(1000, 0), hasCPU: true, hasIO: true}
	step := func(change func(*ratioSample)) {
		for range 120 { // two minutes: the mean is what is measured
			at.at = at.at.Add(time.Second)
			change(&at)
			r.sample(at)
		}
	}
	want := func(what string, most float64, shares map[string]float64) {
		t.Helper()
		for name, x := range shares {
			if got := r.share(name); math.Abs(got-x) > 0.02 {
				t.Errorf("%s: %s is %.2f, want %.2f", what, name, got, x)
			}
		}
		if got := r.largest(); math.Abs(got-most) > 0.02 {
			t.Errorf("%s: the ratio is %.2f, want %.2f", what, got, most)
		}
	}
	step(func(*ratioSample) {})
	want("idle", 0, map[string]float64{shareCPU: 0, shareMemory: 0, shareUploads: 0, shareQueue: 0, shareNetwork: 0})
	step(func(s *ratioSample) {
		s.uploaded += 2e9 // two of four at any time
		s.in += 100
		s.out += 300
	})
	want("uploading", 0.5, map[string]float64{shareUploads: 0.5, shareNetwork: 0.3, shareQueue: 0})
	c, err := b.Acquire(t.Context(), 750)
	if err != nil {
		t.Fatal(err)
	}
	step(func(*ratioSample) {})
	want("with requests in memory", 0.75, map[string]float64{shareMemory: 0.75, shareUploads: 0})
	waiting := make(chan struct{})
	go func() {
		defer close(waiting)
		if w, err := b.Acquire(t.Context(), 500); err == nil {
			w.Release()
		}
	}()
	for b.Waiting() == 0 {
		select {
		case <-waiting:
			t.Fatal("more memory was given than there is")
		default:
		}
	}
	step(func(*ratioSample) {})
	want("with one that waits", 1, map[string]float64{shareQueue: 1})
	c.Release()
	<-waiting
	if b.Waiting() != 0 || b.Waited() <= 0 || b.InUse() != 0 {
		t.Errorf("in the end %d wait, %v was waited, %d bytes are in use", b.Waiting(), b.Waited(), b.InUse())
	}
}

// TestRatioMeasures samples the process itself.
func TestRatioMeasures(t *testing.T) {
	r := newRatio(&Config{Uploads: 1}, protocol.NewBudget(1))
	reg := prometheus.NewRegistry()
	r.register(reg)
	first := r.now()
	busy := 0
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); busy++ {
		if s := r.now(); !s.hasCPU || s.cpu-first.cpu > 20*time.Millisecond {
			break
		}
	}
	r.sample(first)
	r.sample(r.now())
	if _, known := cpuTime(); known && r.share(shareCPU) <= 0 {
		t.Errorf("after %d rounds, the share of processors is %v", busy, r.share(shareCPU))
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "floe_load_share" && len(f.GetMetric()) != 4 {
			t.Errorf("%d shares are told, want 4 without a network rate", len(f.GetMetric()))
		}
	}
}
