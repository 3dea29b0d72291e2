//go:build linux

package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/cmd/floe/bill"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/memory"
)

func TestChargedForEachGiB(t *testing.T) {
	c := bill.New()
	c.Over = 10 * time.Second
	c.Requests[bill.Key{Kind: "put", Purpose: "produce"}] = 400
	c.Bytes[bill.Key{Kind: "put", Purpose: "produce"}] = 2 << 30
	c.Requests[bill.Key{Kind: "put", Purpose: "merge"}] = 40
	c.Bytes[bill.Key{Kind: "put", Purpose: "merge"}] = 1 << 30
	c.Requests[bill.Key{Kind: "get", Purpose: "merge"}] = 1000
	c.Bytes[bill.Key{Kind: "get", Purpose: "merge"}] = 1 << 30
	got := charge(c, 2)
	if want := (440*0.005 + 1000*0.0004) / 1000 / 2; math.Abs(got.dollars-want) > 1e-9 {
		t.Errorf("$%v for each GiB, want %v", got.dollars, want)
	}
	if a := got.amplification(); a != 1.5 {
		t.Errorf("%v bytes put for each, want 1.5", a)
	}
	if s, want := got.String(), "220 PUT/GiB (produce 200, merge 20), 500 GET/GiB (merge 500); $0.00130/GiB"; s != want {
		t.Errorf("got %q, want %q", s, want)
	}
	if s, want := got.of(func(p string) bool { return p == "produce" }).String(), "200 PUT/GiB (produce 200); $0.00100/GiB"; s != want {
		t.Errorf("got %q, want %q", s, want)
	}
	told := got.String()
	c.Requests[bill.Key{Kind: "list", Purpose: "sweep"}] = 8
	if s := charge(c, 2).of(writing).String(); s != told {
		t.Errorf("a sweep is counted: %q", s)
	}
	if s := got.of(fetching).String(); s != "no request" {
		t.Errorf("nothing was fetched: %q", s)
	}
}

func TestBenchmarkOutput(t *testing.T) {
	const out = "goos: linux\nBenchmarkScaleOneTiB-2 \t 3\t 103551 ns/op\t 59947 bytes-memory\t 63.00 manifests\nBenchmarkOther 1 5 ns/op\nPASS\n"
	got, err := benchmarkOf([]byte(out), "BenchmarkScaleOneTiB")
	if s := strings.Join(got, ", "); err != nil || s != "59,947 bytes of memory, 63.00 manifests" {
		t.Errorf("got %q, %v", s, err)
	}
	if _, err := benchmarkOf([]byte(out), "BenchmarkScale"); err == nil {
		t.Error("a benchmark that is not there: no error")
	}
	if _, err := benchmarkOf([]byte("BenchmarkX 1 many ns/op\n"), "BenchmarkX"); err == nil {
		t.Error("not a number: no error")
	}
}

func TestEtcdSizes(t *testing.T) {
	s := etcdSizes{file: []float64{1, 5, 9, 7}, used: []float64{1, 2, 3, 2}}
	if got, want := s.String(), "1 → 9 → 7 MiB (in use 1 → 3 → 2), 9 at most"; got != want || s.fault() != nil {
		t.Errorf("got %q, %v, want %q", got, s.fault(), want)
	}
	if (etcdSizes{file: []float64{1, 2}, used: []float64{1, 2}}).fault() == nil {
		t.Error("two looks are enough")
	}
}

func TestPlanOfFlags(t *testing.T) {
	p := fullPlan
	p.change(options{runs: 6, etcdFor: time.Hour})
	if p.runs != 6 || p.limit != 2*fullPlan.limit || p.etcdFor != time.Hour || p.idle != fullPlan.idle || p.bill != fullPlan.bill {
		t.Errorf("got %+v", p)
	}
	if p.most() < time.Hour+p.limit {
		t.Errorf("an hour of load in a run of %v at most", p.most())
	}
}

// countedGets counts what is asked of a store.
type countedGets struct {
	objstore.Store
	gets chan int64
}

func (c countedGets) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	c.gets <- n
	return c.Store.GetRange(ctx, key, off, n)
}

func TestRawGetsTakeTheLargestSegments(t *testing.T) {
	store := countedGets{memory.New(), make(chan int64, 100)}
	for i, size := range []int{100, 1000, 550} {
		if err := store.Put(t.Context(), fmt.Sprintf("seg/%d", i), objstore.Body{make([]byte, size)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := getCeiling(t.Context(), store, 100, 1500); err != nil {
		t.Fatal(err)
	}
	close(store.gets)
	var n, sum int64
	for size := range store.gets {
		n++
		sum += size
	}
	if n != 15 || sum != 1500 {
		t.Errorf("%d GETs of %d bytes, want 15 of 1500", n, sum)
	}
	empty := countedGets{memory.New(), make(chan int64, 1)}
	if got, err := getCeiling(t.Context(), empty, 100, 1500); got != 0 || err != nil {
		t.Errorf("an empty store: %v MiB/s, %v", got, err)
	}
}

func TestEvictAndWarmReadAllFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a", "b", "c"), make([]byte, 1<<16), 0o644); err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]func(string) error{"evict": evict, "warm": warm} {
		if err := f(dir); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if err := f(filepath.Join(dir, "none")); err == nil {
			t.Errorf("%s: a directory that is not there: no error", what)
		}
	}
}
