package load

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/history"
	"github.com/floelog/floe/integration/torture/check"
)

// startFollowers starts the assigned consumers, which crash and are replaced.
func (l *Load) startFollowers() {
	for i, f := range []struct{ topic, level string }{
		{topicPlain, "uncommitted"}, {topicPlain, "committed"}, {topicTxn, "committed"}, {topicTxn, "uncommitted"}, {topicOut, "committed"},
	} {
		r := l.random(200 + uint64(i))
		rack := ""
		if len(l.cfg.Racks) > 0 {
			rack = l.cfg.Racks[i%len(l.cfg.Racks)]
		}
		l.readers.Go(func() {
			at := map[int32]int64{}
			for l.read.Err() == nil {
				life, cancel := context.WithTimeout(l.read, 2*l.lifetime(r))
				l.follow(life, l.read, f.topic, f.level, rack, at, seeing(r)...)
				cancel()
				for p := range at { // the next one sees some records again
					at[p] = max(0, at[p]-r.Int64N(500))
				}
			}
		})
	}
}

// follow reads all partitions of a topic from at on, or from their start, until life ends,
// and leaves in at where it was.
func (l *Load) follow(life, all context.Context, topic, level, rack string, at map[int32]int64, opts ...kgo.Opt) {
	if at == nil {
		at = map[int32]int64{}
	}
	if rack != "" {
		opts = append(opts, kgo.Rack(rack))
	}
	c := l.assign("follower-"+level, topic, topic, isolationOf(level), at, opts...)
	defer c.crash()
	for life.Err() == nil && all.Err() == nil {
		l.poll(life, c, "", func(p int32, next int64, _ []*kgo.Record) { at[p] = next })
	}
}

func isolationOf(level string) history.Isolation {
	switch level {
	case "committed":
		return history.Committed
	case "everything":
		return history.Everything
	}
	return history.Uncommitted
}

// assign makes a consumer of all partitions of a topic, which the history knows as known.
func (l *Load) assign(kind, topic, known string, level history.Isolation, at map[int32]int64, opts ...kgo.Opt) *client {
	from := map[int32]kgo.Offset{}
	for _, p := range l.all() {
		from[p] = kgo.NewOffset().At(at[p])
	}
	opts = append(opts, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.FetchMaxWait(500*time.Millisecond))
	c := l.must(kind, append(opts, reading(level)...)...)
	l.rec.Add(check.Event{Op: check.OpConsumer, Who: c.name, A: int64(level)})
	for _, p := range l.all() {
		l.rec.Add(check.Event{Op: check.OpAssigned, Who: c.name, Part: l.part(known, p), A: at[p]})
	}
	return c
}

// reading is the options of a consumer of a level.
func reading(level history.Isolation) []kgo.Opt {
	opts := []kgo.Opt{kgo.FetchMaxBytes(16 << 20), kgo.FetchMaxPartitionBytes(4 << 20)}
	if level == history.Committed {
		opts = append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	return opts
}

// seeing has half of the consumers given markers as well. To the others' positions neither markers nor the
// epochs that begin with one are known, which Floe's answers must not make a loss of records (KIP-320).
func seeing(r *rand.Rand) []kgo.Opt {
	if r.IntN(2) == 0 {
		return []kgo.Opt{kgo.KeepControlRecords()}
	}
	return nil
}

// pollMax bounds the records of one poll, so that one event of the history stays small.
const pollMax = 2000

// poll polls once and records what came; it calls got for each partition with records.
// A mark tells topics of one name apart.
func (l *Load) poll(ctx context.Context, c *client, mark string, got func(p int32, next int64, records []*kgo.Record)) {
	l.pollEach(ctx, c, mark, func(_ string, p int32, next int64, records []*kgo.Record) { got(p, next, records) })
}

// pollEach is poll of a consumer of several topics.
func (l *Load) pollEach(ctx context.Context, c *client, mark string, got func(topic string, p int32, next int64, records []*kgo.Record)) {
	fetches := c.PollRecords(ctx, pollMax)
	l.polled(c, fetches, mark)
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if n := len(p.Records); n > 0 && p.Err == nil {
			got(p.Topic, p.Partition, p.Records[n-1].Offset+1, p.Records)
		}
	})
}

// polled records what a poll brought.
func (l *Load) polled(c *client, fetches kgo.Fetches, mark string) {
	fetches.EachError(func(topic string, p int32, err error) { l.fetchError(c, topic, p, mark, err) })
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if p.Err != nil {
			return
		}
		known := p.Topic
		if mark != "" {
			known = history.Incarnation(p.Topic, mark)
		}
		seen := make([]history.Seen, len(p.Records))
		for i, r := range p.Records {
			if r.Attrs.IsControl() {
				seen[i] = history.Seen{Offset: r.Offset, Control: true}
			} else {
				seen[i] = history.Identify(history.Read{Offset: r.Offset, Record: r.Value})
			}
		}
		l.rec.Add(check.Event{Op: check.OpPolled, Who: c.name, Part: l.part(known, p.Partition), A: p.LogStartOffset, B: p.LastStableOffset, C: p.HighWatermark, Seen: seen})
	})
}

// fetchError judges an error: none of Kafka's own may reach a client whose offsets are
// there, but for that of a topic that somebody has deleted.
func (l *Load) fetchError(c *client, topic string, p int32, mark string, err error) {
	var code *kerr.Error
	var loss *kgo.ErrDataLoss
	gone := mark != "" && (errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.InconsistentTopicID))
	membership := topic == "" // it is about the group, which the client joins anew
	if (errors.As(err, &code) && !kerr.IsRetriable(code) || errors.As(err, &loss)) && !gone && !membership {
		l.rec.Anomaly(check.FetchError, c.name, "%s/%d: %v", topic, p, err)
		return
	}
	if strings.Contains(err.Error(), "does not match calculated crc") { // the client has no other name for it
		l.rec.Anomaly(history.Corrupt, c.name, "%s/%d: %v", topic, p, err)
		return
	}
	if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		l.rec.Note(c.name, "hears of %s/%d: %v", topic, p, err)
	}
}

// marks asks where the partitions of a topic begin and end, and records the answer.
func (l *Load) marks(ctx context.Context, c *client, who, topic string) (start, stable, end map[int32]int64, err error) {
	looks := map[int32]uint64{}
	for _, p := range l.all() {
		looks[p] = l.rec.Add(check.Event{Op: check.OpLook, Who: who, Part: l.part(topic, p)})
	}
	start, err = l.listOffsets(ctx, c.Client, topic, earliest, 0)
	if err == nil {
		stable, err = l.listOffsets(ctx, c.Client, topic, latest, 1)
	}
	if err == nil {
		end, err = l.listOffsets(ctx, c.Client, topic, latest, 0)
	}
	for _, p := range l.all() {
		l.rec.Add(check.Event{Op: check.OpSaw, Who: who, Part: l.part(topic, p), ID: looks[p], A: told(start, p), B: told(stable, p), C: told(end, p)})
	}
	return start, stable, end, err
}

func told(m map[int32]int64, p int32) int64 {
	if o, ok := m[p]; ok {
		return o
	}
	return -1
}

// readTopic reads a topic, which nobody writes to, from its start to its end with fresh
// clients at both isolation levels. It returns when that is done, or an error when ctx ends.
func (l *Load) readTopic(ctx context.Context, topic string) error {
	c, err := l.client("ends")
	if err != nil {
		return err
	}
	defer c.Close()
	var end map[int32]int64
	for { // all transactions have to end first
		_, stable, all, err := l.marks(ctx, c, c.name, topic)
		if err == nil && len(all) == int(l.cfg.Partitions) && maps.Equal(stable, all) {
			end = all
			break
		}
		if !pause(ctx, 2*retryPause) {
			return fmt.Errorf("the end of %s is not known (stable %v, end %v, last: %v): %w", topic, stable, all, err, ctx.Err())
		}
	}
	for _, level := range []string{"everything", "committed"} {
		if err := l.readWhole(ctx, topic, level, end); err != nil {
			return err
		}
	}
	return nil
}

func (l *Load) readWhole(ctx context.Context, topic, level string, end map[int32]int64) error {
	next := map[int32]int64{}
	c := l.assign("reader-"+level, topic, topic, isolationOf(level), nil, kgo.KeepControlRecords()) // what is last may be a marker
	defer c.Close()
	behind := func() (left []string) {
		for _, p := range l.all() {
			if next[p] < end[p] { // what is last is a record of no transaction, or a marker
				left = append(left, fmt.Sprintf("%d at %d of %d", p, next[p], end[p]))
			}
		}
		return left
	}
	for len(behind()) > 0 {
		if ctx.Err() != nil {
			return fmt.Errorf("%s has not read %s: partitions %v: %w", c.name, topic, behind(), ctx.Err())
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		l.poll(short, c, "", func(p int32, at int64, _ []*kgo.Record) { next[p] = at })
		cancel()
	}
	for _, p := range l.all() {
		if end[p] > 0 {
			l.rec.Add(check.Event{Op: check.OpWhole, Who: c.name, Part: l.part(topic, p), A: 0, B: end[p]})
		}
	}
	return nil
}
