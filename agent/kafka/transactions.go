package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/metadata/catalogue"
)

// What the handlers of transactions have in common. A transactional id's coordinator is the
// leader of its shard (tiering.ShardOfName), and what it answers is journaled there.

// askTimeout bounds one question to a coordinator: clients wait at least as long for the
// answer, and one that is told COORDINATOR_NOT_AVAILABLE asks again.
const askTimeout = 25 * time.Second

// code returns what became of the i-th partition.
func (e *Enlisted) code(i int) int16 {
	if e.Code != 0 || i >= len(e.Codes) {
		return e.Code
	}
	return e.Codes[i]
}

// txnCode returns the code that clients of a version know for code: those from version
// fenced on know PRODUCER_FENCED (KIP-588), those from version abortable on
// TRANSACTION_ABORTABLE (KIP-890).
func txnCode(code, version, fenced, abortable int16) int16 {
	switch {
	case code == kerr.ProducerFenced.Code && version < fenced:
		return kerr.InvalidProducerEpoch.Code
	case code == kerr.TransactionAbortable.Code && version < abortable:
		return kerr.InvalidTxnState.Code
	}
	return code
}

// askTransaction passes a request on to the coordinator of a transactional id. Where that
// does not answer, code says what the client hears.
func askTransaction[R kmsg.Response](ctx context.Context, h *Handler, f From, id string, req kmsg.Request) (resp R, code int16) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	got, err := h.Transactions.Ask(ctx, f, id, req)
	if err != nil {
		return resp, coordinatorCode(err)
	}
	resp, ok := got.(R)
	if !ok {
		return resp, coordinatorCode(fmt.Errorf("the coordinator answered a %T with a %T", req, got))
	}
	resp.SetVersion(req.GetVersion())
	return resp, 0
}

// namedPartitions are partitions of a topic as a request names them.
type namedPartitions struct {
	topic      string
	partitions []int32
}

// locate resolves the partitions that a request names, in order: an error code for each that
// is refused, and the others as where has them. bad is the number of refused ones. A lookup
// that failed is answered with trouble.
func (h *Handler) locate(ctx context.Context, r *resolver, names []namedPartitions, trouble *kerr.Error) (where []Partition, codes []int16, bad int) {
	n := 0
	for i := range names {
		n += len(names[i].partitions)
	}
	where, codes = make([]Partition, 0, n), make([]int16, 0, n)
	for _, name := range names {
		t, err := r.byName(ctx, name.topic)
		for _, p := range name.partitions {
			c := kerr.UnknownTopicOrPartition.Code
			if err != nil && c != code(err) && !errors.Is(err, catalogue.ErrInvalidTopic) {
				c = trouble.Code
			} else if err == nil {
				if ref, ok := r.partition(ctx, t, p); ok {
					c, where = 0, append(where, ref)
				}
			}
			if c != 0 {
				bad++
			}
			codes = append(codes, c)
		}
	}
	return where, codes, bad
}
