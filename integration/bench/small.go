//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// idle: what a cluster costs that nobody uses, after somebody did.
func idle(ctx context.Context, e *env) (rows []row, err error) {
	dir, remove, err := e.scratch("idle")
	if err != nil {
		return nil, err
	}
	defer remove()
	load := loadAverage()
	f, err := e.startDev(ctx, dir, "--rollup-age", "1s") // so that the end of the work is not waited for
	if err != nil {
		return nil, err
	}
	defer f.stop()
	t := target{floe: f, load: loadAverage}
	l := e.newLoad(t, "one", 1, kib)
	l.warmup, l.records, l.rate = 0, 1000, 1000
	_, out, err := t.produceRow(ctx, "idle: some records", l)
	if err != nil {
		return nil, err
	}
	if _, err := t.consumeRow(ctx, "idle: some records", l, out, 1); err != nil {
		return nil, err
	}
	if err := settled(ctx, f.metrics, e.plan.settle); err != nil {
		return nil, err
	}

	before, err := objectRequests(ctx, f.metrics)
	if err != nil {
		return nil, err
	}
	m := watch(f.process)
	if err := hold(ctx, e.plan.idle); err != nil {
		return nil, err
	}
	used, err := m.stop()
	if err != nil {
		return nil, err
	}
	after, err := objectRequests(ctx, f.metrics)
	if err != nil {
		return nil, err
	}
	load += " → " + loadAverage()
	memory := row{Scenario: "dev: idle with 1 topic, memory", PeakRSSMiB: used.peakRSS, Load: load, score: -used.peakRSS,
		Result: fmt.Sprintf("%.1f %% of a core", 100*used.serverCPU/e.plan.idle.Seconds())}
	memory.require("≤ 100 MiB", used.peakRSS <= 100)
	requests := row{Scenario: "dev: idle with 1 topic, object-store requests", Load: load, score: before - after,
		Result: fmt.Sprintf("%.0f in %v", after-before, e.plan.idle)}
	requests.require("0", after == before)
	return []row{memory, requests}, nil
}

// settleLimit is more than any work that is left after a second of production takes.
const settleLimit = time.Minute

// settled waits until no request was made for a while, so that what is measured next is
// idleness and not the end of work.
func settled(ctx context.Context, metrics string, quiet time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	last, since := -1.0, time.Now()
	return await(ctx, "the object store to be left alone", func() error {
		n, err := objectRequests(ctx, metrics)
		if err != nil {
			return err
		}
		if n != last {
			last, since = n, time.Now()
		}
		if time.Since(since) < quiet {
			return fmt.Errorf("%.0f requests, the last less than %v ago", n, quiet)
		}
		return nil
	})
}

// sumOf adds up all series of a counter.
func sumOf(lines *bufio.Scanner, name string) (sum float64, err error) {
	series := 0
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("metrics: %s: %w", name, err)
		}
		sum += v
		series++
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("metrics: %w", err)
	}
	if series == 0 {
		return 0, fmt.Errorf("metrics: no %s", name)
	}
	return sum, nil
}

// manyPartitions: a topic of ten thousand.
func manyPartitions(ctx context.Context, e *env) ([]row, error) {
	const many = 10_000
	dir, remove, err := e.scratch("partitions")
	if err != nil {
		return nil, err
	}
	defer remove()
	r := row{Scenario: "dev: 10,000 partitions created", Load: loadAverage()}
	f, err := e.startDev(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer f.stop()
	cl, err := kgo.NewClient(kgo.SeedBrokers(f.addr))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	m := watch(f.process)
	start := time.Now()
	err = createTopic(ctx, cl, "many", many)
	took := time.Since(start)
	if err == nil {
		err = hold(ctx, e.plan.settle) // what creation leaves to be done counts too
	}
	used, usageErr := m.stop()
	if errors.Join(err, usageErr) != nil {
		return nil, fmt.Errorf("%s: %w\n%s", r.Scenario, errors.Join(err, usageErr), f.logTail())
	}
	r.Load += " → " + loadAverage()
	r.PeakRSSMiB, r.score = used.peakRSS, -took.Seconds()
	r.Result = fmt.Sprintf("%.2f s until all have leaders", took.Seconds())
	r.require("≤ 10 s, ≤ 300 MiB", took <= 10*time.Second && used.peakRSS <= 300)

	// A partition that was never used may cost next to nothing: use each.
	t := target{floe: f, load: loadAverage}
	l := e.newLoad(t, "used", many, kib)
	l.warmup, l.records, l.inTurn = 0, 2*many, true
	each, err := t.verified(ctx, "dev: 10,000 more, two records in each", l)
	if err != nil {
		return []row{r}, err
	}
	return []row{r, each}, nil
}
