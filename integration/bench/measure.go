//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	partitions = 6
	smallValue = 100
	kib        = 1024
)

// target is a Floe process under load and what it depends on.
type target struct {
	*floe
	others []*process
	load   func() string // the machine's, now
}

// newLoad describes what is produced to a fresh topic.
func (e *env) newLoad(t target, topic string, partitions, size int) load {
	e.runs++
	return load{
		brokers: t.addr, topic: topic, partitions: partitions, size: size, linger: defaultLinger,
		warmup: e.plan.warmup, duration: e.plan.measure, run: e.seed + e.runs,
	}
}

// create makes the load's topic.
func create(ctx context.Context, l load) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(l.brokers))
	if err != nil {
		return err
	}
	defer cl.Close()
	return createTopic(ctx, cl, l.topic, l.partitions)
}

// endOffsets returns where the load's topic ends.
func endOffsets(ctx context.Context, l load) (map[int32]int64, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(l.brokers))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	return ends(ctx, cl, l.topic, l.partitions)
}

// produceRow produces the load to a fresh topic and measures that.
func (t target) produceRow(ctx context.Context, name string, l load) (row, *produced, error) {
	r := row{Scenario: name, Load: t.load()}
	if err := create(ctx, l); err != nil {
		return r, nil, fmt.Errorf("%s: %w", name, err)
	}
	m := watch(t.process, t.others...)
	out, err := produce(ctx, l, m.reset)
	used, usageErr := m.stop()
	if err := errors.Join(err, usageErr); err != nil {
		return r, nil, fmt.Errorf("%s: %w\n%s", name, err, t.logTail())
	}
	r.Load += " → " + t.load()
	r.RecordsPerS, r.MiBPerS = out.rate(), out.mibPerSecond(l)
	r.AckP50ms, r.AckP99ms = out.acks.percentile(50), out.acks.percentile(99)
	r.use(used, out.gib(l))
	r.score = r.RecordsPerS
	return r, out, nil
}

// use enters what the servers used for so many GiB.
func (r *row) use(u usage, gib float64) {
	r.PeakRSSMiB = u.peakRSS
	if gib > 0 {
		r.CPUPerGiB, r.OtherCPUPerGiB = u.serverCPU/gib, u.otherCPU/gib
	}
}

// consumeRow reads a produced load as often as passes says, verifies every pass and
// measures all of them together.
func (t target) consumeRow(ctx context.Context, name string, l load, was *produced, passes int) (row, error) {
	r := row{Scenario: name, Load: t.load()}
	to, err := endOffsets(ctx, l)
	if err != nil {
		return r, fmt.Errorf("%s: %w", name, err)
	}
	m := watch(t.process, t.others...)
	var records, seconds float64
	for range passes {
		var out *consumed
		if out, err = consumeAll(ctx, l, to); err != nil {
			break
		}
		if err = out.checks.judge(was.acked).fault(); err != nil {
			break
		}
		records += float64(out.records)
		seconds += out.seconds
	}
	used, usageErr := m.stop()
	if err := errors.Join(err, usageErr); err != nil {
		return r, fmt.Errorf("%s: %w\n%s", name, err, t.logTail())
	}
	r.Load += " → " + t.load()
	r.RecordsPerS = records / seconds
	r.MiBPerS = r.RecordsPerS * float64(l.size) / (1 << 20)
	r.use(used, records*float64(l.size)/(1<<30))
	r.score = r.RecordsPerS
	return r, nil
}

// latencyRow produces at a steady rate and reads at the same time.
func (t target) latencyRow(ctx context.Context, name string, l load) (row, error) {
	r, _, err := t.tailedRow(ctx, name, l)
	return r, err
}

// tailedRow is latencyRow for those who want to know what was produced, too.
func (t target) tailedRow(ctx context.Context, name string, l load) (row, *produced, error) {
	r := row{Scenario: name, Load: t.load()}
	if err := create(ctx, l); err != nil {
		return r, nil, fmt.Errorf("%s: %w", name, err)
	}
	c, err := newConsumer(l)
	if err != nil {
		return r, nil, err
	}
	defer c.cl.Close()
	c.from = time.Now().Add(l.warmup)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		out *consumed
		err error
	}
	read := make(chan result, 1)
	go func() { // ends with ctx, or when it has read all; its result is always awaited
		out, err := c.run(ctx)
		read <- result{out, err}
	}()

	m := watch(t.process, t.others...)
	out, err := produce(ctx, l, m.reset)
	if err == nil {
		var to map[int32]int64
		if to, err = endOffsets(ctx, l); err == nil {
			c.ends.Store(&to)
		}
	}
	if err != nil {
		cancel()
	}
	got := <-read
	used, usageErr := m.stop()
	if err = errors.Join(err, got.err, usageErr); err == nil {
		err = got.out.checks.judge(out.acked).fault()
	}
	if err != nil {
		return r, nil, fmt.Errorf("%s: %w\n%s", name, err, t.logTail())
	}
	r.Load += " → " + t.load()
	r.RecordsPerS, r.MiBPerS = out.rate(), out.mibPerSecond(l)
	r.AckP50ms, r.AckP99ms = out.acks.percentile(50), out.acks.percentile(99)
	r.E2EP50ms, r.E2EP99ms = got.out.e2e.percentile(50), got.out.e2e.percentile(99)
	r.use(used, out.gib(l))
	r.score = -r.AckP50ms
	return r, out, nil
}
