package load

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/history"
)

// topicChurn is deleted and created again all the time.
const topicChurn = "torture-churn"

// startChurn writes to a topic, reads it, deletes it and creates it again under the same
// name. In the history each incarnation is a topic of its own, so that a record of an older
// one that appears is seen.
func (l *Load) startChurn() {
	r := l.random(800)
	l.writers.Go(func() {
		for i := 0; l.write.Err() == nil; i++ {
			id, err := l.createTopic(l.write, topicChurn)
			if err != nil {
				return
			}
			known := fmt.Sprintf("%x.%d", id[:4], i)
			l.incarnation(known, r.IntN(2) == 0, func() int32 { return r.Int32N(l.cfg.Partitions) }, func() int { return size(r) })
			if !l.deleteTopic(l.write, topicChurn, history.Incarnation(topicChurn, known)) {
				return
			}
		}
	})
}

// incarnation writes to the topic for a while, and reads it, to its end or not.
func (l *Load) incarnation(mark string, wholly bool, partition func() int32, bytes func() int) {
	topic := history.Incarnation(topicChurn, mark)
	c := l.producer("churn")
	defer c.Close()
	l.atRate(max(1, l.cfg.Small/40), time.Now().Add(4*time.Second), func(n int) {
		for range n {
			l.send(c, true, 0, topicChurn, l.part(topic, partition()), bytes(), nil)
		}
	})
	l.flush(c)
	if !wholly {
		return // it is deleted with records that nobody has read
	}
	ctx, cancel := context.WithTimeout(l.write, 20*time.Second)
	defer cancel()
	in := l.assign("churn-reader", topicChurn, topic, history.Uncommitted, nil)
	defer in.crash()
	left := map[int32]bool{}
	for _, p := range l.all() {
		left[p] = l.rec.AckedEnd(l.part(topic, p)) > 0
	}
	for anyLeft(left) && ctx.Err() == nil {
		l.poll(ctx, in, mark, func(p int32, next int64, _ []*kgo.Record) { left[p] = next < l.rec.AckedEnd(l.part(topic, p)) })
	}
}

func anyLeft(left map[int32]bool) bool {
	for _, is := range left {
		if is {
			return true
		}
	}
	return false
}
