package recovery

import (
	"fmt"
	"slices"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// rebuilt is a shard in the making.
type rebuilt struct {
	id      tiering.ShardID
	state   *shard.State
	base    objstore.Info        // of the snapshot that state began with; zero: none
	records map[uint64][]offered // after the base, by seq
	head    metadata.KV          // as it was in the metadata store

	epoch tiering.LeaderEpoch // the highest that was seen anywhere
	seq   uint64              // likewise

	// flushed is, for each session, the greatest number of a flush of its that a known record names. Flushes of a
	// session are sequenced in their order.
	flushed map[tiering.SessionID]uint64
	// covered are flushes that records before the base name and that are hardly older than it: the base
	// may have replaced or trimmed them.
	covered map[tiering.SegmentID]bool

	// behind are the records behind a gap, before which others are lost, ascending; placed are the chunks that they
	// name, and those that were found to fill a gap.
	behind []shard.Record
	placed map[partOf]bool

	// merged are the chunks of merged segments that no state names, and looked says which of them have been read
	// for what they prove.
	merged []flush
	looked []bool

	report ShardReport
}

// offered is a record and where it was found.
type offered struct {
	record shard.Record
	from   string
}

func newRebuilt(id tiering.ShardID) *rebuilt {
	return &rebuilt{
		id: id, state: shard.New(), records: map[uint64][]offered{}, flushed: map[tiering.SessionID]uint64{},
		covered: map[tiering.SegmentID]bool{}, placed: map[partOf]bool{}, report: ShardReport{Shard: id},
	}
}

func (s *rebuilt) problem(format string, args ...any) {
	s.report.Problems = append(s.report.Problems, fmt.Sprintf(format, args...))
}

// saw notes numbers that were given out, whatever becomes of what had them.
func (s *rebuilt) saw(epoch tiering.LeaderEpoch, seq uint64) {
	s.epoch, s.seq = max(s.epoch, epoch), max(s.seq, seq)
}

// offer takes a record that was found somewhere, stored at a time, unless the base holds it already.
func (s *rebuilt) offer(seq uint64, b []byte, from string, at time.Time) {
	s.saw(0, seq)
	r, err := shard.DecodeRecord(b)
	if err == nil && r.Seq != seq {
		err = fmt.Errorf("it is record %d", r.Seq)
	}
	if err != nil {
		s.problem("journal record %d of %s cannot be used: %v", seq, from, err)
		return
	}
	s.saw(r.Epoch, r.Seq)
	if seq <= s.state.Seq {
		if at.Add(baseSlack).After(s.base.Modified) { // so may be the flushes that it names
			named(r, func(id tiering.SegmentID) { s.covered[id] = true })
		}
		return
	}
	for _, o := range s.records[seq] {
		if o.record.Leader == r.Leader && o.record.Nonce == r.Nonce {
			return
		}
	}
	s.records[seq] = append(s.records[seq], offered{r, from})
}

// replay applies the records that follow the base without a gap.
func (s *rebuilt) replay() {
	for {
		next := s.records[s.state.Seq+1]
		if len(next) == 0 {
			break
		}
		slices.SortStableFunc(next, func(a, b offered) int { return int(b.record.Epoch) - int(a.record.Epoch) })
		if len(next) > 1 {
			s.report.Forks++
			s.problem("record %d is there %d times, with different contents; that of the highest epoch, %d, from %s is taken",
				next[0].record.Seq, len(next), next[0].record.Epoch, next[0].from)
		}
		if !s.apply(next) {
			break
		}
	}
	s.report.Seq, s.report.Epoch = s.state.Seq, s.state.Epoch
	s.behind = s.beyond()
	if n := len(s.behind); n > 0 {
		s.report.Missing = s.missing()
		s.problem("%d records from %d to %d are known, but not all before them: %d are lost; of what comes behind, what was appended keeps its offsets",
			n, s.behind[0].Seq, s.behind[n-1].Seq, s.report.Missing)
	}
}

// apply takes the first of the records that can be the next one.
func (s *rebuilt) apply(next []offered) bool {
	for _, o := range next {
		if err := s.state.Apply(o.record); err != nil {
			s.problem("record %d of %s cannot be applied: %v", o.record.Seq, o.from, err)
			continue
		}
		s.report.Records++
		s.report.LastTime = max(s.report.LastTime, o.record.Time)
		named(o.record, s.flush)
		return true
	}
	return false
}

// named calls f for each segment that a record gives offsets to.
func named(r shard.Record, f func(tiering.SegmentID)) {
	for _, c := range r.Changes {
		if a, ok := c.(shard.Append); ok {
			for _, e := range a.Extents {
				f(e.Segment)
			}
		}
	}
}

// flush notes a flush that is known to have been sequenced.
func (s *rebuilt) flush(id tiering.SegmentID) {
	if !id.IsZero() {
		s.flushed[id.Session] = max(s.flushed[id.Session], id.Seq)
	}
}

// leads returns the epoch under which the next leader will stand below.
func (s *rebuilt) leads() tiering.LeaderEpoch { return s.epoch + epochJump }

// finish forgets what agents had submitted, who are all dead, and moves epoch and seq above all
// that were ever given out.
func (s *rebuilt) finish(session tiering.SessionID, now int64) error {
	d := shard.NewDraft(s.state, s.leads(), session, 0, now)
	for _, id := range s.state.Sessions() {
		d.Add(shard.ForgetSession{Session: id})
	}
	if err := s.state.Apply(d.Record()); err != nil {
		return fmt.Errorf("shard %d: %w", s.id, err)
	}
	s.state.Seq, s.state.Epoch = max(s.seq, s.state.Seq)+jump, s.leads()
	s.report.NewSeq, s.report.NewEpoch = s.state.Seq, s.state.Epoch
	s.report.Partitions, s.report.Groups = len(s.state.Partitions()), len(s.state.Names(shard.Groups))
	return nil
}
