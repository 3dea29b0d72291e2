package catalogue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/retry"
	"github.com/floelog/floe/tiering"
)

const (
	// createTopics is the most topics that one transaction creates: each takes one of the
	// conditions, operations and reads, and the fence one of each.
	createTopics = metadata.MaxTxnOps - 1

	// createBytes is the most that the topics of one transaction take, half of what is
	// allowed, since names count thrice and conditions and reads count as well.
	createBytes = metadata.MaxTxnBytes / 2

	// createInFlight bounds the transactions that one Create has in flight. Fewer would
	// wait for each answer in turn; more would push the journals' appends aside.
	createInFlight = 8

	// createTimeout ends an attempt without an answer, so that the fence is moved. Shorter
	// would do so whenever the store is merely slow; longer would use up the patience of
	// clients.
	createTimeout = 3 * time.Second
)

// NewTopic is a topic to be created.
type NewTopic struct {
	Name              string
	Partitions        int32 // 1 to MaxPartitions
	ReplicationFactor int16 // reported, without effect
	Configs           map[string]string
}

// Change is the outcome of a change of one topic.
type Change struct {
	Topic    *Topic // as it is now; as it was, of a deletion
	Revision int64  // WaitRevision(Revision) waits until the own copy shows it
}

// Created is the outcome of the creation of one topic. Err is ErrTopicExists,
// ErrInvalidTopic, ErrInvalidPartitions or ErrConfigTooLarge if it was not created; after
// any other error it may have been created, or may still be.
type Created struct {
	Change
	Err error
}

// candidate is a topic on its way to be created.
type candidate struct {
	topic Topic
	value []byte
	out   *Created
}

// Create creates topics, many in one transaction, and returns the outcome of each in
// order. Names that differ only in '.' and '_' from those of other topics are refused as
// far as the local copy knows them.
//
// An attempt without an answer is resolved by writing: the fence is moved, which ends all
// attempts that are still under way, and only then the topics are read. Those that carry
// the id of the attempt were created by it; the others never can be any more, and are
// tried again with a new id. (One that was created and at once deleted by somebody else
// looks the same, and is created once more.) When ctx ends first, Run moves the fence later on.
func (c *Catalogue) Create(ctx context.Context, topics []NewTopic) []Created {
	out := make([]Created, len(topics))
	var todo []*candidate
	seen := make(map[string]bool, len(topics))
	foldedSeen := map[string]string{}
	view := c.View()
	for i, t := range topics {
		if out[i].Err = c.check(view, t, seen, foldedSeen); out[i].Err != nil {
			continue
		}
		cand := &candidate{out: &out[i], topic: Topic{Name: t.Name, Partitions: t.Partitions,
			ReplicationFactor: t.ReplicationFactor, Configs: maps.Clone(t.Configs), Created: c.now().UnixMilli()}}
		if out[i].Err = c.identify(cand); out[i].Err == nil {
			todo = append(todo, cand)
		}
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, createInFlight)
	for len(todo) > 0 {
		var some []*candidate
		some, todo = split(todo)
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			c.create(ctx, some)
		})
	}
	wg.Wait()
	return out
}

// check validates a topic to be created, also against those of the same request.
func (c *Catalogue) check(view View, t NewTopic, seen map[string]bool, foldedSeen map[string]string) error {
	if err := ValidateTopicName(t.Name); err != nil {
		return err
	}
	if seen[t.Name] {
		return fmt.Errorf("%w: %q is named twice", ErrTopicExists, t.Name)
	}
	seen[t.Name] = true
	if t.Partitions < 1 || t.Partitions > MaxPartitions {
		return fmt.Errorf("%w: %d for topic %q: want 1 to %d", ErrInvalidPartitions, t.Partitions, t.Name, MaxPartitions)
	}
	other, clash := view.v.State.clash(t.Name)
	if f, ok := folded(t.Name); ok && !clash {
		if other, clash = foldedSeen[f]; !clash {
			foldedSeen[f] = t.Name
		}
	}
	if clash {
		return fmt.Errorf("%w: %q differs from topic %q only in '.' and '_', which metrics cannot tell apart", ErrInvalidTopic, t.Name, other)
	}
	return nil
}

// identify gives a candidate a fresh id.
func (c *Catalogue) identify(cand *candidate) error {
	id, err := c.newID()
	if err != nil {
		return err
	}
	t := &cand.topic
	t.ID, t.change = id, id // ids are unique: the first change needs no other
	t.FirstShard = FirstShard(t.ID, c.cluster.Shards)
	cand.value, err = t.encode()
	return err
}

// split takes as many candidates as fit one transaction.
func split(todo []*candidate) (some, rest []*candidate) {
	size := 0
	for i, cand := range todo {
		size += 3*len(cand.topic.Name) + len(cand.value)
		if i > 0 && (i == createTopics || size > createBytes) {
			return todo[:i], todo[i:]
		}
	}
	return todo, nil
}

// create creates the topics of one transaction.
func (c *Catalogue) create(ctx context.Context, todo []*candidate) {
	fail := func(err error) {
		for _, cand := range todo {
			cand.out.Err = fmt.Errorf("creating topic %q: %w", cand.topic.Name, err)
		}
	}
	for round := 0; len(todo) > 0; round++ {
		if round > 0 && c.pacer.Pause(ctx, round-1) != nil {
			fail(ctx.Err())
			return
		}
		fence, err := c.knownFence(ctx)
		if err != nil {
			fail(err)
			return
		}
		res, err := c.attempt(ctx, fence, todo)
		switch {
		case errors.Is(err, metadata.ErrInvalid):
			fail(err)
			return
		case err != nil:
			if todo, err = c.resolve(ctx, fence, todo); err != nil {
				fail(err)
				return
			}
		case res.Succeeded:
			for _, cand := range todo {
				cand.created(res.Revision)
			}
			return
		default:
			c.fence.Store(&res.Else[0])
			todo = unresolved(todo, res.Else[1:])
		}
	}
}

func (c *Catalogue) attempt(ctx context.Context, fence metadata.KV, todo []*candidate) (metadata.TxnResult, error) {
	txn := metadata.Txn{If: []metadata.Condition{unmoved(fence)}, Else: []string{fence.Key}}
	for _, cand := range todo {
		key := c.keys.Topic(cand.topic.Name)
		txn.If = append(txn.If, metadata.Absent(key))
		txn.Then = append(txn.Then, metadata.Put(key, cand.value))
		txn.Else = append(txn.Else, key)
	}
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	return c.store.Txn(ctx, txn)
}

// resolve finds out what became of an attempt without an answer, after making sure that
// nothing can become of it any more. It returns those to try again, with new ids.
func (c *Catalogue) resolve(ctx context.Context, fence metadata.KV, todo []*candidate) ([]*candidate, error) {
	if err := c.moveFence(ctx, fence); err != nil {
		select {
		case c.dirty <- struct{}{}:
		default: // Run is told already
		}
		return todo, fmt.Errorf("outcome unknown: %w", err)
	}
	keys := make([]string, len(todo))
	for i, cand := range todo {
		keys[i] = c.keys.Topic(cand.topic.Name)
	}
	kvs, _, err := retry.Get(ctx, c.store, c.pacer, keys...)
	if err != nil {
		return todo, fmt.Errorf("outcome unknown: %w", err)
	}
	todo = unresolved(todo, kvs)
	for _, cand := range todo {
		if err := c.identify(cand); err != nil {
			return todo, err
		}
	}
	return todo, nil
}

// unresolved settles the candidates whose names are taken and returns the others.
func unresolved(todo []*candidate, kvs []metadata.KV) []*candidate {
	var rest []*candidate
	for i, cand := range todo {
		switch kv := kvs[i]; {
		case !kv.Exists():
			rest = append(rest, cand)
		case cand.wrote(kv.Value):
			cand.created(kv.Revision)
		default:
			cand.out.Err = fmt.Errorf("%w: %q", ErrTopicExists, cand.topic.Name)
		}
	}
	return rest
}

// wrote reports whether value is of the topic that the candidate would create. Another
// agent may have changed it since, but not its id.
func (cand *candidate) wrote(value []byte) bool {
	if bytes.Equal(value, cand.value) {
		return true
	}
	t, err := decodeTopicValue(value, MaxShards)
	return err == nil && t.ID == cand.topic.ID
}

func (cand *candidate) created(revision int64) {
	cand.out.Change = Change{&cand.topic, revision}
}

// unmoved demands that the fence is as it was seen. It never returns to an old value: the
// key is never deleted, and every value is drawn afresh.
func unmoved(fence metadata.KV) metadata.Condition {
	if !fence.Exists() {
		return metadata.Absent(fence.Key)
	}
	return metadata.Equals(fence.Key, fence.Value)
}

func (c *Catalogue) knownFence(ctx context.Context) (metadata.KV, error) {
	if kv := c.fence.Load(); kv != nil {
		return *kv, nil
	}
	kvs, _, err := retry.Get(ctx, c.store, c.pacer, c.keys.TopicFence())
	if err != nil {
		return metadata.KV{}, err
	}
	c.fence.Store(&kvs[0])
	return kvs[0], nil
}

// moveFence makes sure that no creation that depends on the fence as it was seen can be
// applied from now on.
func (c *Catalogue) moveFence(ctx context.Context, seen metadata.KV) error {
	id, err := c.newID()
	if err != nil {
		return err
	}
	value := []byte(tiering.TopicID(id).String())
	res, _, err := retry.Txn(ctx, c.store, c.pacer, metadata.Txn{
		If:   []metadata.Condition{unmoved(seen)},
		Then: []metadata.Op{metadata.Put(seen.Key, value)},
		Else: []string{seen.Key},
	})
	if err != nil {
		return fmt.Errorf("moving %s: %w", seen.Key, err)
	}
	now := metadata.KV{Key: seen.Key, Value: value, Revision: res.Revision}
	if !res.Succeeded { // moved already, by an earlier attempt or by somebody else
		now = res.Else[0]
	}
	c.fence.Store(&now)
	return nil
}

// runFence moves the fence for those who could not wait for it.
func (c *Catalogue) runFence(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.dirty:
		}
		// Both calls repeat until they are answered; only the end of ctx stops them.
		if kvs, _, err := retry.Get(ctx, c.store, c.pacer, c.keys.TopicFence()); err == nil {
			_ = c.moveFence(ctx, kvs[0])
		}
	}
}
