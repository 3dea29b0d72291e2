//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	perTopic      = 1000 // partitions of each topic of a large cluster
	recordsOfEach = 3    // in every partition of it
	fillers       = 4    // clients that fill topics side by side
	largeStart    = 10 * time.Second
	largeMemory   = 1024 // MiB
)

// largeCluster: a hundred thousand partitions that are in use, and an agent that starts on them.
func largeCluster(ctx context.Context, e *env) (rows []row, err error) {
	dir, remove, err := e.scratch("large")
	if err != nil {
		return nil, err
	}
	defer remove()
	f, err := e.startDev(ctx, dir)
	if err != nil {
		return nil, err
	}
	filled, err := e.fillTopics(ctx, f)
	f.stop()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", filled.Scenario, err, f.logTail())
	}
	again, err := e.startLarge(ctx, dir)
	return []row{filled, again}, err
}

// fillTopics makes the topics and puts some records into each partition.
func (e *env) fillTopics(ctx context.Context, f *floe) (row, error) {
	all := e.plan.large * perTopic
	r := row{Scenario: fmt.Sprintf("dev: %s partitions in %d topics, %d records in each", thousands(float64(all)), e.plan.large, recordsOfEach), Load: loadAverage()}
	cl, err := kgo.NewClient(kgo.SeedBrokers(f.addr))
	if err != nil {
		return r, err
	}
	defer cl.Close()
	m := watch(f.process)
	start := time.Now()
	for i := 0; i < e.plan.large && err == nil; i++ {
		err = createTopic(ctx, cl, largeTopic(i), perTopic)
	}
	created := time.Since(start)
	start = time.Now()
	if err == nil {
		err = e.fillAll(ctx, f)
	}
	r.RecordsPerS = float64(all*recordsOfEach) / time.Since(start).Seconds()
	if err == nil {
		err = hold(ctx, e.plan.settle) // what is left to be done counts too
	}
	used, usageErr := m.stop()
	r.Load += " → " + loadAverage()
	r.PeakRSSMiB, r.score = used.peakRSS, -used.peakRSS
	r.Result = fmt.Sprintf("created in %.2f s", created.Seconds())
	r.require(fmt.Sprintf("≤ %d MiB", largeMemory), used.peakRSS <= largeMemory)
	return r, errors.Join(err, usageErr)
}

func largeTopic(i int) string { return fmt.Sprintf("large-%03d", i) }

// fillAll fills every topic with a client of its own, several at a time.
func (e *env) fillAll(ctx context.Context, f *floe) error {
	loads := make(chan load, e.plan.large)
	for i := range e.plan.large {
		l := e.newLoad(target{floe: f}, largeTopic(i), perTopic, smallValue)
		l.warmup, l.records, l.inTurn = 0, perTopic*recordsOfEach, true
		loads <- l
	}
	close(loads)
	var wg sync.WaitGroup
	errs := make([]error, fillers)
	for i := range errs {
		wg.Go(func() {
			for l := range loads {
				if _, err := produce(ctx, l, func() {}); err != nil {
					errs[i] = fmt.Errorf("%s: %w", l.topic, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// startLarge starts an agent on the data, and leaves it alone.
func (e *env) startLarge(ctx context.Context, dir string) (row, error) {
	r := row{Scenario: fmt.Sprintf("dev: started again with %s partitions", thousands(float64(e.plan.large*perTopic))), Load: loadAverage()}
	start := time.Now()
	f, err := e.startDev(ctx, dir)
	if err != nil {
		return r, fmt.Errorf("%s: %w", r.Scenario, err)
	}
	defer f.stop()
	took := time.Since(start)
	if err := settled(ctx, f.metrics, e.plan.settle); err != nil {
		return r, fmt.Errorf("%s: %w", r.Scenario, err)
	}
	m := watch(f.process)
	err = hold(ctx, e.plan.settle)
	used, usageErr := m.stop()
	if err := errors.Join(err, usageErr); err != nil {
		return r, fmt.Errorf("%s: %w\n%s", r.Scenario, err, f.logTail())
	}
	r.Load += " → " + loadAverage()
	r.PeakRSSMiB, r.score = used.peakRSS, -took.Seconds()
	r.Result = fmt.Sprintf("ready after %.1f s; then %.1f %% of a core", took.Seconds(), 100*used.serverCPU/e.plan.settle.Seconds())
	r.require(fmt.Sprintf("≤ %v, ≤ %d MiB", largeStart, largeMemory), took <= largeStart && used.peakRSS <= largeMemory)
	return r, nil
}

// scaleRows are the Go benchmarks of states too large to be made by producing: what a reader
// of their output looks for, and what a row says of it.
var scaleRows = []struct{ benchmark, scenario string }{
	{"BenchmarkScaleOneTiB", "state: one partition of 1 TiB"},
	{"BenchmarkScaleManyPartitions", "state: 100,000 partitions of 5 extents"},
}

// scale runs the Go benchmarks of large states.
func scale(ctx context.Context, e *env) ([]row, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkScale", "-benchtime", "3x", "./metadata/shard")
	cmd.Dir = e.root
	before := loadAverage()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go test -bench Scale: %w\n%s", err, out)
	}
	var rows []row
	for _, s := range scaleRows {
		values, err := benchmarkOf(out, s.benchmark)
		if err != nil {
			return rows, err
		}
		rows = append(rows, row{Scenario: s.scenario, Load: before + " → " + loadAverage(), Result: strings.Join(values, ", ")})
	}
	return rows, nil
}

// benchmarkOf returns what a Go benchmark says of itself, value and unit, without its time.
func benchmarkOf(out []byte, name string) (values []string, err error) {
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || fields[0] != name && !strings.HasPrefix(fields[0], name+"-") {
			continue
		}
		for i := 2; i+1 < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if fields[i+1] == "ns/op" {
				continue
			}
			text := fields[i]
			if v >= 1000 {
				text = thousands(v)
			}
			values = append(values, text+" "+strings.ReplaceAll(fields[i+1], "-", " of "))
		}
		return values, nil
	}
	return nil, fmt.Errorf("%s: not in the output of go test", name)
}
