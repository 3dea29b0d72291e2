package records

import (
	"errors"
	"maps"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
)

// Rules say what a Rewriter keeps.
type Rules struct {
	Keys            *Keys
	End             tiering.Offset // records from here on stay as they are
	DeleteRetention int64          // delete.retention.ms
	Moment
}

// Moment is what a look at the partition's state, and at the clock, says for the extents of
// the same look.
type Moment struct {
	LogStart tiering.Offset
	Aborted  Aborted
	Now      int64 // milliseconds since 1970: horizons before it have passed
}

// Rewriter is the second pass. It must see all extents from the log start on, in order.
type Rewriter struct {
	rules Rules
	// open are the producers of transactions of which data stays and whose marker was not
	// reached yet: no more than were open at one time.
	open map[int64]struct{}
	keep selection
}

// selection says which records of a batch stay: a bit of each, since a batch may have millions.
type selection struct {
	bits []uint64
	n    int // records
	kept int
}

func (s *selection) reset() { *s = selection{bits: s.bits[:0]} }

func (s *selection) add(keep bool) {
	if s.n%64 == 0 {
		s.bits = append(s.bits, 0)
	}
	if keep {
		s.bits[s.n/64] |= 1 << (s.n % 64)
		s.kept++
	}
	s.n++
}

func (s *selection) has(i int) bool { return s.bits[i/64]>>(i%64)&1 == 1 }

// NewRewriter begins a second pass.
func NewRewriter(r Rules) *Rewriter {
	return &Rewriter{rules: r, open: map[int64]struct{}{}}
}

// Mark is where a Rewriter was.
type Mark struct{ open map[int64]struct{} }

// Mark returns where the Rewriter is, for GoBack.
func (w *Rewriter) Mark() Mark { return Mark{maps.Clone(w.open)} }

// GoBack has the Rewriter see once more what it has seen since m; rules may have moved on.
func (w *Rewriter) GoBack(m Mark) { w.open = maps.Clone(m.open) }

// Follow has the rules follow the partition's state and the clock while the pass goes on.
func (w *Rewriter) Follow(m Moment) { w.rules.Moment = m }

// Piece is what stays of one extent.
type Piece struct {
	Of       tiering.Extent
	Changed  bool             // something goes, or is written differently
	Bytes    int64            // of the batches that stay
	Unmarked []tiering.Offset // of abort markers that go, ascending

	// Waiting is about how many bytes of what stays, tombstones and markers, can go when the
	// delete horizons have passed, the last of which is Horizon, in milliseconds.
	Waiting int64
	Horizon int64

	items []item
}

// item is a batch that stays.
type item struct {
	base tiering.Offset
	last int32 // its last offset delta as it was
	max  int64 // greatest timestamp
	data batch.View
}

// Judge says what stays of an extent, whose bytes are data. An error of the bytes is
// objstore.ErrCorrupt.
func (w *Rewriter) Judge(e tiering.Extent, data [][]byte) (Piece, error) {
	p := Piece{Of: e}
	err := Batches(e, data, func(base tiering.Offset, v batch.View) (bool, error) {
		out, err := w.batch(&p, base, v)
		if err != nil || out == nil {
			p.Changed = true
			return err == nil, err
		}
		if len(out) > 0 && &out[0] != &v[0] {
			p.Changed = true
		}
		p.items = append(p.items, item{base, v.LastOffsetDelta(), out.MaxTimestamp(), out})
		p.Bytes += int64(len(out))
		return true, nil
	})
	if err != nil {
		return Piece{}, err
	}
	if 4*p.Bytes < 3*int64(e.Length) {
		p.compact()
	}
	return p, nil
}

// waits notes that so many bytes can go at a horizon.
func (p *Piece) waits(bytes int, horizon int64) {
	p.Waiting += int64(bytes)
	p.Horizon = max(p.Horizon, horizon)
}

// compact copies what stays into memory of its own.
func (p *Piece) compact() {
	all := make([]byte, 0, p.Bytes)
	for i := range p.items {
		at := len(all)
		all = append(all, p.items[i].data...)
		p.items[i].data = all[at:len(all):len(all)]
	}
}

// batch returns what stays of a batch: itself, a new one, or nil.
func (w *Rewriter) batch(p *Piece, base tiering.Offset, v batch.View) (batch.View, error) {
	end := base + tiering.Offset(v.LastOffsetDelta()) + 1
	switch {
	case end <= w.rules.LogStart:
		return nil, nil
	case base >= w.rules.End:
		return v, nil
	case v.IsControl():
		return w.marker(p, base, v)
	case v.IsTransactional() && w.rules.Aborted.Has(v.ProducerID(), base):
		return nil, nil
	}
	out, err := w.data(p, base, v)
	if out != nil && v.IsTransactional() {
		w.open[v.ProducerID()] = struct{}{}
	}
	return out, err
}

// horizon returns the horizon of a batch with something that may go one day, and whether it
// has to be set.
func (w *Rewriter) horizon(v batch.View) (at int64, set bool) {
	if h := v.DeleteHorizon(); h != batch.NoHorizon {
		return h, false
	}
	if w.rules.DeleteRetention > 1<<62-w.rules.Now {
		return 1 << 62, true
	}
	return w.rules.Now + w.rules.DeleteRetention, true
}

// marker judges a transaction marker. A commit stays while data of its transaction does, and then
// for the time of a tombstone. An abort goes with the data, and the partition's state forgets the
// transaction: that, not the marker, is what readers are told of, with each answer for what is
// in it. Kept for a time it would be an extent of its own, since it may reach over nothing.
func (w *Rewriter) marker(p *Piece, base tiering.Offset, v batch.View) (batch.View, error) {
	commit, _, err := batch.ReadMarker(v)
	if err != nil {
		return nil, err
	}
	if _, left := w.open[v.ProducerID()]; left {
		delete(w.open, v.ProducerID())
		return v, nil
	}
	if !commit {
		p.Unmarked = append(p.Unmarked, base)
		return nil, nil
	}
	h, set := w.horizon(v)
	if set || w.rules.Now < h {
		p.waits(len(v), h)
	}
	switch {
	case set:
		return batch.Thin(nil, v, func(int) bool { return true }, h, nil)
	case w.rules.Now < h:
		return v, nil
	}
	return nil, nil
}

// data judges a batch of records. One that is cut by the end of the pass gets no horizon yet: it
// would also be that of tombstones whose older records are all still there.
func (w *Rewriter) data(p *Piece, base tiering.Offset, v batch.View) (batch.View, error) {
	h, set := w.horizon(v)
	passed := !set && w.rules.Now >= h
	whole := base+tiering.Offset(v.LastOffsetDelta()) < w.rules.End
	w.keep.reset()
	tombstones := 0
	for r, err := range v.Heads(true, nil) {
		if err != nil {
			return nil, err
		}
		at := base + tiering.Offset(r.OffsetDelta)
		keep := true
		if at < w.rules.End {
			keep = r.HasKey && at >= w.rules.Keys.Newest(&r.KeySum) && (r.HasValue || !passed)
			if keep && !r.HasValue {
				tombstones++
			}
		}
		w.keep.add(keep)
	}
	if tombstones > 0 && whole {
		p.waits(len(v)*tombstones/w.keep.n, h)
	}
	switch {
	case w.keep.kept == 0:
		return nil, nil
	case tombstones > 0 && set && whole:
		return thin(v, &w.keep, h)
	case w.keep.kept < w.keep.n:
		return thin(v, &w.keep, batch.NoHorizon)
	}
	return v, nil
}

// thin is batch.Thin, but of a batch that would grow by it, which nobody's compressor makes without
// intent, all records stay as they are: what is superseded may be read for longer.
func thin(v batch.View, keep *selection, horizon int64) (batch.View, error) {
	out, err := batch.Thin(nil, v, keep.has, horizon, nil)
	if errors.Is(err, batch.ErrGrown) {
		return v, nil
	}
	return out, err
}

// Output is what takes the place of the extents of pieces side by side.
type Output struct {
	With     []tiering.Extent // without a segment yet
	Data     [][]byte         // their batches
	Bytes    int64
	Unmarked []tiering.Offset
}

// Assemble puts pieces that lie side by side together; epochs are the partition's. No extent
// is larger than maxBytes, unless a batch is.
func Assemble(pieces []Piece, epochs []shard.EpochStart, maxBytes int64) Output {
	a := assembly{epochs: epochs, most: maxBytes, at: pieces[0].Of.Base}
	var before *item
	for i := range pieces {
		a.out.Unmarked = append(a.out.Unmarked, pieces[i].Unmarked...)
		for k := range pieces[i].items {
			it := &pieces[i].items[k]
			a.put(before, it.base)
			before = it
		}
	}
	a.put(before, pieces[len(pieces)-1].Of.End())
	a.close()
	return a.out
}

// assembly is an Output in the making: everything below at is in it.
type assembly struct {
	epochs []shard.EpochStart
	most   int64
	at     tiering.Offset
	open   tiering.Extent // of no records: none is open
	out    Output
}

// put adds a batch, if there is one, and what follows it up to the next one, at to.
func (a *assembly) put(it *item, to tiering.Offset) {
	if it != nil {
		a.batch(it, to)
	}
	if a.at < to {
		a.close()
		a.out.With = append(a.out.With, tiering.Extent{Base: a.at, Count: int64(to - a.at), MaxTimestamp: tiering.NoTimestamp})
		a.at = to
	}
}

// batch adds a batch that covers as much of what follows, up to to, as it may.
func (a *assembly) batch(it *item, to tiering.Offset) {
	end := it.base + tiering.Offset(it.last) + 1
	if reach := min(to, a.epochAfter(end), it.base+maxDelta); reach > end && it.data.MayReach() {
		end = reach
	}
	if last := int32(end - it.base - 1); last == it.data.LastOffsetDelta() {
		a.out.Data = append(a.out.Data, it.data)
	} else {
		head := batch.AppendHeader(nil, it.data, int64(it.base), it.data.LeaderEpoch(), last)
		a.out.Data = append(a.out.Data, head)
		if p := it.data.Payload(); len(p) > 0 {
			a.out.Data = append(a.out.Data, p)
		}
	}
	n := int32(len(it.data))
	if a.open.Count > 0 && int64(a.open.Length)+int64(n) > a.most {
		a.close()
	}
	if a.open.Count == 0 {
		a.open = tiering.Extent{Base: it.base, MaxTimestamp: it.max}
	}
	a.open.Count = int64(end - a.open.Base)
	a.open.MaxTimestamp = max(a.open.MaxTimestamp, it.max)
	a.open.Length += n
	a.out.Bytes += int64(n)
	a.at = end
}

// epochAfter returns where the next leader epoch begins, from offset at on.
func (a *assembly) epochAfter(at tiering.Offset) tiering.Offset {
	for len(a.epochs) > 0 && a.epochs[0].Start < at {
		a.epochs = a.epochs[1:]
	}
	if len(a.epochs) == 0 {
		return 1<<63 - 1
	}
	return a.epochs[0].Start
}

func (a *assembly) close() {
	if a.open.Count > 0 {
		a.out.With = append(a.out.With, a.open)
	}
	a.open = tiering.Extent{}
}
