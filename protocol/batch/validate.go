package batch

import (
	"math"
	"runtime"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Rules are what a topic and a request demand of a produced batch.
type Rules struct {
	ProduceVersion  int16      // of the request
	MaxMessageBytes int        // max.message.bytes, over the whole batch as sent; 0: no limit
	MaxSegmentBytes int        // segment.bytes; 0: no limit
	Compacted       bool       // cleanup.policy contains compact: every record needs a key
	LogAppendTime   bool       // message.timestamp.type: NowMs replaces the records' times
	NowMs           int64      // the agent's clock, milliseconds since 1970
	BeforeMaxMs     int64      // message.timestamp.before.max.ms, from 0 to the greatest int64
	AfterMaxMs      int64      // message.timestamp.after.max.ms, likewise
	Allowance       *Allowance // of the request; nil: DefaultLimits for this batch alone
}

// Info is what Validate learned.
type Info struct {
	Batch        View  // the whole of what was validated
	MaxTimestamp int64 // greatest timestamp that Stamp will have stored, milliseconds
	Inflated     int64 // bytes of the records, decompressed
}

// Stamp writes the timestamp type and the true greatest timestamp into the batch, and
// its CRC if that changed anything: like Kafka, Floe believes the topic's timestamp
// type and the records, not the header.
func (i Info) Stamp(r *Rules) {
	t := CreateTime
	if r.LogAppendTime {
		t = LogAppendTime
	}
	SetTimestamp(i.Batch, t, i.MaxTimestamp)
}

// validating bounds how many compressed batches are validated at a time. It is CPU work:
// more than the cores gains nothing, and each holds a decoder with its window (up to
// 8 MiB for zstd, or a snappy block's whole output).
var validating = make(chan struct{}, max(2, runtime.GOMAXPROCS(0)))

// Validate checks what a client produced to one partition: exactly one batch that every
// consumer will be able to read. It changes nothing; see Info.Stamp. The error is an
// *Error whose Kind is Kafka's own answer for the case (as decided there by the produce
// request, the log's append and its validator):
//
//	CORRUPT_MESSAGE               length or CRC wrong, unknown magic
//	INVALID_RECORD                magic 0 and 1, not exactly one batch, base offset not 0,
//	                              counts that disagree, control batches, broken records,
//	                              undecodable compression, bad producer fields, a missing key
//	INVALID_TIMESTAMP             a record's time is outside the topic's limits
//	UNSUPPORTED_COMPRESSION_TYPE  zstd before version 7; codecs that do not exist
//	MESSAGE_TOO_LARGE             above max.message.bytes, or decompresses beyond the allowance
//	RECORD_LIST_TOO_LARGE         above segment.bytes
func Validate(b []byte, r *Rules) (Info, error) {
	v, rest, err := Next(b)
	if err != nil {
		return Info{}, err
	}
	if e := checkHeader(v, len(rest), r); e != nil {
		return Info{}, e
	}
	if err := v.VerifyCRC(); err != nil {
		return Info{}, err
	}
	if e := checkCounts(v); e != nil {
		return Info{}, e
	}
	s := newScan(v, r)
	var e *Error
	if v.Codec() == None {
		e = s.plain(v.Payload())
	} else {
		e = s.inflated(v, r.Allowance)
	}
	if e != nil {
		return Info{}, e
	}
	info := Info{Batch: v, MaxTimestamp: s.maxTime, Inflated: s.bytes}
	if r.LogAppendTime {
		info.MaxTimestamp = r.NowMs
	}
	return info, nil
}

// checkHeader tests what needs no CRC, in the order in which Kafka answers.
func checkHeader(v View, rest int, r *Rules) *Error {
	switch c := v.Codec(); {
	case rest > 0:
		return refuse(kerr.InvalidRecord, "%d bytes follow the batch; a partition takes exactly one batch per request", rest)
	case c == Zstd && r.ProduceVersion < 7:
		return refuse(kerr.UnsupportedCompressionType, "zstd needs produce version 7, the request has %d", r.ProduceVersion)
	case v.BaseOffset() != 0:
		return refuse(kerr.InvalidRecord, "base offset is %d, a producer must send 0", v.BaseOffset())
	case r.MaxMessageBytes > 0 && len(v) > r.MaxMessageBytes:
		return refuse(kerr.MessageTooLarge, "batch of %d bytes, max.message.bytes is %d", len(v), r.MaxMessageBytes)
	case r.MaxSegmentBytes > 0 && len(v) > r.MaxSegmentBytes:
		return refuse(kerr.RecordListTooLarge, "batch of %d bytes, segment.bytes is %d", len(v), r.MaxSegmentBytes)
	}
	return nil
}

// checkCounts tests the CRC-covered header fields.
func checkCounts(v View) *Error {
	count, last, attrs := v.Count(), v.LastOffsetDelta(), v.Attributes()
	switch {
	case !attrs.Codec().Known():
		return refuse(kerr.UnsupportedCompressionType, "%v does not exist", attrs.Codec())
	case count <= 0:
		return refuse(kerr.InvalidRecord, "record count is %d", count)
	case last < 0 || last != count-1:
		return refuse(kerr.InvalidRecord, "last offset delta %d disagrees with the count of %d records", last, count)
	case attrs&AttrControl != 0:
		return refuse(kerr.InvalidRecord, "clients may not write control batches")
	case attrs&AttrDeleteHorizon != 0:
		return refuse(kerr.InvalidRecord, "clients may not set a delete horizon")
	case attrs.Codec() == None && int64(count)*minRecordSize > int64(len(v.Payload())):
		return refuse(kerr.InvalidRecord, "%d bytes cannot hold %d records", len(v.Payload()), count)
	}
	return checkProducer(v)
}

func checkProducer(v View) *Error {
	id := v.ProducerID()
	switch {
	case id < noProducerID:
		return refuse(kerr.InvalidRecord, "producer id is %d", id)
	case id == noProducerID && v.IsTransactional():
		return refuse(kerr.InvalidRecord, "a transactional batch needs a producer id")
	case id >= 0 && v.BaseSequence() < 0:
		return refuse(kerr.InvalidRecord, "base sequence %d in a batch with producer id %d", v.BaseSequence(), id)
	case id >= 0 && v.ProducerEpoch() < 0:
		return refuse(kerr.InvalidRecord, "producer epoch %d in a batch with producer id %d", v.ProducerEpoch(), id)
	}
	return nil
}

// scan checks records one by one.
// Invariant: index records were accepted; maxTime is their greatest timestamp.
type scan struct {
	index, count int32
	needKey      bool
	first        int64 // the batch's first timestamp
	maxTime      int64
	lo, hi       int64 // permitted timestamps
	bytes        int64
}

func newScan(v View, r *Rules) scan {
	s := scan{count: v.Count(), needKey: r.Compacted, first: v.FirstTimestamp(), maxTime: noTimestamp,
		lo: math.MinInt64, hi: math.MaxInt64}
	if !r.LogAppendTime {
		if r.NowMs >= math.MinInt64+r.BeforeMaxMs {
			s.lo = r.NowMs - r.BeforeMaxMs
		}
		if r.NowMs <= math.MaxInt64-r.AfterMaxMs {
			s.hi = r.NowMs + r.AfterMaxMs
		}
	}
	return s
}

// plain scans uncompressed records.
func (s *scan) plain(b []byte) *Error {
	s.bytes = int64(len(b))
	for i := 0; s.index < s.count; {
		n, next := varint(b, i)
		if n < 0 || next > len(b) || int(n) > len(b)-next {
			return s.bad("its length is beyond the batch's end")
		}
		end := next + int(n)
		if e := s.record(b[next:end]); e != nil {
			return e
		}
		i = end
		if s.index == s.count && i != len(b) {
			return refuse(kerr.InvalidRecord, "%d bytes follow the last of %d records", len(b)-i, s.count)
		}
	}
	return nil
}

// inflated scans compressed records as they come out of the decompressor.
func (s *scan) inflated(v View, a *Allowance) *Error {
	validating <- struct{}{}
	defer func() { <-validating }()
	if a == nil {
		a = NewAllowance(DefaultLimits)
	}
	st, e := openRecords(v, a)
	if e != nil {
		return e
	}
	defer st.close()
	for s.index < s.count {
		n, e := st.size()
		if e != nil {
			e.Record = s.index
			return e
		}
		s.bytes += int64(n)
		if n > window {
			e = s.big(&st, n)
		} else if body, be := st.body(n); be != nil {
			e = be
			e.Record = s.index
		} else {
			e = s.record(body)
		}
		if e != nil {
			return e
		}
	}
	return st.end()
}

// record checks one record's body.
func (s *scan) record(b []byte) *Error {
	delta, i := varlong(b, 1)
	offset, i := varint(b, i)
	noKey, i := skipNullable(b, i)
	_, i = skipNullable(b, i)
	if i < len(b) && b[i] == 0 {
		i++
	} else {
		_, i = skipHeaders(b, i)
	}
	if i != len(b) {
		return s.bad("its fields do not fill its length")
	}
	return s.accept(delta, int64(offset), noKey)
}

// big checks a record that does not fit the window.
func (s *scan) big(st *recordStream, n int) *Error {
	h, err := st.big(n, nil)
	if err != nil {
		err.Record = s.index
		return err
	}
	return s.accept(h.TimestampDelta, int64(h.OffsetDelta), !h.HasKey)
}

// accept judges a well-formed record by the topic's rules.
func (s *scan) accept(delta, offset int64, noKey bool) *Error {
	if offset != int64(s.index) {
		return s.bad("its offset delta is not its index")
	}
	if s.needKey && noKey {
		return s.bad("a compacted topic takes no record without a key")
	}
	ts := s.first + delta
	if (ts < s.lo || ts > s.hi) && ts != noTimestamp {
		return &Error{Kind: kerr.InvalidTimestamp, Record: s.index, Reason: "its timestamp is outside the topic's limits"}
	}
	s.maxTime = max(s.maxTime, ts)
	s.index++
	return nil
}

func (s *scan) bad(reason string) *Error {
	return &Error{Kind: kerr.InvalidRecord, Record: s.index, Reason: reason}
}
