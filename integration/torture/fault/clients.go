//go:build linux

package fault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func clientFaults() []Fault {
	return []Fault{&simple{"F35", "zombies of transactional ids, and transactions that end while they time out", zombies}}
}

// requestTimeout bounds one request while other faults are on.
const requestTimeout = 5 * time.Second

// zombies has one client after the other take a transactional id over, each while the one before still uses
// it, and a last one commit a transaction at the moment when it times out.
func zombies(ctx context.Context, r *Round) (fired int, err error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(r.Cluster.Bootstrap()...), kgo.RequestRetries(2), kgo.RetryTimeout(requestTimeout))
	if err != nil {
		return 0, err
	}
	defer client.Close()
	z := &zombie{client: client, id: fmt.Sprintf("torture-zombie-%x", r.Rand.Uint64())}
	const most = 30 // epochs of an id, in one round
	var before *kmsg.InitProducerIDResponse
	for range most {
		now, err := z.init(ctx, time.Minute)
		if err != nil {
			return fired, nil // another fault is in the way: the next round has another id
		}
		if before != nil {
			fenced, err := z.fenced(ctx, before, now)
			if err != nil {
				return fired, err
			}
			fired += fenced
		}
		before = now
	}
	return fired + z.race(ctx, r), nil
}

type zombie struct {
	client *kgo.Client
	id     string
}

func (z *zombie) init(ctx context.Context, timeout time.Duration) (*kmsg.InitProducerIDResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID, req.TransactionTimeoutMillis = kmsg.StringPtr(z.id), int32(timeout.Milliseconds())
	resp, err := req.RequestWith(ctx, z.client)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	return resp, err
}

// end asks for the end of a transaction as a certain producer.
func (z *zombie) end(ctx context.Context, as *kmsg.InitProducerIDResponse, commit bool) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req := kmsg.NewPtrEndTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = z.id, as.ProducerID, as.ProducerEpoch, commit
	resp, err := req.RequestWith(ctx, z.client)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.ErrorCode)
}

// fenced checks that a producer that was taken over may do nothing any more.
func (z *zombie) fenced(ctx context.Context, before, now *kmsg.InitProducerIDResponse) (fired int, err error) {
	if now.ProducerID == before.ProducerID && now.ProducerEpoch <= before.ProducerEpoch {
		return 0, fmt.Errorf("producer %d: epoch %d came after epoch %d", now.ProducerID, now.ProducerEpoch, before.ProducerEpoch)
	}
	err = z.end(ctx, before, true)
	switch {
	case errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch) || errors.Is(err, kerr.InvalidProducerIDMapping):
		return 1, nil
	case err == nil:
		return 0, fmt.Errorf("producer %d committed with epoch %d after epoch %d had begun", now.ProducerID, before.ProducerEpoch, now.ProducerEpoch)
	case slices.ContainsFunc([]error{kerr.InvalidTxnState}, func(k error) bool { return errors.Is(err, k) }):
		return 0, fmt.Errorf("a fenced producer is told %w", err)
	}
	return 0, nil // not answered, or by nobody who knows
}

// race commits transactions at the moment when they time out. Whether it is the client or the
// coordinator that ends them, the client hears of it.
func (z *zombie) race(ctx context.Context, r *Round) (fired int) {
	const timeout = time.Second
	p, err := z.init(ctx, timeout)
	if err != nil {
		return 0
	}
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = z.id, p.ProducerID, p.ProducerEpoch, z.id
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := add.RequestWith(limited, z.client)
	if err != nil || resp.ErrorCode != 0 {
		return 0
	}
	r.hold(ctx, timeout-100*time.Millisecond, timeout+200*time.Millisecond)
	err = z.end(ctx, p, true)
	r.Note("a commit beside the transaction's time limit is told: %v", err)
	return 1
}
