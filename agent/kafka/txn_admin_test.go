package kafka_test

import (
	"reflect"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
)

func TestWriteTxnMarkers(t *testing.T) {
	w := newWorld(t)
	topic := w.create("t", 2)
	versions(w, 27, func(v int16) {
		w.txns.marked, w.txns.codes = nil, []int16{0, kerr.InvalidProducerEpoch.Code, 0}
		req := kmsg.NewPtrWriteTxnMarkersRequest()
		req.Version = v
		for i, commit := range []bool{false, true} {
			m := kmsg.NewWriteTxnMarkersRequestMarker()
			m.ProducerID, m.ProducerEpoch, m.Committed, m.CoordinatorEpoch = 70+int64(i), int16(i), commit, 3
			m.Topics = []kmsg.WriteTxnMarkersRequestMarkerTopic{{Topic: "none", Partitions: []int32{0}}, {Topic: "t", Partitions: []int32{1, 2, 0}[i:]}}
			req.Markers = append(req.Markers, m)
		}
		resp := call[*kmsg.WriteTxnMarkersResponse](w, req)
		var codes []int16
		for i, m := range resp.Markers {
			if m.ProducerID != 70+int64(i) {
				t.Errorf("v%d: marker %d is of producer %d", v, i, m.ProducerID)
			}
			for _, topic := range m.Topics {
				for _, p := range topic.Partitions {
					codes = append(codes, p.ErrorCode)
				}
			}
		}
		unknown := kerr.UnknownTopicOrPartition.Code
		if want := []int16{unknown, 0, unknown, kerr.InvalidProducerEpoch.Code, unknown, unknown, 0}; !slices.Equal(codes, want) {
			t.Errorf("v%d: %v, want %v", v, codes, want)
		}
		if want := []kafka.Marking{{Partition: inTopic(topic, 1), ProducerID: 70, Coordinator: 3}, {Partition: inTopic(topic, 0), ProducerID: 70, Coordinator: 3},
			{Partition: inTopic(topic, 0), ProducerID: 71, Epoch: 1, Commit: true, Coordinator: 3}}; !reflect.DeepEqual(w.txns.marked, want) {
			t.Errorf("v%d: marked %+v, want %+v", v, w.txns.marked, want)
		}
	})
}

func TestDescribeProducers(t *testing.T) {
	w := newWorld(t)
	w.create("t", 2)
	req := kmsg.NewPtrDescribeProducersRequest()
	req.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: "none", Partitions: []int32{0}}, {Topic: "t", Partitions: []int32{2, 1}}}
	resp := call[*kmsg.DescribeProducersResponse](w, req)
	for _, p := range []kmsg.DescribeProducersResponseTopicPartition{resp.Topics[0].Partitions[0], resp.Topics[1].Partitions[0]} {
		if p.ErrorCode != kerr.UnknownTopicOrPartition.Code || p.ErrorMessage == nil || len(p.ActiveProducers) > 0 {
			t.Errorf("what does not exist: %+v", p)
		}
	}
	p := resp.Topics[1].Partitions[1]
	if p.Partition != 1 || p.ErrorCode != 0 || len(p.ActiveProducers) != 1 {
		t.Fatalf("partition 1: %+v", p)
	}
	want := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
	want.ProducerID, want.ProducerEpoch, want.LastSequence, want.LastTimestamp, want.CoordinatorEpoch, want.CurrentTxnStartOffset = 501, 3, 7, 1234, -1, 99
	if !reflect.DeepEqual(p.ActiveProducers[0], want) {
		t.Errorf("%+v, want %+v", p.ActiveProducers[0], want)
	}
}

func TestDescribeTransactions(t *testing.T) {
	w := newWorld(t)
	ask := func() []kmsg.DescribeTransactionsResponseTransactionState {
		req := kmsg.NewPtrDescribeTransactionsRequest()
		req.TransactionalIDs = []string{"x", "y", "z"}
		return call[*kmsg.DescribeTransactionsResponse](w, req).TransactionStates
	}
	states := ask()
	for i, id := range []string{"x", "y", "z"} {
		if len(states) != 3 || states[i].TransactionalID != id || states[i].State != "Ongoing" || states[i].ErrorCode != 0 {
			t.Fatalf("%+v", states)
		}
	}
	for _, q := range w.txns.asked { // each coordinator hears of its own id alone
		if in := q.req.(*kmsg.DescribeTransactionsRequest); len(in.TransactionalIDs) != 1 || in.TransactionalIDs[0] != q.group {
			t.Errorf("%q's coordinator is asked for %v", q.group, in.TransactionalIDs)
		}
	}
	w.txns.err = kafka.ErrNotCoordinator
	if states := ask(); len(states) != 3 || states[2].TransactionalID != "z" || states[2].ErrorCode != kerr.NotCoordinator.Code || states[2].ProducerID != -1 {
		t.Errorf("another's: %+v", states)
	}
}

func TestListTransactions(t *testing.T) {
	w := newWorld(t)
	versions(w, 66, func(v int16) {
		w.txns.err = nil
		req := kmsg.NewPtrListTransactionsRequest()
		req.Version, req.StateFilters = v, []string{"Ongoing"}
		if resp := call[*kmsg.ListTransactionsResponse](w, req); resp.ErrorCode != 0 || len(resp.TransactionStates) != 1 || resp.TransactionStates[0].TransactionalID != "x" {
			t.Errorf("v%d: %+v", v, resp)
		}
		if in := w.txns.asked[len(w.txns.asked)-1].req.(*kmsg.ListTransactionsRequest); !slices.Equal(in.StateFilters, req.StateFilters) {
			t.Errorf("v%d: asked with %v", v, in.StateFilters)
		}
		w.txns.err = kafka.ErrNotCoordinator
		if resp := call[*kmsg.ListTransactionsResponse](w, req); resp.ErrorCode != kerr.NotCoordinator.Code || len(resp.TransactionStates) > 0 {
			t.Errorf("v%d: nobody: %+v", v, resp)
		}
	})
}

// One request does not make an agent hold more than a bounded answer, whatever it repeats.
func TestDescriptionsOfTransactionsAreBounded(t *testing.T) {
	w := newWorld(t)
	topic := w.create("t", 1)
	w.txns.answer = func(req kmsg.Request) kmsg.Response {
		resp := req.ResponseKind().(*kmsg.DescribeTransactionsResponse)
		s := kmsg.NewDescribeTransactionsResponseTransactionState()
		s.Topics = []kmsg.DescribeTransactionsResponseTransactionStateTopic{{Topic: "t", Partitions: make([]int32, 1<<18)}}
		resp.TransactionStates = append(resp.TransactionStates, s)
		return resp
	}
	req := kmsg.NewPtrDescribeTransactionsRequest()
	req.TransactionalIDs = make([]string, 100)
	states := call[*kmsg.DescribeTransactionsResponse](w, req).TransactionStates
	described := 0
	for _, s := range states {
		switch s.ErrorCode {
		case 0:
			described++
		case kerr.CoordinatorLoadInProgress.Code:
		default:
			t.Errorf("%+v", s)
		}
	}
	if described < 16 || described > 16+8 {
		t.Errorf("of 100 transactions of a megabyte each, %d are described", described)
	}

	w.offsets.producers = 1 << 14
	producers := kmsg.NewPtrDescribeProducersRequest()
	producers.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: "t", Partitions: make([]int32, 100)}}
	partitions := call[*kmsg.DescribeProducersResponse](w, producers).Topics[0].Partitions
	if partitions[0].ErrorCode != 0 || partitions[99].ErrorCode != kerr.NotLeaderForPartition.Code {
		t.Errorf("100 partitions with thousands of producers: codes %d to %d", partitions[0].ErrorCode, partitions[99].ErrorCode)
	}

	markers := kmsg.NewPtrWriteTxnMarkersRequest()
	markers.Version = 1
	for range 3 {
		m := kmsg.NewWriteTxnMarkersRequestMarker()
		m.Topics = []kmsg.WriteTxnMarkersRequestMarkerTopic{{Topic: topic.Name, Partitions: make([]int32, 6_000)}}
		markers.Markers = append(markers.Markers, m)
	}
	marked := call[*kmsg.WriteTxnMarkersResponse](w, markers).Markers
	for _, c := range []struct {
		marker, partition int
		want              int16
	}{{0, 5_999, 0}, {1, 3_999, 0}, {1, 4_000, kerr.InvalidRequest.Code}, {2, 0, kerr.InvalidRequest.Code}} {
		if got := marked[c.marker].Topics[0].Partitions[c.partition].ErrorCode; got != c.want {
			t.Errorf("marker %d, partition %d: %d, want %d", c.marker, c.partition, got, c.want)
		}
	}
	if len(w.txns.marked) != 10_000 {
		t.Errorf("%d partitions were marked", len(w.txns.marked))
	}
}
