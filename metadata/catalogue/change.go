package catalogue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/retry"
	"github.com/floelog/floe/tiering"
)

// maxConflicts is how often a change starts over because another came first. Fewer could
// fail under a burst of changes of one topic; more would let a client wait for ever.
const maxConflicts = 32

// errUnchanged says that a topic is already as it should be.
var errUnchanged = errors.New("topic is already so")

// edit derives a topic from its old state; deleted leaves none. After an attempt without
// an answer, again is true: the old state may already be the result.
type edit func(old Topic, again bool) (t Topic, deleted bool, err error)

// Delete deletes the named topic. Its partitions' data is given up by the shards' leaders.
//
// A deletion compares the whole value, which no other topic and no later state ever has,
// so it can be put again until it is answered: if the topic with the id that was read
// first is gone by then, the deletion is done, whichever attempt did it.
func (c *Catalogue) Delete(ctx context.Context, name string) (Change, error) {
	return c.change(ctx, "deleting", name, nil, func(t Topic, _ bool) (Topic, bool, error) { return t, true, nil })
}

// DeleteByID deletes the topic with the given id.
func (c *Catalogue) DeleteByID(ctx context.Context, id tiering.TopicID) (Change, error) {
	t, err := c.FindByID(ctx, id)
	if err != nil {
		return Change{}, err
	}
	return c.change(ctx, "deleting", t.Name, &id, func(t Topic, _ bool) (Topic, bool, error) { return t, true, nil })
}

// SetPartitions gives the named topic n partitions, which must be more than it has, or
// returns ErrInvalidPartitions.
//
// It can be put again until it is answered (see invariant 2). If another change came in
// between and the topic has n partitions or more, the unanswered attempt may have done
// it; since partitions only grow, what was asked for holds either way.
func (c *Catalogue) SetPartitions(ctx context.Context, name string, n int32) (Change, error) {
	return c.change(ctx, "growing", name, nil, func(t Topic, again bool) (Topic, bool, error) {
		switch {
		case n < 1 || n > MaxPartitions:
			return t, false, fmt.Errorf("%w: %d for topic %q: want 1 to %d", ErrInvalidPartitions, n, name, MaxPartitions)
		case again && t.Partitions >= n:
			return t, false, errUnchanged
		case n <= t.Partitions:
			return t, false, fmt.Errorf("%w: topic %q has %d already, and %d are not more", ErrInvalidPartitions, name, t.Partitions, n)
		}
		t.Partitions = n
		return t, false, nil
	})
}

// AlterConfigs replaces the overrides of the named topic by what alter makes of them. The
// map that alter is given is its own. Its error is returned as it is and means that nothing
// was changed, unless an attempt went unanswered before.
//
// alter may be called several times, also on its own result: when another change came
// after an attempt without an answer. So it must be idempotent, as Kafka's SET, DELETE,
// APPEND and SUBTRACT (KIP-339) are.
func (c *Catalogue) AlterConfigs(ctx context.Context, name string, alter func(old map[string]string) (map[string]string, error)) (Change, error) {
	return c.change(ctx, "configuring", name, nil, func(t Topic, _ bool) (Topic, bool, error) {
		own := maps.Clone(t.Configs)
		if own == nil {
			own = map[string]string{}
		}
		configs, err := alter(own)
		if err != nil {
			return t, false, err
		}
		if maps.Equal(configs, t.Configs) {
			return t, false, errUnchanged
		}
		t.Configs = maps.Clone(configs)
		return t, false, nil
	})
}

// change reads a topic, derives its new state and writes it if the old one still stands,
// over again if not. With id nil, the id is the one read first.
func (c *Catalogue) change(ctx context.Context, doing, name string, id *tiering.TopicID, edit edit) (Change, error) {
	wrap := func(err error) error { return fmt.Errorf("%s topic %q: %w", doing, name, err) }
	if err := ValidateTopicName(name); err != nil {
		return Change{}, err
	}
	kvs, revision, err := retry.Get(ctx, c.store, c.pacer, c.keys.Topic(name))
	if err != nil {
		return Change{}, wrap(err)
	}
	kv, again := kvs[0], false
	var last *Topic
	for range maxConflicts {
		old, err := c.found(name, kv)
		if id != nil && err == nil && old.ID != *id {
			err = fmt.Errorf("%w: %q with id %s", ErrTopicNotFound, name, *id)
		}
		if err != nil {
			if errors.Is(err, ErrTopicNotFound) && again && doing == "deleting" {
				return Change{last, revision}, nil
			}
			return Change{}, err
		}
		id, last = &old.ID, old
		next, deleted, err := edit(*old, again)
		switch {
		case errors.Is(err, errUnchanged):
			return Change{old, kv.Revision}, nil
		case err != nil:
			return Change{}, definite(err, again)
		}
		res, unanswered, value, err := c.replace(ctx, kv, &next, deleted)
		again = again || unanswered
		switch {
		case err != nil:
			return Change{}, wrap(definite(err, again))
		case res.Succeeded:
			return Change{&next, res.Revision}, nil
		case value != nil && bytes.Equal(res.Else[0].Value, value):
			return Change{&next, res.Else[0].Revision}, nil
		}
		kv, revision = res.Else[0], res.Revision
	}
	err = fmt.Errorf("%w: others changed it %d times meanwhile", metadata.ErrConflict, maxConflicts)
	return Change{}, wrap(definite(err, again))
}

// definite returns err, or, after an attempt without an answer that may have been applied
// all the same, an error that does not claim that nothing was.
func definite(err error, again bool) error {
	if !again || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("outcome unknown: an attempt was not answered, and then: %v", err)
}

// replace writes next, or deletes the topic, if its value is still that of old.
func (c *Catalogue) replace(ctx context.Context, old metadata.KV, next *Topic, deleted bool) (res metadata.TxnResult, unanswered bool, value []byte, err error) {
	op := metadata.Delete(old.Key)
	if !deleted {
		if next.change, err = c.newID(); err != nil {
			return res, false, nil, err
		}
		if value, err = next.encode(); err != nil {
			return res, false, nil, err
		}
		op = metadata.Put(old.Key, value)
	}
	res, unanswered, err = retry.Txn(ctx, c.store, c.pacer, metadata.Txn{
		If:   []metadata.Condition{metadata.Equals(old.Key, old.Value)},
		Then: []metadata.Op{op},
		Else: []string{old.Key},
	})
	return res, unanswered, value, err
}
