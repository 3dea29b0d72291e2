package produce

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// lane is the queue of what waits to be sequenced on one shard, in order of arrival. The
// pipeline's lock guards it.
type lane struct {
	p       *Pipeline
	id      tiering.ShardID
	queue   []*item
	flushed int // items of queue that are parts of flushes
	sending bool
	seq     uint64 // of the last submission
}

// item is the part of a flush that belongs to one shard, or a run of inline batches.
type item struct {
	flush     *flush // nil: inline
	batches   []*Batch
	positions []tiering.Position // of each batch in the segment
	bytes     int                // inline only
	ready     bool               // uploaded, or inline
	failed    bool               // the upload failed
}

// kickLocked starts the lane's next submission unless one is under way or its head still
// waits for an upload.
func (l *lane) kickLocked() {
	if l.sending {
		return
	}
	items := l.takeLocked()
	if len(items) == 0 {
		return
	}
	l.sending = true
	l.seq++
	seq := l.seq
	l.p.work.Add(1)
	go func() {
		defer l.p.work.Done()
		l.send(seq, items)
	}()
}

// takeLocked takes the items at the head that are ready, as many as a record may hold.
func (l *lane) takeLocked() []*item {
	n, batches, inline := 0, 0, 0
	for n < len(l.queue) && l.queue[n].ready {
		batches += len(l.queue[n].batches)
		inline += l.queue[n].bytes
		if n > 0 && (batches > maxFlushBatches || inline > maxInlineSubmission) {
			break
		}
		n++
	}
	for _, it := range l.queue[:n] {
		if it.flush != nil {
			l.flushed--
		}
	}
	items := l.queue[:n:n]
	l.queue = l.queue[n:]
	if len(l.queue) == 0 {
		l.queue = nil
	}
	return items
}

// send submits items and answers their batches.
func (l *lane) send(seq uint64, items []*item) {
	s := &shard.Submission{Session: l.p.parts.Session, Seq: seq}
	var batches []*Batch
	for _, it := range items {
		if it.failed {
			continue
		}
		s.Parts = it.appendParts(s.Parts)
		batches = append(batches, it.batches...)
	}
	var code int16
	var outcomes []shard.Outcome
	if len(batches) > 0 {
		start := l.p.parts.Now()
		var err error
		if l.p.ctx.Err() != nil {
			err = errAbandoned // nothing may be committed behind what was just given up
		} else {
			outcomes, err = l.p.parts.Sequence.Sequence(l.p.ctx, l.id, s)
		}
		if err != nil {
			code = l.codeOf(err)
		}
		l.p.parts.Observe.Sequenced(len(batches), l.p.parts.Now().Sub(start))
	}
	// The next submission may leave before the producers of this one are told.
	l.p.mu.Lock()
	l.sending = false
	for _, it := range items {
		if it.flush != nil {
			delete(it.flush.parts, l.id)
			if len(it.flush.parts) == 0 {
				delete(l.p.undone, it.flush.seg.Seq)
			}
		}
	}
	l.kickLocked()
	l.p.mu.Unlock()
	n := l.answer(items, outcomes, code)
	l.p.resolved(n)
}

// appendParts describes the item's batches: a new part wherever the partition changes or
// the bytes do not follow each other.
func (it *item) appendParts(parts []shard.Part) []shard.Part {
	first := len(parts)
	index := map[tiering.TopicPartition]int{}
	for i, b := range it.batches {
		j, ok := index[b.Partition]
		if !ok {
			j = len(parts)
			index[b.Partition] = j
			part := shard.Part{Partition: b.Partition}
			if it.flush != nil {
				part.Segment, part.Position = it.flush.seg, it.positions[i]
			}
			parts = append(parts, part)
		}
		if it.flush == nil {
			parts[j].Inline = append(parts[j].Inline, b.Data...)
		}
		parts[j].Batches = append(parts[j].Batches, b.Meta)
	}
	it.sortByPart(parts[first:])
	return parts
}

// sortByPart puts the batches into the order of the submission: part by part.
func (it *item) sortByPart(parts []shard.Part) {
	if len(parts) < 2 {
		return
	}
	at := make(map[tiering.TopicPartition]int, len(parts))
	n := 0
	for i := range parts {
		at[parts[i].Partition] = n
		n += len(parts[i].Batches)
	}
	sorted := make([]*Batch, n)
	for _, b := range it.batches {
		sorted[at[b.Partition]] = b
		at[b.Partition]++
	}
	it.batches = sorted
}

// answer gives every batch its result and returns how many there were.
func (l *lane) answer(items []*item, outcomes []shard.Outcome, code int16) int {
	n, next := 0, 0
	for _, it := range items {
		n += len(it.batches)
		switch {
		case it.failed:
			failAll(it.batches, errStorage)
		case code != 0:
			failAll(it.batches, code)
		default:
			for _, b := range it.batches {
				o := outcomes[next]
				next++
				b.Base, b.Code = o.Base, int16(o.Code)
				b.group.resolve(1)
			}
		}
	}
	return n
}

// errAbandoned is what happens to submissions of a pipeline that has given up.
var errAbandoned = errors.New("the session has ended")

// codeOf maps a definite failure to what the producer hears.
func (l *lane) codeOf(err error) int16 {
	l.p.parts.Log.Warn("a submission failed; its producers are told to try again", "shard", l.id, "err", err)
	switch {
	case errors.Is(err, metadata.ErrInvalid):
		return kerr.UnknownServerError.Code
	case errors.Is(err, context.Canceled):
		return kerr.RequestTimedOut.Code // what became of it is not known
	}
	return kerr.NotLeaderForPartition.Code
}
