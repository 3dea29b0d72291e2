package kafka_test

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// groups are coordinators that do as they are told, and keep offsets and configs.
type groups struct {
	mu      sync.Mutex
	asked   []question
	commits []commitment
	fetches []fetching
	offsets map[string]map[tiering.TopicPartition]kafka.FetchedOffset
	configs map[string]map[string]string

	answer func(group string, req kmsg.Request) (kmsg.Response, error) // instead of an empty answer
	code   int16                                                       // of commits, fetches and deletions
	codes  map[int32]int16                                             // of a deletion, by partition
	err    error                                                       // of everything
}

type question struct {
	from  kafka.From
	group string
	req   kmsg.Request
}

type commitment struct {
	from    kafka.From
	group   string
	member  kafka.GroupMember
	tx      shard.Transaction
	offsets []shard.GroupOffset
}

type fetching struct {
	group       string
	member      kafka.GroupMember
	partitions  []tiering.TopicPartition
	all, stable bool
}

func newGroups() *groups {
	return &groups{offsets: map[string]map[tiering.TopicPartition]kafka.FetchedOffset{}, configs: map[string]map[string]string{}}
}

func (g *groups) Ask(_ context.Context, from kafka.From, group string, req kmsg.Request) (kmsg.Response, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, question{from, group, req})
	if g.err != nil {
		return nil, g.err
	}
	if g.answer != nil {
		return g.answer(group, req)
	}
	resp := req.ResponseKind()
	switch resp := resp.(type) {
	case *kmsg.DescribeGroupsResponse:
		d := kmsg.NewDescribeGroupsResponseGroup()
		d.Group, d.State = group, "Stable"
		resp.Groups = append(resp.Groups, d)
	case *kmsg.ConsumerGroupDescribeResponse:
		d := kmsg.NewConsumerGroupDescribeResponseGroup()
		d.Group, d.State = group, "Stable"
		resp.Groups = append(resp.Groups, d)
	case *kmsg.DeleteGroupsResponse:
		d := kmsg.NewDeleteGroupsResponseGroup()
		d.Group = group
		resp.Groups = append(resp.Groups, d)
	}
	return resp, nil
}

func (g *groups) List(_ context.Context, from kafka.From, req *kmsg.ListGroupsRequest) (*kmsg.ListGroupsResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, question{from, "", req})
	if g.err != nil {
		return nil, g.err
	}
	resp := req.ResponseKind().(*kmsg.ListGroupsResponse)
	for _, name := range slices.Sorted(maps.Keys(g.offsets)) {
		l := kmsg.NewListGroupsResponseGroup()
		l.Group, l.ProtocolType, l.GroupState, l.GroupType = name, "consumer", "Empty", "Classic"
		resp.Groups = append(resp.Groups, l)
	}
	return resp, nil
}

func (g *groups) Commit(_ context.Context, from kafka.From, group string, m kafka.GroupMember, tx shard.Transaction, offsets []shard.GroupOffset) (int16, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.commits = append(g.commits, commitment{from, group, m, tx, offsets})
	if g.err != nil || g.code != 0 {
		return g.code, g.err
	}
	for _, o := range offsets {
		g.put(group, kafka.FetchedOffset{Partition: o.Partition, Offset: o.Offset, Epoch: o.Epoch, Metadata: o.Metadata})
	}
	return 0, nil
}

func (g *groups) put(group string, o kafka.FetchedOffset) {
	if g.offsets[group] == nil {
		g.offsets[group] = map[tiering.TopicPartition]kafka.FetchedOffset{}
	}
	g.offsets[group][o.Partition] = o
}

func (g *groups) Fetch(_ context.Context, _ kafka.From, group string, m kafka.GroupMember, partitions []tiering.TopicPartition, all, stable bool) ([]kafka.FetchedOffset, int16, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fetches = append(g.fetches, fetching{group, m, partitions, all, stable})
	if g.err != nil || g.code != 0 {
		return nil, g.code, g.err
	}
	if all {
		return slices.Collect(maps.Values(g.offsets[group])), 0, nil
	}
	var out []kafka.FetchedOffset
	for _, p := range partitions {
		o, ok := g.offsets[group][p]
		if !ok {
			o = kafka.FetchedOffset{Partition: p, Offset: -1, Epoch: -1}
		}
		out = append(out, o)
	}
	return out, 0, nil
}

func (g *groups) Delete(_ context.Context, group string, partitions []tiering.TopicPartition) ([]int16, int16, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil || g.code != 0 {
		return nil, g.code, g.err
	}
	codes := make([]int16, len(partitions))
	for i, p := range partitions {
		if codes[i] = g.codes[p.Partition]; codes[i] == 0 {
			delete(g.offsets[group], p)
		}
	}
	return codes, 0, nil
}

func (g *groups) Configs(_ context.Context, group string) (map[string]string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.configs[group]), g.err
}

func (g *groups) AlterConfigs(_ context.Context, group string, alter map[string]*string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return g.err
	}
	if g.configs[group] == nil {
		g.configs[group] = map[string]string{}
	}
	for k, v := range alter {
		if v == nil {
			delete(g.configs[group], k)
		} else {
			g.configs[group][k] = *v
		}
	}
	return nil
}
