package kafka

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/tiering"
)

// OffsetDelete: v0 (KIP-496)
//
// Forgets committed offsets of a group: of topics that no member subscribes to
// (GROUP_SUBSCRIBED_TO_TOPIC). A code of the group leaves all of them, and stands alone.

func (h *Handler) offsetDelete(ctx context.Context, _ From, req *kmsg.OffsetDeleteRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.OffsetDeleteResponse)
	if req.Group == "" {
		resp.ErrorCode = kerr.InvalidGroupID.Code
		return resp
	}
	topics := make([]kmsg.OffsetDeleteResponseTopic, len(req.Topics))
	var partitions []tiering.TopicPartition
	var at []*int16
	r := h.resolve()
	for i := range req.Topics {
		in, out := &req.Topics[i], &topics[i]
		out.Topic = in.Topic
		out.Partitions = make([]kmsg.OffsetDeleteResponseTopicPartition, len(in.Partitions))
		t, err := r.byName(ctx, in.Topic)
		for j := range in.Partitions {
			o := &out.Partitions[j]
			o.Partition = in.Partitions[j].Partition
			if err != nil {
				o.ErrorCode = coordinatorCode(err)
				continue
			}
			ref, ok := r.partition(ctx, t, o.Partition)
			if !ok {
				o.ErrorCode = kerr.UnknownTopicOrPartition.Code
				continue
			}
			partitions = append(partitions, ref.TopicPartition)
			at = append(at, &o.ErrorCode)
		}
	}
	codes, code, err := h.Groups.Delete(ctx, req.Group, partitions)
	if err == nil && code == 0 && len(codes) != len(partitions) {
		err = fmt.Errorf("the coordinator answered for %d partitions, not %d", len(codes), len(partitions))
	}
	if err != nil {
		code = coordinatorCode(err)
	}
	if resp.ErrorCode = code; code != 0 {
		return resp
	}
	for k := range codes {
		*at[k] = codes[k]
	}
	resp.Topics = topics
	return resp
}
