package load

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/floelog/floe/integration/history"
	"github.com/floelog/floe/integration/torture/check"
)

// Settle ends the load of a cluster that was healed: it ends the writers, waits until groups
// have come to the ends, and has everything read afresh. Whoever does not get there in time
// is an anomaly of the history. It returns when all clients have ended.
func (l *Load) Settle(ctx context.Context) {
	l.stopWrite()
	l.await(&l.writers, "writers", 2*l.cfg.StuckLimit)
	limit, cancel := context.WithTimeout(ctx, l.cfg.FinalLimit)
	defer cancel()
	var work sync.WaitGroup
	for _, g := range append(l.groups, l.processing...) {
		if g.judged {
			work.Go(func() { l.awaitGroup(limit, g) })
		}
	}
	read := func(topic string) {
		if err := l.readTopic(limit, topic); err != nil {
			l.rec.Anomaly(check.Stuck, "final reader", "%v after the end: %v", l.cfg.FinalLimit, err)
		}
	}
	for _, topic := range l.toRead() {
		read(topic)
	}
	work.Wait()
	l.stopCopy()
	l.await(&l.copiers, "processors", l.cfg.StuckLimit)
	read(topicOut)
	l.stopRead()
	l.await(&l.readers, "readers", l.cfg.StuckLimit)
	l.Close()
}

// toRead returns the topics that nobody has read as a whole yet, but for that to which
// records are copied until groups are through.
func (l *Load) toRead() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	topics := []string{topicPlain, topicTxn, topicIn, topicProbe, topicObject}
	for _, t := range l.retired {
		topics = append(topics, t.name)
	}
	return topics
}

// await waits for goroutines; those that hang lose their clients, which ends them.
func (l *Load) await(work *sync.WaitGroup, who string, limit time.Duration) {
	done := make(chan struct{})
	go func() { // it ends with them, which crashing their clients makes sure of
		work.Wait()
		close(done)
	}()
	pauseUntil(done, limit)
	select {
	case <-done:
		return
	default:
	}
	l.rec.Note(who, "%s", stacks())
	l.rec.Anomaly(check.Stuck, who, "some have not ended %v after all was healed: clients %v", limit, l.crashAll())
	<-done
}

// stacks returns where this package's goroutines are.
func stacks() string {
	all := make([]byte, 8<<20)
	all = all[:runtime.Stack(all, true)]
	var ours []string
	for _, one := range strings.Split(string(all), "\n\n") {
		if strings.Contains(one, "torture/load.") {
			ours = append(ours, one)
		}
	}
	return strings.Join(ours, "\n\n")
}

// crashAll ends every client and returns their names.
func (l *Load) crashAll() (names []string) {
	l.mu.Lock()
	var all []*client
	for c := range l.live {
		all, names = append(all, c), append(names, c.name)
	}
	l.live = map[*client]bool{}
	l.mu.Unlock()
	for _, c := range all {
		c.crash()
	}
	return names
}

// awaitGroup waits until a group's committed offsets have passed every record. It was quiet
// for the stuck limit: an anomaly.
func (l *Load) awaitGroup(ctx context.Context, g *group) {
	c, err := l.client("lag")
	if err != nil {
		l.rec.Anomaly(check.Stuck, g.name, "%v", err)
		return
	}
	defer c.Close()
	since, last, told := time.Now(), g.last.Load(), false
	for {
		behind, known := l.behind(ctx, c, g)
		if known && behind == "" {
			return
		}
		if now := g.last.Load(); now != last {
			last, since, told = now, time.Now(), false
		}
		if quiet := time.Since(since); quiet > l.cfg.StuckLimit && !told {
			l.rec.Anomaly(check.Stuck, g.name, "no member has committed anything for %v after all was healed; behind: %s", quiet.Round(time.Second), behind)
			told = true
		}
		if !pause(ctx, 4*retryPause) {
			l.rec.Anomaly(check.Stuck, g.name, "is not through after %v: %s", l.cfg.FinalLimit, behind)
			return
		}
	}
}

// behind says what a group has not committed; known is false if it could not be asked.
func (l *Load) behind(ctx context.Context, c *client, g *group) (behind string, known bool) {
	at := l.committed(ctx, c, g)
	if at == nil {
		return "its offsets are not told", false
	}
	for _, topic := range g.topics {
		for _, p := range l.all() {
			part := history.Partition{Topic: topic, ID: p}
			if o, left := l.rec.Left(part, max(0, at[part])); left {
				return fmt.Sprintf("%s is at %d, and offset %d is there", part, at[part], o), true
			}
		}
	}
	return "", true
}
