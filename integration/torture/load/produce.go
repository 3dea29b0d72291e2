package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/torture/check"
)

// tick is how often a producer sends.
const tick = 20 * time.Millisecond

// startProducers starts two idempotent producers and a plain one to the topic of plain
// records, and one to what transactions consume.
func (l *Load) startProducers() {
	rate := max(1, l.cfg.Small/4)
	for i, p := range []struct {
		kind, topic string
		idempotent  bool
	}{{"idempotent", topicPlain, true}, {"idempotent", topicPlain, true}, {"plain", topicPlain, false}, {"source", topicIn, true}} {
		r := l.random(uint64(i))
		l.writers.Go(func() {
			for l.write.Err() == nil {
				l.produce(p.kind, p.topic, p.idempotent, rate, r)
			}
		})
	}
}

// produce sends until its client's life ends: then it crashes, with records under way, or
// flushes and closes.
func (l *Load) produce(kind, topic string, idempotent bool, rate int, r *rand.Rand) {
	var opts []kgo.Opt
	if !idempotent {
		// One request at a time: a plain producer's retries would change the order.
		opts = append(opts, kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(1))
	}
	c := l.producer(kind, opts...)
	end := time.Now().Add(4 * l.lifetime(r))
	crashes := r.IntN(2) == 0
	l.atRate(rate, end, func(n int) {
		for range n {
			l.send(c, idempotent, 0, topic, l.part(topic, r.Int32N(l.cfg.Partitions)), size(r), nil)
		}
	})
	if crashes && l.write.Err() == nil {
		l.rec.Note(c.name, "crashes")
		c.crash()
		return
	}
	l.flush(c)
	c.Close()
}

// atRate calls send with how many to send, until a time or the end of the load.
func (l *Load) atRate(rate int, end time.Time, send func(n int)) {
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	sent, since := 0, time.Now()
	for {
		select {
		case <-l.write.Done():
			return
		case now := <-ticks.C:
			if now.After(end) {
				return
			}
			due := int(now.Sub(since).Seconds()*float64(rate)) - sent
			if due > rate { // it was held up: what was not sent meanwhile is not made up for
				sent, since, due = 0, now, 1
			}
			sent += due
			if due > 0 {
				send(due)
			}
		}
	}
}

// flush waits for the answers of all that was sent. While faults go on that may take as long
// as it does; at the end of the load it may not.
func (l *Load) flush(c *client) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan struct{})
	watched := make(chan struct{})
	go func() { // it ends before flush returns
		defer close(watched)
		select {
		case <-l.write.Done():
			pauseUntil(done, l.cfg.StuckLimit)
		case <-done:
		}
		cancel()
	}()
	err := c.Flush(ctx)
	close(done)
	<-watched
	if err != nil && c.BufferedProduceRecords() > 0 && l.read.Err() == nil {
		l.rec.Anomaly(check.Stuck, c.name, "%d records have no answer %v after the end of all faults: %v", c.BufferedProduceRecords(), l.cfg.StuckLimit, err)
	}
}

func pauseUntil(done <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-done:
	}
}

// retired is a topic that nobody writes to any more.
type retired struct {
	name string
}

// startRotation starts the producer of large records: topic after topic, each of which is
// read as a whole when it has been written, and then deleted, so that neither the bucket nor
// the final reading grow with the run.
func (l *Load) startRotation() {
	r := l.random(100)
	l.writers.Go(func() {
		for i := 0; l.write.Err() == nil; i++ {
			topic := fmt.Sprintf("torture-large-%d", i)
			if _, err := l.createTopic(l.write, topic); err != nil {
				return
			}
			l.writeLarge(topic, r)
		}
	})
}

func (l *Load) writeLarge(topic string, r *rand.Rand) {
	ctx, cancel := context.WithCancel(l.read)
	var followers sync.WaitGroup // the topic's own, which end before writeLarge returns
	for _, level := range []string{"committed", "uncommitted"} {
		followers.Go(func() { l.follow(ctx, l.read, topic, level, "", nil) })
	}
	c := l.producer("large", kgo.ProducerBatchMaxBytes(1<<20))
	const mean = 264 << 10 // of largeSize
	end := time.Now().Add(l.cfg.Rotate)
	l.atRate(max(1, l.cfg.Large/mean), end, func(n int) {
		for range n {
			l.send(c, true, 0, topic, l.part(topic, r.Int32N(l.cfg.Partitions)), largeSize(r), nil)
		}
	})
	l.flush(c)
	c.Close()
	cancel()
	followers.Wait()
	l.retire(topic)
}

// retire has a topic read as a whole and deleted, beside the next one.
func (l *Load) retire(topic string) {
	l.mu.Lock()
	l.retired = append(l.retired, retired{name: topic})
	l.mu.Unlock()
	if l.write.Err() != nil {
		return // Settle reads it
	}
	l.readers.Go(func() {
		if l.readTopic(l.write, topic) != nil {
			return // Settle reads it
		}
		if l.deleteTopic(l.write, topic, topic) {
			l.forget(topic)
		}
	})
}

func (l *Load) forget(topic string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, t := range l.retired {
		if t.name == topic {
			l.retired = append(l.retired[:i], l.retired[i+1:]...)
			return
		}
	}
}

// deleteTopic deletes a topic, which the history knows as known.
func (l *Load) deleteTopic(ctx context.Context, topic, known string) bool {
	for _, p := range l.all() {
		l.rec.Add(check.Event{Op: check.OpDeleted, Who: "admin", Part: l.part(known, p)})
	}
	for {
		if _, err := l.admin.DeleteTopic(ctx, topic); err == nil {
			l.rec.Note("admin", "deleted %s", topic)
			return true
		}
		if details, err := l.admin.ListTopics(ctx, topic); err == nil && details[topic].Err != nil {
			return true // an earlier attempt did it
		}
		if !pause(ctx, 4*retryPause) {
			return false
		}
	}
}

func either[T any](cond bool, yes, no T) T {
	if cond {
		return yes
	}
	return no
}
