package txn

import (
	"regexp"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/metadata/shard"
)

// describe answers DescribeTransactions (KIP-664) from the rows of a state that is proved to
// be the newest. Partitions of topics that are deleted are left out.
func describe(req *kmsg.DescribeTransactionsRequest, topics coordinator.Topics) func(*shard.State) any {
	return func(s *shard.State) any {
		resp := req.ResponseKind().(*kmsg.DescribeTransactionsResponse)
		for _, id := range req.TransactionalIDs {
			resp.TransactionStates = append(resp.TransactionStates, describeOne(id, s, topics))
		}
		return resp
	}
}

func describeOne(id string, s *shard.State, topics coordinator.Topics) kmsg.DescribeTransactionsResponseTransactionState {
	out := kmsg.NewDescribeTransactionsResponseTransactionState()
	out.TransactionalID = id
	value := s.Row(shard.Transactions, id, rowKey)
	switch {
	case id == "":
		out.ErrorCode = kerr.InvalidRequest.Code
		return out
	case len(value) == 0:
		out.ErrorCode = kerr.TransactionalIDNotFound.Code
		return out
	}
	r, err := decodeRow(value)
	if err != nil {
		out.ErrorCode = kerr.UnknownServerError.Code
		return out
	}
	out.State = r.status.String()
	out.TimeoutMillis = r.timeout
	out.StartTimestamp = r.started
	out.ProducerID, out.ProducerEpoch = r.producer, r.epoch
	for _, p := range r.partitions {
		topic, ok := topics.TopicByID(p.Topic)
		if !ok {
			continue
		}
		if n := len(out.Topics); n == 0 || out.Topics[n-1].Topic != topic.Name {
			t := kmsg.NewDescribeTransactionsResponseTransactionStateTopic()
			t.Topic = topic.Name
			out.Topics = append(out.Topics, t)
		}
		t := &out.Topics[len(out.Topics)-1]
		t.Partitions = append(t.Partitions, p.Partition)
	}
	return out
}

// filter is which transactions a ListTransactions asks for.
type filter struct {
	states    map[string]bool // nil: any
	producers []int64         // empty: any
	longer    time.Duration   // that have been going on for longer; negative: any
	pattern   *regexp.Regexp  // that the whole id matches; nil: any
	now       time.Time
}

// list answers ListTransactions (KIP-664, KIP-994, KIP-1152) from the rows of a state that
// is proved to be the newest.
func list(req *kmsg.ListTransactionsRequest, now time.Time) func(*shard.State) any {
	resp := req.ResponseKind().(*kmsg.ListTransactionsResponse)
	f := filter{producers: req.ProducerIDFilters, longer: -1, now: now}
	if req.Version >= 1 && req.DurationFilterMillis >= 0 {
		f.longer = time.Duration(min(req.DurationFilterMillis, int64(maxDuration/time.Millisecond))) * time.Millisecond
	}
	if len(req.StateFilters) > 0 {
		f.states = map[string]bool{}
	}
	for _, name := range req.StateFilters {
		if slices.Contains(statusNames[:], name) {
			f.states[name] = true
		} else if !slices.Contains(resp.UnknownStateFilters, name) {
			resp.UnknownStateFilters = append(resp.UnknownStateFilters, name)
		}
	}
	if p := req.TransactionalIDPattern; req.Version >= 2 && p != nil && *p != "" {
		var err error
		if f.pattern, err = regexp.Compile(`\A(?:` + *p + `)\z`); err != nil {
			resp.ErrorCode = kerr.InvalidRegularExpression.Code
			return func(*shard.State) any { return resp }
		}
	}
	return func(s *shard.State) any {
		f.list(s, resp)
		return resp
	}
}

// maxDuration is the longest that a time.Duration holds.
const maxDuration = time.Duration(1<<63 - 1)

func (f *filter) list(s *shard.State, resp *kmsg.ListTransactionsResponse) {
	resp.TransactionStates = nil
	for _, id := range s.Names(shard.Transactions) {
		if f.pattern != nil && !f.pattern.MatchString(id) {
			continue
		}
		r, err := decodeRow(s.Row(shard.Transactions, id, rowKey))
		if err != nil {
			resp.ErrorCode, resp.TransactionStates = kerr.UnknownServerError.Code, nil
			return
		}
		if !f.passes(&r) {
			continue
		}
		t := kmsg.NewListTransactionsResponseTransactionState()
		t.TransactionalID = id
		t.ProducerID = r.producer
		t.TransactionState = r.status.String()
		resp.TransactionStates = append(resp.TransactionStates, t)
	}
}

func (f *filter) passes(r *row) bool {
	switch {
	case len(f.producers) > 0 && !slices.Contains(f.producers, r.producer):
		return false
	case f.states != nil && !f.states[r.status.String()]:
		return false
	case f.longer >= 0 && (r.started < 0 || f.now.Sub(time.UnixMilli(r.started)) <= f.longer):
		return false
	}
	return true
}
