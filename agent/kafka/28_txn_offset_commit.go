package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/shard"
)

// TxnOffsetCommit: v0-6
//
// Commits offsets for a group when the transaction that they are part of is committed. The
// group's coordinator takes them, after the transaction's has said that the group is part of
// the open transaction, and its number, which tells a commit that comes late from one of the
// next transaction (KAFKA-17754).
//
//   - v2: leader epochs (KIP-320); COORDINATOR_LOAD_IN_PROGRESS
//   - v3: flexible; the member, whose generation fences zombies (KIP-447)
//   - v4: TRANSACTION_ABORTABLE (KIP-890); v5: the group becomes part of the transaction by
//     this request (KIP-890); v6: topics by their ids

func (h *Handler) txnOffsetCommit(ctx context.Context, from From, req *kmsg.TxnOffsetCommitRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.TxnOffsetCommitResponse)
	resp.Topics = make([]kmsg.TxnOffsetCommitResponseTopic, len(req.Topics))
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c := commit{h: h, r: h.resolve(), expires: -1}
	for i := range req.Topics {
		in, out := &req.Topics[i], &resp.Topics[i]
		*out = kmsg.NewTxnOffsetCommitResponseTopic()
		out.Topic, out.TopicID = in.Topic, in.TopicID
		out.Partitions = make([]kmsg.TxnOffsetCommitResponseTopicPartition, len(in.Partitions))
		var t *catalogue.Topic
		var err error
		if req.Version >= 6 {
			t, err = c.r.byID(ctx, in.TopicID)
		} else {
			t, err = c.r.byName(ctx, in.Topic)
		}
		for j := range in.Partitions {
			p, o := &in.Partitions[j], &out.Partitions[j]
			*o = kmsg.NewTxnOffsetCommitResponseTopicPartition()
			o.Partition = p.Partition
			epoch := int32(-1)
			if req.Version >= 2 {
				epoch = p.LeaderEpoch
			}
			c.add(ctx, t, err, p.Partition, p.Offset, epoch, p.Metadata, &o.ErrorCode)
		}
	}
	h.commitInTxn(ctx, from, req, &c)
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			o := &resp.Topics[i].Partitions[j]
			o.ErrorCode = txnCommitCode(o.ErrorCode, req.Version)
		}
	}
	return resp
}

// commitInTxn commits what c has gathered as part of the request's transaction.
func (h *Handler) commitInTxn(ctx context.Context, from From, req *kmsg.TxnOffsetCommitRequest, c *commit) {
	switch {
	case len(c.offsets) == 0:
		return
	case req.Group == "" || tooLong(req.Group):
		c.refuse(kerr.InvalidGroupID.Code)
		return
	}
	e := Enlistment{ID: req.TransactionalID, ProducerID: req.ProducerID, Epoch: req.ProducerEpoch, Groups: []string{req.Group}, Version: 1}
	if req.Version >= 5 {
		e.Add, e.Version = true, 2
	}
	got, err := h.Transactions.Enlist(ctx, e)
	if err != nil {
		got.Code = coordinatorCode(err)
	}
	if got.Code != 0 {
		c.refuse(enlistedCode(got.Code))
		return
	}
	m := GroupMember{Epoch: -1, Version: req.Version}
	if req.Version >= 3 {
		m.ID, m.Instance, m.Epoch = req.MemberID, req.InstanceID, req.Generation
	}
	c.finish(ctx, from, req.Group, m, shard.Transaction{ProducerID: req.ProducerID, Epoch: req.ProducerEpoch, Number: got.Number})
}

// refuse puts a code to each offset that was added.
func (c *commit) refuse(code int16) {
	for _, p := range c.codes {
		*p = code
	}
}

// enlistedCode is what a client hears of the transaction coordinator's code where it has asked
// the group's: that it should ask again, and not look for another.
func enlistedCode(code int16) int16 {
	switch code {
	case kerr.NotCoordinator.Code, kerr.CoordinatorNotAvailable.Code, kerr.ConcurrentTransactions.Code:
		return kerr.CoordinatorLoadInProgress.Code
	case kerr.ProducerFenced.Code: // what all producers expect here
		return kerr.InvalidProducerEpoch.Code
	}
	return code
}

// txnCommitCode returns the code that clients of a version know for code.
func txnCommitCode(code, version int16) int16 {
	if code == kerr.ConcurrentTransactions.Code { // of the group
		code = kerr.CoordinatorLoadInProgress.Code
	}
	switch {
	case code == kerr.StaleMemberEpoch.Code: // producers know of generations only
		return kerr.IllegalGeneration.Code
	case code == kerr.CoordinatorLoadInProgress.Code && version < 2:
		return kerr.CoordinatorNotAvailable.Code
	}
	return txnCode(code, version, 2, 4)
}
