package catalogue

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/retry"
	"github.com/floelog/floe/tiering/objstore"
)

// ErrOtherBucket says that a bucket holds a cluster that the metadata store does not know.
var ErrOtherBucket = errors.New("the object store holds another cluster")

// copiesRead is how many copies are looked at: two are kept, and a few more wait for the sweeper.
// More are no newer.
const copiesRead = 100

// Admit returns the identity of the cluster as EnsureCluster does, unless the bucket holds a
// cluster that the metadata store does not know: the metadata store was lost, or one of both is not
// the one that was meant. A new cluster on that bucket would take the old one's objects for garbage.
func Admit(ctx context.Context, store metadata.Store, objects objstore.Store, keys metadata.Keys, want Want) (Cluster, error) {
	// The bucket first: whoever stored a copy had put the cluster's key before.
	id, err := founder(ctx, objects)
	if err != nil {
		return Cluster{}, err
	}
	if id == "" {
		return EnsureCluster(ctx, store, keys, want)
	}
	kvs, _, err := retry.Get(ctx, store, retry.NewPacer(rand.Reader), keys.Cluster())
	if err != nil {
		return Cluster{}, fmt.Errorf("reading %s: %w", keys.Cluster(), err)
	}
	if !kvs[0].Exists() {
		return Cluster{}, fmt.Errorf("%w: %s, but etcd has no %s: see that --etcd, --cluster and --store are right; if etcd was lost, run floe recover; for a new cluster give a bucket or prefix of its own",
			ErrOtherBucket, id, keys.Cluster())
	}
	c, err := decodeCluster(keys.Cluster(), kvs[0].Value)
	if err == nil && c.ID != id {
		err = fmt.Errorf("%w: %s, and etcd has cluster %s under %s: see that --etcd, --cluster and --store are right", ErrOtherBucket, id, c.ID, keys.Cluster())
	}
	return c, err
}

// founder returns the id of the cluster whose copy of the catalogue is the bucket's newest that can be
// read; empty if there is none.
func founder(ctx context.Context, objects objstore.Store) (string, error) {
	ctx = objstore.WithPurpose(ctx, objstore.Metadata)
	copies, err := objects.List(ctx, CopyPrefix, "", copiesRead)
	if err != nil {
		return "", fmt.Errorf("listing copies of the catalogue: %w", err)
	}
	slices.SortFunc(copies, func(a, b objstore.Info) int { return cmp.Or(b.Modified.Compare(a.Modified), cmp.Compare(b.Key, a.Key)) })
	for _, o := range copies {
		b, err := objects.GetRange(ctx, o.Key, 0, o.Size)
		if errors.Is(err, objstore.ErrNotFound) {
			continue // swept meanwhile
		} else if err != nil {
			return "", fmt.Errorf("reading %s: %w", o.Key, err)
		}
		if c, err := DecodeCopy(b); err == nil {
			return c.Cluster.ID, nil
		}
	}
	return "", nil
}
