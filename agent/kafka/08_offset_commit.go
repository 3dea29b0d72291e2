package kafka

import (
	"context"
	"math"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// OffsetCommit: v2-10
//
// Commits offsets for a group: durable when it is answered. Partitions that do not exist, and
// metadata that is too long, have codes of their own; everything else is committed together,
// in one journal record, or refused with one code.
//
// A group without members, and one without a name, takes commits of clients that manage
// their partitions themselves. Negative offsets are taken as Kafka takes them: some clients
// commit the special ones (-1 latest, -2 earliest).
//
//   - v2-4: how long the offsets are kept, if not as long as the group (KIP-211 ends it)
//   - v6: leader epochs (KIP-320); v7: static members (KIP-345); v8: flexible
//   - v9: STALE_MEMBER_EPOCH, GROUP_ID_NOT_FOUND (KIP-848); v10: topics by their ids (KIP-848)

func (h *Handler) offsetCommit(ctx context.Context, from From, req *kmsg.OffsetCommitRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
	resp.Topics = make([]kmsg.OffsetCommitResponseTopic, len(req.Topics))
	c := commit{h: h, r: h.resolve(), expires: h.expiry(req)}
	for i := range req.Topics {
		in, out := &req.Topics[i], &resp.Topics[i]
		*out = kmsg.NewOffsetCommitResponseTopic()
		out.Topic, out.TopicID = in.Topic, in.TopicID
		out.Partitions = make([]kmsg.OffsetCommitResponseTopicPartition, len(in.Partitions))
		find := func() (*catalogue.Topic, error) { return c.r.byName(ctx, in.Topic) }
		if req.Version >= 10 {
			find = func() (*catalogue.Topic, error) { return c.r.byID(ctx, in.TopicID) }
		}
		t, err := find()
		for j := range in.Partitions {
			p, o := &in.Partitions[j], &out.Partitions[j]
			*o = kmsg.NewOffsetCommitResponseTopicPartition()
			o.Partition = p.Partition
			epoch := int32(-1)
			if req.Version >= 6 {
				epoch = p.LeaderEpoch
			}
			c.add(ctx, t, err, p.Partition, p.Offset, epoch, p.Metadata, &o.ErrorCode)
		}
	}
	c.finish(ctx, from, req.Group, GroupMember{ID: req.MemberID, Instance: req.InstanceID, Epoch: req.Generation, Version: req.Version}, shard.Transaction{})
	return resp
}

// expiry returns when the offsets of a request expire, if the client says so.
func (h *Handler) expiry(req *kmsg.OffsetCommitRequest) int64 {
	if req.Version > 4 || req.RetentionTimeMillis < 0 {
		return -1
	}
	now := h.now().UnixMilli()
	return now + min(req.RetentionTimeMillis, math.MaxInt64-now)
}

// commit gathers the offsets that a request commits, at once or in a transaction.
type commit struct {
	h       *Handler
	r       resolver
	expires int64

	offsets []shard.GroupOffset
	codes   []*int16 // where the code of each offset belongs
}

// add adds an offset of a topic that was looked up, and keeps code for what becomes of it; or
// it sets code to what refuses the offset.
func (c *commit) add(ctx context.Context, t *catalogue.Topic, err error, p int32, offset int64, epoch int32, metadata *string, code *int16) {
	if err != nil {
		*code = coordinatorCode(err)
		return
	}
	ref, ok := c.r.partition(ctx, t, p)
	most := c.h.settings.OffsetMetadataMax
	switch {
	case !ok:
		*code = kerr.UnknownTopicOrPartition.Code
		return
	case metadata != nil && len(*metadata) > most && utf16Len(*metadata) > most:
		*code = kerr.OffsetMetadataTooLarge.Code
		return
	}
	o := shard.GroupOffset{Partition: ref.TopicPartition, Offset: tiering.Offset(offset), Epoch: tiering.LeaderEpoch(max(epoch, -1)), Expires: c.expires}
	if metadata != nil {
		o.Metadata = *metadata
	}
	c.offsets = append(c.offsets, o)
	c.codes = append(c.codes, code)
}

// finish commits what was added, and puts the code for it to each offset.
func (c *commit) finish(ctx context.Context, from From, group string, m GroupMember, tx shard.Transaction) {
	switch {
	case len(c.offsets) == 0:
		return
	case tooLong(group):
		c.refuse(kerr.InvalidGroupID.Code)
		return
	}
	code, err := c.h.Groups.Commit(ctx, from, group, m, tx, c.offsets)
	if err != nil {
		code = coordinatorCode(err)
	}
	for _, p := range c.codes {
		*p = code
	}
}

// utf16Len returns the length of a string as Java counts it, and so Kafka's limits do.
func utf16Len(s string) int {
	n := utf8.RuneCountInString(s)
	for _, r := range s {
		if r > 0xffff {
			n++
		}
	}
	return n
}
