//go:build linux

package main

import (
	"bufio"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPercentiles(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var h histogram
	var all []time.Duration
	for range 20_000 {
		d := time.Duration(rng.Int64N(1 << (4 + rng.UintN(40))))
		h.add(d)
		all = append(all, d)
	}
	slices.Sort(all)
	for _, p := range []float64{1, 50, 90, 99, 99.9, 100} {
		exact := float64(all[int(p/100*float64(len(all))+0.9999999)-1]) / 1e6
		if got := h.percentile(p); got < exact || got > exact*1.017 {
			t.Errorf("p%v: %v ms, want %v to 1.6 %% more", p, got, exact)
		}
	}
	var none histogram
	if got := none.percentile(50); got != 0 {
		t.Errorf("p50 of nothing: %v, want 0", got)
	}
}

func TestBucketsAreContiguous(t *testing.T) {
	for i := range exponents*subBuckets - 1 {
		if bucketOf(upper(i)) != i || bucketOf(upper(i)+1) != i+1 {
			t.Fatalf("bucket %d ends at %d: that falls into %d, and the next value into %d", i, upper(i), bucketOf(upper(i)), bucketOf(upper(i)+1))
		}
	}
}

// TestVerifierFindsFaults gives it what a broken log could return.
func TestVerifierFindsFaults(t *testing.T) {
	const run, size = 7, 64
	value := func(h header) []byte {
		b := make([]byte, size)
		h.put(b)
		return b
	}
	type read struct {
		offset int64
		value  []byte
	}
	ours := func(offset int64, sequence uint64) read {
		return read{offset, value(header{run: run, sequence: sequence})}
	}
	tests := []struct {
		name  string
		reads []read
		want  verdict
	}{
		{"all", []read{ours(0, 0), ours(1, 1), ours(2, 2)}, verdict{Acked: 3, Seen: 3}},
		{"one that nobody acknowledged", []read{ours(0, 0), ours(1, 1), ours(2, 2), ours(3, 3)}, verdict{Acked: 3, Seen: 4}},
		{"lost", []read{ours(0, 0), ours(1, 2)}, verdict{Acked: 3, Seen: 2, Lost: 1}},
		{"lost at the end", []read{ours(0, 0)}, verdict{Acked: 3, Seen: 1, Lost: 2}},
		{"duplicated", []read{ours(0, 0), ours(1, 1), ours(2, 1), ours(3, 2)}, verdict{Acked: 3, Seen: 3, Duplicated: 1}},
		{"reordered", []read{ours(0, 1), ours(1, 0), ours(2, 2)}, verdict{Acked: 3, Seen: 3, Reordered: 1}},
		{"a gap", []read{ours(0, 0), ours(1, 1), ours(3, 2)}, verdict{Acked: 3, Seen: 3, Gaps: 1}},
		{"another run's", []read{ours(0, 0), {1, value(header{run: 8, sequence: 1})}, ours(2, 2)}, verdict{Acked: 3, Seen: 2, Lost: 1, Foreign: 1}},
		{"cut off", []read{ours(0, 0), ours(1, 1), {2, value(header{run: run, sequence: 2})[:40]}}, verdict{Acked: 3, Seen: 2, Lost: 1, Foreign: 1}},
		{"garbage", []read{ours(0, 0), ours(1, 1), {2, []byte("x")}}, verdict{Acked: 3, Seen: 2, Lost: 1, Foreign: 1}},
		{"a number beyond reason", []read{ours(0, 0), ours(1, 1), ours(2, 1<<60)}, verdict{Acked: 3, Seen: 2, Lost: 1, Foreign: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var acked bitmap
			for i := range uint64(3) {
				acked.add(i)
			}
			v := newVerifier(run, size, map[int32]int64{0: 0})
			for _, r := range tt.reads {
				v.add(0, r.offset, r.value)
			}
			got := v.judge(acked)
			if got != tt.want {
				t.Errorf("verdict %+v, want %+v", got, tt.want)
			}
			faulty := tt.want.Lost+tt.want.Duplicated+tt.want.Reordered+tt.want.Foreign+tt.want.Gaps > 0
			if (got.fault() != nil) != faulty {
				t.Errorf("fault: %v", got.fault())
			}
		})
	}
}

func TestHeaderRoundTrip(t *testing.T) {
	b := make([]byte, headerSize)
	want := header{producer: 3, run: 1<<63 + 5, sequence: 99, sent: time.Now().UnixNano()}
	want.put(b)
	if got, ok := getHeader(b); !ok || got != want {
		t.Errorf("got %+v, %v, want %+v", got, ok, want)
	}
}

// TestProduceToDiscard runs the producer against the server that keeps nothing.
func TestProduceToDiscard(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- serveDiscard(l) }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	warmed := 0
	out, err := produce(ctx, load{
		brokers: l.Addr().String(), topic: "t", partitions: partitions, size: smallValue, records: 5000, run: 1,
	}, func() { warmed++ })
	if err != nil {
		t.Fatal(err)
	}
	if got := out.acked.without(nil); got != 5000 || out.records != 5000 || out.acks.count != 5000 || warmed != 1 {
		t.Errorf("acknowledged %d, measured %d, latencies %d, warm-ups %d; want 5000, 5000, 5000, 1", got, out.records, out.acks.count, warmed)
	}
	if out.seconds <= 0 || out.acks.percentile(50) <= 0 {
		t.Errorf("took %v s, p50 %v ms: want more than 0", out.seconds, out.acks.percentile(50))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestProxyHoldsAnswersBack(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Seen-Host", r.Host)
		_, _ = io.WriteString(w, r.Method+string(body)) // a short answer shows in the test
	}))
	defer backend.Close()
	const delay = 50 * time.Millisecond
	p, err := startProxy(strings.TrimPrefix(backend.URL, "http://"), delays{put: delay, get: delay})
	if err != nil {
		t.Fatal(err)
	}
	for method, held := range map[string]bool{http.MethodPut: true, http.MethodGet: true, http.MethodDelete: false} {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.addr+"/k", strings.NewReader("v"))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(start)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(body) != method+"v" {
			t.Errorf("%s: answer %q, %v", method, body, err)
		}
		if got := resp.Header.Get("Seen-Host"); got != p.addr {
			t.Errorf("%s: the store saw host %s, want %s, which is signed", method, got, p.addr)
		}
		if held && took < delay {
			t.Errorf("%s answered after %v, before its delay", method, took)
		}
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
}

func TestMedians(t *testing.T) {
	run := func(name string, score float64) row { return row{Scenario: name, MiBPerS: score, score: score} }
	got := medians([]row{run("a", 3), run("b", -5), run("a", 1), run("b", -7), run("a", 10), run("c", 0)})
	if len(got) != 3 || got[0].Scenario != "a" || got[1].Scenario != "b" || got[2].Scenario != "c" {
		t.Fatalf("rows %+v, want a, b, c", got)
	}
	if got[0].MiBPerS != 3 || got[0].Runs != 3 || got[0].SpreadPct != 300 {
		t.Errorf("a: %+v, want the run of 3, of 3 runs, 300 %% apart", got[0])
	}
	if got[1].MiBPerS != -7 || got[1].Runs != 2 {
		t.Errorf("b: %+v, want the worse of two runs", got[1])
	}
}

func TestMemoryRow(t *testing.T) {
	full := row{Scenario: "dev: produce", CPUPerGiB: 1, PeakRSSMiB: 400}
	store := row{Scenario: memoryProduce, CPUPerGiB: 1, PeakRSSMiB: 5000}
	idle := row{Scenario: "idle", PeakRSSMiB: 6000}
	got, ok := memoryRow([]row{store, full, idle})
	if !ok || got.PeakRSSMiB != 400 || !*got.Met {
		t.Errorf("%+v, %v: want 400 MiB, met", got, ok)
	}
	full.PeakRSSMiB = processLimit + 1
	if got, _ = memoryRow([]row{full}); *got.Met {
		t.Error("more than the limit counts as met")
	}
	if _, ok := memoryRow([]row{idle}); ok {
		t.Error("a row without any load")
	}
}

func TestInsert(t *testing.T) {
	page := "# Title\n" + beginMark + "\nold\n" + endMark + "\nrest\n"
	got, err := insert(page, "\nnew\n\n")
	if want := "# Title\n" + beginMark + "\nnew\n" + endMark + "\nrest\n"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for _, bad := range []string{"", beginMark, endMark, endMark + beginMark} {
		if _, err := insert(bad, "x"); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestTablesHaveAllCells(t *testing.T) {
	met := true
	r := report{Quick: true, Errors: []string{"minio: broke\nlog"}, Rows: []row{
		{Scenario: "everything", RecordsPerS: 1234567, MiBPerS: 1, AckP50ms: 1, AckP99ms: 2, E2EP50ms: 3, E2EP99ms: 4, CPUPerGiB: 5,
			Ceiling: 6, CeilingUnit: "MiB/s", Ratio: 0.5, Target: "≥ 1", Met: &met, Runs: 3, SpreadPct: 12},
		{Scenario: "nothing"},
	}}
	for _, row := range r.Rows {
		if len(row.cells()) != len(columns) {
			t.Errorf("%s: %d cells for %d columns", row.Scenario, len(row.cells()), len(columns))
		}
	}
	md := r.markdown()
	for _, want := range []string{"| everything | 1,234,567 | 1.0 | 1.00 / 2.00 | 3.00 / 4.00 | 5.00 |", "6.00 MiB/s | 0.50 | ≥ 1 | yes | 12 % of 3", "QUICK RUN", "Failed: minio: broke\n"} {
		if !strings.Contains(md, want) {
			t.Errorf("no %q in\n%s", want, md)
		}
	}
	var text strings.Builder
	if err := r.text(&text); err != nil || !strings.Contains(text.String(), "nothing") {
		t.Errorf("text: %v\n%s", err, text.String())
	}
}

func TestThousands(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 999: "999", 1000: "1,000", 1234567.4: "1,234,567", -1000: "-1,000"} {
		if got := thousands(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
}

func TestReadsOfProc(t *testing.T) {
	stat := "42 (a name) with) R 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 100 1000 200 18446744073709551615"
	if got, err := parseStat([]byte(stat)); err != nil || got != 3 {
		t.Errorf("CPU time: %v, %v, want 3 s", got, err)
	}
	if got, err := parseRSS("Name:\tx\nVmHWM:\t  900 kB\nVmRSS:\t  2048 kB\n"); err != nil || got != 2 {
		t.Errorf("RSS: %v, %v, want 2 MiB", got, err)
	}
	for _, bad := range []string{"", "42 (x) R 1", strings.Replace(stat, "250", "x", 1)} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
	if _, err := parseRSS("Name:\tx\n"); err == nil {
		t.Error("no VmRSS: no error")
	}
}

func TestSumOf(t *testing.T) {
	const page = "# HELP floe_x_total help\nfloe_x_total{kind=\"put\",outcome=\"ok\"} 3\nfloe_x_total{kind=\"get\"} 2e1\nfloe_x_total_more 5\n"
	sum := func(text, name string) (float64, error) {
		return sumOf(bufio.NewScanner(strings.NewReader(text)), name)
	}
	if got, err := sum(page, "floe_x_total"); err != nil || got != 23 {
		t.Errorf("sum %v, %v, want 23", got, err)
	}
	if _, err := sum(page, "floe_y"); err == nil {
		t.Error("a counter that is not there: no error")
	}
	if _, err := sum("floe_x_total many", "floe_x_total"); err == nil {
		t.Error("not a number: no error")
	}
}
