package kafka

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/agent/kafka/topicconfig"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/tiering"
)

// finds is how many topics missing from the copy are looked up one by one. More than
// that many reads cost the store more than one read of all topics, which concurrent
// requests share.
const finds = 3

// resolver looks up the topics of one request: in this agent's copy, and what is missing
// there once in the metadata store, since another agent may have created it just now.
type resolver struct {
	h      *Handler
	left   int   // single lookups left
	fresh  bool  // the copy has been refreshed for this request
	failed error // of the refresh
	missed map[string]error
	newest map[tiering.TopicID]*catalogue.Topic // as they are in the metadata store
}

func (h *Handler) resolve() resolver { return resolver{h: h, left: finds} }

// byName returns the named topic, or an error for code and its kin.
func (r *resolver) byName(ctx context.Context, name string) (*catalogue.Topic, error) {
	if t, ok := r.h.Topics.Topic(name); ok {
		return t, nil
	}
	if err := catalogue.ValidateTopicName(name); err != nil {
		return nil, err
	}
	if err := r.missed[name]; err != nil {
		return nil, err
	}
	t, err := r.miss(ctx, name)
	if err != nil {
		if r.missed == nil {
			r.missed = map[string]error{}
		}
		r.missed[name] = err
	}
	return t, err
}

// miss looks up a topic that is not in the copy, or may be different there.
func (r *resolver) miss(ctx context.Context, name string) (*catalogue.Topic, error) {
	if r.left > 0 {
		r.left--
		return r.h.Topics.Find(ctx, name)
	}
	if err := r.refresh(ctx); err != nil {
		return nil, err
	}
	if t, ok := r.h.Topics.Topic(name); ok {
		return t, nil
	}
	return nil, kerr.UnknownTopicOrPartition
}

// byID returns the topic with the given id; kerr.UnknownTopicID is proof of absence.
func (r *resolver) byID(ctx context.Context, id tiering.TopicID) (*catalogue.Topic, error) {
	if t, ok := r.h.Topics.TopicByID(id); ok {
		return t, nil
	}
	if id == (tiering.TopicID{}) {
		return nil, kerr.UnknownTopicID
	}
	if err := r.refresh(ctx); err != nil {
		return nil, err
	}
	if t, ok := r.h.Topics.TopicByID(id); ok {
		return t, nil
	}
	return nil, kerr.UnknownTopicID
}

func (r *resolver) refresh(ctx context.Context) error {
	if !r.fresh {
		r.fresh, r.failed = true, r.h.Topics.Fresh(ctx)
	}
	return r.failed
}

// partition returns the partition of a topic that was looked up, or false if it has none of
// that number. Another agent may have added it just now, so a miss is looked up once more.
func (r *resolver) partition(ctx context.Context, t *catalogue.Topic, p int32) (Partition, bool) {
	if p >= t.Partitions && p < catalogue.MaxPartitions {
		newest, ok := r.newest[t.ID]
		if !ok {
			found, err := r.miss(ctx, t.Name)
			if newest = t; err == nil && found.ID == t.ID {
				newest = found
			}
			if r.newest == nil {
				r.newest = map[tiering.TopicID]*catalogue.Topic{}
			}
			r.newest[t.ID] = newest
		}
		t = newest
	}
	return r.h.partition(t, p)
}

// partition returns the partition of a topic, or false if it has none of that number.
func (h *Handler) partition(t *catalogue.Topic, p int32) (Partition, bool) {
	if p < 0 || p >= t.Partitions {
		return Partition{}, false
	}
	return Partition{
		TopicPartition: tiering.TopicPartition{Topic: t.ID, Partition: p},
		Shard:          tiering.ShardOf(t.FirstShard, p, h.Cluster.Shards()),
	}, true
}

// checkEpoch compares the leader epoch that a client knows (-1: none) with this agent's
// (KIP-320), and returns the code for a difference.
func (h *Handler) checkEpoch(p Partition, known int32) int16 {
	if known < 0 {
		return 0
	}
	_, epoch := h.Cluster.Leader(p.Shard)
	switch {
	case known < int32(epoch):
		return kerr.FencedLeaderEpoch.Code
	case known > int32(epoch):
		return kerr.UnknownLeaderEpoch.Code
	}
	return 0
}

// settingsCache holds the parsed configs of topics, so that a request neither parses nor
// locks. Topics are immutable: an entry is right as long as it is for the same *Topic.
type settingsCache struct {
	defaults map[string]string
	byID     sync.Map // tiering.TopicID -> *topicSettings
	size     atomic.Int64
}

type topicSettings struct {
	topic    *catalogue.Topic
	settings *topicconfig.Settings
}

// cachedDeleted is how many entries of deleted topics may pile up before all are
// dropped. Each is some 300 bytes; rebuilding costs microseconds a topic.
const cachedDeleted = 4096

// of returns a topic's settings. Configs that cannot be parsed, as of a newer release,
// are as if they were not set.
func (c *settingsCache) of(t *catalogue.Topic, topics func() int) *topicconfig.Settings {
	if e, ok := c.byID.Load(t.ID); ok {
		if e := e.(*topicSettings); e.topic == t {
			return e.settings
		}
	}
	s, err := topicconfig.Parse(t.Configs, c.defaults)
	if err != nil {
		s, err = topicconfig.Parse(valid(t.Configs), c.defaults)
	}
	if err != nil { // the topic's values contradict each other: Validate keeps that out
		s, _ = topicconfig.Parse(nil, c.defaults)
	}
	if _, had := c.byID.Swap(t.ID, &topicSettings{t, s}); !had && c.size.Add(1) > int64(topics()+cachedDeleted) {
		c.size.Store(0)
		c.byID.Clear()
	}
	return s
}

func valid(configs map[string]string) map[string]string {
	ok := map[string]string{}
	for name, v := range configs {
		if k := topicconfig.Lookup(name); k != nil && k.Check(v) == nil {
			ok[name] = v
		}
	}
	return ok
}

// settingsOf returns the parsed configs of a topic.
func (h *Handler) settingsOf(t *catalogue.Topic) *topicconfig.Settings {
	return h.topics.of(t, func() int { return h.Topics.View().Len() })
}
