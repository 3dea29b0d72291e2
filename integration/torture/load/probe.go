package load

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/history"
	"github.com/floelog/floe/integration/torture/check"
)

// What probes do, as the events and the report name it.
const (
	ProbeInline = "produce inline" // a small record
	ProbeObject = "produce object" // one that needs the object store
	ProbeFetch  = "fetch"          // a consumer that is given records of the small probes
)

const (
	probeEvery  = 75 * time.Millisecond
	objectEvery = 250 * time.Millisecond
	probeObject = 24 << 10 // more than may be inline
)

// startProbes starts a producer for each partition of two topics, which lie in different
// shards, and a consumer. Each asks again as soon as it was answered, so that the longest time
// between two answers is how long that partition could not be used.
func (l *Load) startProbes() {
	for _, p := range l.all() {
		l.writers.Go(func() { l.probe(ProbeInline, topicProbe, p, 64, probeEvery) })
		l.writers.Go(func() { l.probe(ProbeObject, topicObject, p, probeObject, objectEvery) })
	}
	l.readers.Go(func() {
		c := l.assign("probe-fetch", topicProbe, topicProbe, history.Committed, nil)
		defer c.Close()
		for l.read.Err() == nil {
			l.poll(l.read, c, "", func(p int32, _ int64, _ []*kgo.Record) {
				l.rec.Add(check.Event{Op: check.OpProbe, Who: c.name, Text: ProbeFetch, Part: l.part(topicProbe, p), A: 1})
			})
		}
	})
}

func (l *Load) probe(what, topic string, p int32, bytes int, every time.Duration) {
	c := l.producer("probe")
	defer func() {
		l.flush(c)
		c.Close()
	}()
	for pause(l.write, every) {
		begun := time.Now()
		done := make(chan error, 1)
		l.send(c, true, 0, topic, l.part(topic, p), bytes, func(err error) { done <- err })
		select {
		case err := <-done:
			ev := check.Event{Op: check.OpProbe, Who: c.name, Text: what, Part: l.part(topic, p), B: int64(time.Since(begun))}
			if err == nil {
				ev.A = 1
			}
			l.rec.Add(ev)
		case <-l.write.Done():
			return
		}
	}
}

// Ready waits until every probe has succeeded, so that a fault does not begin before the
// load does.
func (l *Load) Ready(ctx context.Context) error {
	for _, topic := range []string{topicProbe, topicObject} {
		for _, p := range l.all() {
			for l.rec.AckedEnd(l.part(topic, p)) == 0 {
				if !pause(ctx, retryPause) {
					return ctx.Err()
				}
			}
		}
	}
	return nil
}
