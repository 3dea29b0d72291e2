package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/metadata/catalogue"
)

// CreatePartitions: v0-3 (KIP-195)
//
// Topics only grow. Assignments are checked for their form and have no effect.
//
//   - v2: flexible; v3: THROTTLING_QUOTA_EXCEEDED, never answered here (KIP-599)

func (h *Handler) createPartitions(ctx context.Context, req *kmsg.CreatePartitionsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.CreatePartitionsResponse)
	ctx, cancel := withTimeout(ctx, req.TimeoutMillis)
	defer cancel()
	count := map[string]int{}
	for i := range req.Topics {
		count[req.Topics[i].Topic]++
	}
	resp.Topics = make([]kmsg.CreatePartitionsResponseTopic, len(req.Topics))
	revisions := make([]int64, len(req.Topics))
	v := h.view(asker{listener: DefaultListener})
	each(len(req.Topics), func(i int) {
		in, out := &req.Topics[i], &resp.Topics[i]
		*out = kmsg.NewCreatePartitionsResponseTopic()
		out.Topic = in.Topic
		var err error
		if count[in.Topic] > 1 {
			err = refuse(kerr.InvalidRequest, "Duplicate topic name.")
		} else {
			revisions[i], err = h.grow(ctx, v, in, req.ValidateOnly)
		}
		out.ErrorCode, out.ErrorMessage = code(err), message(err)
	})
	var revision int64
	for _, r := range revisions {
		revision = max(revision, r)
	}
	_ = h.Changes.WaitRevision(ctx, revision) // they exist, however long this copy takes
	return resp
}

// grow judges by the store's state, not by a copy that may lag: SetPartitions decides
// once more, in the same transaction that changes the topic.
func (h *Handler) grow(ctx context.Context, v *view, in *kmsg.CreatePartitionsRequestTopic, validateOnly bool) (revision int64, err error) {
	t, err := h.Topics.Find(ctx, in.Topic)
	if err != nil {
		return 0, err
	}
	if err := h.checkGrowth(v, t, in); err != nil || validateOnly {
		return 0, err
	}
	c, err := h.Changes.SetPartitions(ctx, in.Topic, in.Count)
	return c.Revision, err
}

func (h *Handler) checkGrowth(v *view, t *catalogue.Topic, in *kmsg.CreatePartitionsRequestTopic) error {
	switch {
	case in.Count == t.Partitions:
		return refuse(kerr.InvalidPartitions, "Topic already has %d partition(s).", t.Partitions)
	case in.Count < t.Partitions:
		return refuse(kerr.InvalidPartitions, "The topic %s currently has %d partition(s); %d would not be an increase.", t.Name, t.Partitions, in.Count)
	case in.Count > h.settings.MaxPartitions:
		return refuse(kerr.InvalidPartitions, "%d partitions: a topic may have at most %d.", in.Count, h.settings.MaxPartitions)
	case in.Assignment != nil && len(in.Assignment) != int(in.Count-t.Partitions):
		return refuse(kerr.InvalidReplicaAssignment, "Attempted to add %d additional partition(s), but only %d assignment(s) were specified.", in.Count-t.Partitions, len(in.Assignment))
	}
	for _, a := range in.Assignment {
		if err := v.checkAssignment(a.Replicas, len(in.Assignment[0].Replicas)); err != nil {
			return err
		}
	}
	return nil
}
