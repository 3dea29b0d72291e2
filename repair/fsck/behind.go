package fsck

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/tiering"
)

// newest is, for each shard, the snapshot of the greatest journal record that the bucket has.
type newest map[tiering.ShardID]journal.SnapshotName

// add takes the key of any object.
func (n newest) add(key string) {
	name, err := journal.ParseSnapshotKey(key)
	if err == nil && (n[name.Shard].Seq < name.Seq) {
		n[name.Shard] = name
	}
}

// behind reports shards of which the bucket knows more than the metadata store: a record is
// committed before a snapshot holds it. Everything that an older state names may still be there, so
// nothing else tells that it went back. It is called after the bucket was listed.
func (c *checker) behind(ctx context.Context, n newest) error {
	for _, id := range slices.Sorted(maps.Keys(n)) {
		if uint32(id) >= c.cluster.Shards {
			continue
		}
		kvs, _, err := c.Meta.Get(ctx, c.keys.Head(id))
		if err != nil {
			return fmt.Errorf("reading %s: %w", c.keys.Head(id), err)
		}
		known := uint64(0)
		if kvs[0].Exists() {
			h, err := journal.ParseHead(kvs[0].Value)
			if err != nil {
				continue // found with the shard
			}
			known = h.Seq
		}
		if s := n[id]; s.Seq > known {
			c.report.add([]Finding{{Damage, "behind", id, "", -1, -1, -1, s.Key(), fmt.Sprintf(
				"the bucket has a snapshot of journal record %d, etcd knows records up to %d: it went back, or has lost keys, and what was acknowledged since is not named", s.Seq, known), remedyBehind}})
		}
	}
	return nil
}
