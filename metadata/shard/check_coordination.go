package shard

import (
	"fmt"

	"github.com/floelog/floe/tiering"
)

type groupProducerKey struct {
	group string
	id    int64
}

// groupProducerNumbers is what decides whether a transaction may commit offsets in a group.
type groupProducerNumbers struct{ ended, open int64 }

// coordinated checks the changes that come from coordinators.
func (c *checker) coordinated(change Change) error {
	switch x := change.(type) {
	case PutRows:
		if x.Space != Groups && x.Space != Transactions {
			return fmt.Errorf("rows of space %d", x.Space)
		}
	case CommitOffsets:
		if err := c.commitOffsets(x); err != nil {
			return fmt.Errorf("offsets of group %q: %w", x.Group, err)
		}
	case ConcludeOffsets:
		if err := c.concludeOffsets(x); err != nil {
			return fmt.Errorf("offsets of group %q: %w", x.Group, err)
		}
	case DeleteOffsets:
		for _, tp := range x.Partitions {
			if err := named(tp); err != nil {
				return fmt.Errorf("offsets of group %q: %w", x.Group, err)
			}
		}
	case DropGroup:
		c.dropGroup(x.Group)
	case Mark:
		if err := c.mark(x); err != nil {
			return fmt.Errorf("marker in %s: %w", x.Partition, err)
		}
	default:
		return fmt.Errorf("change of type %T", change)
	}
	return nil
}

func (c *checker) commitOffsets(x CommitOffsets) error {
	for _, o := range x.Offsets {
		if err := named(o.Partition); err != nil {
			return err
		}
	}
	t := x.Transaction
	if t.Number == 0 {
		return nil
	}
	if err := t.sound(); err != nil {
		return err
	}
	k := groupProducerKey{x.Group, t.ProducerID}
	was := c.numbers(k)
	if t.Number <= was.ended {
		return fmt.Errorf("producer %d: transaction %d after the end of %d", t.ProducerID, t.Number, was.ended)
	}
	// Its coordinator begins the next transaction only when this one is concluded here.
	if was.open > 0 && was.open != t.Number {
		return fmt.Errorf("producer %d: transaction %d while %d is open", t.ProducerID, t.Number, was.open)
	}
	c.became(k, groupProducerNumbers{was.ended, t.Number})
	return nil
}

func (c *checker) concludeOffsets(x ConcludeOffsets) error {
	t := x.Transaction
	if err := t.sound(); err != nil {
		return err
	}
	k := groupProducerKey{x.Group, t.ProducerID}
	now := c.numbers(k)
	now.ended = max(now.ended, t.Number)
	if now.open <= now.ended {
		now.open = 0
	}
	c.became(k, now)
	return nil
}

// sound demands of the transaction what its encodings in a snapshot can say.
func (t Transaction) sound() error {
	if t.ProducerID < 0 || t.Epoch < 0 || t.Number < 1 {
		return fmt.Errorf("transaction %+v", t)
	}
	return nil
}

// numbers returns what is known of a producer of a group after the changes so far.
func (c *checker) numbers(k groupProducerKey) groupProducerNumbers {
	if n, ok := c.producers[k]; ok {
		return n
	}
	e := c.state.Group(k.group).Producers[k.id]
	if e == nil || c.gone[k.group] || e.expired(c.before) {
		return groupProducerNumbers{}
	}
	return groupProducerNumbers{e.Ended, e.Open}
}

func (c *checker) became(k groupProducerKey, n groupProducerNumbers) {
	if c.producers == nil {
		c.producers = map[groupProducerKey]groupProducerNumbers{}
	}
	c.producers[k] = n
}

func (c *checker) dropGroup(name string) {
	if c.gone == nil {
		c.gone = map[string]bool{}
	}
	c.gone[name] = true
	for k := range c.producers {
		if k.group == name {
			delete(c.producers, k)
		}
	}
}

// expire knows of producers in the state only: those that the record itself mentions are
// taken to be remembered, which refuses more, but nothing that a coordinator writes.
func (c *checker) expire(before int64) { c.before = max(c.before, before) }

func (c *checker) mark(m Mark) error {
	if err := c.follows(m.Partition, m.Base); err != nil {
		return err
	}
	if err := m.Transaction.sound(); err != nil {
		return err
	}
	if err := sound(m.extent(), m.Base); err != nil {
		return err
	}
	c.moved(m.Partition, m.Base+1)
	return nil
}

// extent returns the extent of the marker, without its base.
func (m Mark) extent() tiering.Extent {
	return tiering.Extent{Count: 1, MaxTimestamp: m.Timestamp, Length: int32(len(m.Batch)), Inline: m.Batch}
}
