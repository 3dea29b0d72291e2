package load

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/integration/history"
	"github.com/floelog/floe/integration/torture/check"
)

// requester sends a request to where it belongs, or to one agent.
type requester interface {
	Request(ctx context.Context, req kmsg.Request) (kmsg.Response, error)
}

const latest, earliest = -1, -2 // timestamps of ListOffsets (KIP-79)

func (l *Load) listOffsets(ctx context.Context, to requester, topic string, timestamp int64, isolation int8) (map[int32]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, produceTimeout)
	defer cancel()
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.IsolationLevel = -1, isolation
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = topic
	for _, p := range l.all() {
		part := kmsg.NewListOffsetsRequestTopicPartition()
		part.Partition, part.Timestamp = p, timestamp
		t.Partitions = append(t.Partitions, part)
	}
	req.Topics = append(req.Topics, t)
	resp, err := to.Request(ctx, req)
	if err != nil {
		return nil, err
	}
	offsets := map[int32]int64{}
	for _, t := range resp.(*kmsg.ListOffsetsResponse).Topics {
		for _, p := range t.Partitions {
			switch err := kerr.ErrorForCode(p.ErrorCode); {
			case err == nil:
				offsets[p.Partition] = p.Offset
			case !kerr.IsRetriable(err):
				return nil, fmt.Errorf("offsets of partition %d: %w", p.Partition, err)
			}
		}
	}
	return offsets, nil
}

// startObservers asks each agent in turn for watermarks, and the coordinators for committed
// offsets: whoever is asked, neither goes back.
func (l *Load) startObservers() {
	r := l.random(300)
	l.readers.Go(func() {
		var agents []requester
		for _, addr := range l.cfg.Agents {
			c := l.must("observer-of-one", kgo.SeedBrokers(addr))
			defer c.Close()
			agents = append(agents, c.SeedBrokers()[0])
		}
		for pause(l.read, 4*retryPause) {
			l.observe(agents[r.IntN(len(agents))], stable()[r.IntN(4)])
		}
	})
	for _, g := range append(l.groups, l.processing...) {
		if !g.judged {
			continue
		}
		l.readers.Go(func() {
			c := l.must("offsets")
			defer c.Close()
			for pause(l.read, 8*retryPause) {
				l.committed(l.read, c, g)
			}
		})
	}
}

// observe asks one agent for the watermarks of a topic.
func (l *Load) observe(agent requester, topic string) {
	looks := map[int32]uint64{}
	for _, p := range l.all() {
		looks[p] = l.rec.Add(check.Event{Op: check.OpLook, Who: "observer", Part: l.part(topic, p)})
	}
	start, err := l.listOffsets(l.read, agent, topic, earliest, 0)
	var stable, end map[int32]int64
	if err == nil {
		stable, err = l.listOffsets(l.read, agent, topic, latest, 1)
	}
	if err == nil {
		end, err = l.listOffsets(l.read, agent, topic, latest, 0)
	}
	for _, p := range l.all() {
		l.rec.Add(check.Event{Op: check.OpSaw, Who: "observer", Part: l.part(topic, p), ID: looks[p], A: told(start, p), B: told(stable, p), C: told(end, p)})
	}
	if err != nil && l.read.Err() == nil {
		l.rec.Note("observer", "%v", err)
	}
}

// committed asks for a group's offsets, which have to be stable, and returns them; -1 for a
// partition without one.
func (l *Load) committed(ctx context.Context, c *client, g *group) map[history.Partition]int64 {
	ctx, cancel := context.WithTimeout(ctx, produceTimeout)
	defer cancel()
	asked := map[history.Partition]uint64{}
	for _, topic := range g.topics {
		for _, p := range l.all() {
			part := l.part(topic, p)
			asked[part] = l.rec.Add(check.Event{Op: check.OpAskOffset, Who: c.name, Group: g.name, Part: part})
		}
	}
	resp, err := l.offsetsRequest(g).RequestWith(ctx, c)
	if err != nil || len(resp.Groups) != 1 || resp.Groups[0].ErrorCode != 0 {
		return nil
	}
	out := map[history.Partition]int64{}
	for _, t := range resp.Groups[0].Topics {
		for _, p := range t.Partitions {
			if id, ok := asked[l.part(t.Topic, p.Partition)]; ok && p.ErrorCode == 0 {
				l.rec.Add(check.Event{Op: check.OpOffset, Who: c.name, ID: id, A: p.Offset})
				out[l.part(t.Topic, p.Partition)] = p.Offset
			}
		}
	}
	return out
}

func (l *Load) offsetsRequest(g *group) *kmsg.OffsetFetchRequest {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.RequireStable = true
	one := kmsg.NewOffsetFetchRequestGroup()
	one.Group = g.name
	for _, topic := range g.topics {
		t := kmsg.NewOffsetFetchRequestGroupTopic()
		t.Topic, t.Partitions = topic, l.all()
		one.Topics = append(one.Topics, t)
	}
	req.Groups = append(req.Groups, one)
	return req
}
