//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/etcd"
	"github.com/floelog/floe/tiering/objstore"
)

// objectSize is that of a full flush, and of what the ceilings write.
const objectSize = 8 << 20

// content returns bytes that do not compress, aligned for direct writes.
func content() []byte {
	const page = 4096
	b := make([]byte, objectSize+page)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (page - 1)
	b = b[skip : skip+objectSize]
	rng := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
	}
	return b
}

// best repeats write from each number of workers for d, and returns the best MiB/s.
func best(ctx context.Context, d time.Duration, workers []int, write func(ctx context.Context, n int64) error) (float64, error) {
	var top float64
	var n atomic.Int64
	for _, w := range workers {
		var written atomic.Int64
		var wg sync.WaitGroup
		errs := make([]error, w)
		start := time.Now()
		for i := range w {
			wg.Go(func() {
				for time.Since(start) < d && errs[i] == nil {
					if errs[i] = write(ctx, n.Add(1)); errs[i] == nil {
						written.Add(objectSize)
					}
				}
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return 0, err
		}
		top = max(top, float64(written.Load())/time.Since(start).Seconds()/(1<<20))
	}
	return top, nil
}

// fileCeiling writes fsynced files into dir, with the page cache or around it.
func fileCeiling(ctx context.Context, dir string, d time.Duration, direct bool) (mibPerSecond float64, err error) {
	flags := os.O_CREATE | os.O_EXCL | os.O_WRONLY
	if direct {
		flags |= unix.O_DIRECT
	}
	data := content()
	return best(ctx, d, []int{1, 2, 4}, func(ctx context.Context, n int64) (err error) {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("raw-%t-%d", direct, n)), flags, 0o644)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if _, err := f.Write(data); err != nil {
			return err
		}
		return f.Sync()
	})
}

// putCeiling puts objects through the driver that agents use.
func putCeiling(ctx context.Context, store objstore.Store, d time.Duration) (mibPerSecond float64, err error) {
	data := content()
	return best(ctx, d, []int{1, 2, 4, 8}, func(ctx context.Context, n int64) error {
		return store.Put(ctx, fmt.Sprintf("raw/%d", n), objstore.Body{data})
	})
}

// etcdCeiling returns the median latency, in milliseconds, of transactions like an
// append's, one at a time: compare a value, put two.
func etcdCeiling(ctx context.Context, endpoint string, d time.Duration) (ms float64, err error) {
	c, err := etcd.Open(ctx, etcd.Config{Endpoints: []string{endpoint}})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	const head = "/bench/head"
	record := content()[:1200] // one record of 1 KiB, and what is around it
	last := []byte("0")
	if _, err := c.Txn(ctx, metadata.Txn{Then: []metadata.Op{metadata.Put(head, last)}}); err != nil {
		return 0, err
	}
	var took histogram
	for start, n := time.Now(), 1; time.Since(start) < d; n++ {
		next := fmt.Appendf(nil, "%d", n)
		begin := time.Now()
		res, err := c.Txn(ctx, metadata.Txn{
			If:   []metadata.Condition{metadata.Equals(head, last)},
			Then: []metadata.Op{metadata.Put(head, next), metadata.Put(fmt.Sprintf("/bench/journal/%d", n), record)},
		})
		if err != nil {
			return 0, err
		}
		if !res.Succeeded {
			return 0, errors.New("etcd: somebody else wrote the benchmark's key")
		}
		took.add(time.Since(begin))
		last = next
	}
	return took.percentile(50), nil
}

// clientCeiling produces to a server that keeps nothing: what the client itself can do.
func (e *env) clientCeiling(ctx context.Context, size int) (recordsPerSecond float64, err error) {
	dir, remove, err := e.scratch("discard")
	if err != nil {
		return 0, err
	}
	defer remove()
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	p, err := start(ctx, dir, "discard", nil, "", self, "-discard")
	if err != nil {
		return 0, err
	}
	defer p.kill()
	addr, err := p.find(`ready on (\S+)`)
	if err != nil {
		return 0, err
	}
	out, err := produce(ctx, load{
		brokers: addr, topic: "discard", partitions: partitions, size: size, linger: defaultLinger,
		warmup: e.plan.warmup, duration: e.plan.measure, run: 1,
	}, func() {})
	if err != nil {
		return 0, err
	}
	return out.rate(), nil
}
