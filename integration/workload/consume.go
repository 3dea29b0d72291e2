//go:build integration

package workload

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/integration/history"
)

// FetchError is an anomaly that a consumer was told of: an error that does not pass by
// itself, such as an offset out of range that is in range.
const FetchError history.Kind = "fetch-error"

// follower is a consumer that is assigned all partitions from their start on.
type follower struct {
	l      *Load
	name   string
	client *kgo.Client

	mu    sync.Mutex
	next  map[int32]int64
	moved chan struct{} // closed when next changes
}

func (l *Load) follow(name, rack string) *follower {
	l.t.Helper()
	from := map[int32]kgo.Offset{}
	for _, p := range l.All() {
		from[p] = kgo.NewOffset().At(0)
		l.h.Assigned(name, l.partition(p), 0)
	}
	reset := kgo.NoResetOffset()
	if l.cfg.Trims {
		reset = kgo.NewOffset().AtStart()
	}
	opts := []kgo.Opt{
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{l.cfg.Topic: from}),
		kgo.ConsumeResetOffset(reset), kgo.FetchMaxWait(500 * time.Millisecond),
	}
	if rack != "" {
		opts = append(opts, kgo.Rack(rack))
	}
	return &follower{l: l, name: name, client: l.client(name, opts...), next: map[int32]int64{}, moved: make(chan struct{})}
}

// run polls until ctx ends.
func (f *follower) run(ctx context.Context) {
	defer f.client.Close()
	for {
		fetches := f.client.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		fetches.EachError(func(topic string, p int32, err error) {
			var code *kerr.Error
			var loss *kgo.ErrDataLoss
			if errors.As(err, &code) || errors.As(err, &loss) {
				f.l.h.Anomaly(FetchError, "%s heard of %s/%d: %v", f.name, topic, p, err)
				return
			}
			f.l.h.Note("%s heard of %s/%d: %v", f.name, topic, p, err)
		})
		fetches.EachPartition(func(p kgo.FetchTopicPartition) { f.polled(p.FetchPartition) })
	}
}

func (f *follower) polled(p kgo.FetchPartition) {
	if p.Err != nil {
		return
	}
	reads := make([]history.Read, len(p.Records))
	for i, r := range p.Records {
		reads[i] = history.Read{Offset: r.Offset, Record: r.Value}
	}
	f.l.h.Polled(f.name, f.l.partition(p.Partition), history.Watermarks{LogStart: p.LogStartOffset, LastStable: p.LastStableOffset, High: p.HighWatermark}, reads)
	if len(reads) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next[p.Partition] = reads[len(reads)-1].Offset + 1
	close(f.moved)
	f.moved = make(chan struct{})
}

// await waits until the follower has reached the ends, or where a trim has left nothing
// to reach.
func (f *follower) await(ctx context.Context, ends map[int32]int64) error {
	again := time.NewTicker(trimmed)
	defer again.Stop()
	for {
		f.mu.Lock()
		var behind []string
		for p, end := range ends {
			if f.next[p] < end {
				behind = append(behind, fmt.Sprintf("%d at %d of %d", p, f.next[p], end))
			}
		}
		moved := f.moved
		f.mu.Unlock()
		if len(behind) == 0 {
			return nil
		}
		select {
		case <-moved:
		case <-again.C:
			if f.l.cfg.Trims {
				f.l.withoutEmpty(ctx, ends)
			}
		case <-ctx.Done():
			slices.Sort(behind)
			return fmt.Errorf("%s does not reach the end of partitions %v: %w", f.name, behind, ctx.Err())
		}
	}
}

// trimmed is how often a follower that waits looks whether what it waits for is gone.
const trimmed = 500 * time.Millisecond

// withoutEmpty removes partitions of which nothing is left.
func (l *Load) withoutEmpty(ctx context.Context, ends map[int32]int64) {
	client := l.client("trimmed")
	defer client.Close()
	told, err := l.look(ctx, client, "trimmed")
	if err != nil {
		l.h.Note("looking for what was trimmed: %v", err)
	}
	maps.DeleteFunc(ends, func(p int32, end int64) bool { return told[p].LogStart >= end })
}

// observe asks one agent after the other for the watermarks of all partitions.
func (l *Load) observe(ctx context.Context, r *rand.Rand) {
	var clients []*kgo.Client
	for i := range l.cfg.Agents {
		client := l.client(fmt.Sprintf("observer-%d", i), kgo.SeedBrokers(l.cfg.Agents[i]))
		defer client.Close()
		clients = append(clients, client)
	}
	tick := time.NewTicker(l.cfg.Observe)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// The same name for all: whoever is asked, watermarks do not go back.
		broker := clients[r.IntN(len(clients))].SeedBrokers()[0]
		if _, err := l.look(ctx, broker, "observer"); err != nil && ctx.Err() == nil {
			l.h.Note("observer: %v", err)
		}
	}
}

// requester sends a request to where it belongs, or to one agent.
type requester interface {
	Request(ctx context.Context, req kmsg.Request) (kmsg.Response, error)
}

const latest, earliest = -1, -2 // timestamps of ListOffsets (KIP-79)

// look asks an agent for the watermarks of all partitions and returns those that it told.
func (l *Load) look(ctx context.Context, agent requester, who string) (map[int32]history.Watermarks, error) {
	ctx, cancel := context.WithTimeout(ctx, produceTimeout)
	defer cancel()
	looks := map[int32]history.Look{}
	for _, p := range l.All() {
		looks[p] = l.h.Look(who, l.partition(p))
	}
	starts, err := l.listOffsets(ctx, agent, earliest)
	if err != nil {
		return nil, err
	}
	ends, err := l.listOffsets(ctx, agent, latest)
	if err != nil {
		return nil, err
	}
	told := map[int32]history.Watermarks{}
	for p, end := range ends {
		start, ok := starts[p]
		if !ok {
			start = -1
		}
		told[p] = history.Watermarks{LogStart: start, LastStable: -1, High: end}
		looks[p].Saw(told[p])
	}
	return told, nil
}

func (l *Load) listOffsets(ctx context.Context, agent requester, timestamp int64) (map[int32]int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	topic := kmsg.NewListOffsetsRequestTopic()
	topic.Topic = l.cfg.Topic
	for _, p := range l.All() {
		part := kmsg.NewListOffsetsRequestTopicPartition()
		part.Partition, part.Timestamp = p, timestamp
		topic.Partitions = append(topic.Partitions, part)
	}
	req.Topics = append(req.Topics, topic)
	resp, err := agent.Request(ctx, req)
	if err != nil {
		return nil, err
	}
	offsets := map[int32]int64{}
	for _, t := range resp.(*kmsg.ListOffsetsResponse).Topics {
		for _, p := range t.Partitions {
			switch err := kerr.ErrorForCode(p.ErrorCode); {
			case err == nil:
				offsets[p.Partition] = p.Offset
			case !kerr.IsRetriable(err):
				return nil, fmt.Errorf("offsets of partition %d: %w", p.Partition, err)
			}
		}
	}
	return offsets, nil
}

func keys[V any](m map[int32]V) []int32 { return slices.Sorted(maps.Keys(m)) }
