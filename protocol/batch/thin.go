package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// NoHorizon says that a batch has no delete horizon.
const NoHorizon int64 = -1

// DeleteHorizon is the time, in milliseconds, from which on log compaction may drop the
// batch's tombstones or marker (KIP-534); NoHorizon where none was set yet.
func (v View) DeleteHorizon() int64 {
	if v.Attributes()&AttrDeleteHorizon == 0 {
		return NoHorizon
	}
	return v.FirstTimestamp()
}

// ErrGrown says that Thin would make a batch much larger than it was: it was compressed as
// none of the compressors here do it.
var ErrGrown = errors.New("thinned out, the record batch would be larger")

// thinSlack is how much larger than twice as large a batch may become by Thin: changed timestamps and
// another compressor make some difference, and of a small batch it may be any.
const thinSlack = 1 << 20

// Thin appends v to dst with those of its records only for which keep is true, by their
// index; at least one must be. What is kept keeps its offset, timestamp and all else, and
// the batch its producer, sequence, codec and last offset. With a horizon other than
// NoHorizon the batch gets that delete horizon, which takes the place of its first timestamp.
// Decompressing is charged to a. An *Error is v's fault; ErrGrown bounds the output.
func Thin(dst []byte, v View, keep func(i int) bool, horizon int64, a *Allowance) ([]byte, error) {
	f := v.Fields()
	shift := int64(0)
	if horizon != NoHorizon {
		// The difference may wrap: so does the sum that gives the timestamp back.
		shift = f.FirstTimestamp - horizon
		f.FirstTimestamp = horizon
		f.Attributes |= AttrDeleteHorizon
	}
	s, e := openRecords(v, a)
	if e != nil {
		return nil, e
	}
	defer s.close()
	at := len(dst)
	t := thinning{s: &s, p: newPacker(append(dst, make([]byte, HeaderSize)...), v.Codec(), min(2*len(v)+thinSlack, maxBatch-HeaderSize)), shift: shift}
	newest := int64(noTimestamp)
	count := int32(0)
	for i := range v.Count() {
		kept := keep(int(i))
		delta, e := t.record(kept)
		if e != nil && t.p.err == nil {
			_, _ = t.p.close() // gives the compressor back
			e.Record = i
			return nil, e
		}
		if t.p.err != nil {
			break
		}
		if kept {
			count++
			newest = max(newest, f.FirstTimestamp+delta)
		}
	}
	out, err := t.p.close()
	switch {
	case errors.Is(err, errGrown):
		return nil, ErrGrown
	case err != nil:
		return nil, fmt.Errorf("thinning a record batch: %w", err)
	case count == 0:
		return nil, fmt.Errorf("thinning a record batch: none of %d records is kept", v.Count())
	}
	if e := s.end(); e != nil {
		return nil, e
	}
	if f.Attributes&AttrLogAppendTime == 0 {
		f.MaxTimestamp = newest
	}
	f.put(out[at:], count)
	return out, nil
}

// thinning is a Thin under way.
type thinning struct {
	s     *recordStream
	p     *packer
	shift int64 // of timestamps
	head  []byte
}

// record takes the next record and returns its timestamp delta as it is written.
func (t *thinning) record(keep bool) (delta int64, err *Error) {
	n, err := t.s.size()
	if err != nil {
		return 0, err
	}
	r := bigRecord{s: t.s, left: n}
	r.skip(1)
	delta = r.number(10) + t.shift
	offset := r.number(5)
	if !keep {
		r.skip(int64(r.left))
		return delta, r.err
	}
	t.head = binary.AppendVarint(t.head[:0], int64(1+sizeVarint(delta)+sizeVarint(offset)+r.left))
	t.head = append(t.head, 0)
	t.head = binary.AppendVarint(t.head, delta)
	t.head = binary.AppendVarint(t.head, offset)
	_, _ = t.p.Write(t.head) // close tells the error
	r.pass(int64(r.left), t.p)
	return delta, r.err
}

// MayReach reports whether v may be given a greater last offset delta, so as to reach over
// offsets behind it that have no records any more. An abort marker may not: Kafka's clients
// take a transaction for begun that has its first offset up to a batch's last one, and for
// ended with its producer's next abort marker. One that reached over the beginning of the
// producer's next transaction would make them read its aborted records as committed.
func (v View) MayReach() bool {
	if !v.IsControl() {
		return true
	}
	commit, _, err := ReadMarker(v)
	return err == nil && commit
}

// AppendHeader appends v's header with another base offset, leader epoch and last offset
// delta. With v's payload behind it, it is a whole batch: the checksum is v's, or made
// anew if the delta changed. v's own checksum must have been verified.
func AppendHeader(dst []byte, v View, baseOffset int64, leaderEpoch, lastOffsetDelta int32) []byte {
	at := len(dst)
	dst = append(dst, v[:HeaderSize]...)
	head := dst[at:]
	Patch(head, baseOffset, leaderEpoch)
	if v.LastOffsetDelta() != lastOffsetDelta {
		binary.BigEndian.PutUint32(head[posLastDelta:], uint32(lastOffsetDelta))
		sum := crc32.Checksum(head[posAttributes:], castagnoli)
		binary.BigEndian.PutUint32(head[posCRC:], crc32.Update(sum, castagnoli, v[HeaderSize:]))
	}
	return dst
}
