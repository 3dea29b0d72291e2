// Package shard is the state machine at the heart of Floe: the pure value that a
// shard's journal builds up, and the only way in which it changes.
//
// Everything that a client can be told is acknowledged is one journal Record. A leader
// writes down in a Draft what a record will do, decided against the state it leads;
// once the record is committed, every agent Applies it. A record holds facts (this
// batch has these offsets), never requests, so that a rule which changes in a later
// version cannot change what an old record means.
//
// Invariants:
//  1. Apply is deterministic and pure: no clock, no randomness, no I/O. The same
//     records give the same State, byte for byte in its snapshot encoding.
//  2. Apply either takes a whole record or, on ErrCorrupt, leaves the state as it was.
//  3. Offsets of a partition are dense: an append starts at the partition's next offset.
//  4. Next offset, last stable offset, log start and leader epoch never go back.
//
// A State is not safe for concurrent use; metadata/journal guards it.
package shard

import (
	"errors"
	"slices"
	"sort"

	"github.com/floelog/floe/tiering"
)

// ErrCorrupt says that a record or snapshot cannot be what an intact agent wrote here.
var ErrCorrupt = errors.New("shard data corrupt")

// ErrVersion says that a newer release of Floe wrote the data, in a version that this one does not read.
var ErrVersion = errors.New("written by a newer release")

// maxProducerBatches is how many of an idempotent producer's last batches are
// remembered per partition. Kafka remembers as many as its client may have in flight, 5
// (ProducerStateEntry.NUM_BATCHES_TO_RETAIN). Twice as many, since any agent takes any batch:
// those of a connection that the client has given up may still be committed, through
// another agent, between a batch and its repetition. More would only cost memory.
const maxProducerBatches = 10

// State is the whole state of one shard as of journal record Seq.
type State struct {
	Seq   uint64              // of the last record applied
	Epoch tiering.LeaderEpoch // of the last record applied

	partitions  map[tiering.TopicPartition]*Partition
	submissions map[tiering.SessionID]submitted
	forgotten   int64                   // greatest id of a producer that was ever forgotten, -1 for none
	rows        map[rowName][]Row       // ascending by key; no entry is empty
	groups      map[string]*Group       // no entry is empty
	writes      uint64                  // how many CommitOffsets were applied: orders the writes of offsets
	named       map[tiering.TopicID]int // offsets, committed and pending, by topic
	inlineBytes int64
	inlineRuns  int
}

// Partition is the state of one partition. Readers must not change it.
type Partition struct {
	Next      tiering.Offset   // the next record's offset: log end and high watermark
	LogStart  tiering.Offset   // the first offset that may be read
	Manifests []Manifest       // ascending, from the one that holds LogStart; Extents follow the last one
	Extents   []tiering.Extent // ascending, from the one that holds LogStart, if no manifest does
	Epochs    []EpochStart     // ascending; where each leader epoch's records begin
	Cleaned   tiering.Offset   // log compaction has been done below; 0: never
	producers map[int64]*producer
	open      []OpenTransaction // ascending by First, one of a producer at most
	aborted   []abortedRun      // ascending by Last
}

// EpochStart says at which offset the records of a leader epoch begin (KIP-101).
type EpochStart struct {
	Epoch tiering.LeaderEpoch
	Start tiering.Offset
}

// producer is what is known of an idempotent producer in one partition.
type producer struct {
	epoch   int16
	updated int64           // leader's time of its last batch or marker, milliseconds
	batches []producerBatch // its last batches, oldest first, at most maxProducerBatches

	open        int64 // number of its open transaction, which is in Partition.open; 0: none
	ended       int64 // number of the last transaction that a marker concluded, 0: none
	coordinator int32 // epoch of the coordinator that wrote the last marker, -1: none
}

func newProducer() *producer { return &producer{coordinator: -1} }

// producerBatch is one remembered batch.
type producerBatch struct {
	firstSeq, lastSeq int32
	base              tiering.Offset
	timestamp         int64
}

// submitted is the last submission of an agent's session and what became of it.
type submitted struct {
	seq      uint64
	outcomes []Outcome
}

// New returns the empty state of a shard.
func New() *State {
	return &State{
		partitions:  map[tiering.TopicPartition]*Partition{},
		submissions: map[tiering.SessionID]submitted{},
		rows:        map[rowName][]Row{},
		groups:      map[string]*Group{},
		named:       map[tiering.TopicID]int{},
		forgotten:   -1,
	}
}

// Partition returns the state of a partition, or an empty one if nothing was ever
// appended to it.
func (s *State) Partition(tp tiering.TopicPartition) *Partition {
	if p := s.partitions[tp]; p != nil {
		return p
	}
	return &emptyPartition
}

var emptyPartition Partition

// Partitions returns the partitions that have state, in order.
func (s *State) Partitions() []tiering.TopicPartition {
	out := make([]tiering.TopicPartition, 0, len(s.partitions))
	for tp := range s.partitions {
		out = append(out, tp)
	}
	slices.SortFunc(out, tiering.TopicPartition.Compare)
	return out
}

// Topics returns the set of topics that have partitions with state, or that offsets of groups
// name.
func (s *State) Topics() map[tiering.TopicID]struct{} {
	out := map[tiering.TopicID]struct{}{}
	for tp := range s.partitions {
		out[tp.Topic] = struct{}{}
	}
	for id := range s.named {
		out[id] = struct{}{}
	}
	return out
}

// ProducersBefore returns how many producers ExpireProducers{before} would forget, of
// partitions and of groups.
func (s *State) ProducersBefore(before int64) int {
	n := 0
	for _, p := range s.partitions {
		for _, e := range p.producers {
			if e.expired(before) {
				n++
			}
		}
	}
	for _, g := range s.groups {
		for _, e := range g.Producers {
			if e.expired(before) {
				n++
			}
		}
	}
	return n
}

// ForgetProducer forgets what is known of a producer in a partition, so that it may go on from any
// sequence number, as ExpireProducers does; not one whose transaction is open. Only a recovery,
// which does not know what that number would be, may call it: what leaders and views know
// changes by Apply alone.
func (s *State) ForgetProducer(tp tiering.TopicPartition, id int64) {
	p := s.partitions[tp]
	if p != nil && p.producers[id] != nil {
		if p.producers[id].open > 0 {
			return
		}
		delete(p.producers, id)
	}
	s.forgotten = max(s.forgotten, id)
}

// Skip makes a partition continue at an offset, with a hole (tiering.Extent.IsHole) from its end up to there;
// it does nothing if the partition has come so far. The hole belongs to the partition's last leader epoch, or to
// epoch where it has none. Only a recovery, which knows that offsets were given but not to what, may call it: what
// leaders and views know changes by Apply alone.
func (s *State) Skip(tp tiering.TopicPartition, to tiering.Offset, epoch tiering.LeaderEpoch) {
	p := s.mutable(tp)
	if to <= p.Next {
		return
	}
	if len(p.Epochs) == 0 {
		p.Epochs = []EpochStart{{epoch, p.Next}}
	}
	p.Extents = append(p.Extents, tiering.Extent{Base: p.Next, Count: int64(to - p.Next), MaxTimestamp: tiering.NoTimestamp, Epoch: p.LastEpoch()})
	p.Next = to
}

// Sessions returns the agent sessions whose last submission is remembered, in order.
func (s *State) Sessions() []tiering.SessionID {
	out := make([]tiering.SessionID, 0, len(s.submissions))
	for id := range s.submissions {
		out = append(out, id)
	}
	slices.SortFunc(out, func(a, b tiering.SessionID) int { return slices.Compare(a[:], b[:]) })
	return out
}

// InlineBytes returns the bytes of all inline extents.
func (s *State) InlineBytes() int64 { return s.inlineBytes }

// InlineExtents returns the number of inline extents.
func (s *State) InlineExtents() int { return s.inlineRuns }

// Producers returns the number of producers remembered in the partition.
func (p *Partition) Producers() int { return len(p.producers) }

// Find returns the index of the extent that holds offset, or of the first one after
// it; len(Extents) if there is none.
func (p *Partition) Find(offset tiering.Offset) int {
	return sort.Search(len(p.Extents), func(i int) bool { return p.Extents[i].End() > offset })
}

// LastEpoch returns the epoch of the partition's newest record, or -1 if it has none.
func (p *Partition) LastEpoch() tiering.LeaderEpoch {
	if len(p.Epochs) == 0 {
		return -1
	}
	return p.Epochs[len(p.Epochs)-1].Epoch
}

// RecoveryJump is how far a recovery moves a shard's epoch above all that were seen before; see
// repair/recovery. No partition sees as many leaders between two of its records: agents that come
// and go every 15 seconds make 6,000 changes a day.
const RecoveryJump = 1_000_000

// EpochEnd answers OffsetForLeaderEpoch (KIP-101, KIP-279): the largest epoch not above the one
// asked for, itself if it is older than all that are left, and up to where a reader that was in it
// may have come without having read what is not there any more. Epoch -1 and offset -1 if nothing
// is known.
//
// In Kafka that is the epoch's own end, since the next leader may lack what comes behind. Here a
// new leader has all that was committed, so what one epoch left goes on in the next, and only a
// recovery may have lost records and given their offsets to others. Nor is the epoch's own end of
// use to clients that count only records they hand out (franz-go): behind a marker or aborted
// records of a new epoch they would take it for a loss.
func (p *Partition) EpochEnd(epoch tiering.LeaderEpoch) (tiering.LeaderEpoch, tiering.Offset) {
	if epoch < 0 || len(p.Epochs) == 0 {
		return -1, -1
	}
	i := sort.Search(len(p.Epochs), func(i int) bool { return p.Epochs[i].Epoch > epoch })
	if i > 0 {
		epoch = p.Epochs[i-1].Epoch
	}
	last := epoch
	for _, next := range p.Epochs[i:] {
		if next.Epoch-last >= RecoveryJump {
			return epoch, next.Start
		}
		last = next.Epoch
	}
	return epoch, p.Next
}

func (s *State) mutable(tp tiering.TopicPartition) *Partition {
	p := s.partitions[tp]
	if p == nil {
		p = &Partition{}
		s.partitions[tp] = p
	}
	return p
}
