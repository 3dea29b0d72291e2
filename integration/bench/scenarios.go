//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// The rows that others refer to.
const (
	memoryProduce = "agent, memory store: 1 KiB, produce"
	memoryConsume = "agent, memory store: 1 KiB, consume"
)

// group is a set of rows that are measured together, in one sequence.
type group struct {
	name string
	once bool // not worth repeating
	run  func(ctx context.Context, e *env) ([]row, error)
}

var groups = []group{
	{"dev-1k", false, devKiB},
	{"dev-100", false, devSmall},
	{"latency", false, devLatency},
	{"minio", false, agentMinIO},
	{"memory", false, agentMemory},
	{"coordination", false, coordination},
	{"idle", true, idle},
	{"partitions", true, manyPartitions},
	{"large", true, largeCluster},
	{"scale", true, scale},
	{"bill", true, costs},
	{"catchup", true, catchup},
	{"replay", true, replays},
	{"etcd", true, etcdSize},
	{"metadata", true, metadataCost},
}

// devKiB: floe dev on the disk, against raw files on the same disk.
func devKiB(ctx context.Context, e *env) (rows []row, err error) {
	dir, remove, err := e.scratch("dev-1k")
	if err != nil {
		return nil, err
	}
	defer remove()
	load := loadAverage()
	raw, direct, err := e.rawFiles(ctx)
	if err != nil {
		return nil, err
	}
	load += " → " + loadAverage()
	rows = append(rows,
		row{Scenario: "raw: 8 MiB files, fsync", MiBPerS: raw, Load: load, score: raw},
		row{Scenario: "raw: 8 MiB files, O_DIRECT and fsync", MiBPerS: direct, Load: load, score: direct})

	f, err := e.startDev(ctx, dir)
	if err != nil {
		return rows, err
	}
	defer f.stop()
	t := target{floe: f, load: loadAverage}

	l := e.newLoad(t, "cached", partitions, kib)
	l.warmup, l.records = 0, e.plan.cached/kib
	_, out, err := t.produceRow(ctx, "fill the cache", l)
	if err != nil {
		return rows, err
	}
	cached, err := t.consumeRow(ctx, "dev: 1 KiB, consume from the cache", l, out, e.plan.passes)
	if err != nil {
		return rows, err
	}
	cached.require("≥ 600 MiB/s", cached.MiBPerS >= 600)

	l = e.newLoad(t, "full", partitions, kib)
	in, out, err := t.produceRow(ctx, "dev: 1 KiB, produce", l)
	if err != nil {
		return rows, err
	}
	in.against(in.MiBPerS, raw, "MiB/s, raw files")
	in.require("≥ 85 % of raw files", in.Ratio >= 0.85)
	beyond, err := t.consumeRow(ctx, "dev: 1 KiB, consume beyond the cache", l, out, 1)
	if err != nil {
		return rows, err
	}
	return append(rows, in, cached, beyond), nil
}

// rawFiles measures the disk, in files that are gone afterwards.
func (e *env) rawFiles(ctx context.Context) (buffered, direct float64, err error) {
	dir, remove, err := e.scratch("raw")
	if err != nil {
		return 0, 0, err
	}
	defer remove()
	if buffered, err = fileCeiling(ctx, dir, e.plan.ceiling, false); err != nil {
		return 0, 0, fmt.Errorf("raw files: %w", err)
	}
	if direct, err = fileCeiling(ctx, dir, e.plan.ceiling, true); err != nil {
		e.say("no direct writes here: %v", err) // as on tmpfs
		direct, err = 0, nil
	}
	return buffered, direct, err
}

// devSmall: records of 100 bytes, against a client whose server keeps nothing.
func devSmall(ctx context.Context, e *env) (rows []row, err error) {
	dir, remove, err := e.scratch("dev-100")
	if err != nil {
		return nil, err
	}
	defer remove()
	ceiling, rows, err := e.clientRow(ctx, "raw: client against a server that discards, 100 B", smallValue)
	if err != nil {
		return rows, err
	}
	f, err := e.startDev(ctx, dir)
	if err != nil {
		return rows, err
	}
	defer f.stop()
	t := target{floe: f, load: loadAverage}
	l := e.newLoad(t, "small", partitions, smallValue)
	in, out, err := t.produceRow(ctx, "dev: 100 B, produce", l)
	if err != nil {
		return rows, err
	}
	in.against(in.RecordsPerS, ceiling, "records/s, client alone")
	in.require("≥ 1,200,000 records/s", in.RecordsPerS >= 1_200_000)
	back, err := t.consumeRow(ctx, "dev: 100 B, consume", l, out, 1)
	if err != nil {
		return rows, err
	}
	back.require("≥ 1,500,000 records/s", back.RecordsPerS >= 1_500_000)
	return append(rows, in, back), nil
}

// clientRow measures the load generator itself.
func (e *env) clientRow(ctx context.Context, name string, size int) (float64, []row, error) {
	r := row{Scenario: name, Load: loadAverage()}
	rate, err := e.clientCeiling(ctx, size)
	if err != nil {
		return 0, nil, fmt.Errorf("%s: %w", name, err)
	}
	r.Load += " → " + loadAverage()
	r.RecordsPerS, r.MiBPerS, r.score = rate, rate*float64(size)/(1<<20), rate
	return rate, []row{r}, nil
}

// devLatency: a light, steady load, against one transaction of etcd on the same disk.
func devLatency(ctx context.Context, e *env) (rows []row, err error) {
	dir, remove, err := e.scratch("latency")
	if err != nil {
		return nil, err
	}
	defer remove()
	raw := row{Scenario: "raw: etcd transaction like an append, one at a time", Load: loadAverage()}
	member, endpoint, err := e.startEtcd(ctx, dir)
	if err != nil {
		return nil, err
	}
	ms, err := etcdCeiling(ctx, endpoint, e.plan.ceiling)
	member.kill()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", raw.Scenario, err)
	}
	raw.Load += " → " + loadAverage()
	raw.AckP50ms, raw.score = ms, -ms

	f, err := e.startDev(ctx, dir)
	if err != nil {
		return []row{raw}, err
	}
	defer f.stop()
	t := target{floe: f, load: loadAverage}
	l := e.newLoad(t, "light", partitions, kib)
	l.rate, l.linger, l.duration = 1000, 0, e.plan.latency
	r, err := t.latencyRow(ctx, "dev: 1 KiB, 1,000 records/s, linger 0", l)
	if err != nil {
		return []row{raw}, err
	}
	r.against(r.AckP50ms, ms, "ms, etcd transaction")
	r.require("ack p50 ≤ 2 ms, p99 ≤ 10 ms; e2e p50 ≤ 3 ms", r.AckP50ms <= 2 && r.AckP99ms <= 10 && r.E2EP50ms <= 3)
	return []row{raw, r}, nil
}

// agentMemory: the path without a disk or a network store.
func agentMemory(ctx context.Context, e *env) (rows []row, err error) {
	dir, remove, err := e.scratch("memory")
	if err != nil {
		return nil, err
	}
	defer remove()
	ceiling, rows, err := e.clientRow(ctx, "raw: client against a server that discards, 1 KiB", kib)
	if err != nil {
		return rows, err
	}
	member, endpoint, err := e.startEtcd(ctx, dir)
	if err != nil {
		return rows, err
	}
	defer member.stop()
	f, err := e.startFloe(ctx, dir, "agent", "--etcd", endpoint, "--cluster", "memory", "--store", "memory:")
	if err != nil {
		return rows, err
	}
	defer f.stop()
	t := target{f, []*process{member}, loadAverage}
	l := e.newLoad(t, "full", partitions, kib)
	in, out, err := t.produceRow(ctx, memoryProduce, l)
	if err != nil {
		return rows, err
	}
	in.against(in.RecordsPerS, ceiling, "records/s, client alone")
	in.require("≥ 500 MiB/s", in.MiBPerS >= 500)
	back, err := t.consumeRow(ctx, memoryConsume, l, out, 1)
	if err != nil {
		return rows, err
	}
	return append(rows, in, back), nil
}

// agentMinIO: an agent on MinIO and etcd, against raw PUTs, then with slow PUTs.
func agentMinIO(ctx context.Context, e *env) (rows []row, err error) {
	dir, remove, err := e.scratch("minio")
	if err != nil {
		return nil, err
	}
	defer remove()
	minio, addr, err := e.startMinIO(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer minio.stop()
	member, endpoint, err := e.startEtcd(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer member.stop()
	b := bucketRun{e: e, dir: dir, minio: minio, etcd: member, endpoint: endpoint}
	if err := b.direct(ctx, addr); err != nil {
		return b.rows, err
	}
	return b.rows, b.slow(ctx, addr)
}

// bucketRun gathers the rows of one MinIO.
type bucketRun struct {
	e           *env
	dir         string
	minio, etcd *process
	endpoint    string
	rows        []row
}

// agent runs f with an agent of a cluster of its own, on the store at addr.
func (b *bucketRun) agent(ctx context.Context, cluster, addr string, f func(target) error, args ...string) error {
	args = append([]string{"--etcd", b.endpoint, "--cluster", cluster, "--store", b.e.storeURL(addr, cluster)}, args...)
	p, err := b.e.startFloe(ctx, b.dir, "agent", args...)
	if err != nil {
		return err
	}
	defer p.stop()
	return f(target{p, []*process{b.minio, b.etcd}, loadAverage})
}

// direct: nothing between agent and store.
func (b *bucketRun) direct(ctx context.Context, addr string) error {
	store, err := b.e.openStore(ctx, addr, "raw")
	if err != nil {
		return err
	}
	raw := row{Scenario: "raw: 8 MiB PUTs to MinIO", Load: loadAverage()}
	if raw.MiBPerS, err = putCeiling(ctx, store, b.e.plan.ceiling); err != nil {
		return fmt.Errorf("%s: %w", raw.Scenario, err)
	}
	raw.Load += " → " + loadAverage()
	raw.score = raw.MiBPerS
	b.rows = append(b.rows, raw)
	return b.agent(ctx, "direct", addr, func(t target) error {
		l := b.e.newLoad(t, "full", partitions, kib)
		in, out, err := t.produceRow(ctx, "agent, MinIO: 1 KiB, produce", l)
		if err != nil {
			return err
		}
		in.against(in.MiBPerS, raw.MiBPerS, "MiB/s, raw PUTs")
		in.require("≥ 85 % of raw PUTs", in.Ratio >= 0.85)
		back, err := t.consumeRow(ctx, "agent, MinIO: 1 KiB, consume", l, out, 1)
		if err != nil {
			return err
		}
		b.rows = append(b.rows, in, back)
		return nil
	})
}

// putDelay is what the slow store adds to every PUT.
const putDelay = 100 * time.Millisecond

// slow: the same through a proxy, without and with a delay. Both go through it, for it
// needs a share of the machine itself.
func (b *bucketRun) slow(ctx context.Context, addr string) error {
	var unhindered float64
	for _, delay := range []time.Duration{0, putDelay} {
		p, err := startProxy(addr, delays{put: delay})
		if err != nil {
			return err
		}
		err = b.agent(ctx, fmt.Sprintf("delay-%d", delay.Milliseconds()), p.addr, func(t target) error {
			l := b.e.newLoad(t, "full", partitions, kib)
			in, err := t.verified(ctx, fmt.Sprintf("agent, MinIO, PUTs +%d ms: 1 KiB, produce", delay.Milliseconds()), l)
			if err != nil {
				return err
			}
			if delay == 0 {
				unhindered = in.MiBPerS
				b.rows = append(b.rows, in)
				return nil
			}
			in.against(in.MiBPerS, unhindered, "MiB/s, with +0 ms")
			in.require("≥ 80 % of +0 ms", in.Ratio >= 0.8)
			b.rows = append(b.rows, in)
			return b.onePartition(ctx, t)
		})
		if err = errors.Join(err, p.stop()); err != nil {
			return err
		}
	}
	return nil
}

// manyInFlight is how many requests of a connection an agent takes at the same time.
const manyInFlight = 64

// onePartition: one producer, whose throughput is what it may have in flight, divided by
// the time to an acknowledgement. An idempotent producer may have five requests in flight,
// 5 MB here: with PUTs of 100 ms and more it cannot reach 50 MB/s at any server. So the
// target is for a plain producer that may have as many in flight as an agent takes.
func (b *bucketRun) onePartition(ctx context.Context, t target) error {
	most := 5.0 * maxBatchBytes / (1 << 20) / putDelay.Seconds()
	l := b.e.newLoad(t, "one-idempotent", 1, kib)
	five, err := t.verified(ctx, "agent, MinIO, PUTs +100 ms: 1 partition, idempotent", l)
	if err != nil {
		return err
	}
	five.against(five.MiBPerS, most, "MiB/s, 5 requests per 100 ms")

	l = b.e.newLoad(t, "one-plain", 1, kib)
	l.inflight = manyInFlight
	plain, err := t.verified(ctx, "agent, MinIO, PUTs +100 ms: 1 partition, 64 in flight", l)
	if err != nil {
		return err
	}
	plain.require("≥ 65 MB/s (62 MiB/s)", plain.MiBPerS*(1<<20) >= 65e6)
	b.rows = append(b.rows, five, plain)
	return nil
}

// verified produces a load and reads it back, of which only the first is a row.
func (t target) verified(ctx context.Context, name string, l load) (row, error) {
	in, out, err := t.produceRow(ctx, name, l)
	if err != nil {
		return in, err
	}
	_, err = t.consumeRow(ctx, name+" (read back)", l, out, 1)
	return in, err
}
