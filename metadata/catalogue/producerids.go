package catalogue

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	"strconv"
	"sync"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/retry"
)

// producerBlock is how many producer ids an agent takes at once, as in Kafka (KIP-730).
// Fewer would cost a transaction more often; more would waste more of them at a restart,
// which hurts nobody but is ugly in logs.
const producerBlock = 1000

// ProducerIDs hands out producer ids, each at most once in the life of the cluster.
//
// The allocator's key holds the first id that nobody has taken, in decimal, and only
// grows: so a block is this agent's alone if the transaction that took it was answered
// with success, even when earlier attempts at the same block were not answered. Where the
// answer is that the key has moved on, the block may be somebody else's and is passed over.
type ProducerIDs struct {
	store metadata.Store
	key   string
	pacer *retry.Pacer

	mu        sync.Mutex // guards the following
	next, end int64      // ids left of the block
	refill    chan struct{}
}

// NewProducerIDs returns an allocator with an empty block.
func NewProducerIDs(store metadata.Store, keys metadata.Keys) *ProducerIDs {
	return &ProducerIDs{store: store, key: keys.ProducerIDs(), pacer: retry.NewPacer(rand.Reader)}
}

// Next returns an id that was never returned before, to anybody. Concurrent callers
// share one block and wait for the same refill.
func (p *ProducerIDs) Next(ctx context.Context) (int64, error) {
	for {
		p.mu.Lock()
		if p.next < p.end {
			id := p.next
			p.next++
			p.mu.Unlock()
			return id, nil
		}
		refill, mine := p.refill, p.refill == nil
		if mine {
			refill = make(chan struct{})
			p.refill = refill
		}
		p.mu.Unlock()

		if mine {
			first, err := p.take(ctx)
			p.mu.Lock()
			if err == nil {
				p.next, p.end = first, first+producerBlock
			}
			p.refill = nil
			p.mu.Unlock()
			close(refill) // if it failed, one of those who wait tries with its own context
			if err != nil {
				return 0, fmt.Errorf("allocating producer ids: %w", err)
			}
			continue
		}
		select {
		case <-refill:
		case <-ctx.Done():
			return 0, fmt.Errorf("allocating producer ids: %w", ctx.Err())
		}
	}
}

// take takes a block and returns its first id.
func (p *ProducerIDs) take(ctx context.Context) (int64, error) {
	kvs, _, err := retry.Get(ctx, p.store, p.pacer, p.key)
	if err != nil {
		return 0, err
	}
	kv := kvs[0]
	for conflicts := 0; ; conflicts++ {
		first, unmoved := int64(0), metadata.Absent(p.key)
		if kv.Exists() {
			unmoved = metadata.Equals(p.key, kv.Value)
			if first, err = strconv.ParseInt(string(kv.Value), 10, 64); err != nil || first < 0 || first > math.MaxInt64-producerBlock {
				return 0, fmt.Errorf("%s is %.40q: want a number of 0 or more", p.key, kv.Value)
			}
		}
		res, _, err := retry.Txn(ctx, p.store, p.pacer, metadata.Txn{
			If:   []metadata.Condition{unmoved},
			Then: []metadata.Op{metadata.Put(p.key, strconv.AppendInt(nil, first+producerBlock, 10))},
			Else: []string{p.key},
		})
		if err != nil {
			return 0, err
		}
		if res.Succeeded {
			return first, nil
		}
		kv = res.Else[0]
		if err := p.pacer.Pause(ctx, conflicts); err != nil {
			return 0, err
		}
	}
}
