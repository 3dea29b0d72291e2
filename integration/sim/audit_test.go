package sim

import (
	"context"
	"encoding/json"
	"errors"
	"hash/maphash"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/floelog/floe/metadata"
	metamemory "github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
)

// auditor follows the metadata store through a connection without faults, from its first
// revision on, and replays every journal record as it is committed: what it knows is the
// truth that agents and clients are measured by. It judges each change by what was true
// in the store at that moment.
type auditor struct {
	w      *world
	store  *metamemory.Client
	cancel context.CancelFunc
	done   chan struct{} // closed when the watch has ended

	mu       sync.Mutex // guards the following
	changed  chan struct{}
	revision int64
	shards   map[tiering.ShardID]*auditedShard
	sessions map[tiering.SessionID]sessionValue // that live
	logs     map[tiering.TopicPartition]*auditedLog
	txns     auditedTxns

	manifests map[tiering.SegmentID][]tiering.Extent // that any state ever named
	deleted   map[string]int64                       // objects, by the revision at which they went
	did       map[string]int                         // what jobs did, for the sums at the end
	groups    map[string]*auditedGroup
}

type auditedShard struct {
	leader    leaderValue
	led       bool
	lastEpoch tiering.LeaderEpoch
	head      headValue
	snapshot  snapshotValue
	state     *shard.State
	states    map[uint64]uint64 // digest of the state's encoding, by seq
}

// auditedLog is what was committed to a partition.
type auditedLog struct {
	part    *partition
	batches []committed // by offset
	marks   []mark      // where the log began and ended, by revision
	tiers   auditedTiers
	aborts  []auditedAbort

	records []auditedRecord              // of a compacted partition, by offset
	keys    map[string][]tiering.Offset  // of these, by key
	stored  map[tiering.Offset]rewritten // its batches as they are now, by offset

	open  map[int64]tiering.Offset // first offsets of open transactions, by producer id
	ends  map[txnKey]txnEnd
	ended map[int64]int64 // number of the last transaction that has ended, by producer id
}

// txnEnd is how a transaction ended in a partition.
type txnEnd struct {
	revision int64
	commit   bool
}

type committed struct {
	base     tiering.Offset
	count    int64
	digest   uint64
	epoch    tiering.LeaderEpoch
	revision int64
	time     int64 // the leader's
	latest   int64 // greatest timestamp
	size     int64 // bytes

	producer      int64
	producerEpoch int16
	sequence      int32
	codec         batch.Codec
	transactional bool
	control       bool // a marker, and then
	commit        bool // what it says
	key           txnKey
}

func (c *committed) end() tiering.Offset { return c.base + tiering.Offset(c.count) }

type mark struct {
	revision            int64
	start, next, stable tiering.Offset
}

// The values of the keys, as operators read them.
type leaderValue struct {
	Node    int32               `json:"node"`
	Session string              `json:"session"`
	Epoch   tiering.LeaderEpoch `json:"epoch"`
}

type sessionValue struct {
	LowWatermark uint64 `json:"low_watermark"`
}

type headValue struct {
	Epoch   tiering.LeaderEpoch `json:"epoch"`
	Session string              `json:"session"`
	Seq     uint64              `json:"seq"`
}

type snapshotValue struct {
	Key      string `json:"key"`
	Size     int64  `json:"size"`
	Seq      uint64 `json:"seq"`
	Previous string `json:"previous"`
}

func newAuditor(w *world) *auditor {
	a := &auditor{
		w: w, store: w.server.Client("auditor"), done: make(chan struct{}), changed: make(chan struct{}),
		shards: map[tiering.ShardID]*auditedShard{}, sessions: map[tiering.SessionID]sessionValue{},
		logs: map[tiering.TopicPartition]*auditedLog{},
		txns: newAuditedTxns(), groups: map[string]*auditedGroup{},
		manifests: map[tiering.SegmentID][]tiering.Extent{}, deleted: map[string]int64{}, did: map[string]int{},
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	go func() {
		defer close(a.done)
		for ctx.Err() == nil {
			a.follow(ctx)
		}
	}()
	return a
}

// follow replays what one watch delivers. The nemesis breaks those of the auditor too.
func (a *auditor) follow(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	watch := a.store.Watch(ctx, a.w.keys.Root(), a.revision+1)
	defer func() {
		cancel()
		for range watch {
		}
	}()
	for b := range watch {
		switch {
		case errors.Is(b.Err, metadata.ErrCompacted):
			a.w.fail("audit", nil, "the auditor was left behind: %v", b.Err)
			a.cancel()
			return
		case b.Err != nil:
			return
		}
		a.take(b)
	}
}

func (a *auditor) stop() {
	a.cancel()
	<-a.done
}

// await returns when everything up to a revision has been replayed.
func (a *auditor) await(ctx context.Context, revision int64) bool {
	for {
		a.mu.Lock()
		at, changed := a.revision, a.changed
		a.mu.Unlock()
		if at >= revision {
			return true
		}
		select {
		case <-changed:
		case <-a.done:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

func (a *auditor) take(b metadata.WatchBatch) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for evs := b.Events; len(evs) > 0; {
		n := 1
		for n < len(evs) && evs[n].Revision == evs[0].Revision {
			n++
		}
		a.transaction(evs[:n])
		evs = evs[n:]
	}
	a.revision = max(a.revision, b.Revision)
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *auditor) shard(id tiering.ShardID) *auditedShard {
	s := a.shards[id]
	if s == nil {
		s = &auditedShard{state: shard.New(), states: map[uint64]uint64{}}
		s.states[0] = stateDigest(s.state)
		a.shards[id] = s
	}
	return s
}

func stateDigest(s *shard.State) uint64 { return maphash.Bytes(digestSeed, s.EncodeSnapshot(nil)) }

// transaction replays the changes of one revision. Journal records come first: they must
// have been allowed by what was true before.
func (a *auditor) transaction(evs []metadata.Event) {
	for i := range evs {
		if k, err := a.w.keys.ParseShardKey(evs[i].Key); err == nil && k.Name == "journal" {
			a.journal(k, &evs[i], evs)
		}
	}
	for i := range evs {
		ev := &evs[i]
		if name, ok := strings.CutPrefix(ev.Key, a.w.keys.Sessions()); ok {
			a.session(name, ev)
			continue
		}
		k, err := a.w.keys.ParseShardKey(ev.Key)
		if err != nil {
			continue
		}
		s := a.shard(k.Shard)
		switch k.Name {
		case "leader":
			a.leader(k.Shard, s, ev)
		case "head":
			a.head(k.Shard, s, ev)
		case "snapshot":
			a.snapshot(k.Shard, s, ev)
		}
	}
}

func (a *auditor) session(name string, ev *metadata.Event) {
	id, err := tiering.ParseSessionID(name)
	var v sessionValue
	if err == nil && !ev.Deleted {
		err = json.Unmarshal(ev.Value, &v)
	}
	switch {
	case err != nil:
		a.w.fail("audit", nil, "session %q: %v", name, err)
	case ev.Deleted:
		delete(a.sessions, id)
	default:
		a.sessions[id] = v
	}
}

func (a *auditor) leader(id tiering.ShardID, s *auditedShard, ev *metadata.Event) {
	if ev.Deleted {
		s.led = false
		a.w.history.add("auditor", "leaderless", nil, "shard %d r%d", id, ev.Revision)
		return
	}
	if s.led {
		a.w.fail("epochs", nil, "shard %d: leadership was overwritten by %s at revision %d", id, ev.Value, ev.Revision)
	}
	if err := json.Unmarshal(ev.Value, &s.leader); err != nil {
		a.w.fail("epochs", nil, "shard %d: leader %q: %v", id, ev.Value, err)
	}
	if s.leader.Epoch <= s.lastEpoch && s.lastEpoch != 0 {
		a.w.fail("epochs", nil, "shard %d: epoch %d was given out after epoch %d", id, s.leader.Epoch, s.lastEpoch)
	}
	s.led, s.lastEpoch = true, s.leader.Epoch
	a.w.history.add("auditor", "leader", nil, "shard %d epoch %d node %d r%d", id, s.leader.Epoch, s.leader.Node, ev.Revision)
}

func (a *auditor) head(id tiering.ShardID, s *auditedShard, ev *metadata.Event) {
	var h headValue
	if err := json.Unmarshal(ev.Value, &h); ev.Deleted || err != nil {
		a.w.fail("fencing", nil, "shard %d: head became %q (%v)", id, ev.Value, err)
		return
	}
	if h.Seq < s.head.Seq || h.Epoch < s.head.Epoch || h.Seq != s.state.Seq {
		a.w.fail("fencing", nil, "shard %d: head went from %+v to %+v at revision %d, journal ends at %d", id, s.head, h, ev.Revision, s.state.Seq)
	}
	s.head = h
}

// snapshot checks that what the pointer names is there and is the state of that seq.
func (a *auditor) snapshot(id tiering.ShardID, s *auditedShard, ev *metadata.Event) {
	var p snapshotValue
	if err := json.Unmarshal(ev.Value, &p); ev.Deleted || err != nil {
		a.w.fail("objects", nil, "shard %d: snapshot pointer became %q (%v)", id, ev.Value, err)
		return
	}
	if p.Seq < s.snapshot.Seq || p.Seq > s.state.Seq {
		a.w.fail("objects", nil, "shard %d: snapshot pointer went from record %d to %d, journal ends at %d", id, s.snapshot.Seq, p.Seq, s.state.Seq)
	}
	s.snapshot = p
	a.w.history.add("auditor", "snapshot", nil, "shard %d seq %d r%d", id, p.Seq, ev.Revision)
	a.checkSnapshot(id, s)
}

func (a *auditor) checkSnapshot(id tiering.ShardID, s *auditedShard) {
	p := s.snapshot
	if p.Key == "" {
		return
	}
	data, err := a.w.raw.GetRange(context.Background(), p.Key, 0, p.Size)
	if err != nil {
		a.w.fail("objects", nil, "shard %d: snapshot of record %d: %v", id, p.Seq, err)
		return
	}
	st, err := shard.DecodeSnapshot(data)
	if err != nil || st.Seq != p.Seq || stateDigest(st) != s.states[p.Seq] {
		a.w.fail("same state", nil, "shard %d: snapshot of record %d is not the state of that record (%v)", id, p.Seq, err)
	}
}

// journal replays one record, or checks that the deletion of one is covered by a snapshot.
func (a *auditor) journal(k metadata.ShardKey, ev *metadata.Event, all []metadata.Event) {
	s := a.shard(k.Shard)
	if ev.Deleted {
		pointer := s.snapshot
		for i := range all {
			if all[i].Key == a.w.keys.Snapshot(k.Shard) {
				_ = json.Unmarshal(all[i].Value, &pointer) // what is wrong with it is found elsewhere
			}
		}
		if k.Seq > pointer.Seq {
			a.w.fail("durability", nil, "shard %d: record %d was deleted, the snapshot ends at %d", k.Shard, k.Seq, pointer.Seq)
		}
		return
	}
	r, err := shard.DecodeRecord(ev.Value)
	if err != nil {
		a.w.fail("same state", nil, "shard %d: record %d: %v", k.Shard, k.Seq, err)
		return
	}
	if r.Seq != k.Seq || r.Seq != s.state.Seq+1 {
		a.w.fail("fencing", nil, "shard %d: record %d (says %d) was written at revision %d, the journal ended at %d", k.Shard, k.Seq, r.Seq, ev.Revision, s.state.Seq)
		return
	}
	if !s.led || s.leader.Epoch != r.Epoch || s.leader.Session != r.Leader.String() {
		a.w.fail("fencing", nil, "shard %d: record %d of epoch %d was committed at revision %d while the leader was %+v (%v)", k.Shard, r.Seq, r.Epoch, ev.Revision, s.leader, s.led)
	}
	headMoved := slices.ContainsFunc(all, func(e metadata.Event) bool { return e.Key == a.w.keys.Head(k.Shard) })
	if !headMoved {
		a.w.fail("fencing", nil, "shard %d: record %d was committed without its head", k.Shard, r.Seq)
	}
	a.replay(k.Shard, s, r, ev.Revision)
}

func (a *auditor) replay(id tiering.ShardID, s *auditedShard, r shard.Record, revision int64) {
	before := map[tiering.TopicPartition]tiering.Offset{}
	tiers := map[tiering.TopicPartition]*verdict{}
	words := txnWords{}
	for _, c := range r.Changes {
		switch c := c.(type) {
		case shard.Mark:
			before[c.Partition] = s.state.Partition(c.Partition).Next
			words.of(c.Partition).marks[c.Base] = c
		case shard.Submitted:
			a.alive(id, r.Seq, c.Session, revision)
		case shard.Append:
			before[c.Partition] = s.state.Partition(c.Partition).Next
			for _, p := range c.Producers {
				words.of(c.Partition).numbers[p.Base] = p.Transaction
			}
			for _, e := range c.Extents {
				if !e.IsInline() {
					a.alive(id, r.Seq, e.Segment.Session, revision)
				}
			}
		case shard.Replace:
			a.tiersOf(tiers, s, c.Partition, revision, r.Time).replaced = true
			if of, ok := s.state.Partition(c.Partition).Digest(c.Base(), c.End()); !ok || of != c.Of {
				a.note("tier no effect")
			}
		case shard.Archive:
			a.tiersOf(tiers, s, c.Partition, revision, r.Time)
		case shard.Trim:
			a.tiersOf(tiers, s, c.Partition, revision, r.Time)
		}
	}
	if err := s.state.Apply(r); err != nil {
		a.w.fail("same state", nil, "shard %d: record %d cannot be applied: %v", id, r.Seq, err)
		return
	}
	s.states[r.Seq] = stateDigest(s.state)
	for _, c := range r.Changes {
		if c, ok := c.(shard.DropTopic); ok { // what the same record added to it is gone as well
			maps.DeleteFunc(before, func(tp tiering.TopicPartition, _ tiering.Offset) bool { return tp.Topic == c.Topic })
			maps.DeleteFunc(tiers, func(tp tiering.TopicPartition, _ *verdict) bool { return tp.Topic == c.Topic })
		}
	}
	a.rearranged(s, tiers)
	for tp, from := range before {
		a.appended(s, tp, from, revision, r.Time, words.of(tp))
	}
	for tp, v := range tiers {
		a.compareAborted(s, tp, v)
		a.cleaned(s, tp, v)
	}
	a.coordinated(s, r, revision)
	for _, c := range r.Changes {
		switch c := c.(type) {
		case shard.Trim:
			a.mark(s, c.Partition, revision)
			a.w.history.add("auditor", "trimmed", a.w.find(c.Partition), "to %d r%d", c.LogStart, revision)
		case shard.DropTopic:
			a.dropped(c.Topic, id, revision)
		}
	}
}

// dropped forgets the partitions of a deleted topic on one shard.
func (a *auditor) dropped(topic tiering.TopicID, id tiering.ShardID, revision int64) {
	a.w.history.add("auditor", "dropped", nil, "topic %s on shard %d r%d", topic, id, revision)
	for tp := range a.logs {
		part := a.w.find(tp)
		if tp.Topic != topic || part.shard != id {
			continue
		}
		if !part.gone.Load() {
			a.w.fail("durability", part, "a topic that nobody deleted was dropped at revision %d", revision)
		}
		delete(a.logs, tp)
	}
}

func (a *auditor) alive(id tiering.ShardID, seq uint64, session tiering.SessionID, revision int64) {
	if _, alive := a.sessions[session]; !alive {
		a.w.fail("fencing", nil, "shard %d: record %d of revision %d names session %s, which is dead", id, seq, revision, session)
	}
}

// appended notes what a record added to a partition, from an offset on.
func (a *auditor) appended(s *auditedShard, tp tiering.TopicPartition, from tiering.Offset, revision, now int64, words *partWords) {
	part := a.w.find(tp)
	p := s.state.Partition(tp)
	log := a.log(tp)
	for _, e := range p.Extents[p.Find(from):] {
		for _, is := range a.cut(part, e) {
			b := a.read(part, e, is)
			b.revision, b.time = revision, now
			a.transactional(part, log, &b, words.marks, words.numbers)
			log.batches = append(log.batches, b)
			if part.keeps.compact {
				a.keyed(part, log, is)
			}
			a.w.history.add("auditor", "committed", part, "%d+%d r%d epoch %d %s", b.base, b.count, revision, b.epoch, a.w.nameOf(b.digest))
		}
	}
	a.placed(part, log, p)
	a.mark(s, tp, revision)
}

func (a *auditor) log(tp tiering.TopicPartition) *auditedLog {
	log := a.logs[tp]
	if log == nil {
		log = &auditedLog{part: a.w.find(tp), keys: map[string][]tiering.Offset{}, stored: map[tiering.Offset]rewritten{}, marks: []mark{{}}, open: map[int64]tiering.Offset{}, ends: map[txnKey]txnEnd{}, ended: map[int64]int64{}}
		a.logs[tp] = log
	}
	return log
}

func (a *auditor) mark(s *auditedShard, tp tiering.TopicPartition, revision int64) {
	p, log := s.state.Partition(tp), a.log(tp)
	last := log.marks[len(log.marks)-1]
	if p.Next < last.next || p.LogStart < last.start {
		a.w.fail("monotonic", a.w.find(tp), "log went from %d..%d to %d..%d at revision %d", last.start, last.next, p.LogStart, p.Next, revision)
	}
	stable := max(p.LogStart, log.stable(p.Next))
	if stable < last.stable || stable != p.LastStable() {
		a.w.fail("last stable offset", a.w.find(tp), "it went from %d to %d at revision %d; the state says %d", last.stable, stable, revision, p.LastStable())
	}
	log.marks = append(log.marks, mark{revision, p.LogStart, p.Next, stable})
}

// read describes a batch that was committed with an extent.
func (a *auditor) read(part *partition, e tiering.Extent, v placed) committed {
	b := committed{
		base: v.base, count: int64(v.LastOffsetDelta()) + 1, digest: digest(v.View), epoch: e.Epoch, latest: v.MaxTimestamp(), size: int64(len(v.View)),
		producer: v.ProducerID(), producerEpoch: v.ProducerEpoch(), sequence: v.BaseSequence(), codec: v.Codec(),
		transactional: v.IsTransactional(), control: v.IsControl(),
	}
	if b.control {
		var err error
		if b.commit, _, err = batch.ReadMarker(v.View); err != nil {
			a.w.fail("objects", part, "marker at offset %d: %v", v.base, err)
		}
	}
	return b
}

// find returns the index of the batch that holds an offset.
func (l *auditedLog) find(o tiering.Offset) (int, bool) {
	i := sort.Search(len(l.batches), func(i int) bool { return l.batches[i].base+tiering.Offset(l.batches[i].count) > o })
	return i, i < len(l.batches) && l.batches[i].base <= o
}

// at returns where the log began and ended at a revision.
func (l *auditedLog) at(revision int64) mark {
	i := sort.Search(len(l.marks), func(i int) bool { return l.marks[i].revision > revision })
	return l.marks[i-1]
}

// txnWords is what one record says about transactions in partitions.
type txnWords map[tiering.TopicPartition]*partWords

type partWords struct {
	marks   map[tiering.Offset]shard.Mark
	numbers map[tiering.Offset]int64 // of the batches' transactions
}

func (w txnWords) of(tp tiering.TopicPartition) *partWords {
	p := w[tp]
	if p == nil {
		p = &partWords{map[tiering.Offset]shard.Mark{}, map[tiering.Offset]int64{}}
		w[tp] = p
	}
	return p
}

func (w *world) nameOf(digest uint64) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.sent[digest]; s != nil {
		return s.name
	}
	return "unknown"
}
