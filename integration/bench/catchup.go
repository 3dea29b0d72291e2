//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/open"
)

const (
	catchupPartitions = 12
	// catchupGets is how many blocks the agents' cache fetches ahead of one reader at most.
	catchupGets = 16
	// mergedBlock is a block of the agents' cache, and flushedBlock what a flush has of each
	// partition: so much can one GET bring of what a consumer asks for.
	mergedBlock  = 2 << 20
	flushedBlock = objectSize / catchupPartitions
	// getDelay is what the slow store adds to every GET. With it the machine is not what
	// limits, and what counts is that all GETs are under way all the time.
	getDelay = 100 * time.Millisecond
	// catchupShare is the part of what raw GETs reach that a consumer must reach.
	catchupShare = 0.8
)

// unmerged keeps an agent from merging for as long as a group takes, and merged lets it merge
// at once.
var (
	unmerged = []string{"--merge-age", "1h", "--merge-target", "256MiB", "--jobs-rate", "1KiB"}
	merged   = []string{"--merge-age", "1s", "--jobs-rate", "0B"}
)

// catchup: a consumer that reads all from the start, through an agent that has nothing in
// memory, against ranged GETs of the same store; of flushes, and of what they are merged to.
func catchup(ctx context.Context, e *env) (rows []row, err error) {
	dir, remove, err := e.scratch("catchup")
	if err != nil {
		return nil, err
	}
	defer remove()
	member, endpoint, err := e.startEtcd(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer member.stop()
	files := filepath.Join(dir, "files")
	c := catchupRun{e: e, dir: dir, others: []*process{member}, args: []string{"--etcd", endpoint, "--cluster", "files"},
		objects: files, stores: []namedStore{{"files", "file://" + files}}}
	if err := c.run(ctx); err != nil {
		return c.rows, err
	}
	if err := os.RemoveAll(files); err != nil {
		return c.rows, err
	}
	minio, addr, err := e.startMinIO(ctx, dir)
	if err != nil {
		return c.rows, err
	}
	defer minio.stop()
	p, err := startProxy(addr, delays{get: getDelay})
	if err != nil {
		return c.rows, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	m := catchupRun{e: e, dir: dir, others: []*process{minio, member}, args: []string{"--etcd", endpoint, "--cluster", "minio"},
		objects: filepath.Join(dir, "objects"),
		stores: []namedStore{{"MinIO", e.storeURL(addr, "catchup")},
			{fmt.Sprintf("MinIO, GETs +%d ms", getDelay.Milliseconds()), e.storeURL(p.addr, "catchup")}}}
	err = m.run(ctx)
	return append(c.rows, m.rows...), err
}

// namedStore is a way to a store.
type namedStore struct{ name, url string }

// catchupRun is one store, which may be reached in several ways.
type catchupRun struct {
	e       *env
	dir     string
	objects string // where the store has its files
	stores  []namedStore
	others  []*process
	args    []string // of every agent
	rows    []row
}

// agent runs f with an agent that has just started.
func (c *catchupRun) agent(ctx context.Context, url string, args []string, f func(target) error) error {
	args = slices.Concat(c.args, []string{"--store", url}, args)
	p, err := c.e.startFloe(ctx, c.dir, "agent", args...)
	if err != nil {
		return err
	}
	defer p.stop()
	return f(target{p, c.others, loadAverage})
}

func (c *catchupRun) run(ctx context.Context) error {
	var l load
	var out *produced
	url := c.stores[0].url
	err := c.agent(ctx, url, unmerged, func(t target) (err error) {
		l = c.e.newLoad(t, "old", catchupPartitions, kib)
		l.warmup, l.records = 0, c.e.plan.catchup/kib
		_, out, err = t.produceRow(ctx, "catch-up: fill "+c.stores[0].name, l)
		return err
	})
	if err != nil {
		return err
	}
	if err := c.compare(ctx, "flushes", flushedBlock, l, out); err != nil {
		return err
	}
	err = c.agent(ctx, url, merged, func(t target) error { return mergedAll(ctx, t, c.e.plan.settle) })
	if err != nil {
		return err
	}
	return c.compare(ctx, "merged", mergedBlock, l, out)
}

// mergedAll waits until there is nothing left to merge.
func mergedAll(ctx context.Context, t target, quiet time.Duration) error {
	if err := settled(ctx, t.metrics, quiet); err != nil {
		return err
	}
	n, err := scrapeSum(ctx, t.metrics, "floe_merge_written_bytes_total")
	if err == nil && n == 0 {
		err = errors.New("nothing was merged")
	}
	return err
}

// compare measures GETs and a consumer on every way to the store.
func (c *catchupRun) compare(ctx context.Context, what string, block int64, l load, out *produced) error {
	for _, s := range c.stores {
		raw := row{Scenario: fmt.Sprintf("raw: GETs of %d KiB, %d at a time, %s, %s", block>>10, catchupGets, s.name, what), Load: loadAverage()}
		if err := evict(c.objects); err != nil {
			return fmt.Errorf("%s: %w", raw.Scenario, err)
		}
		store, err := open.Open(ctx, s.url, open.Options{AccessKey: accessKey, SecretKey: secretKey})
		if err != nil {
			return err
		}
		if raw.MiBPerS, err = getCeiling(ctx, store, block, c.e.plan.catchup); err != nil {
			return fmt.Errorf("%s: %w", raw.Scenario, err)
		}
		raw.Load += " → " + loadAverage()
		raw.score = raw.MiBPerS
		c.rows = append(c.rows, raw)
		for _, how := range []struct {
			name string
			run  func(ctx context.Context, t target, name string) (row, error)
		}{
			{"bare fetches", func(ctx context.Context, t target, name string) (row, error) { return t.bareRow(ctx, name, l) }},
			{"catch up", func(ctx context.Context, t target, name string) (row, error) {
				return t.consumeRow(ctx, name, l, out, 1)
			}},
		} {
			if err = evict(c.objects); err != nil {
				return err
			}
			err = c.agent(ctx, s.url, unmerged, func(t target) error {
				l.brokers = t.addr
				r, err := how.run(ctx, t, fmt.Sprintf("agent, %s: %s, %s", s.name, how.name, what))
				if err != nil {
					return err
				}
				return c.judge(ctx, t, r, raw, out.gib(l))
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// judge adds a row with what it cost, against bare GETs.
func (c *catchupRun) judge(ctx context.Context, t target, r, raw row, gib float64) error {
	counts, err := scrapeBill(ctx, t.metrics)
	if err != nil {
		return err
	}
	waited, err := scrapeSum(ctx, t.metrics, "floe_objstore_request_seconds_sum")
	if err != nil {
		return err
	}
	r.Result = fmt.Sprintf("%s; %.1f under way on average", charge(counts, gib).of(fetching), waited/gib*r.MiBPerS/1024)
	r.against(r.MiBPerS, raw.MiBPerS, "MiB/s, raw GETs")
	r.require(fmt.Sprintf("≥ %.0f %% of raw GETs", 100*catchupShare), r.Ratio >= catchupShare)
	c.rows = append(c.rows, r)
	return nil
}

// getCeiling reads so many bytes of a store's segments, the largest first, a block at a time,
// and returns MiB/s.
func getCeiling(ctx context.Context, store objstore.Store, block, bytes int64) (mibPerSecond float64, err error) {
	all, err := segmentsOf(ctx, store)
	if err != nil {
		return 0, err
	}
	type get struct {
		key    string
		off, n int64
	}
	var gets []get
	for _, o := range all {
		for off := int64(0); off < o.Size && bytes > 0; off += block {
			n := min(block, o.Size-off)
			gets = append(gets, get{o.Key, off, n})
			bytes -= n
		}
	}
	var next, read atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, catchupGets)
	start := time.Now()
	for i := range errs {
		wg.Go(func() {
			for errs[i] == nil {
				n := int(next.Add(1)) - 1
				if n >= len(gets) {
					return
				}
				g := gets[n]
				if _, errs[i] = store.GetRange(ctx, g.key, g.off, g.n); errs[i] == nil {
					read.Add(g.n)
				}
			}
		})
	}
	wg.Wait()
	return float64(read.Load()) / (1 << 20) / time.Since(start).Seconds(), errors.Join(errs...)
}

// segmentsOf lists a store's segments, the largest first.
func segmentsOf(ctx context.Context, store objstore.Store) (all []objstore.Info, err error) {
	const most = 1000
	for after := ""; ; after = all[len(all)-1].Key {
		page, err := store.List(ctx, "seg/", after, most)
		if err != nil {
			return nil, err
		}
		if all = append(all, page...); len(page) < most {
			break
		}
	}
	slices.SortFunc(all, func(a, b objstore.Info) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), strings.Compare(a.Key, b.Key))
	})
	return all, nil
}

// evict makes the kernel forget what it has of the files in a directory, so that they are read
// from the disk.
func evict(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Sync(); err != nil { // what is not on disk yet stays
			return err
		}
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
}
