package compaction

import (
	"context"
	"fmt"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/manifest"
	"github.com/floelog/floe/tiering/objstore"
)

// archive moves the first extents of a partition into a manifest.
func (m *Merger) archive(ctx context.Context, a archivable) error {
	first, last := a.extents[0], a.extents[len(a.extents)-1]
	w := m.parts.Writer
	id, done := w.Segments.NextSegment()
	aborted := make([]manifest.Aborted, len(a.aborted))
	for i, t := range a.aborted {
		aborted[i] = manifest.Aborted(t)
	}
	data, err := manifest.Encode(manifest.Manifest{Cluster: w.Cluster, ID: id, Partition: a.partition, Extents: a.extents, Aborted: aborted})
	if err == nil {
		err = w.Objects.Put(objstore.WithPurpose(ctx, objstore.Merge), id.ManifestKey(), objstore.Body{data})
	}
	if err != nil {
		done()
		return fmt.Errorf("storing a manifest of %s: %w", a.partition, err)
	}
	change := shard.Archive{Partition: a.partition, Of: shard.ArchiveDigest(a.extents, a.aborted), Manifest: shard.Manifest{
		Base: first.Base, Count: int64(last.End() - first.Base), MaxTimestamp: tiering.NoTimestamp, Object: id, Size: int32(len(data)),
	}}
	for _, e := range a.extents {
		change.Manifest.MaxTimestamp = max(change.Manifest.MaxTimestamp, e.MaxTimestamp)
		change.Manifest.Bytes += int64(e.Length)
	}
	err = w.Journals.Change(ctx, a.shard, change)
	done()
	if err != nil {
		return fmt.Errorf("archiving %d extents of %s: %w", len(a.extents), a.partition, err)
	}
	m.count(func(s *MergeStats) {
		s.Manifests++
		s.Archived += int64(len(a.extents))
	})
	return nil
}
