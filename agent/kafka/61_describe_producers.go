package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeProducers: v0
//
// What is known of the producers of partitions that is not forgotten yet: idempotent and
// transactional ones, and which of them have a transaction open (KIP-664). What is more than
// maxDescribed has NOT_LEADER_OR_FOLLOWER: the client asks again for that alone.

// producersAtOnce is how many partitions are looked at before their producers are counted: a
// partition may have thousands.
const producersAtOnce = 16

// producerSize is what one producer takes in an answer, from above.
const producerSize = 64

func (h *Handler) describeProducers(ctx context.Context, req *kmsg.DescribeProducersRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.DescribeProducersResponse)
	names := make([]namedPartitions, len(req.Topics))
	for i, t := range req.Topics {
		names[i] = namedPartitions{t.Topic, t.Partitions}
	}
	r := h.resolve()
	where, codes, _ := h.locate(ctx, &r, names, kerr.NotLeaderForPartition)
	answers := h.producersOf(ctx, where)
	for _, t := range req.Topics {
		out := kmsg.NewDescribeProducersResponseTopic()
		out.Topic = t.Topic
		for _, p := range t.Partitions {
			o := kmsg.NewDescribeProducersResponseTopicPartition()
			o.Partition, o.ErrorCode = p, codes[0]
			if codes[0] == 0 {
				o.ErrorCode, o.ActiveProducers = answers[0].Code, activeProducers(&answers[0])
				answers = answers[1:]
			}
			codes = codes[1:]
			o.ErrorMessage = codeText(o.ErrorCode)
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

// producersOf returns one answer for each partition.
func (h *Handler) producersOf(ctx context.Context, where []Partition) []ProducersAnswer {
	answers := make([]ProducersAnswer, 0, len(where))
	held := 0
	for len(answers) < len(where) {
		if held > maxDescribed {
			answers = append(answers, ProducersAnswer{Code: kerr.NotLeaderForPartition.Code})
			continue
		}
		rest := where[len(answers):]
		part := h.Offsets.Producers(ctx, rest[:min(len(rest), producersAtOnce)])
		for i := range part {
			held += producerSize * len(part[i].Producers)
		}
		answers = append(answers, part...)
	}
	return answers
}

func activeProducers(a *ProducersAnswer) []kmsg.DescribeProducersResponseTopicPartitionActiveProducer {
	if a.Code != 0 {
		return nil
	}
	out := make([]kmsg.DescribeProducersResponseTopicPartitionActiveProducer, 0, len(a.Producers))
	for _, s := range a.Producers {
		p := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
		p.ProducerID, p.ProducerEpoch, p.LastSequence, p.LastTimestamp = s.ProducerID, int32(s.Epoch), s.LastSeq, s.Updated
		p.CoordinatorEpoch, p.CurrentTxnStartOffset = s.Coordinator, int64(s.OpenSince)
		out = append(out, p)
	}
	return out
}
