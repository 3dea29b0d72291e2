package kafka

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/tiering"
)

// OffsetFetch: v1-10
//
// The committed offsets of groups, as of a time after the request. Offset -1 says that there
// is none, for certain: consumers start over then. So whatever is in doubt is a code for the
// group, and an offset that is missing is looked for once more under what the topic's name
// means after a linearizable read.
//
//   - v2: null topics for all that have an offset; the group's code, which v1 puts to each
//     partition
//   - v5: leader epochs (KIP-320); v6: flexible
//   - v7: UNSTABLE_OFFSET_COMMIT while a transaction is open, if the client asks (KIP-447)
//   - v8: several groups (KIP-709); v9: the member (KIP-848); v10: topics by their ids (KIP-848)

func (h *Handler) offsetFetch(ctx context.Context, from From, req *kmsg.OffsetFetchRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.OffsetFetchResponse)
	if req.Version >= 8 {
		resp.Groups = make([]kmsg.OffsetFetchResponseGroup, len(req.Groups))
		each(len(req.Groups), func(i int) { resp.Groups[i] = h.fetchGroup(ctx, from, req, &req.Groups[i]) })
		return resp
	}
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = req.Group
	if req.Topics != nil {
		g.Topics = []kmsg.OffsetFetchRequestGroupTopic{}
	}
	for _, t := range req.Topics {
		g.Topics = append(g.Topics, kmsg.OffsetFetchRequestGroupTopic{Topic: t.Topic, Partitions: t.Partitions})
	}
	got := h.fetchGroup(ctx, from, req, &g)
	resp.ErrorCode = got.ErrorCode
	if got.ErrorCode != 0 && req.Version < 2 {
		got.Topics = noOffsets(g.Topics, got.ErrorCode)
	}
	for _, t := range got.Topics {
		out := kmsg.NewOffsetFetchResponseTopic()
		out.Topic = t.Topic
		for _, p := range t.Partitions {
			out.Partitions = append(out.Partitions, kmsg.OffsetFetchResponseTopicPartition(p))
		}
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

// noOffsets answers that each partition has no offset, or the code.
func noOffsets(topics []kmsg.OffsetFetchRequestGroupTopic, code int16) []kmsg.OffsetFetchResponseGroupTopic {
	out := make([]kmsg.OffsetFetchResponseGroupTopic, len(topics))
	for i := range topics {
		in, t := &topics[i], &out[i]
		*t = kmsg.NewOffsetFetchResponseGroupTopic()
		t.Topic, t.TopicID = in.Topic, in.TopicID
		t.Partitions = make([]kmsg.OffsetFetchResponseGroupTopicPartition, len(in.Partitions))
		for j, p := range in.Partitions {
			t.Partitions[j] = fetched(FetchedOffset{Partition: tiering.TopicPartition{Partition: p}, Offset: -1, Code: code})
		}
	}
	return out
}

// fetched translates one offset.
func fetched(o FetchedOffset) kmsg.OffsetFetchResponseGroupTopicPartition {
	p := kmsg.NewOffsetFetchResponseGroupTopicPartition()
	p.Partition, p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode = o.Partition.Partition, -1, -1, kmsg.StringPtr(""), o.Code
	if o.Code == 0 && o.Offset != -1 {
		p.Offset, p.LeaderEpoch, p.Metadata = int64(o.Offset), int32(o.Epoch), kmsg.StringPtr(o.Metadata)
	}
	return p
}

// fetchGroup answers for one group.
func (h *Handler) fetchGroup(ctx context.Context, from From, req *kmsg.OffsetFetchRequest, g *kmsg.OffsetFetchRequestGroup) kmsg.OffsetFetchResponseGroup {
	f := offsetFetch{h: h, r: h.resolve(), from: from, group: g.Group, member: GroupMember{Epoch: -1, Version: req.Version},
		stable: req.Version >= 7 && req.RequireStable, ids: req.Version >= 10}
	if req.Version >= 9 {
		f.member.Epoch = g.MemberEpoch
		if g.MemberID != nil {
			f.member.ID = *g.MemberID
		}
	}
	out := kmsg.NewOffsetFetchResponseGroup()
	out.Group = g.Group
	var err error
	if g.Topics == nil {
		out.Topics, err = f.all(ctx)
	} else {
		out.Topics, err = f.named(ctx, g.Topics)
	}
	if err != nil {
		out.Topics, out.ErrorCode = nil, coordinatorCode(err)
		if out.ErrorCode == kerr.CoordinatorNotAvailable.Code { // consumers before 4.0 give up at it
			out.ErrorCode = kerr.CoordinatorLoadInProgress.Code
		}
	}
	return out
}

// offsetFetch fetches the offsets of one group.
type offsetFetch struct {
	h      *Handler
	r      resolver
	from   From
	group  string
	member GroupMember
	stable bool
	ids    bool // topics are named by their ids
}

// ask asks the coordinator; its refusal is a kerr.Error.
func (f *offsetFetch) ask(ctx context.Context, partitions []tiering.TopicPartition, all bool) ([]FetchedOffset, error) {
	got, code, err := f.h.Groups.Fetch(ctx, f.from, f.group, f.member, partitions, all, f.stable)
	switch {
	case err != nil:
		return nil, err
	case code != 0:
		return nil, kerr.TypedErrorForCode(code)
	case !all && len(got) != len(partitions):
		return nil, fmt.Errorf("the coordinator answered for %d partitions, not %d", len(got), len(partitions))
	}
	return got, nil
}

// all returns the offsets of all topics that are still there, by name.
func (f *offsetFetch) all(ctx context.Context) ([]kmsg.OffsetFetchResponseGroupTopic, error) {
	got, err := f.ask(ctx, nil, true)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(got, func(a, b FetchedOffset) int {
		return cmp.Or(slices.Compare(a.Partition.Topic[:], b.Partition.Topic[:]), cmp.Compare(a.Partition.Partition, b.Partition.Partition))
	})
	out := []kmsg.OffsetFetchResponseGroupTopic{}
	var last *catalogue.Topic
	for _, o := range got {
		t, err := f.r.byID(ctx, o.Partition.Topic)
		switch {
		case err != nil && kafkaError(err) == kerr.UnknownTopicID:
			continue // deleted
		case err != nil:
			return nil, err
		}
		if last == nil || last.ID != t.ID {
			topic := kmsg.NewOffsetFetchResponseGroupTopic()
			topic.Topic, topic.TopicID = t.Name, t.ID
			out = append(out, topic)
			last = t
		}
		in := &out[len(out)-1]
		in.Partitions = append(in.Partitions, fetched(o))
	}
	slices.SortFunc(out, func(a, b kmsg.OffsetFetchResponseGroupTopic) int { return cmp.Compare(a.Topic, b.Topic) })
	return out, nil
}

// named returns the offsets of the partitions that a client asks for.
func (f *offsetFetch) named(ctx context.Context, topics []kmsg.OffsetFetchRequestGroupTopic) ([]kmsg.OffsetFetchResponseGroupTopic, error) {
	out := noOffsets(topics, 0)
	ids := make([]tiering.TopicID, len(topics))
	for i := range topics {
		id, err := f.resolve(ctx, &topics[i])
		switch {
		case err == nil:
			ids[i] = id
		case kafkaError(err) == kerr.UnknownTopicID:
			out[i].Partitions = noOffsets(topics[i:i+1], kerr.UnknownTopicID.Code)[0].Partitions
		case kafkaError(err) != kerr.UnknownTopicOrPartition && kafkaError(err) != kerr.InvalidTopicException:
			return nil, err
		}
	}
	missing, err := f.fill(ctx, out, ids)
	if err != nil || f.ids {
		return out, err
	}
	// A topic of that name may have been made anew, and have offsets that this agent's copy
	// does not lead to yet.
	changed := false
	for i := range topics {
		if !missing[i] {
			ids[i] = tiering.TopicID{}
			continue
		}
		t, err := f.r.miss(ctx, topics[i].Topic)
		switch {
		case err == nil && t.ID != ids[i]:
			ids[i], changed = t.ID, true
		case err == nil, kafkaError(err) == kerr.UnknownTopicOrPartition:
			ids[i] = tiering.TopicID{}
		default:
			return nil, err
		}
	}
	if changed {
		_, err = f.fill(ctx, out, ids)
	}
	return out, err
}

func (f *offsetFetch) resolve(ctx context.Context, t *kmsg.OffsetFetchRequestGroupTopic) (tiering.TopicID, error) {
	find := func() (*catalogue.Topic, error) { return f.r.byName(ctx, t.Topic) }
	if f.ids {
		find = func() (*catalogue.Topic, error) { return f.r.byID(ctx, t.TopicID) }
	}
	topic, err := find()
	if err != nil {
		return tiering.TopicID{}, err
	}
	return topic.ID, nil
}

// fill puts the offsets of the topics with the given ids, none where that is zero, in their
// places in out, and says which of them lack any. Partitions are asked for whether they
// exist or not: the topic may have grown.
func (f *offsetFetch) fill(ctx context.Context, out []kmsg.OffsetFetchResponseGroupTopic, ids []tiering.TopicID) (missing []bool, err error) {
	var asked []tiering.TopicPartition
	var at []*kmsg.OffsetFetchResponseGroupTopicPartition
	var of []int
	for i := range out {
		if ids[i] == (tiering.TopicID{}) {
			continue
		}
		for j := range out[i].Partitions {
			if p := &out[i].Partitions[j]; p.Partition >= 0 {
				asked = append(asked, tiering.TopicPartition{Topic: ids[i], Partition: p.Partition})
				at, of = append(at, p), append(of, i)
			}
		}
	}
	got, err := f.ask(ctx, asked, false) // also about nothing: it says whether this is the coordinator
	if err != nil {
		return nil, err
	}
	missing = make([]bool, len(out))
	for k, o := range got {
		if o.Partition != asked[k] {
			return nil, fmt.Errorf("the coordinator answered for %v, not %v", o.Partition, asked[k])
		}
		*at[k] = fetched(o)
		missing[of[k]] = missing[of[k]] || o.Code == 0 && o.Offset == -1
	}
	return missing, nil
}
