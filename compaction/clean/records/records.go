// Package records is what log compaction does to records, without any I/O: which are
// superseded, and what a run of extents looks like without them.
//
// It takes two passes. An Index walks the batches that were not compacted yet and learns the
// newest offset of each key. A Rewriter then walks all batches, from the log start to where
// the Index ended, and says of each extent what stays of it (Piece); Assemble makes of
// neighbouring pieces the batches and extents that take their place.
//
// What goes is what Kafka's log cleaner removes:
//   - a record for whose key there is a newer one below the Index's end, and one without a key;
//   - aborted transactions, with their markers;
//   - a tombstone whose batch's delete horizon has passed. The first pass that meets a
//     tombstone sets the horizon, delete.retention.ms from then (KIP-534);
//   - the marker of a committed transaction of which no data is left, likewise;
//   - batches below the log start.
//
// Invariants:
//  1. What stays keeps offset, timestamp, key, value, headers, producer, sequence, codec.
//  2. Batches stay dense (tiering.Extent): the last offset delta of a batch is enlarged over
//     what was removed behind it, but never beyond the offset at which a leader epoch begins,
//     or a client would take the end of the older epoch for a truncation (KIP-320). An abort
//     marker reaches over nothing (batch.View.MayReach). What no batch covers is a hole.
//  3. The bytes that were given are not changed; what stays of a thinned extent is copied, so
//     that it does not keep the blocks of a cache alive.
//
// Kafka keeps empty batches so that a producer's last sequence number is found again; here
// that is known to the partition's state, and none is written.
//
// Nothing here may be called concurrently on the same value.
package records

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// Batches calls f with every batch of an extent, whose bytes are data, verified. A view is
// valid for as long as data is. f returns false to stop. Any error, f's among them, is
// objstore.ErrCorrupt.
func Batches(e tiering.Extent, data [][]byte, f func(base tiering.Offset, v batch.View) (more bool, err error)) error {
	in := joiner{slices: data}
	next := e.Base
	for !in.empty() {
		v, err := in.batch()
		if err != nil {
			return corrupt(next, err)
		}
		last := v.LastOffsetDelta()
		if last < 0 || next+tiering.Offset(last) >= e.End() {
			return corrupt(next, fmt.Errorf("last offset delta %d, the extent ends at %d", last, e.End()))
		}
		more, err := f(next, v)
		if err != nil {
			return corrupt(next, err)
		}
		if !more {
			return nil
		}
		next += tiering.Offset(last) + 1
	}
	if next != e.End() && !e.IsHole() {
		return corrupt(next, fmt.Errorf("the batches end there, the extent at %d", e.End()))
	}
	return nil
}

func corrupt(at tiering.Offset, err error) error {
	return fmt.Errorf("%w: batch at offset %d: %w", objstore.ErrCorrupt, at, err)
}

// joiner cuts batches out of slices that may cut them anywhere.
type joiner struct {
	slices [][]byte
	at     int // within slices[0]
}

func (j *joiner) empty() bool {
	for len(j.slices) > 0 && j.at == len(j.slices[0]) {
		j.slices, j.at = j.slices[1:], 0
	}
	return len(j.slices) == 0
}

// batch takes the next batch; there is a byte at least.
func (j *joiner) batch() (batch.View, error) {
	v, _, err := batch.Next(j.slices[0][j.at:])
	if err == nil {
		j.at += len(v)
		return v, nil
	}
	// It lies across slices, or is none. How long it is, its header says; what is left bounds it.
	head := j.copy(batch.HeaderSize)
	if len(head) < batch.HeaderSize {
		return nil, err
	}
	whole := j.copy(int(int32(binary.BigEndian.Uint32(head[8:]))) + 12)
	if v, _, err = batch.Next(whole); err != nil {
		return nil, err
	}
	for n := len(v); n > 0; {
		j.empty()
		step := min(n, len(j.slices[0])-j.at)
		j.at += step
		n -= step
	}
	return v, nil
}

// copy returns a copy of the next n bytes, or of as many as there are, without taking them.
func (j *joiner) copy(n int) []byte {
	left := -j.at
	for _, s := range j.slices {
		left += len(s)
	}
	out := make([]byte, 0, max(0, min(n, left)))
	at := j.at
	for _, s := range j.slices {
		out = append(out, s[at:min(len(s), at+cap(out)-len(out))]...)
		at = 0
	}
	return out
}

// Aborted tells which data belongs to aborted transactions.
type Aborted struct {
	byProducer map[int64][]shard.AbortedTransaction // ascending by Last
}

// NewAborted takes what shard.Partition.AbortedIn returned.
func NewAborted(list []shard.AbortedTransaction) Aborted {
	a := Aborted{make(map[int64][]shard.AbortedTransaction)}
	for _, t := range list {
		a.byProducer[t.ProducerID] = append(a.byProducer[t.ProducerID], t)
	}
	return a
}

// Has reports whether a batch of the producer at offset at was aborted. A producer has one
// transaction open at a time, so whatever lies between its first record and its marker is
// part of it.
func (a Aborted) Has(producerID int64, at tiering.Offset) bool {
	of := a.byProducer[producerID]
	i, _ := slices.BinarySearchFunc(of, at, func(t shard.AbortedTransaction, at tiering.Offset) int {
		return int(min(1, max(-1, t.Last-at)))
	})
	return i < len(of) && of[i].First <= at
}

// Index is the first pass: it learns the newest offset of each key.
type Index struct {
	Keys    *Keys
	aborted Aborted
	end     tiering.Offset // everything below was seen
	last    tiering.Offset // base of the last batch that was seen
	limit   tiering.Offset
	full    bool
}

// NewIndex begins at offset from; batches at limit and beyond are not looked at.
func NewIndex(keys *Keys, from, limit tiering.Offset) *Index {
	return &Index{Keys: keys, end: from, last: from, limit: limit}
}

// Batch takes the next batch in order; those before the Index's beginning are passed over.
// more is false when nothing further is wanted: the limit is reached, or the memory full.
func (x *Index) Batch(base tiering.Offset, v batch.View) (more bool, err error) {
	end := base + tiering.Offset(v.LastOffsetDelta()) + 1
	switch {
	case end <= x.end:
		return true, nil
	case base >= x.limit || x.full:
		return false, nil
	}
	x.last = max(base, x.last)
	if !v.IsControl() && !(v.IsTransactional() && x.aborted.Has(v.ProducerID(), base)) {
		for h, err := range v.Heads(true, nil) {
			if err != nil {
				return false, err
			}
			at := base + tiering.Offset(h.OffsetDelta)
			if at < x.end || !h.HasKey {
				continue
			}
			if !x.Keys.Put(&h.KeySum, at) {
				x.end, x.full = at, true
				return false, nil
			}
		}
	}
	x.end = end
	return true, nil
}

// Follow has the Index know the aborted transactions of the batches that come next, as the
// partition's state has them now.
func (x *Index) Follow(aborted Aborted) { x.aborted = aborted }

// Hole passes over offsets without records, up to end.
func (x *Index) Hole(end tiering.Offset) { x.end = max(x.end, min(end, x.limit)) }

// Full reports whether there was no room for all keys: another pass goes on at End.
func (x *Index) Full() bool { return x.full }

// End returns the offset up to which the log can be compacted: all below was seen, except
// that the last batch stays out, whatever it is. A log that ended in a hole would leave its
// readers waiting for an end offset that they never reach.
func (x *Index) End() tiering.Offset {
	if x.full {
		return x.end
	}
	return x.last
}

// maxDelta is how far a batch can reach.
const maxDelta = math.MaxInt32
