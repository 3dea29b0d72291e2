package kafka_test

import (
	"context"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
)

// transactions are coordinators that do as they are told.
type transactions struct {
	mu       sync.Mutex
	asked    []question
	enlisted []kafka.Enlistment
	marked   []kafka.Marking

	answer func(kmsg.Request) kmsg.Response // instead of an empty answer
	enlist kafka.Enlisted                   // the answer to every enlistment
	codes  []int16                          // of markings
	err    error                            // of everything
	hang   bool                             // enlistments are answered when their time is over
}

func (x *transactions) Ask(_ context.Context, from kafka.From, id string, req kmsg.Request) (kmsg.Response, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.asked = append(x.asked, question{from, id, req})
	if x.err != nil {
		return nil, x.err
	}
	if x.answer != nil {
		return x.answer(req), nil
	}
	resp := req.ResponseKind()
	if d, ok := resp.(*kmsg.DescribeTransactionsResponse); ok {
		s := kmsg.NewDescribeTransactionsResponseTransactionState()
		s.TransactionalID, s.State = id, "Ongoing"
		d.TransactionStates = append(d.TransactionStates, s)
	}
	return resp, nil
}

func (x *transactions) List(_ context.Context, from kafka.From, req *kmsg.ListTransactionsRequest) (*kmsg.ListTransactionsResponse, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.asked = append(x.asked, question{from, "", req})
	if x.err != nil {
		return nil, x.err
	}
	resp := req.ResponseKind().(*kmsg.ListTransactionsResponse)
	s := kmsg.NewListTransactionsResponseTransactionState()
	s.TransactionalID, s.ProducerID, s.TransactionState = "x", 7, "Ongoing"
	resp.TransactionStates = append(resp.TransactionStates, s)
	return resp, nil
}

func (x *transactions) Enlist(ctx context.Context, e kafka.Enlistment) (kafka.Enlisted, error) {
	if x.hang {
		<-ctx.Done()
		return kafka.Enlisted{}, ctx.Err()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.enlisted = append(x.enlisted, e)
	if x.err != nil {
		return kafka.Enlisted{}, x.err
	}
	return x.enlist, nil
}

func (x *transactions) Mark(_ context.Context, markings []kafka.Marking) []int16 {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.marked = append(x.marked, markings...)
	if x.codes == nil {
		return make([]int16, len(markings))
	}
	return slices.Clone(x.codes)
}

// last returns the only enlistment since the last call.
func (x *transactions) last(w *world) kafka.Enlistment {
	w.t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.enlisted) != 1 {
		w.t.Fatalf("%d enlistments: %+v", len(x.enlisted), x.enlisted)
	}
	e := x.enlisted[0]
	x.enlisted = nil
	return e
}
