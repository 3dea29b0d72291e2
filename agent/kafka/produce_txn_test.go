package kafka_test

import (
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/protocol/batch"
)

func ofTxn(f *batch.Fields) { f.Attributes |= batch.AttrTransactional }

func txnProduce(v int16, parts ...toPartition) *kmsg.ProduceRequest {
	req := produceReq(v, -1, parts...)
	req.TransactionID = kmsg.StringPtr("x")
	return req
}

// produceCodes are the codes of all partitions of an answer, each in its own topic entry.
func produceCodes(resp *kmsg.ProduceResponse) (codes []int16) {
	for _, t := range resp.Topics {
		codes = append(codes, t.Partitions[0].ErrorCode)
	}
	return codes
}

// Up to v11 the coordinator only confirms; from v12 on it adds the partitions (KIP-890). The
// batches carry the transaction's number on.
func TestProduceInATransaction(t *testing.T) {
	w := newWorld(t)
	w.prod.auto = accept
	topic := w.create("t", 4)
	w.txns.enlist = kafka.Enlisted{Number: 9}
	versions(w, 0, func(v int16) {
		w.prod.calls = nil
		// One of the batches is not part of a transaction, and one is broken.
		broken := records(1, ofTxn)
		broken[len(broken)-1] ^= 1
		req := txnProduce(v, toPartition{topic, 1, records(1, ofTxn)}, toPartition{topic, 2, records(1)}, toPartition{topic, 0, broken}, toPartition{topic, 3, records(2, ofTxn)})
		if got := produceCodes(call[*kmsg.ProduceResponse](w, req)); !reflect.DeepEqual(got, []int16{0, 0, kerr.CorruptMessage.Code, 0}) {
			t.Errorf("v%d: %v", v, got)
		}
		want := kafka.Enlistment{ID: "x", ProducerID: 7, Epoch: 1, Partitions: []kafka.Partition{inTopic(topic, 1), inTopic(topic, 3)}, Version: 1}
		if v >= 12 {
			want.Add, want.Version = true, 2
		}
		if got := w.txns.last(w); !reflect.DeepEqual(got, want) {
			t.Errorf("v%d: the coordinator is asked %+v, want %+v", v, got, want)
		}
		if got := w.prod.calls[0]; len(got) != 3 || got[0].Meta.Transaction != 9 || got[1].Meta.Transaction != 0 || got[2].Meta.Transaction != 9 {
			t.Errorf("v%d: appended %+v", v, got)
		}
		// A transactional id alone is no transaction.
		if got := produceCodes(call[*kmsg.ProduceResponse](w, txnProduce(v, toPartition{topic, 0, records(1)}))); got[0] != 0 || len(w.txns.enlisted) > 0 {
			t.Errorf("v%d: plain batches with an id: %v, %d enlistments", v, got, len(w.txns.enlisted))
		}
	})
}

// What the coordinator says to each version.
func TestProduceThatTheCoordinatorRefuses(t *testing.T) {
	w := newWorld(t)
	w.prod.auto = accept
	topic := w.create("t", 2)
	versions(w, 0, func(v int16) {
		concurrent, abortable := kerr.NotEnoughReplicas.Code, kerr.InvalidTxnState.Code
		if v >= 12 {
			concurrent = kerr.ConcurrentTransactions.Code
		}
		if v >= 11 {
			abortable = kerr.TransactionAbortable.Code
		}
		for _, c := range []struct{ code, want int16 }{
			{kerr.ConcurrentTransactions.Code, concurrent},
			{kerr.TransactionAbortable.Code, abortable},
			{kerr.NotCoordinator.Code, kerr.NotEnoughReplicas.Code},
			{kerr.CoordinatorLoadInProgress.Code, kerr.NotEnoughReplicas.Code},
			{kerr.CoordinatorNotAvailable.Code, kerr.NotEnoughReplicas.Code},
			{kerr.ProducerFenced.Code, kerr.InvalidProducerEpoch.Code},
			{kerr.InvalidProducerIDMapping.Code, kerr.InvalidProducerIDMapping.Code},
			{kerr.InvalidTxnState.Code, kerr.InvalidTxnState.Code},
		} {
			w.prod.calls = nil
			w.txns.enlist = kafka.Enlisted{Code: c.code}
			ask := func() []int16 {
				return produceCodes(call[*kmsg.ProduceResponse](w, txnProduce(v, toPartition{topic, 0, records(1, ofTxn)}, toPartition{topic, 1, records(1, ofTxn)})))
			}
			if got := ask(); !reflect.DeepEqual(got, []int16{c.want, c.want}) || len(w.prod.calls) > 0 {
				t.Errorf("v%d: %d is answered as %v, want %d; appended %v", v, c.code, got, c.want, w.prod.calls)
			}
			w.txns.enlist = kafka.Enlisted{Codes: []int16{0, c.code}, Number: 3}
			if got := ask(); !reflect.DeepEqual(got, []int16{0, c.want}) || len(w.prod.calls) != 1 || len(w.prod.calls[0]) != 1 {
				t.Errorf("v%d: %d for the second partition is answered as %v, want %d; appended %v", v, c.code, got, c.want, w.prod.calls)
			}
		}
		w.txns.err = kafka.ErrNotCoordinator
		if got := produceCodes(call[*kmsg.ProduceResponse](w, txnProduce(v, toPartition{topic, 0, records(1, ofTxn)}))); got[0] != kerr.NotEnoughReplicas.Code {
			t.Errorf("v%d: nobody coordinates: %v", v, got)
		}
		w.txns.err = nil
	})
}

func TestProduceOfSeveralProducersTransactions(t *testing.T) {
	w := newWorld(t)
	w.prod.auto = accept
	topic := w.create("t", 2)
	other := func(f *batch.Fields) { ofTxn(f); f.ProducerID = 8 }
	newer := func(f *batch.Fields) { ofTxn(f); f.ProducerEpoch = 2 }
	versions(w, 0, func(v int16) {
		for _, change := range []func(*batch.Fields){other, newer} {
			mapping := kerr.InvalidProducerIDMapping.Code
			req := txnProduce(v, toPartition{topic, 0, records(1, ofTxn)}, toPartition{topic, 1, records(1, change)})
			if got := produceCodes(call[*kmsg.ProduceResponse](w, req)); !reflect.DeepEqual(got, []int16{mapping, mapping}) {
				t.Errorf("v%d: %v", v, got)
			}
		}
		none := kerr.TransactionalIDAuthorizationFailed.Code
		req := produceReq(v, -1, toPartition{topic, 0, records(1, ofTxn)}, toPartition{topic, 1, records(1)})
		if got := produceCodes(call[*kmsg.ProduceResponse](w, req)); !reflect.DeepEqual(got, []int16{none, none}) {
			t.Errorf("v%d: without an id: %v", v, got)
		}
	})
	if len(w.prod.calls) > 0 || len(w.txns.enlisted) > 0 {
		t.Errorf("appended %v, enlisted %v", w.prod.calls, w.txns.enlisted)
	}
}

// A coordinator that does not answer holds the connection for a few seconds, and no longer
// than the client's timeout.
func TestProduceWaitsForTheCoordinatorABoundedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		topic := w.create("t", 1)
		w.txns.hang = true
		for millis, want := range map[int32]time.Duration{30_000: 5 * time.Second, 800: 800 * time.Millisecond} {
			req := txnProduce(9, toPartition{topic, 0, records(1, ofTxn)})
			req.TimeoutMillis = millis
			start := time.Now()
			got := produceCodes(call[*kmsg.ProduceResponse](w, req))
			if took := time.Since(start); got[0] != kerr.NotEnoughReplicas.Code || took != want {
				t.Errorf("timeout %d: %v after %v, want %v", millis, got, took, want)
			}
		}
	})
}
