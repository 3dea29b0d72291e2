//go:build integration

// Package workload puts clients on a cluster and writes down what they do and hear in a
// history: producers that never stop, consumers that follow them, and an observer that
// asks the agents in turn where the partitions begin and end. The test does what it wants
// to the cluster meanwhile, then calls Finish, which reads everything.
//
// A Load's methods may be called at the same time; Finish once, and last.
package workload

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/integration/history"
)

// Config says what a load consists of.
type Config struct {
	Agents     []string // addresses
	Topic      string   // is created
	Partitions int32
	Idempotent int      // producers that are idempotent, with five requests in flight
	Plain      int      // producers that are not, with one
	Rate       int      // records a second of each producer
	Racks      []string // a consumer that follows from each; "": from none
	Seed       uint64
	Configs    map[string]string // of the topic
	Trims      bool              // the topic's records go from the front: consumers are led to its new start
	Observe    time.Duration     // how often the observer asks; 0: observeEvery
	// Patience is how long a client waits for an answer; 0: requestOverhead. More than an agent
	// is paused for where the store is slow, so that agents are not asked for the same over and over.
	Patience time.Duration
	Commit   time.Duration // how long an agent may take to commit what is produced; 0: produceTimeout
	Stuck    func()        // is called when something is not done in time, before the test fails; nil: nothing is
}

const (
	// A request that is not answered is given up after these two together, which is less
	// than an agent is paused for: then the same records are in the paused agent's sockets
	// and on their way through another agent.
	produceTimeout  = 3 * time.Second
	requestOverhead = 2 * time.Second
	// backoff is the pause before a client tries again or asks for metadata: short, so that
	// the time that a takeover takes is the cluster's and not the client's.
	backoff = 50 * time.Millisecond
	// maxBuffered bounds the records that a producer has under way. Fewer would stand still
	// at the first fault; more would only queue there.
	maxBuffered = 1000
	// observeEvery is how often the observer asks.
	observeEvery = 50 * time.Millisecond
)

// Load is a load that runs.
type Load struct {
	t   testing.TB
	h   *history.History
	cfg Config

	stopSending context.CancelFunc
	senders     sync.WaitGroup
	producers   []*kgo.Client
	stopReading context.CancelFunc
	readers     sync.WaitGroup
	followers   []*follower
	settled     bool
	progress    progress
	torn        torn
}

// Start creates the topic and starts a load, which runs until Finish or the test's end.
func Start(t testing.TB, h *history.History, cfg Config) *Load {
	t.Helper()
	cfg.Observe, cfg.Patience, cfg.Commit = cmp.Or(cfg.Observe, observeEvery), cmp.Or(cfg.Patience, requestOverhead), cmp.Or(cfg.Commit, produceTimeout)
	l := &Load{t: t, h: h, cfg: cfg}
	l.progress.begun = map[int32]time.Time{}
	l.createTopic()
	send, stopSending := context.WithCancel(context.Background())
	read, stopReading := context.WithCancel(context.Background())
	l.stopSending, l.stopReading = stopSending, stopReading
	t.Cleanup(func() {
		stopSending()
		for _, p := range l.producers {
			p.Close() // gives up what is under way, so that no sender waits for room
		}
		l.senders.Wait()
		stopReading()
		l.readers.Wait()
	})
	for i := range cfg.Idempotent + cfg.Plain {
		who := history.Producer{Name: fmt.Sprintf("idempotent-%d", i), Idempotent: true}
		opts := []kgo.Opt{}
		if i >= cfg.Idempotent {
			who = history.Producer{Name: fmt.Sprintf("plain-%d", i)}
			opts = append(opts, kgo.DisableIdempotentWrite())
		}
		client := l.producer(who, opts...)
		l.producers = append(l.producers, client)
		r := rand.New(rand.NewPCG(cfg.Seed, uint64(i)))
		l.senders.Go(func() { l.send(send, client, who, r) })
	}
	for i, rack := range cfg.Racks {
		f := l.follow(fmt.Sprintf("follower-%d", i), rack)
		l.followers = append(l.followers, f)
		l.readers.Go(func() { f.run(read) })
	}
	l.readers.Go(func() { l.observe(read, rand.New(rand.NewPCG(cfg.Seed, 1<<32))) })
	return l
}

// client makes a client with the options that all of them have.
func (l *Load) client(name string, opts ...kgo.Opt) *kgo.Client {
	l.t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(l.cfg.Agents...), kgo.ClientID(name), kgo.MetadataMinAge(backoff),
		kgo.RequestTimeoutOverhead(l.cfg.Patience), kgo.WithLogger(clientLog{l.h, name}),
		kgo.RetryBackoffFn(func(int) time.Duration { return backoff }),
		kgo.RetryTimeout(time.Minute), kgo.RequestRetries(1 << 20), // the timeout decides
	}, opts...)...)
	if err != nil {
		l.t.Fatal(err)
	}
	return client
}

// clientLog writes what a client warns of into the history's trace.
type clientLog struct {
	h    *history.History
	name string
}

// Level implements kgo.Logger.
func (clientLog) Level() kgo.LogLevel { return kgo.LogLevelWarn }

// Log implements kgo.Logger.
func (c clientLog) Log(_ kgo.LogLevel, msg string, keyvals ...any) {
	c.h.Note("%s logs: %s %v", c.name, msg, keyvals)
}

// createTopic makes every agent a replica, so that consumers are sent to those in their rack.
func (l *Load) createTopic() {
	l.t.Helper()
	client := l.client("creator")
	defer client.Close()
	req := kmsg.NewPtrCreateTopicsRequest()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = l.cfg.Topic, l.cfg.Partitions, int16(len(l.cfg.Agents))
	for _, name := range slices.Sorted(maps.Keys(l.cfg.Configs)) {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = name, kmsg.StringPtr(l.cfg.Configs[name])
		topic.Configs = append(topic.Configs, c)
	}
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(l.t.Context(), client)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	if err != nil {
		l.t.Fatalf("create topic %s: %v", l.cfg.Topic, err)
	}
}

// Leaders returns the partitions by the node id of the agent that leads them, as an agent
// says that runs.
func (l *Load) Leaders(ctx context.Context) (map[int32][]int32, error) {
	client := l.client("leaders")
	defer client.Close()
	req := kmsg.NewPtrMetadataRequest()
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = kmsg.StringPtr(l.cfg.Topic)
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("asking who leads: %w", err)
	}
	leaders := map[int32][]int32{}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			leaders[p.Leader] = append(leaders[p.Leader], p.Partition)
		}
	}
	return leaders, nil
}

// All returns the numbers of all partitions.
func (l *Load) All() []int32 {
	var all []int32
	for p := range l.cfg.Partitions {
		all = append(all, p)
	}
	return all
}

func (l *Load) partition(p int32) history.Partition {
	return history.Partition{Topic: l.cfg.Topic, ID: p}
}
