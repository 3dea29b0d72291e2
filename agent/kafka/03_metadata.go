package kafka

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/tiering"
)

// Metadata: v0-13
//
// The live agents, with those that ended a few seconds ago (their partitions have other leaders
// already, but clients must not let go of them too soon, see Cluster), and the asked-for topics, all topics where the list is null (v0: empty).
// Every partition has a leader as long as an agent lives: one of the client's zone where that
// is known and has agents (zones.go), and else the shard's. Agents have the addresses of the
// listener that is asked; those that do not listen there are left out. Missing topics are created if the
// request and auto.create.topics.enable allow it, and are in the answer at once.
//
//   - v1: controller, racks; v2: cluster id; v5: offline replicas, always none
//   - v4: the client may forbid creation; before, it could not (KIP-204)
//   - v7: leader epoch (KIP-320); v8: authorized operations (KIP-430)
//   - v9: flexible; v10: topic ids in responses, v12: in requests (KIP-516)
//   - v11: no cluster operations (KIP-700); v13: top-level error (KIP-1102)

func (h *Handler) metadata(ctx context.Context, who asker, req *kmsg.MetadataRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.MetadataResponse)
	v := h.view(who)
	for _, a := range v.everybody() {
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port = a.NodeID, a.Host, a.Port
		if a.Rack != "" {
			b.Rack = kmsg.StringPtr(a.Rack)
		}
		resp.Brokers = append(resp.Brokers, b)
	}
	resp.ClusterID = kmsg.StringPtr(h.Cluster.ClusterID())
	resp.ControllerID = v.controller()
	resp.AuthorizedOperations = noOperations
	if req.IncludeClusterAuthorizedOperations {
		resp.AuthorizedOperations = clusterOperations
	}
	answers, err := h.metadataTopics(ctx, req)
	if err != nil { // older versions have no place for it but the topics
		resp.ErrorCode = metadataCode(err)
	}
	resp.Topics = make([]kmsg.MetadataResponseTopic, 0, len(answers))
	for _, a := range answers {
		resp.Topics = append(resp.Topics, a.response(v, req))
	}
	return resp
}

// topicAnswer is what became of one topic that a request asked for.
type topicAnswer struct {
	name  string // as asked for; empty where only an id was
	id    tiering.TopicID
	topic *catalogue.Topic
	err   error
}

func (h *Handler) metadataTopics(ctx context.Context, req *kmsg.MetadataRequest) ([]topicAnswer, error) {
	if req.Topics == nil || req.Version == 0 && len(req.Topics) == 0 {
		// A copy that has never been loaded knows nothing at all, which must not pass for
		// a cluster without topics.
		view := h.Topics.View()
		if view.Revision() == 0 {
			if err := h.Topics.Fresh(ctx); err != nil {
				return nil, err
			}
			view = h.Topics.View()
		}
		all := make([]topicAnswer, 0, view.Len())
		for t := range view.Topics() {
			all = append(all, topicAnswer{topic: t})
		}
		return all, nil
	}
	answers := h.askedTopics(ctx, req)
	if h.settings.AutoCreateTopics && (req.Version < 4 || req.AllowAutoTopicCreation) {
		h.createMissing(ctx, answers)
	}
	return answers, nil
}

// askedTopics looks up the topics of a request, each once.
func (h *Handler) askedTopics(ctx context.Context, req *kmsg.MetadataRequest) []topicAnswer {
	answers := make([]topicAnswer, 0, len(req.Topics))
	names, ids := map[string]bool{}, map[tiering.TopicID]bool{}
	r := h.resolve()
	for i := range req.Topics {
		t := &req.Topics[i]
		a := topicAnswer{id: t.TopicID}
		switch {
		case a.id != (tiering.TopicID{}) && req.Version < 12:
			a.err = refuse(kerr.InvalidRequest, "topic ids are not supported by Metadata version %d", req.Version)
		case a.id != (tiering.TopicID{}):
			if ids[a.id] {
				continue
			}
			ids[a.id] = true
			a.topic, a.err = r.byID(ctx, a.id)
		case t.Topic == nil:
			a.err = refuse(kerr.InvalidRequest, "neither a topic's name nor its id")
		default:
			if names[*t.Topic] {
				continue
			}
			names[*t.Topic] = true
			a.name = *t.Topic
			a.topic, a.err = r.byName(ctx, a.name)
		}
		answers = append(answers, a)
	}
	return answers
}

// autoCreated is the most topics that one request creates by naming them. What is above
// is answered LEADER_NOT_AVAILABLE, and gets its turn when the client asks again. More
// would let a stray request fill the metadata store; fewer would slow down start-ups.
const autoCreated = 1000

// createMissing creates the topics that were asked for by name and do not exist.
func (h *Handler) createMissing(ctx context.Context, answers []topicAnswer) {
	var topics []catalogue.NewTopic
	var of []int
	for i, a := range answers {
		if a.err == nil || a.name == "" || kafkaError(a.err) != kerr.UnknownTopicOrPartition {
			continue
		}
		if len(topics) == autoCreated {
			answers[i].err = kerr.LeaderNotAvailable
			continue
		}
		topics = append(topics, catalogue.NewTopic{Name: a.name, Partitions: h.settings.NumPartitions, ReplicationFactor: h.settings.ReplicationFactor})
		of = append(of, i)
	}
	if len(topics) == 0 {
		return
	}
	var revision int64
	for i, created := range h.Changes.Create(ctx, topics) {
		a := &answers[of[i]]
		a.topic, a.err = created.Topic, created.Err
		if errors.Is(a.err, catalogue.ErrTopicExists) { // somebody else was faster
			a.topic, a.err = h.Topics.Find(ctx, a.name)
		}
		revision = max(revision, created.Revision)
	}
	// The client's next request may ask this agent's copy. If that takes too long, the
	// topics exist all the same.
	_ = h.Changes.WaitRevision(ctx, revision)
}

func (a *topicAnswer) response(v *view, req *kmsg.MetadataRequest) kmsg.MetadataResponseTopic {
	out := kmsg.NewMetadataResponseTopic()
	out.AuthorizedOperations = noOperations
	if a.err != nil || a.topic == nil {
		out.ErrorCode = metadataCode(a.err)
		out.TopicID = a.id
		if a.id == (tiering.TopicID{}) || req.Version < 12 { // a null name needs v12
			out.Topic = kmsg.StringPtr(a.name)
		}
		return out
	}
	t := a.topic
	out.Topic, out.TopicID = kmsg.StringPtr(t.Name), t.ID
	out.IsInternal = internal(t.Name)
	if req.IncludeTopicAuthorizedOperations {
		out.AuthorizedOperations = topicOperations
	}
	out.Partitions = make([]kmsg.MetadataResponseTopicPartition, 0, t.Partitions)
	for i := range t.Partitions {
		p := kmsg.NewMetadataResponseTopicPartition()
		ref, _ := v.h.partition(t, i)
		leader, epoch := v.leader(ref.Shard)
		p.Partition, p.Leader, p.LeaderEpoch = i, leader, int32(epoch)
		if leader < 0 {
			p.ErrorCode = kerr.LeaderNotAvailable.Code
		}
		p.Replicas = v.replicas(t, ref.Shard, leader)
		p.ISR = p.Replicas
		p.OfflineReplicas = []int32{}
		out.Partitions = append(out.Partitions, p)
	}
	return out
}

// internal reports whether clients treat a topic as Kafka's own.
func internal(name string) bool {
	return name == "__consumer_offsets" || name == "__transaction_state" || name == "__share_group_state"
}

// Sets of operations that a client may do, as bits of the ACL operations' numbers
// (KIP-430). Without authorization everything is allowed, as in Kafka.
const (
	noOperations int32 = -1 << 31 // not asked for

	opRead, opWrite, opCreate, opDelete, opAlter, opDescribe      = 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8
	opClusterAction, opDescribeConfigs, opAlterConfigs, opIdempot = 1 << 9, 1 << 10, 1 << 11, 1 << 12

	topicOperations   int32 = opRead | opWrite | opCreate | opDelete | opAlter | opDescribe | opDescribeConfigs | opAlterConfigs
	clusterOperations int32 = opCreate | opAlter | opDescribe | opClusterAction | opDescribeConfigs | opAlterConfigs | opIdempot
)
