package shard

import (
	"encoding/binary"
	"hash/crc32"
	"hash/fnv"
	"sort"

	"github.com/floelog/floe/tiering"
)

// Run returns the manifests and extents that cover exactly the offsets [from, to), whole
// ones only. The slices may be kept, but not changed.
func (p *Partition) Run(from, to tiering.Offset) (manifests []Manifest, extents []tiering.Extent, ok bool) {
	if from >= to {
		return nil, nil, false
	}
	at := from
	if i := p.FindManifest(from); i < len(p.Manifests) {
		j := i
		for j < len(p.Manifests) && p.Manifests[j].Base == at && p.Manifests[j].End() <= to {
			at = p.Manifests[j].End()
			j++
		}
		manifests = p.Manifests[i:j:j]
	}
	i := p.Find(at)
	j := i
	for at < to && j < len(p.Extents) && p.Extents[j].Base == at && p.Extents[j].End() <= to {
		at = p.Extents[j].End()
		j++
	}
	return manifests, p.Extents[i:j:j], at == to
}

// FindManifest returns the index of the manifest that holds offset, or of the first one after
// it; len(Manifests) if there is none.
func (p *Partition) FindManifest(offset tiering.Offset) int {
	return sort.Search(len(p.Manifests), func(i int) bool { return p.Manifests[i].End() > offset })
}

// Digest tells the run of manifests and extents that covers exactly [from, to) from any other
// of the same offsets. false if there is none.
func (p *Partition) Digest(from, to tiering.Offset) (uint64, bool) {
	manifests, extents, ok := p.Run(from, to)
	if !ok {
		return 0, false
	}
	return digestOf(manifests, extents), true
}

// DigestOf returns the Digest of a run of extents.
func DigestOf(extents []tiering.Extent) uint64 { return digestOf(nil, extents) }

// ArchiveDigest is what Archive.Of is: DigestOf a run of extents, and of the aborted transactions that
// have an offset of its between their first record and their marker, ascending by Last (see
// Partition.AbortedIn). So a manifest lists exactly what the state forgets for it.
func ArchiveDigest(extents []tiering.Extent, aborted []AbortedTransaction) uint64 {
	digest := digestOf(nil, extents)
	if len(aborted) == 0 {
		return digest
	}
	h := fnv.New64a()
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 64), digest)
	_, _ = h.Write(b) // never fails
	for _, a := range aborted {
		b = append(b[:0], 'a')
		b = binary.BigEndian.AppendUint64(b, uint64(a.ProducerID))
		b = binary.BigEndian.AppendUint64(b, uint64(a.First))
		b = binary.BigEndian.AppendUint64(b, uint64(a.Last))
		_, _ = h.Write(b) // never fails
	}
	return max(1, h.Sum64())
}

// digestOf is FNV-1a over what tells objects and places in them apart, of inline extents over
// the CRC-32C of their bytes; part of the journal's format. It is never 0, which Replace.Of
// gives a meaning.
func digestOf(manifests []Manifest, extents []tiering.Extent) uint64 {
	h := fnv.New64a()
	b := make([]byte, 0, 64)
	for _, m := range manifests {
		b = append(b[:0], 'm')
		b = binary.BigEndian.AppendUint64(b, uint64(m.Base))
		b = binary.BigEndian.AppendUint64(b, uint64(m.Count))
		b = append(b, m.Object.Session[:]...)
		b = binary.BigEndian.AppendUint64(b, m.Object.Seq)
		_, _ = h.Write(b) // never fails
	}
	for _, e := range extents {
		b = append(b[:0], 'e')
		b = binary.BigEndian.AppendUint64(b, uint64(e.Base))
		b = binary.BigEndian.AppendUint64(b, uint64(e.Count))
		b = append(b, e.Segment.Session[:]...)
		b = binary.BigEndian.AppendUint64(b, e.Segment.Seq)
		b = binary.BigEndian.AppendUint64(b, uint64(e.Position))
		b = binary.BigEndian.AppendUint32(b, uint32(e.Length))
		if e.IsInline() {
			b = binary.BigEndian.AppendUint32(b, crc32.Checksum(e.Inline, castagnoli))
		}
		_, _ = h.Write(b) // never fails
	}
	return max(1, h.Sum64())
}

// EpochAt returns the leader epoch of the batch at offset, -1 if none is known; epochs are a
// partition's. Of a batch that begins before all that are left it is the first one's.
func EpochAt(epochs []EpochStart, offset tiering.Offset) tiering.LeaderEpoch {
	if len(epochs) == 0 {
		return -1
	}
	i := sort.Search(len(epochs), func(i int) bool { return epochs[i].Start > offset })
	return epochs[max(0, i-1)].Epoch
}

// Bytes returns the bytes of all batches that the partition's extents and manifests name.
func (p *Partition) Bytes() int64 {
	n := int64(0)
	for i := range p.Manifests {
		n += p.Manifests[i].Bytes
	}
	for i := range p.Extents {
		n += int64(p.Extents[i].Length)
	}
	return n
}

// Objects calls segment with every segment that an extent of the state names, and manifest with
// every manifest; some more than once. What only manifests name is not among the segments.
func (s *State) Objects(segment, manifest func(tiering.SegmentID)) {
	for _, p := range s.partitions {
		for i := range p.Manifests {
			manifest(p.Manifests[i].Object)
		}
		for i := range p.Extents {
			if id := p.Extents[i].Segment; !id.IsZero() {
				segment(id)
			}
		}
	}
}
