package kafka

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka/topicconfig"
	"github.com/floelog/floe/metadata/catalogue"
)

// CreateTopics: v2-7
//
// Any replication factor is taken and reported, none has an effect: durability comes from
// the object store. A manual assignment is checked as Kafka checks it, and then only
// tells the number of partitions. When the request is answered, this agent knows the
// topics; other agents ask the metadata store for what they do not know.
//
//   - v4: -1 partitions and replicas stand for the defaults (KIP-464)
//   - v5: flexible; the topic's configs in the response (KIP-525)
//   - v6: THROTTLING_QUOTA_EXCEEDED, never answered here (KIP-599)
//   - v7: topic ids (KIP-516)

func (h *Handler) createTopics(ctx context.Context, req *kmsg.CreateTopicsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
	ctx, cancel := withTimeout(ctx, req.TimeoutMillis)
	defer cancel()
	count := map[string]int{}
	for i := range req.Topics {
		count[req.Topics[i].Topic]++
	}
	var topics []catalogue.NewTopic
	var at []int // where in the response they belong
	v := h.view(asker{listener: DefaultListener})
	for i := range req.Topics {
		in := &req.Topics[i]
		out := kmsg.NewCreateTopicsResponseTopic()
		out.Topic, out.NumPartitions, out.ReplicationFactor = in.Topic, -1, -1
		if n := count[in.Topic]; n > 1 {
			count[in.Topic] = -1 // one answer for all of them
			failTopic(&out, refuse(kerr.InvalidRequest, "Duplicate topic name."))
		} else if n < 0 {
			continue
		} else if t, err := h.newTopic(v, in); err != nil {
			failTopic(&out, err)
		} else {
			topics, at = append(topics, t), append(at, len(resp.Topics))
		}
		resp.Topics = append(resp.Topics, out)
	}
	if len(topics) == 0 {
		return resp
	}
	var created []catalogue.Created
	if req.ValidateOnly {
		created = h.couldCreate(ctx, topics)
	} else {
		created = h.Changes.Create(ctx, topics)
	}
	var revision int64
	for i, c := range created {
		out := &resp.Topics[at[i]]
		if c.Err != nil {
			failTopic(out, c.Err)
			continue
		}
		revision = max(revision, c.Revision)
		out.TopicID = c.Topic.ID
		out.NumPartitions, out.ReplicationFactor = c.Topic.Partitions, c.Topic.ReplicationFactor
		out.Configs = h.createdConfigs(c.Topic)
	}
	_ = h.Changes.WaitRevision(ctx, revision) // the topics exist, however long this copy takes
	return resp
}

func failTopic(out *kmsg.CreateTopicsResponseTopic, err error) {
	out.ErrorCode, out.ErrorMessage = code(err), message(err)
}

// newTopic checks what the catalogue does not.
func (h *Handler) newTopic(v *view, in *kmsg.CreateTopicsRequestTopic) (catalogue.NewTopic, error) {
	t := catalogue.NewTopic{Name: in.Topic, Partitions: in.NumPartitions, ReplicationFactor: in.ReplicationFactor}
	if err := catalogue.ValidateTopicName(in.Topic); err != nil {
		return t, err
	}
	if len(in.ReplicaAssignment) > 0 {
		if err := v.checkAssignments(in); err != nil {
			return t, err
		}
		t.Partitions = int32(len(in.ReplicaAssignment))
		t.ReplicationFactor = int16(len(in.ReplicaAssignment[0].Replicas))
	}
	switch t.Partitions {
	case -1:
		t.Partitions = h.settings.NumPartitions
	default:
		if t.Partitions < 1 {
			return t, refuse(kerr.InvalidPartitions, "Number of partitions was set to an invalid non-positive value.")
		}
	}
	if t.Partitions > h.settings.MaxPartitions {
		return t, refuse(kerr.InvalidPartitions, "%d partitions: a topic may have at most %d.", t.Partitions, h.settings.MaxPartitions)
	}
	switch {
	case t.ReplicationFactor == -1:
		t.ReplicationFactor = h.settings.ReplicationFactor
	case t.ReplicationFactor < 1:
		return t, refuse(kerr.InvalidReplicationFactor, "Replication factor was set to an invalid non-positive value.")
	}
	t.Configs = make(map[string]string, len(in.Configs))
	for _, c := range in.Configs {
		if c.Value == nil {
			return t, refuse(kerr.InvalidConfig, "Null value not supported for topic configs: %s", c.Name)
		}
		t.Configs[c.Name] = *c.Value
	}
	return t, topicconfig.Validate(t.Configs, h.settings.TopicDefaults)
}

// checkAssignments applies Kafka's rules for manual assignments: partitions from 0 up
// without a gap, each on the same number of different agents that are there.
func (v *view) checkAssignments(in *kmsg.CreateTopicsRequestTopic) error {
	switch {
	case in.NumPartitions != -1:
		return refuse(kerr.InvalidRequest, "A manual partition assignment was specified, but numPartitions was not set to -1.")
	case in.ReplicationFactor != -1:
		return refuse(kerr.InvalidRequest, "A manual partition assignment was specified, but replication factor was not set to -1.")
	}
	seen := make(map[int32]bool, len(in.ReplicaAssignment))
	for i := range in.ReplicaAssignment {
		a := &in.ReplicaAssignment[i]
		switch {
		case seen[a.Partition]:
			return refuse(kerr.InvalidReplicaAssignment, "Found multiple manual partition assignments for partition %d", a.Partition)
		case a.Partition < 0 || int(a.Partition) >= len(in.ReplicaAssignment):
			return refuse(kerr.InvalidReplicaAssignment, "partitions should be a consecutive 0-based integer sequence")
		}
		seen[a.Partition] = true
		if err := v.checkAssignment(a.Replicas, len(in.ReplicaAssignment[0].Replicas)); err != nil {
			return err
		}
	}
	return nil
}

func (v *view) checkAssignment(nodes []int32, want int) error {
	switch {
	case len(nodes) == 0:
		return refuse(kerr.InvalidReplicaAssignment, "The manual partition assignment includes an empty replica list.")
	case len(nodes) != want:
		return refuse(kerr.InvalidReplicaAssignment, "The manual partition assignment includes a partition with %d replica(s), but this is not consistent with previous partitions, which have %d replica(s).", len(nodes), want)
	}
	sorted := slices.Sorted(slices.Values(nodes))
	for i, n := range sorted {
		if v.index(n) < 0 {
			return refuse(kerr.InvalidReplicaAssignment, "The manual partition assignment includes broker %d, but no such broker is registered.", n)
		}
		if i > 0 && n == sorted[i-1] {
			return refuse(kerr.InvalidReplicaAssignment, "The manual partition assignment includes the broker %d more than once.", n)
		}
	}
	return nil
}

// couldCreate tells what creating the topics would answer, without creating any.
func (h *Handler) couldCreate(ctx context.Context, topics []catalogue.NewTopic) []catalogue.Created {
	out := make([]catalogue.Created, len(topics))
	r := h.resolve()
	for i, t := range topics {
		out[i].Topic = &catalogue.Topic{Name: t.Name, Partitions: t.Partitions, ReplicationFactor: t.ReplicationFactor, Configs: t.Configs}
		switch _, err := r.byName(ctx, t.Name); {
		case err == nil:
			out[i].Err = catalogue.ErrTopicExists
		case kafkaError(err) != kerr.UnknownTopicOrPartition:
			out[i].Err = err
		}
	}
	return out
}

// createdConfigs lists all configs of a new topic, with where each value comes from.
func (h *Handler) createdConfigs(t *catalogue.Topic) []kmsg.CreateTopicsResponseTopicConfig {
	keys := topicconfig.All()
	out := make([]kmsg.CreateTopicsResponseTopicConfig, 0, len(keys))
	for _, k := range keys {
		value, source := h.topicConfig(t, k)
		c := kmsg.NewCreateTopicsResponseTopicConfig()
		c.Name, c.Value, c.Source = k.Name, kmsg.StringPtr(value), int8(source)
		out = append(out, c)
	}
	return out
}
