//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/floelog/floe/cmd/floe/bill"
)

const (
	billPartitions = 48
	// billDelay is what the store adds to every PUT: how many flushes there are depends on how
	// long one takes, and those of the bill should be as many as on S3.
	billDelay = 50 * time.Millisecond
	// billMergeAge replaces the default, a minute, so that a run of less than a minute has merges in
	// it. At the default there are fewer.
	billMergeAge = "5s"
)

// billRates are in MiB/s.
var billRates = []int{1, 10, 100}

// costs: what the object store would charge for, at three rates.
func costs(ctx context.Context, e *env) (rows []row, err error) {
	dir, remove, err := e.scratch("bill")
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
	p, err := startProxy(addr, delays{put: billDelay})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	b := bucketRun{e: e, dir: dir, minio: minio, etcd: member, endpoint: endpoint}
	for _, rate := range billRates {
		if err := b.billed(ctx, p.addr, rate); err != nil {
			return b.rows, err
		}
	}
	return b.rows, nil
}

// billed keeps up a rate while a consumer reads at the tail; then an agent without anything in
// its cache has all of it read from the start.
func (b *bucketRun) billed(ctx context.Context, addr string, rate int) error {
	cluster, name := fmt.Sprintf("bill-%d", rate), fmt.Sprintf("bill: %d MiB/s", rate)
	var l load
	var out *produced
	err := b.agent(ctx, cluster, addr, func(t target) (err error) {
		l = b.e.newLoad(t, "billed", billPartitions, kib)
		l.warmup, l.records, l.rate, l.inTurn = 0, int64(float64(rate<<20/kib)*b.e.plan.bill.Seconds()), float64(rate<<20/kib), true
		before, err := scrapeBill(ctx, t.metrics)
		if err != nil {
			return err
		}
		var r row
		if r, out, err = t.tailedRow(ctx, name+" written, read at the tail", l); err != nil {
			return err
		}
		after, err := scrapeBill(ctx, t.metrics)
		if err != nil {
			return err
		}
		written := charge(after.Since(before, b.e.plan.bill), out.gib(l)).of(writing)
		r.Result, r.score = written.String()+fmt.Sprintf("; %.2f bytes put for each", written.amplification()), -written.dollars
		b.rows = append(b.rows, r)
		return nil
	}, "--merge-age", billMergeAge)
	if err != nil {
		return err
	}
	return b.agent(ctx, cluster, addr, func(t target) error {
		l.brokers = t.addr
		r, err := t.consumeRow(ctx, name+", read from the start", l, out, 1)
		if err != nil {
			return err
		}
		counts, err := scrapeBill(ctx, t.metrics)
		if err != nil {
			return err
		}
		r.Result = charge(counts, out.gib(l)).of(fetching).String()
		b.rows = append(b.rows, r)
		return nil
	}, "--merge-age", "1h")
}

// fetching is what consumers' reads are for.
func fetching(purpose string) bool { return purpose == "fetch" }

// writing is everything but sweeps: there is one every gc-interval, however much is written, so
// that a short run with one in it says nothing of a GiB's share.
func writing(purpose string) bool { return purpose != "sweep" }

// charged is what is paid for each GiB of records.
type charged struct {
	counts  bill.Counts
	gib     float64
	dollars float64 // for requests, by the prices that floe cost has
}

func charge(c bill.Counts, gib float64) charged {
	of := bill.Of(c, bill.DefaultPrices())
	months := float64(bill.Month) / float64(max(c.Over, time.Second))
	return charged{c, gib, (of.Requests + of.Transfer) / months / gib}
}

// of leaves out what was asked for other purposes.
func (c charged) of(wanted func(purpose string) bool) charged {
	out := bill.New()
	out.Over = c.counts.Over
	for k, n := range c.counts.Requests {
		if wanted(k.Purpose) {
			out.Requests[k], out.Bytes[k] = n, c.counts.Bytes[k]
		}
	}
	return charge(out, c.gib)
}

// amplification is how many bytes were put for each byte of records.
func (c charged) amplification() float64 {
	var put float64
	for k, n := range c.counts.Bytes {
		if k.Kind == "put" {
			put += n
		}
	}
	return put / (c.gib * (1 << 30))
}

// String tells requests for each GiB by kind and purpose, the dearest first.
func (c charged) String() string {
	lines := bill.Of(c.counts, bill.DefaultPrices()).Lines
	var kinds []string
	parts := map[string][]string{}
	total := map[string]float64{}
	for _, l := range lines {
		n := c.counts.Requests[bill.Key{Kind: l.Kind, Purpose: l.Purpose}] / c.gib
		if !slices.Contains(kinds, l.Kind) {
			kinds = append(kinds, l.Kind)
		}
		total[l.Kind] += n
		parts[l.Kind] = append(parts[l.Kind], fmt.Sprintf("%s %s", l.Purpose, thousands(n)))
	}
	var text []string
	for _, k := range kinds {
		text = append(text, fmt.Sprintf("%s %s/GiB (%s)", thousands(total[k]), strings.ToUpper(k), strings.Join(parts[k], ", ")))
	}
	if len(text) == 0 {
		return "no request"
	}
	return fmt.Sprintf("%s; $%.5f/GiB", strings.Join(text, ", "), c.dollars)
}
