package kafka_test

import (
	"context"
	"reflect"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

func inTopic(t *catalogue.Topic, p int32) kafka.Partition {
	return kafka.Partition{TopicPartition: tiering.TopicPartition{Topic: t.ID, Partition: p}, Shard: tiering.ShardOf(t.FirstShard, p, 4)}
}

// Which codes the clients of older versions do not know, and hear another in the place of.
func TestOlderClientsHearCodesTheyKnow(t *testing.T) {
	fenced, abortable := kerr.ProducerFenced.Code, kerr.TransactionAbortable.Code
	asks := map[int16]struct {
		fenced, abortable int16 // first version that knows it
		ask               func(w *world, v, code int16) int16
	}{
		22: {4, 5, func(w *world, v, code int16) int16 {
			w.txns.answer = func(req kmsg.Request) kmsg.Response {
				resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
				resp.ErrorCode = code
				return resp
			}
			req := kmsg.NewPtrInitProducerIDRequest()
			req.Version, req.TransactionalID = v, kmsg.StringPtr("x")
			return call[*kmsg.InitProducerIDResponse](w, req).ErrorCode
		}},
		24: {2, 5, func(w *world, v, code int16) int16 {
			w.txns.enlist.Code = code
			req := addPartitions(v, false, "t", 0)
			return partitionCodes(call[*kmsg.AddPartitionsToTxnResponse](w, req))[0]
		}},
		25: {2, 4, func(w *world, v, code int16) int16 {
			w.txns.enlist.Code = code
			req := kmsg.NewPtrAddOffsetsToTxnRequest()
			req.Version, req.TransactionalID, req.Group = v, "x", "g"
			return call[*kmsg.AddOffsetsToTxnResponse](w, req).ErrorCode
		}},
		26: {2, 4, func(w *world, v, code int16) int16 {
			w.txns.answer = func(req kmsg.Request) kmsg.Response {
				resp := req.ResponseKind().(*kmsg.EndTxnResponse)
				resp.ErrorCode = code
				return resp
			}
			req := kmsg.NewPtrEndTxnRequest()
			req.Version, req.TransactionalID = v, "x"
			return call[*kmsg.EndTxnResponse](w, req).ErrorCode
		}},
	}
	for key, c := range asks {
		w := newWorld(t)
		w.create("t", 1)
		versions(w, key, func(v int16) {
			for code, want := range map[int16]int16{
				0: 0, kerr.InvalidTxnState.Code: kerr.InvalidTxnState.Code,
				fenced:    map[bool]int16{true: fenced, false: kerr.InvalidProducerEpoch.Code}[v >= c.fenced],
				abortable: map[bool]int16{true: abortable, false: kerr.InvalidTxnState.Code}[v >= c.abortable],
			} {
				if got := c.ask(w, v, code); got != want {
					t.Errorf("%s v%d: the coordinator's %d is answered as %d, want %d", kmsg.NameForKey(key), v, code, got, want)
				}
			}
			for err, want := range map[error]int16{kafka.ErrNotCoordinator: kerr.NotCoordinator.Code, context.DeadlineExceeded: kerr.CoordinatorNotAvailable.Code} {
				w.txns.err = err
				if got := c.ask(w, v, 0); got != want {
					t.Errorf("%s v%d: %v is answered as %d, want %d", kmsg.NameForKey(key), v, err, got, want)
				}
			}
			w.txns.err = nil
		})
	}
}

func TestInitProducerIDWithTransactionalID(t *testing.T) {
	w := newWorld(t)
	w.txns.answer = func(req kmsg.Request) kmsg.Response {
		resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
		resp.ProducerID, resp.ProducerEpoch = 77, 3
		return resp
	}
	versions(w, 22, func(v int16) {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.Version, req.TransactionalID, req.TransactionTimeoutMillis = v, kmsg.StringPtr("x"), 1234
		if resp := call[*kmsg.InitProducerIDResponse](w, req); resp.ErrorCode != 0 || resp.ProducerID != 77 || resp.ProducerEpoch != 3 {
			t.Errorf("v%d: %+v", v, resp)
		}
		q := w.txns.asked[len(w.txns.asked)-1]
		if in, ok := q.req.(*kmsg.InitProducerIDRequest); !ok || q.group != "x" || in.TransactionTimeoutMillis != 1234 || in.Version != v {
			t.Errorf("v%d: the coordinator is asked %+v", v, q)
		}
	})
}

// addPartitions asks to add partitions of one topic.
func addPartitions(v int16, verify bool, topic string, partitions ...int32) *kmsg.AddPartitionsToTxnRequest {
	req := kmsg.NewPtrAddPartitionsToTxnRequest()
	req.Version = v
	if v < 4 {
		req.TransactionalID, req.ProducerID, req.ProducerEpoch = "x", 7, 1
		req.Topics = []kmsg.AddPartitionsToTxnRequestTopic{{Topic: topic, Partitions: partitions}}
		return req
	}
	req.Transactions = []kmsg.AddPartitionsToTxnRequestTransaction{{TransactionalID: "x", ProducerID: 7, ProducerEpoch: 1, VerifyOnly: verify,
		Topics: []kmsg.AddPartitionsToTxnRequestTransactionTopic{{Topic: topic, Partitions: partitions}}}}
	return req
}

// partitionCodes are the codes of all partitions of an answer, in order.
func partitionCodes(resp *kmsg.AddPartitionsToTxnResponse) (codes []int16) {
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			codes = append(codes, p.ErrorCode)
		}
	}
	for _, x := range resp.Transactions {
		for _, t := range x.Topics {
			for _, p := range t.Partitions {
				codes = append(codes, p.ErrorCode)
			}
		}
	}
	return codes
}

func TestAddPartitionsToTxn(t *testing.T) {
	w := newWorld(t)
	topic := w.create("t", 3)
	versions(w, 24, func(v int16) {
		w.txns.enlist = kafka.Enlisted{Number: 1}
		if got := partitionCodes(call[*kmsg.AddPartitionsToTxnResponse](w, addPartitions(v, false, "t", 2, 0))); !slices.Equal(got, []int16{0, 0}) {
			t.Errorf("v%d: %v", v, got)
		}
		want := kafka.Enlistment{ID: "x", ProducerID: 7, Epoch: 1, Partitions: []kafka.Partition{inTopic(topic, 2), inTopic(topic, 0)}, Add: true, Here: true, Version: 1}
		if v >= 4 {
			want.Version = 2 // only brokers that add for their producers ask so
		}
		if got := w.txns.last(w); !reflect.DeepEqual(got, want) {
			t.Errorf("v%d: the coordinator is asked %+v, want %+v", v, got, want)
		}

		w.txns.enlist = kafka.Enlisted{Codes: []int16{0, kerr.PolicyViolation.Code}}
		if got := partitionCodes(call[*kmsg.AddPartitionsToTxnResponse](w, addPartitions(v, false, "t", 1, 2))); !slices.Equal(got, []int16{0, kerr.PolicyViolation.Code}) {
			t.Errorf("v%d: codes of each partition: %v", v, got)
		}
		w.txns.last(w)

		unknown, not := kerr.UnknownTopicOrPartition.Code, kerr.OperationNotAttempted.Code
		if got := partitionCodes(call[*kmsg.AddPartitionsToTxnResponse](w, addPartitions(v, false, "t", 0, 3, 1))); !slices.Equal(got, []int16{not, unknown, not}) {
			t.Errorf("v%d: a partition that does not exist: %v", v, got)
		}
		for _, name := range []string{"none", "not a name"} {
			if got := partitionCodes(call[*kmsg.AddPartitionsToTxnResponse](w, addPartitions(v, false, name, 0))); !slices.Equal(got, []int16{unknown}) {
				t.Errorf("v%d: topic %q: %v", v, name, got)
			}
		}
		if len(w.txns.enlisted) > 0 {
			t.Errorf("v%d: the coordinator was asked for %+v all the same", v, w.txns.enlisted)
		}
		if v < 4 {
			return
		}
		call[*kmsg.AddPartitionsToTxnResponse](w, addPartitions(v, true, "t", 0))
		if got := w.txns.last(w); got.Add || !got.Here || got.Version != 1 {
			t.Errorf("v%d: verification asks %+v", v, got)
		}
		// Several transactions, one of them with a partition that does not exist.
		req := addPartitions(v, false, "t", 5)
		other := addPartitions(v, false, "t", 1)
		other.Transactions[0].TransactionalID = "y"
		req.Transactions = append(req.Transactions, other.Transactions...)
		w.txns.enlist = kafka.Enlisted{Number: 1}
		resp := call[*kmsg.AddPartitionsToTxnResponse](w, req)
		if got := partitionCodes(resp); !slices.Equal(got, []int16{unknown, 0}) || resp.Transactions[1].TransactionalID != "y" {
			t.Errorf("v%d: two transactions: %+v", v, resp)
		}
		if got := w.txns.last(w); got.ID != "y" {
			t.Errorf("v%d: of two, the coordinator is asked for %+v", v, got)
		}
	})
}

func TestAddOffsetsToTxn(t *testing.T) {
	w := newWorld(t)
	versions(w, 25, func(v int16) {
		req := kmsg.NewPtrAddOffsetsToTxnRequest()
		req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group = v, "x", 7, 1, "g"
		if resp := call[*kmsg.AddOffsetsToTxnResponse](w, req); resp.ErrorCode != 0 {
			t.Errorf("v%d: %+v", v, resp)
		}
		want := kafka.Enlistment{ID: "x", ProducerID: 7, Epoch: 1, Groups: []string{"g"}, Add: true, Here: true, Version: 1}
		if got := w.txns.last(w); !reflect.DeepEqual(got, want) {
			t.Errorf("v%d: the coordinator is asked %+v, want %+v", v, got, want)
		}
	})
}

func TestEndTxn(t *testing.T) {
	w := newWorld(t)
	w.txns.answer = func(req kmsg.Request) kmsg.Response {
		resp := req.ResponseKind().(*kmsg.EndTxnResponse)
		resp.ProducerID, resp.ProducerEpoch = 7, 2
		return resp
	}
	versions(w, 26, func(v int16) {
		req := kmsg.NewPtrEndTxnRequest()
		req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = v, "x", 7, 1, true
		resp := call[*kmsg.EndTxnResponse](w, req)
		if resp.ErrorCode != 0 || v >= 5 && (resp.ProducerID != 7 || resp.ProducerEpoch != 2) {
			t.Errorf("v%d: %+v", v, resp)
		}
		if q := w.txns.asked[len(w.txns.asked)-1]; q.group != "x" || !q.req.(*kmsg.EndTxnRequest).Commit {
			t.Errorf("v%d: the coordinator is asked %+v", v, q)
		}
	})
	w.txns.err = kafka.ErrNotCoordinator
	req := kmsg.NewPtrEndTxnRequest()
	req.Version = 5
	if resp := call[*kmsg.EndTxnResponse](w, req); resp.ErrorCode != kerr.NotCoordinator.Code || resp.ProducerID != -1 || resp.ProducerEpoch != -1 {
		t.Errorf("another's: %+v", resp)
	}
}

func txnCommit(v int16, topic *catalogue.Topic, partitions ...int32) *kmsg.TxnOffsetCommitRequest {
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.Version, req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch = v, "x", "g", 7, 1
	if v >= 3 {
		req.Generation, req.MemberID, req.InstanceID = 4, "m", kmsg.StringPtr("i")
	}
	out := kmsg.TxnOffsetCommitRequestTopic{Topic: topic.Name, TopicID: topic.ID}
	for _, p := range partitions {
		in := kmsg.NewTxnOffsetCommitRequestTopicPartition()
		in.Partition, in.Offset, in.LeaderEpoch, in.Metadata = p, 100+int64(p), 9, kmsg.StringPtr("note")
		out.Partitions = append(out.Partitions, in)
	}
	req.Topics = append(req.Topics, out)
	return req
}

func TestTxnOffsetCommit(t *testing.T) {
	w := newWorld(t)
	topic := w.create("t", 2)
	w.txns.enlist.Number = 12
	versions(w, 28, func(v int16) {
		w.groups.commits, w.groups.code = nil, 0
		resp := call[*kmsg.TxnOffsetCommitResponse](w, txnCommit(v, topic, 1, 2))
		codes := []int16{resp.Topics[0].Partitions[0].ErrorCode, resp.Topics[0].Partitions[1].ErrorCode}
		if !slices.Equal(codes, []int16{0, kerr.UnknownTopicOrPartition.Code}) {
			t.Errorf("v%d: %v", v, codes)
		}
		e := kafka.Enlistment{ID: "x", ProducerID: 7, Epoch: 1, Groups: []string{"g"}, Version: 1}
		if v >= 5 {
			e.Add, e.Version = true, 2
		}
		if got := w.txns.last(w); !reflect.DeepEqual(got, e) {
			t.Errorf("v%d: the transaction's coordinator is asked %+v, want %+v", v, got, e)
		}
		want := commitment{group: "g", member: kafka.GroupMember{Epoch: -1, Version: v}, tx: shard.Transaction{ProducerID: 7, Epoch: 1, Number: 12},
			offsets: []shard.GroupOffset{{Partition: inTopic(topic, 1).TopicPartition, Offset: 101, Epoch: -1, Metadata: "note", Expires: -1}}}
		if v >= 2 {
			want.offsets[0].Epoch = 9
		}
		if v >= 3 {
			want.member.ID, want.member.Instance, want.member.Epoch = "m", kmsg.StringPtr("i"), 4
		}
		if len(w.groups.commits) != 1 || !reflect.DeepEqual(w.groups.commits[0], want) {
			t.Errorf("v%d: the group's is told %+v, want %+v", v, w.groups.commits, want)
		}
		w.groups.code = kerr.StaleMemberEpoch.Code
		if got := call[*kmsg.TxnOffsetCommitResponse](w, txnCommit(v, topic, 0)).Topics[0].Partitions[0].ErrorCode; got != kerr.IllegalGeneration.Code {
			t.Errorf("v%d: a stale member epoch is answered as %d", v, got)
		}
		w.txns.last(w)
		// The group has not heard of the end of the producer's last transaction yet: that is over
		// when the producer asks again, and many clients know CONCURRENT_TRANSACTIONS from others only.
		w.groups.code = kerr.ConcurrentTransactions.Code
		again := kerr.CoordinatorLoadInProgress.Code
		if v < 2 {
			again = kerr.CoordinatorNotAvailable.Code
		}
		if got := call[*kmsg.TxnOffsetCommitResponse](w, txnCommit(v, topic, 0)).Topics[0].Partitions[0].ErrorCode; got != again {
			t.Errorf("v%d: the transaction before is answered as %d, want %d", v, got, again)
		}
		w.txns.last(w)
	})
}

// What the transaction's coordinator refuses does not come to the group's.
func TestTxnOffsetCommitRefusals(t *testing.T) {
	w := newWorld(t)
	topic := w.create("t", 1)
	versions(w, 28, func(v int16) {
		again := kerr.CoordinatorLoadInProgress.Code
		abortable := kerr.TransactionAbortable.Code
		if v < 2 {
			again = kerr.CoordinatorNotAvailable.Code
		}
		if v < 4 {
			abortable = kerr.InvalidTxnState.Code
		}
		for name, c := range map[string]struct {
			code int16
			err  error
			want int16
		}{
			"fenced":          {kerr.ProducerFenced.Code, nil, kerr.InvalidProducerEpoch.Code},
			"not part of it":  {kerr.TransactionAbortable.Code, nil, abortable},
			"other producer":  {kerr.InvalidProducerIDMapping.Code, nil, kerr.InvalidProducerIDMapping.Code},
			"still ending":    {kerr.ConcurrentTransactions.Code, nil, again},
			"not coordinator": {0, kafka.ErrNotCoordinator, again},
			"no answer":       {0, context.DeadlineExceeded, again},
		} {
			w.txns.enlist.Code, w.txns.err = c.code, c.err
			if got := call[*kmsg.TxnOffsetCommitResponse](w, txnCommit(v, topic, 0)).Topics[0].Partitions[0].ErrorCode; got != c.want {
				t.Errorf("v%d: %s: %d, want %d", v, name, got, c.want)
			}
		}
		w.txns.enlist.Code, w.txns.err = 0, nil
		req := txnCommit(v, topic, 0)
		req.Group = ""
		if got := call[*kmsg.TxnOffsetCommitResponse](w, req).Topics[0].Partitions[0].ErrorCode; got != kerr.InvalidGroupID.Code {
			t.Errorf("v%d: no group: %d", v, got)
		}
	})
	if len(w.groups.commits) > 0 {
		t.Errorf("the group's coordinator was told %+v", w.groups.commits)
	}
}
