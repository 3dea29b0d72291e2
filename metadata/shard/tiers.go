package shard

import (
	"slices"

	"github.com/floelog/floe/tiering"
)

// Manifest stands for a run of a partition's extents that lie in an object of their own
// (tiering/manifest), so that a partition's state stays small however long it is retained.
type Manifest struct {
	Base         tiering.Offset
	Count        int64             // offsets that its extents cover
	MaxTimestamp int64             // greatest of its extents
	Bytes        int64             // of the batches that its extents name
	Object       tiering.SegmentID // names the object, see tiering.SegmentID.ManifestKey
	Size         int32             // bytes of the object
}

// ManifestOf returns the manifest of a run of extents that lie end to end, of which there is at
// least one; its object is size bytes long.
func ManifestOf(object tiering.SegmentID, size int32, extents []tiering.Extent) Manifest {
	m := Manifest{Base: extents[0].Base, MaxTimestamp: tiering.NoTimestamp, Object: object, Size: size}
	for i, e := range extents {
		m.Count += e.Count
		m.Bytes += int64(e.Length)
		if i == 0 || e.MaxTimestamp > m.MaxTimestamp {
			m.MaxTimestamp = e.MaxTimestamp
		}
	}
	return m
}

// End returns the offset after the manifest's last.
func (m Manifest) End() tiering.Offset { return m.Base + tiering.Offset(m.Count) }

// Replace puts extents in the place of a run of a partition's extents, or whole manifests and
// extents, that cover the same offsets. If the partition no longer has exactly the run that
// Of names, nothing happens: the replacement came late.
type Replace struct {
	Partition tiering.TopicPartition

	// Of is the Digest of the run that is replaced; a replacement made of something else than
	// what is there now would bring back what another one has removed. 0, which format
	// version 2 knew alone: any run of extents of one leader epoch.
	Of uint64

	// With lies end to end. Epochs are implied. A hole (tiering.Extent.IsHole) stands for
	// offsets whose records log compaction has removed.
	With []tiering.Extent

	// Cleaned, where greater than 0, is the offset below which log compaction has been done.
	Cleaned tiering.Offset
	// Unmarked are the offsets of abort markers that With has no more, ascending: nothing is left
	// of their transactions, and readers must not be told of them.
	Unmarked []tiering.Offset

	// Aborted are the aborted transactions whose markers are among the offsets of the manifests that
	// are replaced, ascending by Last: what Archive has moved into those.
	Aborted []AbortedTransaction
}

// Base returns the offset of the first record that is replaced.
func (r Replace) Base() tiering.Offset { return r.With[0].Base }

// End returns the offset after the last record that is replaced.
func (r Replace) End() tiering.Offset { return r.With[len(r.With)-1].End() }

// Archive moves the first of a partition's extents, which follow its manifests, into a
// manifest. If the partition does not begin with the run that Of names any more, nothing
// happens; nor if the manifest is not ManifestOf that run, or some of the run are inline, since
// those bytes would be lost; nor if a transaction that is open has records below the run's end, since it
// may be aborted. Aborted transactions whose markers lie below the run's end are the manifest's
// from then on, whose object lists all that have an offset of its.
type Archive struct {
	Partition tiering.TopicPartition
	Of        uint64 // ArchiveDigest of the run
	Manifest  Manifest
}

// replace builds new slices: readers may hold the old ones.
func (s *State) replace(c Replace) {
	p := s.partitions[c.Partition]
	if p == nil {
		return
	}
	manifests, extents, ok := p.Run(c.Base(), c.End())
	switch {
	case !ok:
		return
	case c.Of == 0 && (len(manifests) > 0 || !oneEpoch(extents)):
		return
	case c.Of != 0 && c.Of != digestOf(manifests, extents):
		return
	}
	if len(manifests) > 0 {
		i := p.FindManifest(c.Base())
		if rest := p.Manifests[i+len(manifests):]; len(rest) > 0 {
			return // manifests precede extents: one in the middle cannot become extents
		}
		p.Manifests = slices.Clone(p.Manifests[:i])
		p.restoreAborted(c.Aborted, manifests[len(manifests)-1].End())
	}
	i := p.Find(c.Base())
	for _, old := range extents {
		s.countInline(old, -1)
	}
	out := make([]tiering.Extent, 0, len(p.Extents)-len(extents)+len(c.With))
	out = append(out, p.Extents[:i]...)
	for _, e := range c.With {
		e.Epoch = EpochAt(p.Epochs, e.Base)
		s.countInline(e, 1)
		out = append(out, e)
	}
	p.Extents = append(out, p.Extents[i+len(extents):]...)
	p.Cleaned = max(p.Cleaned, c.Cleaned)
	p.unmark(c.Unmarked)
}

func oneEpoch(extents []tiering.Extent) bool {
	for _, e := range extents {
		if e.Epoch != extents[0].Epoch {
			return false
		}
	}
	return true
}

// archive moves the first extents behind a manifest.
func (s *State) archive(c Archive) {
	p := s.partitions[c.Partition]
	if p == nil || len(p.Extents) == 0 || p.Extents[0].Base != c.Manifest.Base {
		return
	}
	manifests, extents, ok := p.Run(c.Manifest.Base, c.Manifest.End())
	if !ok || len(manifests) > 0 || c.Manifest.End() > p.FirstOpen() || slices.ContainsFunc(extents, tiering.Extent.IsInline) {
		return
	}
	if c.Of != ArchiveDigest(extents, p.AbortedIn(c.Manifest.Base, c.Manifest.End())) {
		return
	}
	if c.Manifest != ManifestOf(c.Manifest.Object, c.Manifest.Size, extents) {
		return
	}
	p.Manifests = append(p.Manifests[:len(p.Manifests):len(p.Manifests)], c.Manifest)
	p.Extents = slices.Clone(p.Extents[len(extents):])
	p.forgetAborted(c.Manifest.End())
}
