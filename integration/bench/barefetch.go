//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// bareConnections share the partitions of a bare fetch between them: as many as the cores that
// every figure here is for.
const bareConnections = 2

// bareFetch reads what bare GETs read, by the bytes, through the protocol: whole batches, of which
// only the offsets are looked at. It is to GETs what a client is to nobody: a consumer also takes
// every record out of its batch, which costs as much as all that the agent does.
type bareFetch struct {
	topic   string
	ends    map[int32]int64
	records atomic.Int64
}

// run reads the topic from the start to its ends, and returns how long that took.
func (f *bareFetch) run(ctx context.Context, addr string) (time.Duration, error) {
	shares := make([]map[int32]int64, bareConnections)
	for p, end := range f.ends {
		i := int(p) % len(shares)
		if shares[i] == nil {
			shares[i] = map[int32]int64{}
		}
		shares[i][p] = end
	}
	start := time.Now()
	errs := make([]error, len(shares))
	var wg sync.WaitGroup
	for i, share := range shares {
		wg.Go(func() { errs[i] = f.connection(ctx, addr, share) })
	}
	wg.Wait()
	return time.Since(start), errors.Join(errs...)
}

// connection reads partitions up to their ends over one connection.
func (f *bareFetch) connection(ctx context.Context, addr string, ends map[int32]int64) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	at := map[int32]int64{}
	format := kmsg.NewRequestFormatter(kmsg.FormatterClientID("floe-bench"))
	var out, frame []byte
	for n := int32(0); ; n++ {
		req := f.request(at, ends)
		if req == nil {
			return nil
		}
		out = format.AppendRequest(out[:0], req, n)
		if _, err := c.Write(out); err != nil {
			return err
		}
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		if frame, err = readFrame(c, frame, n, resp); err != nil {
			return fmt.Errorf("bare fetch: %w", err)
		}
		if err := f.take(resp, at); err != nil {
			return fmt.Errorf("bare fetch: %w", err)
		}
	}
}

// request asks for what is left, as a consumer does; nil if nothing is.
func (f *bareFetch) request(at, ends map[int32]int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version = 12 // the last one that takes names
	req.MinBytes, req.MaxWaitMillis, req.MaxBytes = 1, 500, 50<<20
	t := kmsg.NewFetchRequestTopic()
	t.Topic = f.topic
	for _, p := range slices.Sorted(maps.Keys(ends)) {
		if at[p] >= ends[p] {
			continue
		}
		one := kmsg.NewFetchRequestTopicPartition()
		one.Partition, one.FetchOffset, one.PartitionMaxBytes = p, at[p], 1<<20
		t.Partitions = append(t.Partitions, one)
	}
	if len(t.Partitions) == 0 {
		return nil
	}
	req.Topics = append(req.Topics, t)
	return req
}

// readFrame reads the answer n into resp, which refers to the frame's bytes.
func readFrame(r io.Reader, frame []byte, n int32, resp *kmsg.FetchResponse) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return frame, err
	}
	frame = slices.Grow(frame[:0], int(binary.BigEndian.Uint32(size[:])))[:binary.BigEndian.Uint32(size[:])]
	if _, err := io.ReadFull(r, frame); err != nil {
		return frame, err
	}
	const header = 5 // correlation id, and no tags
	if len(frame) < header || int32(binary.BigEndian.Uint32(frame)) != n {
		return frame, errors.New("an answer to something else")
	}
	return frame, resp.ReadFrom(frame[header:])
}

// take goes over the batches of an answer: their offsets follow each other.
func (f *bareFetch) take(resp *kmsg.FetchResponse, at map[int32]int64) error {
	const batchHead = 61
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return err
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return fmt.Errorf("partition %d at %d: %w", p.Partition, at[p.Partition], err)
			}
			for b := p.RecordBatches; len(b) > 0; {
				if len(b) < batchHead || int(binary.BigEndian.Uint32(b[8:]))+12 > len(b) {
					return fmt.Errorf("partition %d: %d bytes of a batch", p.Partition, len(b))
				}
				base, delta := int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint32(b[23:]))
				next := at[p.Partition]
				if base > next || base+delta < next {
					return fmt.Errorf("partition %d: a batch of offsets %d to %d, want %d", p.Partition, base, base+delta, next)
				}
				f.records.Add(base + delta + 1 - next)
				at[p.Partition] = base + delta + 1
				b = b[int(binary.BigEndian.Uint32(b[8:]))+12:]
			}
		}
	}
	return nil
}

// bareRow measures a bare fetch of all that was produced.
func (t target) bareRow(ctx context.Context, name string, l load) (row, error) {
	r := row{Scenario: name, Load: t.load()}
	f := bareFetch{topic: l.topic}
	var err error
	if f.ends, err = endOffsets(ctx, l); err != nil {
		return r, fmt.Errorf("%s: %w", name, err)
	}
	m := watch(t.process, t.others...)
	took, err := f.run(ctx, t.addr)
	used, usageErr := m.stop()
	if err := errors.Join(err, usageErr); err != nil {
		return r, fmt.Errorf("%s: %w\n%s", name, err, t.logTail())
	}
	var want int64
	for _, end := range f.ends {
		want += end
	}
	if got := f.records.Load(); got != want {
		return r, fmt.Errorf("%s: %d records, want %d", name, got, want)
	}
	r.Load += " → " + t.load()
	r.RecordsPerS = float64(want) / took.Seconds()
	r.MiBPerS = r.RecordsPerS * float64(l.size) / (1 << 20)
	r.use(used, float64(want)*float64(l.size)/(1<<30))
	r.score = r.RecordsPerS
	return r, nil
}
