package sim

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
)

// poll is what one fetch said about one partition. From and to are the metadata store's
// revisions before the question and after the answer.
type poll struct {
	client, agent string
	node          int32
	part          *partition
	from, to      int64
	offset        tiering.Offset
	code          int16
	high, stable  tiering.Offset
	logStart      tiering.Offset
	epoch         tiering.LeaderEpoch // of the partition, as the agent's metadata has it
	batches       []polled

	committed    bool // what is committed was asked for
	aborted      []kafka.AbortedTransaction
	began, ended int64 // by world.tick
}

// polled is one batch as it was read.
type polled struct {
	base   tiering.Offset
	count  int64
	epoch  tiering.LeaderEpoch
	digest uint64

	producer                       int64
	transactional, control, marker bool // marker: what a control batch says, true for a commit
	kept                           bool // the client's application is given it

	records []polledRecord // of a compacted partition
}

// listed is the answer to a question for a partition's first or last offset.
type listed struct {
	client, agent string
	part          *partition
	from, to      int64
	latest        bool
	committed     bool
	offset        tiering.Offset
}

// trimmed is a log start that was promised.
type trimmed struct {
	agent    string
	part     *partition
	revision int64
	logStart tiering.Offset
}

// consumer reads all partitions, each from its own position on, from any agent.
type consumer struct {
	w    *world
	name string
	rnd  *rand.Rand
	at   map[*partition]tiering.Offset

	committed bool     // isolation.level
	polled    []uint64 // digests of what its application was given
}

func (w *world) newConsumer(i int) *consumer {
	c := &consumer{w: w, name: fmt.Sprintf("cons%d", i), at: map[*partition]tiering.Offset{}, committed: i == 1}
	c.rnd = w.rand(c.name)
	return c
}

func (c *consumer) run(ctx context.Context) {
	n := c.w.anyNode(c.rnd)
	for ctx.Err() == nil {
		if c.rnd.IntN(4) == 0 {
			n = c.w.anyNode(c.rnd)
		}
		parts := c.w.known()
		some := make([]*partition, 0, len(parts))
		for _, i := range c.rnd.Perm(len(parts))[:1+c.rnd.IntN(len(parts))] {
			some = append(some, parts[i])
		}
		c.poll(ctx, n, some, time.Duration(c.rnd.Int64N(int64(400*time.Millisecond))), 1<<c.rnd.IntN(16))
		sleep(ctx, time.Duration(c.rnd.Int64N(int64(400*time.Millisecond))))
	}
}

// poll fetches once and moves the positions; it reports whether anything was read, or an
// answer came at all.
func (c *consumer) poll(ctx context.Context, n *node, parts []*partition, wait time.Duration, maxBytes int) (read, answered bool) {
	p := n.serving()
	if p == nil {
		return false, false
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req := kafka.FetchRequest{MinBytes: 1, MaxBytes: 4 * maxBytes, MaxWait: wait, ReadCommitted: c.committed}
	for _, part := range parts {
		req.Partitions = append(req.Partitions, kafka.FetchPartition{
			Partition: kafka.Partition{TopicPartition: part.TopicPartition, Shard: part.shard},
			Offset:    c.at[part], MaxBytes: maxBytes,
		})
	}
	if p.gate.pass(ctx) != nil {
		return false, false
	}
	from, began := c.w.server.Revision(), c.w.tick()
	_, reader := p.clients()
	results := reader.Fetch(ctx, req)
	to := c.w.server.Revision()
	polls := make([]poll, len(parts))
	for i, part := range parts {
		res := &results[i]
		_, epoch := p.ports().Cluster.Leader(part.shard)
		polls[i] = poll{client: c.name, agent: p.name, node: n.id, part: part, from: from, to: to, offset: c.at[part], code: res.Code,
			high: res.HighWatermark, stable: res.LastStable, logStart: res.LogStart, epoch: epoch}
		polls[i].batches = c.decode(p, part, res.Records)
		polls[i].committed, polls[i].aborted, polls[i].began, polls[i].ended = c.committed, res.Aborted, began, c.w.tick()
		polls[i].filter()
	}
	if p.gate.pass(ctx) != nil {
		return false, false // the answer did not arrive
	}
	for i := range polls {
		read = c.advance(&polls[i]) || read
	}
	c.w.mu.Lock()
	c.w.polls = append(c.w.polls, polls...)
	c.w.mu.Unlock()
	return read, true
}

// decode takes records apart, verifying every batch as a consumer does.
func (c *consumer) decode(p *process, part *partition, records [][]byte) (out []polled) {
	data := slices.Concat(records...)
	for len(data) > 0 {
		v, rest, err := batch.Next(data)
		if err == nil {
			err = v.VerifyCRC()
		}
		if err != nil {
			c.w.fail("corruption", part, "%s was served damaged records by %s: %v", c.name, p.name, err)
			return out
		}
		b := polled{
			base: tiering.Offset(v.BaseOffset()), count: int64(v.LastOffsetDelta()) + 1, epoch: tiering.LeaderEpoch(v.LeaderEpoch()), digest: digest(v),
			producer: v.ProducerID(), transactional: v.IsTransactional(), control: v.IsControl(),
		}
		if b.control {
			if b.marker, _, err = batch.ReadMarker(v); err != nil {
				c.w.fail("corruption", part, "%s was served a marker that cannot be read by %s: %v", c.name, p.name, err)
			}
		}
		if part.keeps.compact && !b.control {
			b.records = c.records(p, part, v)
		}
		out = append(out, b)
		data = rest
	}
	return out
}

// filter decides what a client's application is given, as Kafka's consumer does: the answer
// says which producers' records are void from which offset on, up to their next abort marker.
func (p *poll) filter() {
	void := map[int64]bool{}
	aborted := slices.SortedFunc(slices.Values(p.aborted), func(a, b kafka.AbortedTransaction) int { return cmp.Compare(a.First, b.First) })
	for i := range p.batches {
		b := &p.batches[i]
		b.kept = !b.control
		if !p.committed || b.producer < 0 {
			continue
		}
		for len(aborted) > 0 && aborted[0].First < b.base+tiering.Offset(b.count) {
			void[aborted[0].ProducerID] = true
			aborted = aborted[1:]
		}
		switch {
		case b.control && !b.marker:
			delete(void, b.producer)
		case b.transactional && void[b.producer]:
			b.kept = false
		}
	}
}

// advance moves the position, and reports whether anything was read.
func (c *consumer) advance(p *poll) bool {
	switch p.code {
	case 0:
	case kerr.OffsetOutOfRange.Code:
		c.w.history.add(c.name, "out of range", p.part, "at %d from %s: log is %d to %d", p.offset, p.agent, p.logStart, p.high)
		c.at[p.part] = max(p.logStart, 0)
		return false
	case kerr.NotLeaderForPartition.Code, kerr.KafkaStorageError.Code, kerr.OffsetNotAvailable.Code:
		c.w.history.add(c.name, "refused", p.part, "at %d from %s: code %d", p.offset, p.agent, p.code)
		return false
	default:
		c.w.fail("answers", p.part, "%s was answered code %d to a fetch at %d by %s", c.name, p.code, p.offset, p.agent)
		return false
	}
	if len(p.batches) == 0 {
		return false
	}
	for i := range p.batches {
		if b := &p.batches[i]; b.kept {
			c.polled = append(c.polled, b.digest)
		}
	}
	last := p.batches[len(p.batches)-1]
	c.at[p.part] = last.base + tiering.Offset(last.count)
	c.w.history.add(c.name, "read", p.part, "%d to %d of %d from %s", p.offset, c.at[p.part], p.high, p.agent)
	return true
}

// operator asks for offsets, trims and creates topics now and then.
type operator struct {
	w    *world
	name string
	rnd  *rand.Rand
}

func (o *operator) run(ctx context.Context) {
	for i := 0; sleep(ctx, time.Duration(o.rnd.Int64N(int64(1500*time.Millisecond)))); i++ {
		parts := o.w.known()
		part := parts[o.rnd.IntN(len(parts))]
		switch k := o.rnd.IntN(8); {
		case k == 0 && o.w.shape.trims:
			o.trim(ctx, part)
		case k == 1 && o.w.shape.topicOp && i < 12:
			o.create(ctx, fmt.Sprintf("x%d", o.rnd.IntN(2)))
		case k == 3 && part.keeps.later && !part.keeps.confirmed:
			part.keeps.asked.Store(true)
			part.keeps.confirmed = o.alter(ctx, part, "cleanup.policy", part.keeps.policy())
		case k == 3 && part.keeps.bytes >= 0 && !part.keeps.confirmed:
			part.keeps.least.Store(part.keeps.bytes / 2)
			part.keeps.confirmed = o.alter(ctx, part, "retention.bytes", fmt.Sprint(part.keeps.bytes/2))
		case k == 2 && o.w.shape.topicOp && parts[len(parts)-1].topic[0] == 'x':
			o.w.deleteTopic(ctx, parts[len(parts)-1].topic, o.rnd)
		default:
			o.list(ctx, o.w.anyNode(o.rnd), part)
		}
	}
}

// create creates a topic that nobody knows, perhaps under the name of one that was deleted.
func (o *operator) create(ctx context.Context, name string) {
	again := false
	for _, p := range o.w.everKnown() {
		if p.topic == name && !p.gone.Load() {
			return
		}
		again = again || p.topic == name
	}
	if o.w.createTopic(ctx, name, 1) && again {
		o.w.note("tier topic again")
	}
}

// alter changes a config of a topic that has records, and reports whether that was confirmed.
func (o *operator) alter(ctx context.Context, part *partition, config, value string) bool {
	p := o.w.anyNode(o.rnd).serving()
	if p == nil || p.gate.pass(ctx) != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := p.ports().Changes.AlterConfigs(ctx, part.topic, func(old map[string]string) (map[string]string, error) {
		c := maps.Clone(old)
		c[config] = value
		return c, nil
	})
	o.w.history.add(o.name, "alter", part, "%s: %s=%s: %v", part.topic, config, value, err)
	if err != nil || p.gate.pass(ctx) != nil {
		return false
	}
	o.w.note("tier policy changed")
	return true
}

// list asks for the first or the last offset.
func (o *operator) list(ctx context.Context, n *node, part *partition) {
	p := n.serving()
	if p == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	q := kafka.OffsetQuery{Partition: kafka.Partition{TopicPartition: part.TopicPartition, Shard: part.shard}, Kind: kafka.EarliestOffset}
	if o.rnd.IntN(2) == 0 {
		q.Kind = kafka.LatestOffset
		q.ReadCommitted = o.rnd.IntN(2) == 0
	}
	if p.gate.pass(ctx) != nil {
		return
	}
	from := o.w.server.Revision()
	a := p.ports().Offsets.List(ctx, []kafka.OffsetQuery{q})[0]
	to := o.w.server.Revision()
	if p.gate.pass(ctx) != nil || a.Code != 0 {
		return
	}
	o.w.history.add(o.name, "list", part, "kind %d is %d says %s", q.Kind, a.Offset, p.name)
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	o.w.lists = append(o.w.lists, listed{o.name, p.name, part, from, to, q.Kind == kafka.LatestOffset, q.ReadCommitted, a.Offset})
}

// trim asks the partition's leader to delete some records.
func (o *operator) trim(ctx context.Context, part *partition) {
	ask := o.w.anyNode(o.rnd).serving()
	if ask == nil {
		return
	}
	leader, _ := ask.ports().Cluster.Leader(part.shard)
	p := o.w.nodes[leader-1].serving()
	if p == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if p.gate.pass(ctx) != nil {
		return
	}
	where := kafka.Partition{TopicPartition: part.TopicPartition, Shard: part.shard}
	q := kafka.OffsetQuery{Partition: where, Kind: kafka.LatestOffset}
	a := p.ports().Offsets.List(ctx, []kafka.OffsetQuery{q})[0]
	if a.Code != 0 {
		return
	}
	to := tiering.Offset(o.rnd.Int64N(int64(a.Offset)/2 + 1))
	for max := int64(to); ; {
		if was := part.asked.Load(); was >= max || part.asked.CompareAndSwap(was, max) {
			break
		}
	}
	t := p.ports().Records.Trim(ctx, []kafka.TrimQuery{{Partition: where, Offset: to}})[0]
	revision := o.w.server.Revision()
	if p.gate.pass(ctx) != nil {
		return
	}
	o.w.history.add(o.name, "trim", part, "to %d: code %d, log start %d says %s", to, t.Code, t.LogStart, p.name)
	if t.Code == kerr.OffsetOutOfRange.Code && !part.gone.Load() {
		o.w.fail("out of range", part, "%s says that %d is out of range, after it said that the log ends at %d", p.name, to, a.Offset)
	}
	if t.Code == 0 {
		o.w.mu.Lock()
		defer o.w.mu.Unlock()
		o.w.trims = append(o.w.trims, trimmed{p.name, part, revision, t.LogStart})
	}
}
