package kafka

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka/topicconfig"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
)

// Produce: v3-13 (v0-2 are advertised, see the table of APIs, and end the connection)
//
// Any agent takes any partition. A batch is checked by its topic's rules and then stored
// as it came: its bytes are those of the frame, unless compression.type asks for another
// codec, or most of the frame was refused. One call hands all accepted batches of a request over; the answer comes when all
// have their results. acks 1 and -1 promise the same: durable and committed. acks 0 is
// answered by nothing, and an error by the end of the connection, as in Kafka.
//
// A request that takes longer than its timeout is answered REQUEST_TIMED_OUT; what became
// of its batches is then unknown to the client, whose retry finds out (idempotence).
// While nothing can be stored, or memory is short, answers ask for a pause (KIP-219), and the
// connection is not read during it. Batches of transactions: see produce_txn.go. Two batches for one partition in one request:
// INVALID_REQUEST, see produce_memory.go.
//
//   - v5: log start (KIP-107); v7: zstd (KIP-110); v8: which record is wrong (KIP-467)
//   - v9: flexible; v10: current leaders (KIP-951), answered by an agent that drains
//   - v11, v12: transactions (KIP-890); v13: topic ids (KIP-516)

// production is one produce request under way. After its start nothing in it changes but
// the results of its batches.
type production struct {
	h        *Handler
	version  int16
	acks     int16
	client   string // its id
	who      asker
	topics   []producedTopic
	parts    []producedPart // of all topics, in order
	accepted []*AppendBatch
	txn      writing // what its transactional batches have in common
	pending  *protocol.Pending
	charge   *protocol.Charge // of the frame that the batches are part of
	settled  atomic.Bool      // somebody answers already
}

type producedTopic struct {
	name       string
	id         tiering.TopicID
	partitions int
}

// producedPart is what was sent to one partition: refused with an error, or handed over.
type producedPart struct {
	index    int32
	err      error
	batch    *AppendBatch // nil if refused
	appended int64        // LogAppendTime in milliseconds; -1 with CreateTime
}

func (h *Handler) produce(ctx context.Context, c *protocol.Conn, r *protocol.Request) *protocol.Pending {
	req, err := protocol.DecodeProduce(r.Version, r.Body)
	if err != nil {
		return malformed()
	}
	entries, err := h.entriesCharge(ctx, &req)
	if err != nil { // the connection has ended
		return malformed()
	}
	handed := false
	defer func() {
		if !handed {
			entries.Release()
		}
	}()
	p := &production{h: h, version: r.Version, acks: req.Acks, client: r.ClientID, charge: r.Charge, parts: make([]producedPart, 0, req.Partitions),
		topics: make([]producedTopic, 0, req.NumTopics)}
	p.accept(ctx, &req)
	if len(p.accepted) == 0 {
		return protocol.Answer(p.response(false))
	}
	p.who = h.asker(c, r.ClientID, "")
	h.Zones.Produced(p.who.zone, p.bytes())
	p.pending = protocol.NewPending()
	r.TakeCharge() // the batches alias the frame, even after a timeout's answer
	p.releaseFrame(len(r.Body))
	handed = true
	stopTimer := p.startTimer(req.TimeoutMillis)
	// The client is gone: nobody reads the answer, but the connection waits for it.
	stop := context.AfterFunc(ctx, func() { p.settle(true) })
	h.Producer.Append(p.accepted, func() {
		stopTimer()
		stop()
		p.settle(false)
		p.charge.Release()
		entries.Release()
	})
	return p.pending
}

// bytes returns the size of the accepted batches.
func (p *production) bytes() (n int) {
	for _, b := range p.accepted {
		n += len(b.Data)
	}
	return n
}

// maxProduceWait stands in for a timeout of 0 or less, for which Kafka has no use unless
// replicas lag.
const maxProduceWait = maxTimeout

// startTimer answers for the batches when the client's patience is over. Who wants no
// answer has none: what it sends is held back while its batches are not stored.
func (p *production) startTimer(millis int32) (stop func() bool) {
	if p.acks == 0 {
		return func() bool { return true }
	}
	timeout := maxProduceWait
	if millis > 0 {
		timeout = time.Duration(millis) * time.Millisecond
	}
	timeout -= min(timeout/10, maxAnswerTime) // or the answer meets a client that has just given up
	return time.AfterFunc(timeout, func() { p.settle(true) }).Stop
}

// maxAnswerTime is how long before the end of a client's patience it is answered, at most. Clients
// count from when they began to send.
const maxAnswerTime = 2 * time.Second

// settle answers, unless that was done before.
func (p *production) settle(timedOut bool) {
	if p.settled.CompareAndSwap(false, true) {
		p.pending.Resolve(p.response(timedOut))
	}
}

// accept checks every batch of the request.
func (p *production) accept(ctx context.Context, req *protocol.ProduceRequest) {
	var all error
	if req.Acks < -1 || req.Acks > 1 {
		all = kerr.InvalidRequiredAcks
	}
	slab := make([]AppendBatch, req.Partitions)
	p.accepted = make([]*AppendBatch, 0, req.Partitions)
	allowance := batch.NewAllowance(batch.DefaultLimits)
	lookups := p.h.resolve()
	now := p.h.now().UnixMilli()
	for t := range req.Topics() {
		p.topics = append(p.topics, producedTopic{string(t.Name), t.ID, t.Partitions})
		topic, err := (*catalogue.Topic)(nil), all
		if err == nil {
			topic, err = p.lookup(ctx, &lookups, &t)
		}
		var settings *topicconfig.Settings
		var rules batch.Rules
		if err == nil {
			settings = p.h.settingsOf(topic)
			rules = rulesOf(settings, p.version, now, allowance)
		}
		bytes := 0
		for part := range t.All() {
			out := producedPart{index: part.Index, err: err, appended: -1}
			if err == nil {
				b := &slab[len(p.parts)]
				if out.err = p.check(b, topic, settings, &rules, part); out.err == nil {
					out.batch = b
					p.accepted = append(p.accepted, b)
					bytes += len(b.Data)
				}
				if settings.TimestampType == topicconfig.LogAppendTime {
					out.appended = now
				}
			}
			p.parts = append(p.parts, out)
		}
		if bytes > 0 {
			p.h.Traffic.Produced(topic.ID, bytes)
		}
	}
	p.refuseDoubles(slab)
	if p.txn.batches > 0 {
		p.enlist(ctx, req)
	}
}

func (p *production) lookup(ctx context.Context, r *resolver, t *protocol.ProduceTopic) (*catalogue.Topic, error) {
	if p.version >= 13 {
		return r.byID(ctx, t.ID)
	}
	if topic, ok := p.h.Topics.Topic(string(t.Name)); ok {
		return topic, nil
	}
	return r.byName(ctx, string(t.Name))
}

// rulesOf translates a topic's settings for the validation of its batches.
func rulesOf(s *topicconfig.Settings, version int16, now int64, a *batch.Allowance) batch.Rules {
	return batch.Rules{
		ProduceVersion:  version,
		MaxMessageBytes: max(s.MaxMessageBytes, 1), // 0 means that nothing fits; the rules take it for no limit
		Compacted:       s.Compacted,
		LogAppendTime:   s.TimestampType == topicconfig.LogAppendTime,
		NowMs:           now,
		BeforeMaxMs:     s.BeforeMaxMs,
		AfterMaxMs:      s.AfterMaxMs,
		Allowance:       a,
	}
}

// check validates what was sent to one partition and makes it ready to be stored.
func (p *production) check(b *AppendBatch, t *catalogue.Topic, s *topicconfig.Settings, rules *batch.Rules, part protocol.ProducePartition) error {
	ref, ok := p.h.partition(t, part.Index)
	if !ok {
		return kerr.UnknownTopicOrPartition
	}
	b.Partition, b.Shard, b.Client = ref.TopicPartition, ref.Shard, p.client
	info, err := batch.Validate(part.Records, rules)
	if err != nil {
		return err
	}
	v := info.Batch
	if v.IsTransactional() {
		p.txn.add(v)
	}
	if v, err = recompress(v, info, s, rules); err != nil {
		return err
	}
	if again := len(v); again > 0 && &v[0] != &info.Batch[0] && !p.charge.TryGrow(int64(again)) {
		return errNoMemory
	}
	info.Batch = v
	info.Stamp(rules)
	b.Data = v
	b.Base, b.LogStart = -1, -1
	b.Meta = shard.Batch{Length: int32(len(v)), Count: v.Count(), MaxTimestamp: info.MaxTimestamp,
		ProducerID: v.ProducerID(), ProducerEpoch: v.ProducerEpoch(), FirstSeq: v.BaseSequence()}
	return nil
}

// recompress gives a batch the codec that its topic asks for, if it asks for one. Like
// Kafka, it holds the result to max.message.bytes as well.
func recompress(v batch.View, info batch.Info, s *topicconfig.Settings, rules *batch.Rules) (batch.View, error) {
	if s.Compression == "producer" {
		return v, nil
	}
	codec, err := batch.ParseCodec(s.Compression)
	if err != nil || codec == v.Codec() { // the table of topic configs allows no other names
		return v, nil
	}
	if codec == batch.None && info.Inflated+batch.HeaderSize > int64(rules.MaxMessageBytes) {
		return nil, refuse(kerr.MessageTooLarge, "the batch takes %d bytes without compression, max.message.bytes is %d", info.Inflated+batch.HeaderSize, rules.MaxMessageBytes)
	}
	again, err := batch.Recompress(nil, v, codec, rules.MaxMessageBytes, rules.Allowance)
	if err != nil {
		return nil, err
	}
	return again, nil
}

// errNoMemory says that the batch, in its topic's codec, has no room in the produce budget, and is worth
// another try: none of it is stored.
var errNoMemory = refuse(kerr.NotEnoughReplicas, "there is no memory for the batch in the topic's compression.type at the moment")

// response builds the answer. With timedOut, the results of batches are not there yet
// and not looked at.
func (p *production) response(timedOut bool) protocol.Response {
	resp := kmsg.NewPtrProduceResponse()
	resp.Version = p.version
	resp.Topics = make([]kmsg.ProduceResponseTopic, 0, len(p.topics))
	first, next := int16(0), 0
	for _, t := range p.topics {
		out := kmsg.NewProduceResponseTopic()
		out.Topic, out.TopicID = t.name, t.id
		out.Partitions = make([]kmsg.ProduceResponseTopicPartition, 0, t.partitions)
		for i := range p.parts[next : next+t.partitions] {
			o := p.parts[next+i].response(timedOut)
			if first == 0 {
				first = o.ErrorCode
			}
			out.Partitions = append(out.Partitions, o)
		}
		next += t.partitions
		resp.Topics = append(resp.Topics, out)
	}
	if p.version >= 10 && first == kerr.NotLeaderForPartition.Code && !timedOut {
		p.tellLeaders(resp)
	}
	throttle := p.h.Pressure.Throttle()
	if p.acks == 0 {
		return protocol.Response{None: true, Close: first != 0, ErrorCode: first, Throttle: throttle}
	}
	resp.ThrottleMillis = int32(throttle.Milliseconds())
	return protocol.Response{Buffers: net.Buffers{resp.AppendTo(nil)}, ErrorCode: first, Throttle: throttle}
}

func (part *producedPart) response(timedOut bool) kmsg.ProduceResponseTopicPartition {
	o := kmsg.NewProduceResponseTopicPartition()
	o.Partition, o.BaseOffset, o.LogAppendTime, o.LogStartOffset = part.index, -1, -1, -1
	switch {
	case part.err != nil:
		o.ErrorCode, o.ErrorMessage = dataCode(part.err), message(part.err)
		var bad *batch.Error
		if errors.As(part.err, &bad) && bad.Record >= 0 {
			rec := kmsg.NewProduceResponseTopicPartitionErrorRecord()
			rec.RelativeOffset, rec.ErrorMessage = bad.Record, &bad.Reason
			o.ErrorRecords = append(o.ErrorRecords, rec)
		}
	case timedOut:
		o.ErrorCode = kerr.RequestTimedOut.Code
	case part.batch.Code != 0:
		o.ErrorCode = part.batch.Code
	default:
		o.BaseOffset, o.LogStartOffset, o.LogAppendTime = int64(part.batch.Base), int64(part.batch.LogStart), part.appended
	}
	if o.ErrorMessage == nil {
		o.ErrorMessage = codeText(o.ErrorCode)
	}
	return o
}
