package batch

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Fields is a batch's header without length, magic, CRC and count, which follow from
// the rest.
type Fields struct {
	BaseOffset      int64
	LeaderEpoch     int32
	Attributes      Attributes
	LastOffsetDelta int32
	FirstTimestamp  int64
	MaxTimestamp    int64
	ProducerID      int64
	ProducerEpoch   int16
	BaseSequence    int32
}

// PlainFields are those of a batch without an idempotent producer.
func PlainFields(firstTimestamp int64) Fields {
	return Fields{FirstTimestamp: firstTimestamp, MaxTimestamp: noTimestamp,
		LeaderEpoch: -1, ProducerID: noProducerID, ProducerEpoch: -1, BaseSequence: -1}
}

// Builder gathers records into one batch. It belongs to one goroutine.
type Builder struct {
	f       Fields
	records []byte
	count   int32
	maxTime int64
}

// NewBuilder starts a batch. The codec is the one in f's attributes.
func NewBuilder(f Fields) *Builder {
	b := &Builder{}
	b.Reset(f)
	return b
}

// Reset starts another batch in the same memory.
func (b *Builder) Reset(f Fields) {
	b.f, b.records, b.count, b.maxTime = f, b.records[:0], 0, noTimestamp
}

// Add appends a record. Offset deltas must grow; gaps are for compaction. The record's
// bytes are copied.
func (b *Builder) Add(r Record) {
	b.records = r.append(b.records)
	b.count++
	b.f.LastOffsetDelta = max(b.f.LastOffsetDelta, r.OffsetDelta)
	b.maxTime = max(b.maxTime, b.f.FirstTimestamp+r.TimestampDelta)
}

// Count returns the number of records added.
func (b *Builder) Count() int32 { return b.count }

// Size returns the bytes that the batch takes uncompressed.
func (b *Builder) Size() int { return HeaderSize + len(b.records) }

// AppendTo appends the finished batch to dst. The greatest timestamp is that of the
// records, but the given one with LogAppendTime or without any record (an empty batch
// keeps a producer's sequence in a compacted log).
func (b *Builder) AppendTo(dst []byte) ([]byte, error) {
	f := b.f
	if b.count > 0 && f.Attributes&AttrLogAppendTime == 0 {
		f.MaxTimestamp = b.maxTime
	}
	at := len(dst)
	dst = append(dst, make([]byte, HeaderSize)...)
	if b.count > 0 {
		var err error
		if dst, err = compress(dst, f.Attributes.Codec(), b.records); err != nil {
			return nil, fmt.Errorf("building a record batch: %w", err)
		}
	} else {
		f.Attributes = f.Attributes.WithCodec(None)
	}
	if len(dst)-at > maxBatch {
		return nil, errors.New("building a record batch: it is larger than 2 GiB")
	}
	f.put(dst[at:], b.count)
	return dst, nil
}

// put writes the header of the batch that b is, its CRC last.
func (f *Fields) put(b []byte, count int32) {
	be := binary.BigEndian
	be.PutUint64(b[posBaseOffset:], uint64(f.BaseOffset))
	be.PutUint32(b[posLength:], uint32(len(b)-lengthOverhead))
	be.PutUint32(b[posLeaderEpoch:], uint32(f.LeaderEpoch))
	b[posMagic] = Magic
	be.PutUint16(b[posAttributes:], uint16(f.Attributes))
	be.PutUint32(b[posLastDelta:], uint32(f.LastOffsetDelta))
	be.PutUint64(b[posFirstTime:], uint64(f.FirstTimestamp))
	be.PutUint64(b[posMaxTime:], uint64(f.MaxTimestamp))
	be.PutUint64(b[posProducerID:], uint64(f.ProducerID))
	be.PutUint16(b[posProducerEpoch:], uint16(f.ProducerEpoch))
	be.PutUint32(b[posBaseSequence:], uint32(f.BaseSequence))
	be.PutUint32(b[posCount:], uint32(count))
	be.PutUint32(b[posCRC:], View(b).ComputeCRC())
}

// Recompress appends v to dst with its records compressed by codec (a topic whose
// compression.type is not "producer"); all else in the header stays. Decompressing is
// charged to a. An *Error is v's fault: MESSAGE_TOO_LARGE if the batch became larger than limit.
func Recompress(dst []byte, v View, codec Codec, limit int, a *Allowance) ([]byte, error) {
	if v.Codec() == codec {
		return append(dst, v...), nil
	}
	if !codec.Known() {
		return nil, fmt.Errorf("recompressing a record batch: %v does not exist", codec)
	}
	s, e := openRecords(v, a)
	if e != nil {
		return nil, e
	}
	defer s.close()
	at := len(dst)
	limit = min(limit, maxBatch)
	p := newPacker(append(dst, v[:HeaderSize]...), codec, limit-HeaderSize)
	for p.err == nil && (s.r < s.w || !s.eof) {
		if s.r == s.w {
			if e = s.fill(1); e != nil {
				break
			}
		}
		_, _ = p.Write(s.buf[s.r:s.w]) // close tells the error
		s.r = s.w
	}
	dst, err := p.close()
	switch {
	case e != nil:
		return nil, e
	case errors.Is(err, errGrown):
		return nil, refuse(kerr.MessageTooLarge, "the batch takes more than %d bytes as %v", limit, codec)
	case err != nil:
		return nil, fmt.Errorf("recompressing a record batch: %w", err)
	}
	f := v.Fields()
	f.Attributes = f.Attributes.WithCodec(codec)
	f.put(dst[at:], v.Count())
	return dst, nil
}

// AppendMarker appends a control batch with one end-of-transaction marker (KIP-98) at
// offset 0 of its own. The record's key is version 0 and type (0 abort, 1 commit), its
// value version 0 and the coordinator's epoch.
func AppendMarker(dst []byte, producerID int64, producerEpoch int16, commit bool, coordinatorEpoch int32, nowMs int64) []byte {
	key := []byte{0, 0, 0, 0}
	if commit {
		key[3] = 1
	}
	f := PlainFields(nowMs)
	f.ProducerID, f.ProducerEpoch = producerID, producerEpoch
	f.Attributes = AttrTransactional | AttrControl
	b := NewBuilder(f)
	b.Add(Record{Key: key, Value: binary.BigEndian.AppendUint32([]byte{0, 0}, uint32(coordinatorEpoch))})
	out, err := b.AppendTo(dst)
	if err != nil {
		panic("batch: a marker cannot be too large: " + err.Error())
	}
	return out
}

// ReadMarker tells how a control batch ends its producer's transaction.
func ReadMarker(v View) (commit bool, coordinatorEpoch int32, err error) {
	if !v.IsControl() {
		return false, 0, refuse(kerr.InvalidRecord, "not a control batch")
	}
	for r, err := range v.Records(nil) {
		if err != nil {
			return false, 0, err
		}
		if len(r.Key) < 4 || len(r.Value) < 6 || binary.BigEndian.Uint16(r.Key[2:]) > 1 {
			break
		}
		return r.Key[3] == 1, int32(binary.BigEndian.Uint32(r.Value[2:])), nil
	}
	return false, 0, refuse(kerr.InvalidRecord, "a control batch without an end-of-transaction marker")
}
