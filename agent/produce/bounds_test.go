package produce

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/tiering/objstore"
)

// One request with very many tiny batches must not make a submission that no journal
// record, and no message between agents, can hold: the batches of others fail with it.
func TestASubmissionIsBoundedWhateverARequestHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Config{FlushBytes: 64 << 20, FlushAge: time.Second, Uploads: 4}, &quietObserver{})
		one := records(t, 0, "x", 1)
		many := make([]*Batch, 3*maxFlushBatches)
		for i := range many {
			b := *one
			many[i] = &b
		}
		<-r.sent(many...)
		for _, s := range r.seq.subs {
			if n := s.NumBatches(); n > 2*maxFlushBatches {
				t.Errorf("a submission of %d batches, the bound is %d", n, maxFlushBatches)
			}
		}
		r.close(t)
	})
}

// An idempotent producer's first batch that failed must not be followed by its second one:
// the leader knows nothing of the producer yet and takes any sequence number, and the
// retry of the first is then out of order for ever (RELIABILITY I6).
func TestASecondBatchIsNotCommittedWhenTheFirstFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Config{FlushBytes: 1, FlushAge: time.Second, Uploads: 4}, &quietObserver{})
		r.store.fail[1] = objstore.ErrDenied
		first, second := records(t, 0, "first", 3), records(t, 0, "second", 2)
		first.Meta.ProducerID, second.Meta.ProducerID = 7, 7
		first.Meta.FirstSeq, second.Meta.FirstSeq = 0, 3
		a, b := r.sent(first), r.sent(second)
		<-a
		<-b
		if first.Code == 0 {
			t.Fatal("the first batch's upload should have failed")
		}
		if second.Code == 0 {
			t.Errorf("sequence number 3 was committed at offset %d although 0 to 2 were not", second.Base)
		}
		again := records(t, 0, "first", 3)
		again.Meta.ProducerID = 7
		<-r.sent(again)
		if again.Code != 0 {
			t.Errorf("the first batch's retry got code %d: it can never be stored any more", again.Code)
		}
		r.close(t)
	})
}
