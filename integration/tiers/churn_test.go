//go:build integration && unix

package tiers

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/history"
)

const (
	churnTopics     = 8
	churnPartitions = 10
)

// churn creates topics, fills and reads them, deletes them and creates them again under the
// same name. To the history each generation is a topic of its own: a record that outlives
// its topic is one that nobody sent.
type churn struct {
	c           *cluster
	h           *history.History
	generations atomic.Int64
	names       [churnTopics]string // of the topics' last generations in the history
	ends        [churnTopics]map[int32]int64
	ids         [churnTopics]map[kadm.TopicID]string // generations by their topic's id
}

// run is one topic's life, again and again until ctx ends.
func (u *churn) run(ctx context.Context, topic int) {
	r := u.c.rand(uint64(1000 + topic))
	name := fmt.Sprintf("churn-%d", topic)
	u.ids[topic] = map[kadm.TopicID]string{}
	for g := 0; ctx.Err() == nil; g++ {
		if g > 0 && !u.delete(name) {
			return
		}
		id, ok := u.create(name)
		if !ok {
			return
		}
		u.names[topic] = fmt.Sprintf("%s#%d", name, g)
		if id != (kadm.TopicID{}) {
			u.ids[topic][id] = u.names[topic]
		}
		u.ends[topic] = u.fill(name, u.names[topic], 20+r.IntN(200), r.Uint64())
		u.generations.Add(1)
		u.readAll(name, topic, fmt.Sprintf("reader-%d", g))
	}
}

// create creates a topic and returns its id, or none if it is not known.
func (u *churn) create(name string) (id kadm.TopicID, ok bool) {
	client := u.c.client(name + "-creator")
	defer client.Close()
	ctx, cancel := context.WithTimeout(u.c.t.Context(), patience)
	defer cancel()
	err := answered(func() error {
		created, err := kadm.NewClient(client).CreateTopic(ctx, churnPartitions, agents, nil, name)
		id = created.ID
		return err
	})
	// The client repeats a request whose answer is lost: what exists already is what it has
	// created, and the history says so if it is not.
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		u.c.errorf("create %s: %v", name, err)
		return id, false
	}
	return id, true
}

func (u *churn) delete(name string) bool {
	client := u.c.client(name + "-deleter")
	defer client.Close()
	ctx, cancel := context.WithTimeout(u.c.t.Context(), patience)
	defer cancel()
	err := answered(func() error {
		_, err := kadm.NewClient(client).DeleteTopic(ctx, name)
		return err
	})
	if err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
		u.c.errorf("delete %s: %v", name, err)
		return false
	}
	return true
}

// fill writes records and returns where the partitions end.
func (u *churn) fill(topic, generation string, records int, seed uint64) map[int32]int64 {
	client := u.c.client(generation, kgo.UnknownTopicRetries(-1))
	defer client.Close()
	who := history.Producer{Name: generation, Idempotent: true}
	r := u.c.rand(seed)
	for range records {
		p := history.Partition{Topic: generation, ID: r.Int32N(churnPartitions)}
		size := history.MinSize + r.IntN(2000)
		v := u.h.Send(who, p, size)
		client.Produce(context.Background(), &kgo.Record{Topic: topic, Partition: p.ID, Value: history.Payload(v, size)}, func(rec *kgo.Record, err error) {
			if err != nil {
				// An agent that was stopped may tell of the topic that was there before: the client
				// takes its records for that one's, and gives them up.
				if !errors.Is(err, kerr.UnknownTopicID) && !cutOff(err) {
					u.c.errorf("%s, value %d: %v", generation, v, err)
				}
				u.h.Unknown(v, err)
				return
			}
			u.h.Acked(v, rec.Offset)
		})
	}
	ctx, cancel := context.WithTimeout(u.c.t.Context(), patience)
	defer cancel()
	if err := client.Flush(ctx); err != nil {
		u.c.errorf("%s: %d records have no answer: %v", generation, client.BufferedProduceRecords(), err)
	}
	ends := map[int32]int64{}
	for p := range int32(churnPartitions) {
		ends[p] = u.h.AckedEnd(history.Partition{Topic: generation, ID: p})
	}
	return ends
}

// readAll reads a topic as it is, from its start to its end.
func (u *churn) readAll(topic string, n int, reader string) {
	ctx, cancel := context.WithTimeout(u.c.t.Context(), patience)
	defer cancel()
	for attempt := 1; !u.readOnce(ctx, topic, n, fmt.Sprintf("%s-%d", reader, attempt)); attempt++ {
	}
}

// readOnce is one attempt. It reports false if an agent that was stopped told the client of the
// topic that was there before: that one's offsets mean nothing, so another client has to begin.
func (u *churn) readOnce(ctx context.Context, topic string, n int, reader string) bool {
	generation, ends := u.names[n], u.ends[n]
	from := map[int32]kgo.Offset{}
	next := map[int32]int64{}
	for p := range int32(churnPartitions) {
		from[p] = kgo.NewOffset().At(0)
		u.h.Assigned(reader, history.Partition{Topic: generation, ID: p}, 0)
	}
	client := u.c.client(reader, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	defer client.Close()
	for !reached(next, ends) {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			u.c.errorf("%s: read up to %v of %v after %v", generation, next, ends, patience)
			return true
		}
		for _, f := range fetches {
			for _, t := range f.Topics {
				if !u.take(n, reader, t, next) {
					return false
				}
			}
		}
	}
	for p, end := range ends {
		u.h.ReadWhole(reader, history.Partition{Topic: generation, ID: p}, 0, end)
	}
	return true
}

// take notes what a reader was given of a topic, and reports false if that is one of before.
func (u *churn) take(n int, reader string, t kgo.FetchTopic, next map[int32]int64) bool {
	generation := u.names[n]
	for _, p := range t.Partitions {
		if p.Err != nil || len(p.Records) == 0 {
			continue
		}
		if of, known := u.ids[n][kadm.TopicID(t.TopicID)]; known && of != generation {
			u.c.note("%s: %s was told of %s", generation, reader, of)
			return false
		}
		u.ids[n][kadm.TopicID(t.TopicID)] = generation
		reads := make([]history.Read, len(p.Records))
		for i, r := range p.Records {
			reads[i] = history.Read{Offset: r.Offset, Record: r.Value}
		}
		u.h.Polled(reader, history.Partition{Topic: generation, ID: p.Partition}, history.Watermarks{LogStart: -1, LastStable: -1, High: p.HighWatermark}, reads)
		next[p.Partition] = reads[len(reads)-1].Offset + 1
	}
	return true
}

func reached(next, ends map[int32]int64) bool {
	for p, end := range ends {
		if next[p] < end {
			return false
		}
	}
	return true
}

// finish reads what is left of each topic once more. Nobody is stopped any more, so nobody may
// tell of topics that are gone.
func (u *churn) finish() {
	ctx, cancel := context.WithTimeout(u.c.t.Context(), patience)
	defer cancel()
	for n := range churnTopics {
		if !u.readOnce(ctx, fmt.Sprintf("churn-%d", n), n, "last-reader") {
			u.c.errorf("%s: after all has come to rest, an agent told of a topic that was there before", u.names[n])
		}
	}
}

// deleter deletes records of a topic, at random offsets, until ctx ends, and returns
// how often it did.
func (c *cluster) deleter(ctx context.Context, h *history.History, topic string, partitions int32) (deletions int) {
	client := c.client("deleter")
	defer client.Close()
	adm, r := kadm.NewClient(client), c.rand(2000)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return deletions
		}
		p := history.Partition{Topic: topic, ID: r.Int32N(partitions)}
		end := h.AckedEnd(p)
		if end == 0 {
			continue
		}
		at := r.Int64N(end + 1)
		var offsets kadm.Offsets
		offsets.AddOffset(topic, p.ID, at, -1)
		look := h.Look("deleter", p)
		answers, err := adm.DeleteRecords(ctx, offsets)
		answer, ok := answers.Lookup(topic, p.ID)
		switch {
		case err != nil || !ok || answer.Err != nil:
			c.note("deleting records of %s before %d: %v, %+v", p, at, err, answer)
			continue
		case answer.LowWatermark < at:
			h.Anomaly(history.WatermarkBack, "records of %s before %d were deleted; the log starts at %d", p, at, answer.LowWatermark)
		}
		look.Saw(history.Watermarks{LogStart: answer.LowWatermark, LastStable: -1, High: -1})
		deletions++
	}
}
