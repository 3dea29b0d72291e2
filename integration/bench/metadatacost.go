//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

var (
	metadataAgents     = []int{1, 3, 6}
	metadataPartitions = []int{10, 100, 1000, 10_000}
)

const (
	// metadataRate is how many records a second each partition gets: enough to keep it active.
	metadataRate = 1
	metadataSize = 100
	// metadataFor is how long a load is watched at least: some seconds, as flushes and appends
	// are less than one.
	metadataFor = 4 * time.Second
	// metadataFactor is how many times more writes 10,000 partitions may cost than 1,000, for
	// ten times the records: what is more than the shards can hold apart shares an append.
	metadataFactor = 3
	metadataShards = 64
)

// metadataCost: what etcd writes each second, by the number of active partitions and of agents.
func metadataCost(ctx context.Context, e *env) (rows []row, err error) {
	for _, n := range metadataAgents {
		more, err := e.metadataCostOf(ctx, n)
		rows = append(rows, more...)
		if err != nil {
			return rows, fmt.Errorf("%d agents: %w", n, err)
		}
	}
	return rows, nil
}

// metadataCostOf measures one cluster with more and more partitions.
func (e *env) metadataCostOf(ctx context.Context, agents int) (rows []row, err error) {
	dir, remove, err := e.scratch(fmt.Sprintf("metadata-%d", agents))
	if err != nil {
		return nil, err
	}
	defer remove()
	etcd, endpoint, err := e.startEtcd(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer etcd.stop()
	var fleet []*floe
	for i := range agents {
		home := filepath.Join(dir, fmt.Sprint(i)) // its log has the same name in each
		if err := os.Mkdir(home, 0o755); err != nil {
			return nil, err
		}
		f, err := e.startFloe(ctx, home, "agent", "--etcd", endpoint, "--cluster", "metadata",
			"--store", "file://"+filepath.Join(dir, "objects"), "--shards", fmt.Sprint(metadataShards), "--memory-budget", "256MiB", "--cache-size", "32MiB")
		if err != nil {
			return nil, err
		}
		defer f.stop()
		fleet = append(fleet, f)
	}
	idle := 0.0
	if idle, err = etcdWrites(ctx, endpoint, e.plan.settle); err != nil {
		return nil, err
	}
	before := 0.0
	for _, n := range metadataPartitions {
		t := target{fleet[0], []*process{etcd}, loadAverage}
		l := e.newLoad(t, fmt.Sprintf("active-%d", n), n, metadataSize)
		l.rate, l.inTurn, l.duration = float64(n*metadataRate), true, max(l.duration, metadataFor)
		r := row{Scenario: fmt.Sprintf("metadata: %s active partitions, %d agents", thousands(float64(n)), agents), Load: loadAverage()}
		writes, out, err := e.writesDuring(ctx, l, endpoint)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", r.Scenario, err)
		}
		r.Load += " → " + loadAverage()
		r.RecordsPerS, r.AckP50ms, r.AckP99ms, r.score = out.rate(), out.acks.percentile(50), out.acks.percentile(99), -writes
		r.Result = fmt.Sprintf("%.0f writes/s to etcd (%.1f for each of %d shards; %.1f without load)", writes, writes/metadataShards, metadataShards, idle)
		if n == metadataPartitions[len(metadataPartitions)-1] {
			r.require(fmt.Sprintf("≤ %d × those of a tenth of the partitions", metadataFactor), writes <= metadataFactor*before)
		}
		before = writes
		rows = append(rows, r)
	}
	return rows, nil
}

// writesDuring produces a load and returns what etcd wrote each second from the end of the
// warm-up to the last acknowledgement.
func (e *env) writesDuring(ctx context.Context, l load, endpoint string) (writes float64, out *produced, err error) {
	if err := create(ctx, l); err != nil {
		return 0, nil, err
	}
	type look struct {
		writes float64
		at     time.Time
		err    error
	}
	first := make(chan look, 1)
	out, err = produce(ctx, l, func() {
		w, err := etcdWritten(ctx, endpoint)
		first <- look{w, time.Now(), err}
	})
	if err != nil {
		return 0, nil, err
	}
	before := <-first // which was put there before the first record that counts
	after, err := etcdWritten(ctx, endpoint)
	if err = errors.Join(before.err, err); err != nil {
		return 0, nil, err
	}
	return (after - before.writes) / time.Since(before.at).Seconds(), out, nil
}

// etcdWritten returns how many writes etcd has committed: requests that went through its raft
// log, of whatever number of keys.
func etcdWritten(ctx context.Context, endpoint string) (float64, error) {
	return scrapeSum(ctx, "http://"+endpoint+"/metrics", "etcd_server_proposals_committed_total")
}

// etcdWrites returns how many writes a second etcd commits for d.
func etcdWrites(ctx context.Context, endpoint string, d time.Duration) (float64, error) {
	first, err := etcdWritten(ctx, endpoint)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := hold(ctx, d); err != nil {
		return 0, err
	}
	last, err := etcdWritten(ctx, endpoint)
	return (last - first) / time.Since(start).Seconds(), err
}
