//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

const (
	inlineRate = 1000    // records/s that need etcd alone
	inlineSize = 4 * kib // bytes of each: together the default inline-rate
	// inlinePartitions are so many that most of their shards have no flush under way, which no
	// inline commit may overtake.
	inlinePartitions = 24
	etcdQuotaMiB     = 2048 // at which floe dev's own etcd refuses writes
	etcdLooks        = 12   // at the size, during the load
)

// etcdSize: what etcd's database grows to under full speed, of segments and of inline commits
// at the same time. Records expire at once, so that the disk can hold the rest.
func etcdSize(ctx context.Context, e *env) (rows []row, err error) {
	dir, remove, err := e.scratch("etcd")
	if err != nil {
		return nil, err
	}
	defer remove()
	member, endpoint, err := e.startEtcd(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer member.stop()
	f, err := e.startFloe(ctx, dir, "agent", "--etcd", endpoint, "--cluster", "etcd", "--store", "file://"+filepath.Join(dir, "objects"),
		"--retention", "2s", "--retention-check-interval", "2s", "--gc-interval", "5s", "--gc-grace", "1s")
	if err != nil {
		return nil, err
	}
	defer f.stop()
	t := target{f, []*process{member}, loadAverage}
	inline := e.newLoad(t, "inline", inlinePartitions, inlineSize)
	inline.rate, inline.linger, inline.warmup, inline.duration, inline.inTurn = inlineRate, 0, 0, e.plan.etcdFor, true
	full := e.newLoad(t, "full", partitions, kib)
	full.warmup, full.duration = 0, e.plan.etcdFor
	if err := create(ctx, inline); err != nil {
		return nil, err
	}

	beside, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		out *produced
		err error
	}
	small := make(chan result, 1)
	sizes := make(chan etcdSizes, 1)
	go func() { // its result is awaited below, as is the next one's
		out, err := produce(beside, inline, func() {})
		small <- result{out, err}
	}()
	go func() { sizes <- lookAtEtcd(beside, "http://"+endpoint+"/metrics", e.plan.etcdFor/etcdLooks) }()
	r, _, err := t.produceRow(ctx, fmt.Sprintf("agent, files: full speed and inline commits for %v", e.plan.etcdFor), full)
	if err != nil {
		cancel()
	}
	in := <-small
	cancel()
	seen := <-sizes
	if err := errors.Join(err, in.err, seen.fault()); err != nil {
		return nil, err
	}
	counts, err := scrapeBill(ctx, t.metrics)
	if err != nil {
		return nil, err
	}
	r.Result = fmt.Sprintf("etcd's database: %s; %.1f MiB/s of inline commits", seen, counts.Inline/(1<<20)/e.plan.etcdFor.Seconds())
	r.require(fmt.Sprintf("etcd ≤ %d MiB, its quota in floe dev", etcdQuotaMiB), seen.most() <= etcdQuotaMiB)
	return []row{r}, nil
}

// etcdSizes is what the database was over time, in MiB.
type etcdSizes struct {
	file, used []float64
	err        error
}

// lookAtEtcd looks every so often until ctx ends.
func lookAtEtcd(ctx context.Context, metrics string, every time.Duration) (s etcdSizes) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		file, err := scrapeSum(ctx, metrics, "etcd_mvcc_db_total_size_in_bytes")
		var used float64
		if err == nil {
			used, err = scrapeSum(ctx, metrics, "etcd_mvcc_db_total_size_in_use_in_bytes")
		}
		switch {
		case ctx.Err() != nil:
			return s
		case err != nil:
			s.err = err
			return s
		}
		s.file, s.used = append(s.file, file/(1<<20)), append(s.used, used/(1<<20))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return s
		}
	}
}

func (s etcdSizes) fault() error {
	if s.err == nil && len(s.file) < 3 {
		return fmt.Errorf("etcd's size was seen %d times only", len(s.file))
	}
	return s.err
}

func (s etcdSizes) most() (top float64) {
	for _, v := range s.file {
		top = max(top, v)
	}
	return top
}

// String tells the file's size and what of it is in use at the start, in the middle and at the
// end, and the largest.
func (s etcdSizes) String() string {
	mid, end := len(s.file)/2, len(s.file)-1
	return fmt.Sprintf("%.0f → %.0f → %.0f MiB (in use %.0f → %.0f → %.0f), %.0f at most",
		s.file[0], s.file[mid], s.file[end], s.used[0], s.used[mid], s.used[end], s.most())
}
