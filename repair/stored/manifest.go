package stored

import (
	"context"
	"fmt"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/manifest"
	"github.com/floelog/floe/tiering/objstore"
)

// Manifest reads the extents that a manifest of a cluster stands for, ascending, and compares
// them with what the shard says of it. The error is ErrDamaged, an objstore.ErrNotFound, or
// comes from the object store.
func Manifest(ctx context.Context, objects objstore.Store, cluster [16]byte, tp tiering.TopicPartition, m shard.Manifest) ([]tiering.Extent, error) {
	key := m.Object.ManifestKey()
	b, err := objects.GetRange(ctx, key, 0, int64(m.Size))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	x, err := manifest.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, key, err)
	}
	bytes, newest := int64(0), tiering.NoTimestamp
	for _, e := range x.Extents {
		bytes += int64(e.Length)
		newest = max(newest, e.MaxTimestamp)
	}
	first, last := x.Extents[0], x.Extents[len(x.Extents)-1]
	switch {
	case x.Cluster != cluster || x.ID != m.Object || x.Partition != tp:
		return nil, fmt.Errorf("%w: %s says that it is manifest %s of %s in cluster %s", ErrDamaged, key, x.ID, x.Partition, tiering.TopicID(x.Cluster))
	case first.Base != m.Base || last.End() != m.End() || bytes != m.Bytes || newest != m.MaxTimestamp:
		return nil, fmt.Errorf("%w: %s has offsets %d to %d, %d bytes, newest record %d; its shard says %d to %d, %d, %d", ErrDamaged, key,
			first.Base, last.End(), bytes, newest, m.Base, m.End(), m.Bytes, m.MaxTimestamp)
	}
	return x.Extents, nil
}
