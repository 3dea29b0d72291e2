package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeProducers: v0
//
// What is known of the producers of partitions that is not forgotten yet: idempotent and
// transactional ones, and which of them have a transaction open (KIP-664).

func (h *Handler) describeProducers(ctx context.Context, req *kmsg.DescribeProducersRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.DescribeProducersResponse)
	names := make([]namedPartitions, len(req.Topics))
	for i, t := range req.Topics {
		names[i] = namedPartitions{t.Topic, t.Partitions}
	}
	r := h.resolve()
	where, codes, _ := h.locate(ctx, &r, names, kerr.NotLeaderForPartition)
	var answers []ProducersAnswer
	if len(where) > 0 {
		answers = h.Offsets.Producers(ctx, where)
	}
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
