package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/tiering"
)

// DeleteRecords: v0-2 (KIP-107)
//
// Moves the log start forward; -1 stands for the high watermark. Offsets beyond it, and
// other negative ones, are OFFSET_OUT_OF_RANGE. A topic that is only compacted refuses
// (POLICY_VIOLATION), as in Kafka.
//
//   - v2: flexible

func (h *Handler) deleteRecords(ctx context.Context, req *kmsg.DeleteRecordsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.DeleteRecordsResponse)
	ctx, cancel := withTimeout(ctx, req.TimeoutMillis)
	defer cancel()
	var queries []TrimQuery
	var at [][2]int
	r := h.resolve()
	for i := range req.Topics {
		in := &req.Topics[i]
		t, err := r.byName(ctx, in.Topic)
		out := kmsg.NewDeleteRecordsResponseTopic()
		out.Topic = in.Topic
		for j := range in.Partitions {
			p := &in.Partitions[j]
			o := kmsg.NewDeleteRecordsResponseTopicPartition()
			o.Partition, o.LowWatermark = p.Partition, -1
			if err != nil {
				o.ErrorCode = code(err)
			} else if ref, ok := h.partition(t, p.Partition); !ok {
				o.ErrorCode = kerr.UnknownTopicOrPartition.Code
			} else if s := h.settingsOf(t); s.Compacted && !s.Deleted {
				o.ErrorCode = kerr.PolicyViolation.Code
			} else if p.Offset < -1 {
				o.ErrorCode = kerr.OffsetOutOfRange.Code
			} else {
				queries = append(queries, TrimQuery{ref, tiering.Offset(p.Offset)})
				at = append(at, [2]int{i, j})
			}
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	if len(queries) == 0 {
		return resp
	}
	for k, a := range h.Records.Trim(ctx, queries) {
		o := &resp.Topics[at[k][0]].Partitions[at[k][1]]
		if o.ErrorCode = a.Code; a.Code == 0 {
			o.LowWatermark = int64(a.LogStart)
		}
	}
	return resp
}
