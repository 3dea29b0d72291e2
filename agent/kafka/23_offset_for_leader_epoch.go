package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/tiering"
)

// OffsetForLeaderEpoch: v2-4
//
// The newest epoch at or before the one asked for, and up to where its readers may have come: consumers find out
// by it that a log was truncated (KIP-320), which on Floe only a recovery can do. Both are -1
// where there is no such epoch.
//
//   - v3: replica id, which is of no account here; v4: flexible

func (h *Handler) offsetForLeaderEpoch(ctx context.Context, req *kmsg.OffsetForLeaderEpochRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
	var queries []EpochQuery
	var at [][2]int
	r := h.resolve()
	for i := range req.Topics {
		in := &req.Topics[i]
		t, err := r.byName(ctx, in.Topic)
		out := kmsg.NewOffsetForLeaderEpochResponseTopic()
		out.Topic = in.Topic
		for j := range in.Partitions {
			p := &in.Partitions[j]
			o := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			o.Partition, o.LeaderEpoch, o.EndOffset = p.Partition, -1, -1
			if err != nil {
				o.ErrorCode = dataCode(err)
			} else if ref, ok := h.partition(t, p.Partition); !ok {
				o.ErrorCode = kerr.UnknownTopicOrPartition.Code
			} else if o.ErrorCode = h.checkEpoch(ref, p.CurrentLeaderEpoch); o.ErrorCode == 0 && p.LeaderEpoch >= 0 {
				queries = append(queries, EpochQuery{ref, tiering.LeaderEpoch(p.LeaderEpoch)})
				at = append(at, [2]int{i, j})
			}
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	if len(queries) == 0 {
		return resp
	}
	for k, a := range h.Offsets.EpochEnds(ctx, queries) {
		o := &resp.Topics[at[k][0]].Partitions[at[k][1]]
		if o.ErrorCode = a.Code; a.Code == 0 {
			o.LeaderEpoch, o.EndOffset = int32(a.Epoch), int64(a.End)
		}
	}
	return resp
}
