//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	replayTopic      = "history"
	replayPartitions = 6
	// replayFactor is how many times as long the tail's p99 may be beside a replay.
	replayFactor = 1.5
	// replayNice is the priority of the process that replays: the machine's cores are for the
	// agent, as if the other consumer were on a machine of its own.
	replayNice = 19
)

// replays: a light, steady load, without and with another consumer beside it that reads
// several GiB from the start, again and again.
func replays(ctx context.Context, e *env) (rows []row, err error) {
	dir, remove, err := e.scratch("replay")
	if err != nil {
		return nil, err
	}
	defer remove()
	f, err := e.startDev(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer f.stop()
	t := target{floe: f, load: loadAverage}
	l := e.newLoad(t, replayTopic, replayPartitions, kib)
	l.warmup, l.records = 0, e.plan.replay/kib
	if _, _, err := t.produceRow(ctx, "replay: fill", l); err != nil {
		return nil, err
	}
	if err := settled(ctx, f.metrics, e.plan.settle); err != nil { // merging is not what is measured
		return nil, err
	}
	if err := warm(filepath.Join(dir, "data", "store")); err != nil {
		return nil, err
	}
	for i := range e.plan.runs { // in turn, for what they are compared by drifts
		light := func(topic string) load {
			l := e.newLoad(t, fmt.Sprintf("%s-%d", topic, i), partitions, kib)
			l.rate, l.linger, l.duration = 1000, 0, e.plan.replayFor
			return l
		}
		alone, err := t.latencyRow(ctx, "dev: 1,000 records/s, no replay", light("alone"))
		if err != nil {
			return rows, err
		}
		beside, err := t.besideReplay(ctx, e, dir, light("beside"))
		if err != nil {
			return rows, err
		}
		beside.against(beside.E2EP99ms, alone.E2EP99ms, "ms, e2e p99 without")
		beside.score = -beside.Ratio
		beside.require(fmt.Sprintf("e2e p99 ≤ %.1f times", replayFactor), beside.Ratio <= replayFactor)
		rows = append(rows, alone, beside)
	}
	return rows, nil
}

// warm has the kernel read all files in a directory: etcd's log is on the same disk, as the
// objects of a store elsewhere are not, and a replay must not make it wait for that.
func warm(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(io.Discard, f)
		return err
	})
}

// besideReplay is latencyRow while another process reads all of the history.
func (t target) besideReplay(ctx context.Context, e *env, dir string, l load) (row, error) {
	self, err := os.Executable()
	if err != nil {
		return row{}, err
	}
	other, err := start(ctx, dir, "replay", nil, "", self, "-replay", t.addr)
	if err != nil {
		return row{}, err
	}
	defer other.kill()
	before, err := scrapeBill(ctx, t.metrics)
	if err != nil {
		return row{}, err
	}
	begin := time.Now()
	r, err := t.latencyRow(ctx, fmt.Sprintf("dev: 1,000 records/s beside a replay of %.1f GiB", float64(e.plan.replay)/(1<<30)), l)
	if err != nil {
		return r, err
	}
	took := time.Since(begin).Seconds()
	after, err := scrapeBill(ctx, t.metrics)
	if err != nil {
		return r, err
	}
	read := after.Topics[replayTopic].Out - before.Topics[replayTopic].Out
	select {
	case <-other.exited:
		return r, fmt.Errorf("the replay ended:\n%s", other.logTail())
	default:
	}
	if read == 0 {
		return r, errors.New("nothing was replayed")
	}
	r.Result = fmt.Sprintf("%.1f GiB replayed at %.0f MiB/s", read/(1<<30), read/(1<<20)/took)
	return r, nil
}

// replayUntil reads the history from the start, again and again, until ctx ends. What it reads
// is verified elsewhere.
func replayUntil(ctx context.Context, addr string) error {
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, replayNice); err != nil {
		return fmt.Errorf("lower the priority: %w", err)
	}
	l := load{brokers: addr, topic: replayTopic, partitions: replayPartitions, size: kib}
	to, err := endOffsets(ctx, l)
	if err != nil {
		return err
	}
	fmt.Println("replay: ready")
	for ctx.Err() == nil {
		if _, err := consumeAll(ctx, l, to); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}
