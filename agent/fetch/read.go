package fetch

import (
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/sync/errgroup"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
)

// reading is what one request reads in one lane.
type reading struct {
	lane      Lane
	due       []int     // partitions that have something to read, in order
	until     time.Time // nothing is begun after, but for the first batch
	available int       // bytes, as planned
	limit     int       // what Admit allowed; less than 0: it has not been asked
}

// read fills in the records, as far as the request's limit goes: the earlier partitions
// first, the first batch of the first one that has any whatever its size, so that a
// consumer can always make progress (KIP-74).
//
// What lies at the tail is read first, since it never waits for the lagging lane. The
// first partition of all, where it lags, has its share put aside: clients move those that
// gave them something to the end, so that each is the first at times.
func (r *Reader) read(ctx context.Context, req *Request, results []Result) {
	tail, lagging := r.due(req, results)
	tail.until = r.now().Add(readTime)
	lagging.until = tail.until
	left, aside := req.MaxBytes, 0
	if len(lagging.due) > 0 && (len(tail.due) == 0 || lagging.due[0] < tail.due[0]) {
		aside = min(req.Partitions[lagging.due[0]].MaxBytes, left)
	}
	taken := r.readLane(ctx, ctx, req, &tail, left-aside, aside == 0, results)
	if len(lagging.due) == 0 {
		return
	}
	patience := laggingPatience
	if len(tail.due) > 0 {
		patience = mixedPatience
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	taken += r.readLane(ctx, wait, req, &lagging, left-taken, taken == 0 || aside > 0, results)
	if taken == 0 && aside > 0 {
		r.readLane(ctx, ctx, req, &tail, left, true, results)
	}
}

// due finds out what there is to read, and in which lane.
func (r *Reader) due(req *Request, results []Result) (tail, lagging reading) {
	tail, lagging = reading{lane: Tail, limit: -1}, reading{lane: Lagging, limit: -1}
	for i := range req.Partitions {
		p, res := &req.Partitions[i], &results[i]
		if res.Code != 0 || p.Offset >= res.end(req.ReadCommitted) {
			continue
		}
		to := &tail
		if res.behind && !r.inMemory(p, req.ReadCommitted) {
			to = &lagging
		}
		if to.due == nil {
			to.due = make([]int, 0, len(req.Partitions)-i)
		}
		to.due = append(to.due, i)
		to.available += res.there
	}
	return tail, lagging
}

// inMemory reports whether all that a read needs is there without a GET.
func (r *Reader) inMemory(p *Partition, readCommitted bool) bool {
	var res Result
	at := r.lookFrom(p, &res)
	if res.Code != 0 || len(at.manifests) > 0 {
		return false
	}
	n, end := 0, res.end(readCommitted)
	for i := range at.extents {
		e := &at.extents[i]
		if n >= p.MaxBytes && i > 0 || e.Base >= end {
			break
		}
		if !e.IsHole() && !e.IsInline() && !r.cache.Has(cache.Range{Segment: e.Segment, Position: e.Position, Length: int(e.Length)}) {
			return false
		}
		n += int(e.Length)
	}
	return true
}

// readLane reads what is due in one lane, up to left bytes, and returns how many it read.
// Waiting for admission and for places ends with wait. If first, the first batch of all comes
// whatever its size.
func (r *Reader) readLane(ctx, wait context.Context, req *Request, lane *reading, left int, first bool, results []Result) (taken int) {
	if len(lane.due) == 0 || left <= 0 && !first {
		return 0
	}
	start := r.now()
	admitted := lane.admit(wait, req)
	if !admitted {
		if lane.lane == Lagging {
			r.observe.Lagged(r.now().Sub(start), false)
		}
		return 0
	}
	left = min(left, lane.limit) // even if it is all that was planned: more may have come since
	for due := lane.due; len(due) > 0 && (left > 0 || first); {
		n := wave(req, due, left)
		got := r.readWave(ctx, wait, req, lane, due[:n], left, first, results)
		first = first && got == 0
		left -= got
		taken += got
		due = due[n:]
	}
	for _, i := range lane.due {
		if !first || left <= 0 || len(lane.due) == 1 || wait.Err() != nil {
			break
		}
		// The first ones had nothing after all, and those behind them only larger batches.
		if results[i].Code == 0 {
			taken = r.readOne(ctx, wait, req, lane, i, left, true, results)
			first = taken == 0
		}
	}
	return taken
}

// admit asks for admission, once.
func (l *reading) admit(ctx context.Context, req *Request) bool {
	if l.limit < 0 {
		l.limit = req.MaxBytes
		if req.Admit != nil {
			limit, ok := req.Admit(ctx, l.lane, min(l.available, req.MaxBytes))
			if !ok {
				limit = 0
			}
			l.limit = limit
		}
	}
	return l.limit > 0 || req.Admit == nil
}

// wave returns how many of the partitions can be read side by side, because none of them can
// take what another may have; at least 1.
func wave(req *Request, due []int, left int) int {
	sum := 0
	for n, i := range due {
		if sum += req.Partitions[i].MaxBytes; sum > left && n > 0 {
			return n
		}
	}
	return len(due)
}

// readWave reads partitions side by side.
func (r *Reader) readWave(ctx, wait context.Context, req *Request, lane *reading, due []int, left int, first bool, results []Result) (taken int) {
	if len(due) == 1 {
		return r.readOne(ctx, wait, req, lane, due[0], left, first, results)
	}
	var g errgroup.Group
	g.SetLimit(readsAtOnce)
	for n, i := range due {
		g.Go(func() error {
			r.readOne(ctx, wait, req, lane, i, left, first && n == 0, results)
			return nil
		})
	}
	_ = g.Wait() // the functions return nil
	for _, i := range due {
		taken += results[i].Bytes
	}
	return taken
}

// readOne reads one partition, up to left bytes.
func (r *Reader) readOne(ctx, wait context.Context, req *Request, lane *reading, i, left int, oneAtLeast bool, results []Result) int {
	p, res := &req.Partitions[i], &results[i]
	want := wanted{limit: min(p.MaxBytes, left), oneAtLeast: oneAtLeast, readCommitted: req.ReadCommitted, cold: lane.lane == Lagging, until: lane.until}
	if want.limit <= 0 && !oneAtLeast {
		return 0
	}
	if lane.lane == Lagging {
		start := r.now()
		entered := r.enterLagging(wait, want.limit)
		r.observe.Lagged(r.now().Sub(start), entered)
		if !entered {
			return 0 // the consumer asks again
		}
		defer func() {
			r.lagging.leave()
			r.yield.got(want.limit, res.Bytes)
		}()
	}
	if !oneAtLeast && r.now().After(want.until) {
		return 0
	}
	if err := r.readPartition(ctx, p, want, res); err != nil {
		res.Code, res.Records, res.Bytes, res.Aborted = codeOf(ctx, err), nil, 0, nil
	}
	res.Lane = lane.lane
	r.observe.Fetched(lane.lane, res.Bytes)
	return res.Bytes
}

// enterLagging waits for a place and a turn of about n bytes, and reports whether it has both.
func (r *Reader) enterLagging(ctx context.Context, n int) bool {
	if !r.yield.turn(ctx, n) {
		return false
	}
	if !r.lagging.enter(ctx) {
		r.yield.got(n, 0)
		return false
	}
	return true
}

// wanted is how much of a partition is read.
type wanted struct {
	limit         int  // in bytes
	oneAtLeast    bool // but the first batch whatever its size
	readCommitted bool
	cold          bool // by a lagging reader
	until         time.Time
}

// readPartition reads batches from the partition's offset on.
func (r *Reader) readPartition(ctx context.Context, p *Partition, want wanted, res *Result) error {
	for attempt := 1; ; attempt++ {
		at := r.lookFrom(p, res)
		if res.Code != 0 {
			return nil
		}
		out := collector{
			limit: want.limit, oneAtLeast: want.oneAtLeast, until: want.until, from: p.Offset, end: res.end(want.readCommitted),
			epochs: at.epochs, epoch: len(at.epochs) - 1, next: p.Offset,
		}
		err := r.collect(ctx, p.Partition, &at, want.cold, &out)
		if gone(err) && attempt < looks {
			// What the view names may have been replaced since: look again, at what is
			// committed now.
			if err := r.sync(ctx, p.Shard); err != nil {
				return err
			}
			continue
		}
		if err != nil && out.bytes == 0 {
			return err
		}
		// What was read before an error is good; the consumer meets the error next time.
		res.Records, res.Bytes, res.Aborted = out.slices, out.bytes, nil
		if want.readCommitted && out.bytes > 0 {
			res.Aborted = abortedIn(out.aborted, at.aborted, p.Offset, out.next)
		}
		return nil
	}
}

// abortedOf are the aborted transactions that a manifest lists: all that have an offset of its.
type abortedOf struct {
	end  tiering.Offset // of the manifest
	list []shard.AbortedTransaction
}

// abortedIn returns the aborted transactions with an offset of [from, to), ascending by Last, by the
// manifests that hold those offsets, in order, and the state. One that reaches over the end of a
// manifest is known to what follows, too: it is taken from what holds its marker, or where that is not
// among the offsets, from the last manifest, which knows all of them.
func abortedIn(manifests []abortedOf, state shard.Aborted, from, to tiering.Offset) (out []shard.AbortedTransaction) {
	for _, m := range manifests {
		for _, a := range m.list {
			if a.Last >= from && a.First < to && (a.Last < m.end || to <= m.end) {
				out = append(out, a)
			}
		}
		if to <= m.end {
			return out
		}
	}
	behind := state.In(from, to)
	if len(out) == 0 {
		return behind
	}
	return append(out, behind...)
}

// lookFrom looks at a partition from an offset on, and says what watermarks go with it: the
// view may have moved since the plan, and no answer may hold records beyond its own
// high watermark, or skip records that were trimmed meanwhile.
func (r *Reader) lookFrom(p *Partition, res *Result) (at look) {
	r.partition(p.Shard, p.Partition, func(ps *shard.Partition) {
		res.watermarks(ps)
		if p.Offset < ps.LogStart {
			res.Code = kerr.OffsetOutOfRange.Code
			return
		}
		at.take(ps, p.Offset)
	})
	return at
}

// find returns the index of the extent that holds offset, or of the first one after it.
func find(run []tiering.Extent, offset tiering.Offset) int {
	i, _ := slices.BinarySearchFunc(run, offset, func(e tiering.Extent, o tiering.Offset) int {
		if e.End() > o {
			return 1
		}
		return -1
	})
	return i
}
