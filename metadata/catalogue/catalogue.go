// Package catalogue keeps a cluster's identity, its topics and its producer ids in the
// metadata store, and a local copy of all topics for those who look them up.
//
// Invariants:
//  1. A topic id is put at most once: no topic comes back after its deletion, however late
//     a creation without an answer is applied. All creations depend on the value of one
//     key, the fence; a creator without an answer moves it to a value never used before,
//     and only then looks what became of its attempt.
//  2. No value of a topic is ever written twice, since every one carries a change id of
//     its own. So a change that compares the value it was derived from is applied at most
//     once, however often it is put and however late an attempt arrives.
//  3. An error that is one of this package's or metadata.ErrInvalid means that nothing was
//     changed. Any other error of a change leaves its outcome unknown.
//  4. A producer id is handed out at most once.
//
// All functions and methods may be called concurrently. Lookups take no lock and make no
// call to the store, unless their comment says so.
package catalogue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/mirror"
	"github.com/floelog/floe/metadata/retry"
	"github.com/floelog/floe/tiering"
)

var (
	// ErrTopicExists says that there is a topic of that name.
	ErrTopicExists = errors.New("topic exists already")

	// ErrTopicNotFound says that there is no such topic, by a linearizable read.
	ErrTopicNotFound = errors.New("topic does not exist")

	// ErrInvalidTopic says that the name is none that a topic may have.
	ErrInvalidTopic = errors.New("invalid topic name")

	// ErrInvalidPartitions says that a topic cannot have that number of partitions.
	ErrInvalidPartitions = errors.New("invalid number of partitions")

	// ErrConfigTooLarge says that a topic's overrides do not fit its key.
	ErrConfigTooLarge = errors.New("topic configuration too large")

	// ErrIncomplete says that a topic's value cannot be read by this version, so that the
	// catalogue does not know all topics.
	ErrIncomplete = errors.New("topic catalogue incomplete")
)

// Config holds what a Catalogue needs besides the store; the zero value is for production.
type Config struct {
	Now       func() time.Time // for Topic.Created; nil: time.Now
	Random    io.Reader        // for ids, safe for concurrent use; nil: crypto/rand.Reader
	Log       *slog.Logger     // nil: none
	Reconcile time.Duration    // between two checks of the copy; 0: mirror.DefaultReconcile
}

// Catalogue knows the topics of one cluster.
type Catalogue struct {
	store   metadata.Store
	keys    metadata.Keys
	cluster Cluster
	now     func() time.Time
	random  io.Reader
	pacer   *retry.Pacer
	mirror  *mirror.Mirror[Topic, *index]

	fence atomic.Pointer[metadata.KV] // as last seen; nil: never
	dirty chan struct{}               // a creation was given up without an answer
}

// New returns the catalogue of a cluster. Its copy of the topics is empty until Run has
// loaded it; creations and changes need no copy.
func New(store metadata.Store, keys metadata.Keys, cluster Cluster, cfg Config) *Catalogue {
	c := &Catalogue{store: store, keys: keys, cluster: cluster, now: cfg.Now,
		random: cfg.Random, dirty: make(chan struct{}, 1)}
	if c.now == nil {
		c.now = time.Now
	}
	if c.random == nil {
		c.random = rand.Reader
	}
	c.pacer = retry.NewPacer(c.random)
	c.mirror = mirror.New(mirror.Config[Topic, *index]{
		Store: store, Prefix: keys.Topics(), Name: "topics",
		Decode: func(name string, value []byte) (Topic, error) { return decodeTopic(name, value, cluster.Shards) },
		Fold:   foldTopics,
		Pacer:  c.pacer, Log: cfg.Log, Reconcile: cfg.Reconcile,
	})
	return c
}

// Cluster returns the identity of the cluster.
func (c *Catalogue) Cluster() Cluster { return c.cluster }

// Run keeps the copy of the topics until ctx ends, whose error it returns. It also moves
// the fence for creations that were given up without an answer.
func (c *Catalogue) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { c.runFence(ctx) })
	defer wg.Wait()
	return c.mirror.Run(ctx)
}

// View is all topics at one revision of the store. It does not change.
type View struct{ v *mirror.View[*index] }

// View returns the newest copy.
func (c *Catalogue) View() View { return View{c.mirror.View()} }

// Topic returns the named topic, which must not be modified.
func (v View) Topic(name string) (*Topic, bool) { return v.v.State.topic(name) }

// TopicByID returns the topic with the given id, which must not be modified.
func (v View) TopicByID(id tiering.TopicID) (*Topic, bool) { return v.v.State.topicByID(id) }

// Topics returns all topics in the order of their names.
func (v View) Topics() iter.Seq[*Topic] { return v.v.State.topics() }

// Len is the number of topics.
func (v View) Len() int { return v.v.State.len() }

// Revision is the store's revision of this copy; 0 before the first load.
func (v View) Revision() int64 { return v.v.Revision }

// Changed returns a channel that is closed when a newer copy differs from this one. Take
// the view first, act on it, then wait: no change is missed.
func (v View) Changed() <-chan struct{} { return v.v.Changed() }

// Topic returns the named topic from the newest copy.
func (c *Catalogue) Topic(name string) (*Topic, bool) { return c.View().Topic(name) }

// TopicByID returns the topic with the given id from the newest copy.
func (c *Catalogue) TopicByID(id tiering.TopicID) (*Topic, bool) { return c.View().TopicByID(id) }

// WaitRevision waits until the copy holds what the store held at rev, as a change of
// one's own returned it. Revision 1 waits for the first load.
func (c *Catalogue) WaitRevision(ctx context.Context, rev int64) error {
	return c.mirror.WaitRevision(ctx, rev)
}

// Fresh returns when the copy holds at least what was in the store when it was called.
// It costs a read of all topics, shared by concurrent callers and made about once a
// second at most.
func (c *Catalogue) Fresh(ctx context.Context) error { return c.mirror.Fresh(ctx) }

// Find asks the store for the named topic, for a client that may just have created it
// through another agent. It returns ErrTopicNotFound if there is none.
func (c *Catalogue) Find(ctx context.Context, name string) (*Topic, error) {
	if err := ValidateTopicName(name); err != nil {
		return nil, err
	}
	kvs, _, err := retry.Get(ctx, c.store, c.pacer, c.keys.Topic(name))
	if err != nil {
		return nil, fmt.Errorf("looking up topic %q: %w", name, err)
	}
	return c.found(name, kvs[0])
}

func (c *Catalogue) found(name string, kv metadata.KV) (*Topic, error) {
	if !kv.Exists() {
		return nil, fmt.Errorf("%w: %q", ErrTopicNotFound, name)
	}
	t, err := decodeTopic(name, kv.Value, c.cluster.Shards)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	return &t, nil
}

// FindByID returns the topic with the given id, from a fresh copy if need be, or
// ErrTopicNotFound.
func (c *Catalogue) FindByID(ctx context.Context, id tiering.TopicID) (*Topic, error) {
	if t, ok := c.TopicByID(id); ok {
		return t, nil
	}
	if err := c.Fresh(ctx); err != nil {
		return nil, fmt.Errorf("looking up topic id %s: %w", id, err)
	}
	v := c.View()
	if t, ok := v.TopicByID(id); ok {
		return t, nil
	}
	if err := v.complete(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%w: id %s", ErrTopicNotFound, id)
}

// Gone returns those of the ids whose topics do not exist, for a leader that drops the
// partitions of deleted topics: the ids must be of topics that existed at some time. It
// reads afresh, and fails with ErrIncomplete if a topic's value cannot be read: then
// absence proves nothing, and nothing must be dropped.
func (c *Catalogue) Gone(ctx context.Context, ids []tiering.TopicID) ([]tiering.TopicID, error) {
	if err := c.Fresh(ctx); err != nil {
		return nil, fmt.Errorf("looking for deleted topics: %w", err)
	}
	v := c.View()
	if err := v.complete(); err != nil {
		return nil, err
	}
	var gone []tiering.TopicID
	for _, id := range ids {
		if _, ok := v.TopicByID(id); !ok {
			gone = append(gone, id)
		}
	}
	return gone, nil
}

func (v View) complete() error {
	if n := len(v.v.Unreadable); n > 0 {
		return fmt.Errorf("%w: %d topics have values that this version cannot read, the first is %q: run the newest version everywhere",
			ErrIncomplete, n, v.v.Unreadable[0])
	}
	return nil
}

// newID draws a random id. Ids that start with a dash in Kafka's notation are passed
// over, as Kafka does: command lines take them for options.
func (c *Catalogue) newID() ([16]byte, error) { return newID(c.random) }

func newID(random io.Reader) ([16]byte, error) {
	for {
		id, err := uuid.NewRandomFromReader(random)
		if err != nil {
			return [16]byte{}, fmt.Errorf("drawing a random id: %w", err)
		}
		if tiering.TopicID(id).String()[0] != '-' {
			return id, nil
		}
	}
}
