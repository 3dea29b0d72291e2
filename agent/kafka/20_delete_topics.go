package kafka

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/tiering"
)

// DeleteTopics: v1-6
//
// By name or, from v6 on, by id (KIP-516). When the request is answered, this agent does
// not know the topics any more; their objects go later.
//
//   - v4: flexible; v5: error messages (KIP-599), and THROTTLING_QUOTA_EXCEEDED, which is
//     never answered here

func (h *Handler) deleteTopics(ctx context.Context, req *kmsg.DeleteTopicsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.DeleteTopicsResponse)
	ctx, cancel := withTimeout(ctx, req.TimeoutMillis)
	defer cancel()
	topics := req.Topics
	if req.Version < 6 {
		topics = nil
		for _, name := range req.TopicNames {
			t := kmsg.NewDeleteTopicsRequestTopic()
			t.Topic = kmsg.StringPtr(name)
			topics = append(topics, t)
		}
	}
	resp.Topics = make([]kmsg.DeleteTopicsResponseTopic, len(topics))
	errs := repeatedTopics(topics)
	revisions := make([]int64, len(topics))
	each(len(topics), func(i int) {
		out := &resp.Topics[i]
		*out = kmsg.NewDeleteTopicsResponseTopic()
		out.Topic, out.TopicID = topics[i].Topic, topics[i].TopicID
		err := errs[i]
		if err == nil {
			revisions[i], err = h.deleteTopic(ctx, out)
		}
		out.ErrorCode, out.ErrorMessage = code(err), message(err)
	})
	var revision int64
	for _, r := range revisions {
		revision = max(revision, r)
	}
	_ = h.Changes.WaitRevision(ctx, revision) // they are deleted, however long this copy takes
	return resp
}

// repeatedTopics finds what is named twice or not properly.
func repeatedTopics(topics []kmsg.DeleteTopicsRequestTopic) []error {
	errs := make([]error, len(topics))
	names, ids := map[string]int{}, map[tiering.TopicID]int{}
	for i := range topics {
		t := &topics[i]
		hasID := t.TopicID != [16]byte{}
		switch {
		case t.Topic != nil && hasID:
			errs[i] = refuse(kerr.InvalidRequest, "You may not specify both topic name and topic id.")
		case t.Topic == nil && !hasID:
			errs[i] = refuse(kerr.InvalidRequest, "Neither topic name nor id were specified.")
		case hasID:
			ids[t.TopicID]++
		default:
			names[*t.Topic]++
		}
	}
	for i := range topics {
		t := &topics[i]
		switch {
		case errs[i] != nil:
		case t.Topic != nil && names[*t.Topic] > 1:
			errs[i] = refuse(kerr.InvalidRequest, "Duplicate topic name.")
		case t.Topic == nil && ids[t.TopicID] > 1:
			errs[i] = refuse(kerr.InvalidRequest, "Duplicate topic id.")
		}
	}
	return errs
}

func (h *Handler) deleteTopic(ctx context.Context, out *kmsg.DeleteTopicsResponseTopic) (revision int64, err error) {
	if out.Topic != nil {
		c, err := h.Changes.Delete(ctx, *out.Topic)
		if err == nil && c.Topic != nil {
			out.TopicID = c.Topic.ID
		}
		return c.Revision, err
	}
	c, err := h.Changes.DeleteByID(ctx, out.TopicID)
	if errors.Is(err, catalogue.ErrTopicNotFound) {
		return 0, refuse(kerr.UnknownTopicID, "%s", kerr.UnknownTopicID.Description)
	}
	if err == nil && c.Topic != nil {
		out.Topic = kmsg.StringPtr(c.Topic.Name)
	}
	return c.Revision, err
}
