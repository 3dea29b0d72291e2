package kafka

import (
	"context"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeTopicPartitions: v0 (KIP-966)
//
// Topics in the order of their names, with at most responsePartitions partitions in one
// response; the cursor says where the next one goes on. An empty list means all topics,
// of which those that vanish between two pages are passed over in silence.

// responsePartitions bounds the partitions of one response, as Kafka's
// max.request.partition.size.limit does. More would make responses of megabytes.
const responsePartitions = 2000

func (h *Handler) describeTopicPartitions(ctx context.Context, who asker, req *kmsg.DescribeTopicPartitionsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.DescribeTopicPartitionsResponse)
	from, first := "", int32(0)
	if c := req.Cursor; c != nil {
		from, first = c.Topic, c.Partition
	}
	var answers []topicAnswer
	if first < 0 {
		for _, t := range req.Topics {
			answers = append(answers, topicAnswer{name: t.Topic, err: refuse(kerr.InvalidRequest, "cursor partition is %d", first)})
		}
	} else {
		answers = h.topicsFrom(ctx, req, from)
	}
	v := h.view(who)
	left := min(max(req.ResponsePartitionLimit, 1), responsePartitions)
	for _, a := range answers {
		start := int32(0)
		if a.topic != nil && a.topic.Name == from {
			start = first
		}
		if left == 0 {
			resp.NextCursor = cursorAt(a.answerName(), start)
			break
		}
		out, taken, next := a.describe(v, start, left)
		resp.Topics = append(resp.Topics, out)
		left -= taken
		if next >= 0 {
			resp.NextCursor = cursorAt(a.answerName(), next)
			break
		}
	}
	return resp
}

func cursorAt(topic string, partition int32) *kmsg.DescribeTopicPartitionsResponseNextCursor {
	c := kmsg.NewDescribeTopicPartitionsResponseNextCursor()
	c.Topic, c.Partition = topic, partition
	return &c
}

func (a *topicAnswer) answerName() string {
	if a.topic != nil {
		return a.topic.Name
	}
	return a.name
}

// topicsFrom returns the topics that are asked for, in order, from the cursor's on.
func (h *Handler) topicsFrom(ctx context.Context, req *kmsg.DescribeTopicPartitionsRequest, from string) []topicAnswer {
	var answers []topicAnswer
	if len(req.Topics) == 0 {
		for t := range h.Topics.View().Topics() {
			if t.Name >= from {
				answers = append(answers, topicAnswer{topic: t})
			}
		}
		return answers
	}
	names := make([]string, 0, len(req.Topics))
	for _, t := range req.Topics {
		if t.Topic >= from {
			names = append(names, t.Topic)
		}
	}
	slices.SortFunc(names, strings.Compare)
	r := h.resolve()
	for _, name := range slices.Compact(names) {
		a := topicAnswer{name: name}
		a.topic, a.err = r.byName(ctx, name)
		answers = append(answers, a)
	}
	return answers
}

// describe answers for up to limit partitions of a topic. next is where to go on, -1 at
// the topic's end.
func (a *topicAnswer) describe(v *view, start, limit int32) (out kmsg.DescribeTopicPartitionsResponseTopic, taken, next int32) {
	out = kmsg.NewDescribeTopicPartitionsResponseTopic()
	out.Topic, out.AuthorizedOperations = kmsg.StringPtr(a.answerName()), noOperations
	if a.err != nil || a.topic == nil {
		out.ErrorCode = metadataCode(a.err)
		return out, 0, -1
	}
	t := a.topic
	out.TopicID, out.IsInternal, out.AuthorizedOperations = t.ID, internal(t.Name), topicOperations
	p := start
	for ; p < t.Partitions && taken < limit; p++ {
		ref, _ := v.h.partition(t, p)
		leader, epoch := v.leader(ref.Shard)
		o := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
		o.Partition, o.LeaderID, o.LeaderEpoch = p, leader, int32(epoch)
		if leader < 0 {
			o.ErrorCode = kerr.LeaderNotAvailable.Code
		}
		o.Replicas = v.replicas(t, ref.Shard, leader)
		o.ISR, o.OfflineReplicas = o.Replicas, []int32{}
		// Null is allowed for these two (KIP-966), but Java's admin client reads them
		// without a look.
		o.EligibleLeaderReplicas, o.LastKnownELR = []int32{}, []int32{}
		out.Partitions = append(out.Partitions, o)
		taken++
	}
	if p < t.Partitions {
		return out, taken, p
	}
	return out, taken, -1
}
