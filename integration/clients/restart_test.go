//go:build integration && unix

package clients

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/fixture"
)

// testRestart ends all agents, both ways, while a producer writes; starts them; and reads
// all that was ever acknowledged.
func testRestart(t *testing.T, e *env) {
	for _, way := range []struct {
		name string
		end  func(*fixture.Floe)
	}{{"SIGTERM", (*fixture.Floe).Stop}, {"SIGKILL", (*fixture.Floe).Kill}} {
		t.Run(way.name, func(t *testing.T) {
			w := startWriting(t, e.floe.Addrs())
			w.await(t, 200)
			way.end(e.floe)
			began := time.Now()
			e.floe.Start()
			t.Logf("serves %v after its start", time.Since(began).Round(time.Millisecond))
			w.await(t, 200)
			w.check(t, e)
			for topic, want := range e.written {
				got := franz{}.consume(t, e.floe.Addrs(), topic, partitionsOf(want), len(want))
				compare(t, topic, got, want)
			}
			for _, c := range e.clients() {
				want := e.written[w.topic]
				got := c.consume(t, e.floe.Addrs(), w.topic, partitionsOf(want), len(want))
				compare(t, c.name()+", what was written meanwhile", got, want)
			}
		})
	}
}

// writing is a producer at work. It is idempotent and repeats until it succeeds, so what
// it wrote is there once and in order, whatever happened.
type writing struct {
	topic string
	acked chan record // in order of acknowledgement
	done  []record    // taken out of acked
	stop  context.CancelFunc
	ended chan error
}

const writingPartitions = 4

func startWriting(t *testing.T, addrs []string) *writing {
	t.Helper()
	w := &writing{topic: topicName(t), acked: make(chan record, 100_000), ended: make(chan error, 1)}
	createTopic(t, addrs, w.topic, writingPartitions)
	ctx, cancel := context.WithCancel(deadline(t))
	w.stop = cancel
	c := dial(t, addrs, kgo.DefaultProduceTopic(w.topic))
	go func() {
		for i := 0; ctx.Err() == nil; i += writingPartitions {
			var batch []*kgo.Record
			for p := range int32(writingPartitions) {
				batch = append(batch, &kgo.Record{Partition: p, Value: fmt.Append(nil, i+int(p)), Timestamp: time.UnixMilli(1_700_000_000_000)})
			}
			// Not cut short by the end of writing: then nobody knew what is stored.
			if err := c.ProduceSync(context.WithoutCancel(ctx), batch...).FirstErr(); err != nil {
				w.ended <- err
				return
			}
			for _, k := range batch {
				w.acked <- fromFranz(k)
			}
		}
		w.ended <- nil
	}()
	return w
}

// await waits for that many more records to be acknowledged.
func (w *writing) await(t *testing.T, more int) {
	t.Helper()
	ctx := deadline(t)
	for range more {
		select {
		case r := <-w.acked:
			w.done = append(w.done, r)
		case err := <-w.ended:
			t.Fatalf("the producer ended: %v", err)
		case <-ctx.Done():
			t.Fatalf("the producer is stuck after %d records", len(w.done))
		}
	}
}

// check ends the producer and adds what it wrote to what must be there.
func (w *writing) check(t *testing.T, e *env) {
	t.Helper()
	w.stop()
	if err := <-w.ended; err != nil {
		t.Fatalf("produce: %v", err)
	}
	close(w.acked)
	for r := range w.acked {
		w.done = append(w.done, r)
	}
	next := map[int32]int64{}
	for _, r := range w.done {
		if r.offset != next[r.partition] {
			t.Errorf("partition %d: offset %d was acknowledged after %d", r.partition, r.offset, next[r.partition]-1)
		}
		next[r.partition] = r.offset + 1
	}
	ends, err := admin(t, e.floe.Addrs()).ListEndOffsets(deadline(t), w.topic)
	if err != nil {
		t.Fatal(err)
	}
	for p := range int32(writingPartitions) {
		if o, ok := ends.Lookup(w.topic, p); !ok || o.Offset != next[p] {
			t.Errorf("partition %d ends at %d, %v; acknowledged up to %d", p, o.Offset, o.Err, next[p])
		}
	}
	e.written[w.topic] = slices.Clone(w.done)
}
