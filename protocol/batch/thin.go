package batch

import (
	"encoding/binary"
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

// Thin appends v to dst with those of its records only for which keep is true, by their
// index; at least one must be. What is kept keeps its offset, timestamp and all else, and
// the batch its producer, sequence, codec and last offset. With a horizon other than
// NoHorizon the batch gets that delete horizon, which takes the place of its first timestamp.
// Decompressing is charged to a. An *Error is v's fault.
func Thin(dst []byte, v View, keep []bool, horizon int64, a *Allowance) ([]byte, error) {
	f := v.Fields()
	shift := int64(0)
	if horizon != NoHorizon {
		// The difference may wrap: so does the sum that gives the timestamp back.
		shift = f.FirstTimestamp - horizon
		f.FirstTimestamp = horizon
		f.Attributes |= AttrDeleteHorizon
	}
	b := NewBuilder(f)
	i := 0
	for r, err := range v.Records(a) {
		if err != nil {
			return nil, err
		}
		if i < len(keep) && keep[i] {
			r.TimestampDelta += shift
			b.Add(r)
		}
		i++
	}
	if i != len(keep) || b.Count() == 0 {
		return nil, fmt.Errorf("thinning a record batch: %d records, %d decisions, %d kept", i, len(keep), b.Count())
	}
	return b.AppendTo(dst)
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
