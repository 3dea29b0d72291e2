//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"time"
)

// Every record's value starts with this header; the rest does not compress.
//
//	+-------+----------+-----+----------+------+
//	| magic | producer | run | sequence | time |    little endian
//	|   4   |    4     |  8  |    8     |  8   |    sequence: from 0 per producer, over all
//	+-------+----------+-----+----------+------+    partitions; time: Unix nanoseconds
const headerSize = 32

const magic = 0x31424c46 // "FLB1"

type header struct {
	producer uint32
	run      uint64
	sequence uint64
	sent     int64
}

func (h header) put(b []byte) {
	binary.LittleEndian.PutUint32(b, magic)
	binary.LittleEndian.PutUint32(b[4:], h.producer)
	binary.LittleEndian.PutUint64(b[8:], h.run)
	binary.LittleEndian.PutUint64(b[16:], h.sequence)
	binary.LittleEndian.PutUint64(b[24:], uint64(h.sent))
}

func getHeader(b []byte) (h header, ok bool) {
	if len(b) < headerSize || binary.LittleEndian.Uint32(b) != magic {
		return header{}, false
	}
	return header{
		producer: binary.LittleEndian.Uint32(b[4:]),
		run:      binary.LittleEndian.Uint64(b[8:]),
		sequence: binary.LittleEndian.Uint64(b[16:]),
		sent:     int64(binary.LittleEndian.Uint64(b[24:])),
	}, true
}

// bitmap is a growing set of sequence numbers, a bit each.
type bitmap []uint64

// maxSequence bounds the numbers that are believed, and so the memory: ten minutes at ten
// million records a second.
const maxSequence = 6_000_000_000

// add puts i into the set and reports whether it was there already.
func (m *bitmap) add(i uint64) (again bool) {
	for uint64(len(*m)) <= i/64 {
		*m = append(*m, 0)
	}
	w := &(*m)[i/64]
	again = *w>>(i%64)&1 == 1
	*w |= 1 << (i % 64)
	return again
}

// without counts the members that other has not.
func (m bitmap) without(other bitmap) (n int64) {
	for i, w := range m {
		if i < len(other) {
			w &^= other[i]
		}
		n += int64(bits.OnesCount64(w))
	}
	return n
}

// verdict is what became of the records of one run.
type verdict struct {
	Acked      int64 `json:"acked"`
	Seen       int64 `json:"seen"`
	Lost       int64 `json:"lost"`       // acknowledged, and not read
	Duplicated int64 `json:"duplicated"` // read at two offsets
	Reordered  int64 `json:"reordered"`  // after a later one of the same producer and partition
	Foreign    int64 `json:"foreign"`    // not of this run, or damaged
	Gaps       int64 `json:"gaps"`       // offsets that were skipped or went back
}

// fault describes what must not have happened; nil if all is well.
func (v verdict) fault() error {
	if v.Lost+v.Duplicated+v.Reordered+v.Foreign+v.Gaps == 0 {
		return nil
	}
	return fmt.Errorf("verification failed: %d lost, %d duplicated, %d reordered, %d foreign, %d gaps in offsets (%d acknowledged, %d read)",
		v.Lost, v.Duplicated, v.Reordered, v.Foreign, v.Gaps, v.Acked, v.Seen)
}

// verifier checks what one consumer reads of one producer's run. It is for one goroutine.
type verifier struct {
	run     uint64
	size    int // of every value
	seen    bitmap
	next    map[int32]int64  // offset that each partition goes on with
	latest  map[int32]uint64 // greatest sequence number of each partition, plus 1
	verdict verdict
}

func newVerifier(run uint64, size int, starts map[int32]int64) *verifier {
	v := &verifier{run: run, size: size, next: map[int32]int64{}, latest: map[int32]uint64{}}
	for p, o := range starts {
		v.next[p] = o
	}
	return v
}

// add checks a record and returns when it was sent; ok is false if it is not of this run.
func (v *verifier) add(partition int32, offset int64, value []byte) (sent time.Time, ok bool) {
	if offset != v.next[partition] {
		v.verdict.Gaps++
	}
	v.next[partition] = offset + 1
	h, ok := getHeader(value)
	if !ok || h.run != v.run || h.producer != 0 || len(value) != v.size || h.sequence > maxSequence {
		v.verdict.Foreign++
		return time.Time{}, false
	}
	if v.seen.add(h.sequence) {
		v.verdict.Duplicated++
		return time.Unix(0, h.sent), true
	}
	v.verdict.Seen++
	if h.sequence+1 < v.latest[partition] {
		v.verdict.Reordered++
	} else {
		v.latest[partition] = h.sequence + 1
	}
	return time.Unix(0, h.sent), true
}

// judge completes the verdict with what was acknowledged.
func (v *verifier) judge(acked bitmap) verdict {
	v.verdict.Acked = acked.without(nil)
	v.verdict.Lost = acked.without(v.seen)
	return v.verdict
}
