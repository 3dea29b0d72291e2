package kafka

import (
	"encoding/binary"
	"net"

	"github.com/floelog/floe/tiering"
)

// fetchResponse is the body of a Fetch response. It exists beside kmsg's so that record
// bytes go to the socket from where the reader has them: kmsg would copy them into one
// buffer. TestFetchEncoding holds it to kmsg's bytes in every version.
//
//	throttle i32
//	v7+:  error i16 | session id i32
//	array of topics:
//	    to v12: name string      v13+: topic id 16 bytes
//	    array of partitions:
//	        index i32 | error i16 | high watermark i64 | last stable i64
//	        v5+: log start i64
//	        aborted transactions: array, null where reads are uncommitted
//	        v11+: preferred read replica i32
//	        records: bytes
//	        v12+: tags (0 diverging epoch, 1 current leader)
//	    v12+: no tags
//	v12+: tags (v16+: 0 node endpoints)
//
// From v12 on, lengths of strings, arrays and bytes are compact (KIP-482).
type fetchResponse struct {
	Version       int16
	Code          int16
	SessionID     int32
	ReadCommitted bool
	Topics        []fetchResponseTopic
	Endpoints     []Agent // v16+: where the named current leaders are (KIP-951)
}

type fetchResponseTopic struct {
	Name       string
	ID         tiering.TopicID
	Partitions []fetchResponsePartition
}

type fetchResponsePartition struct {
	FetchResult
	Partition     int32
	PreferredNode int32 // -1 for none
	LeaderNode    int32 // v12+; -1 for none
	LeaderEpoch   int32
}

// fetchEncoder gathers everything but the records in meta, and remembers where between
// its bytes the records belong; slices of meta are only taken once it has stopped
// growing.
type fetchEncoder struct {
	meta    []byte
	flex    bool
	cuts    []int      // positions in meta, ascending
	records [][][]byte // what goes there
}

// encode returns the response's bytes; the records among them are those of the results,
// not copies.
func (r *fetchResponse) encode() net.Buffers {
	e := &fetchEncoder{flex: r.Version >= 12}
	e.meta = make([]byte, 0, r.metaSize())
	e.i32(0) // throttle
	if r.Version >= 7 {
		e.i16(r.Code)
		e.i32(r.SessionID)
	}
	e.count(len(r.Topics))
	for i := range r.Topics {
		e.topic(r, &r.Topics[i])
	}
	e.endpoints(r)
	return e.buffers()
}

// metaSize estimates the size without records from above.
func (r *fetchResponse) metaSize() int {
	const perPartition = 4 + 2 + 3*8 + 4 + 4 + 5 + 1 + 2 + 9
	const perAborted = 8 + 8 + 1
	n := 64
	for i := range r.Topics {
		n += 32 + len(r.Topics[i].Name) + perPartition*len(r.Topics[i].Partitions)
		for j := range r.Topics[i].Partitions {
			n += perAborted * len(r.Topics[i].Partitions[j].Aborted)
		}
	}
	for _, a := range r.Endpoints {
		n += 32 + len(a.Host) + len(a.Rack)
	}
	return n
}

func (e *fetchEncoder) topic(r *fetchResponse, t *fetchResponseTopic) {
	if r.Version >= 13 {
		e.meta = append(e.meta, t.ID[:]...)
	} else {
		e.string(t.Name)
	}
	e.count(len(t.Partitions))
	for i := range t.Partitions {
		e.partition(r, &t.Partitions[i])
	}
	e.noTags()
}

func (e *fetchEncoder) partition(r *fetchResponse, p *fetchResponsePartition) {
	e.i32(p.Partition)
	e.i16(p.Code)
	e.i64(int64(p.HighWatermark))
	e.i64(int64(p.LastStable))
	if r.Version >= 5 {
		e.i64(int64(p.LogStart))
	}
	if r.ReadCommitted {
		e.aborted(p.Aborted)
	} else {
		e.null()
	}
	if r.Version >= 11 {
		e.i32(p.PreferredNode)
	}
	e.recordBytes(p.Records)
	if !e.flex {
		return
	}
	if p.LeaderNode < 0 {
		e.noTags()
		return
	}
	e.uvarint(1) // one tag
	e.uvarint(1) // current leader
	e.uvarint(4 + 4 + 1)
	e.i32(p.LeaderNode)
	e.i32(p.LeaderEpoch)
	e.noTags()
}

func (e *fetchEncoder) aborted(list []AbortedTransaction) {
	e.count(len(list))
	for _, a := range list {
		e.i64(a.ProducerID)
		e.i64(int64(a.First))
		e.noTags()
	}
}

func (e *fetchEncoder) recordBytes(records [][]byte) {
	size := 0
	for _, b := range records {
		size += len(b)
	}
	if e.flex {
		e.uvarint(uint64(size) + 1)
	} else {
		e.i32(int32(size))
	}
	if size > 0 {
		e.cuts = append(e.cuts, len(e.meta))
		e.records = append(e.records, records)
	}
}

func (e *fetchEncoder) endpoints(r *fetchResponse) {
	if !e.flex {
		return
	}
	if len(r.Endpoints) == 0 || r.Version < 16 {
		e.noTags()
		return
	}
	sub := &fetchEncoder{flex: true}
	sub.count(len(r.Endpoints))
	for _, a := range r.Endpoints {
		sub.i32(a.NodeID)
		sub.string(a.Host)
		sub.i32(a.Port)
		if a.Rack == "" {
			sub.null()
		} else {
			sub.string(a.Rack)
		}
		sub.noTags()
	}
	e.uvarint(1) // one tag
	e.uvarint(0) // node endpoints
	e.uvarint(uint64(len(sub.meta)))
	e.meta = append(e.meta, sub.meta...)
}

func (e *fetchEncoder) buffers() net.Buffers {
	n := 1 + len(e.cuts)
	for _, r := range e.records {
		n += len(r)
	}
	out := make(net.Buffers, 0, n)
	from := 0
	for i, cut := range e.cuts {
		out = append(out, e.meta[from:cut:cut])
		out = append(out, e.records[i]...)
		from = cut
	}
	return append(out, e.meta[from:])
}

func (e *fetchEncoder) i16(v int16)      { e.meta = binary.BigEndian.AppendUint16(e.meta, uint16(v)) }
func (e *fetchEncoder) i32(v int32)      { e.meta = binary.BigEndian.AppendUint32(e.meta, uint32(v)) }
func (e *fetchEncoder) i64(v int64)      { e.meta = binary.BigEndian.AppendUint64(e.meta, uint64(v)) }
func (e *fetchEncoder) uvarint(v uint64) { e.meta = binary.AppendUvarint(e.meta, v) }

func (e *fetchEncoder) count(n int) {
	if e.flex {
		e.uvarint(uint64(n) + 1)
	} else {
		e.i32(int32(n))
	}
}

// null encodes an absent array, or an absent string of a flexible version.
func (e *fetchEncoder) null() {
	if e.flex {
		e.uvarint(0)
	} else {
		e.i32(-1)
	}
}

func (e *fetchEncoder) string(s string) {
	if e.flex {
		e.uvarint(uint64(len(s)) + 1)
	} else {
		e.i16(int16(len(s)))
	}
	e.meta = append(e.meta, s...)
}

func (e *fetchEncoder) noTags() {
	if e.flex {
		e.uvarint(0)
	}
}
