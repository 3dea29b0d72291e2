package catalogue

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/level"
	"github.com/floelog/floe/metadata/retry"
	"github.com/floelog/floe/tiering"
)

// FormatVersion is the version of the cluster's key in new clusters: it is the cluster's level,
// see metadata/level. A cluster of a level that this code does not know is refused.
const FormatVersion = int(level.Newest)

// Bounds of a cluster's number of shards. The default spreads well over some twenty
// agents; more shards cost one view and up to one append each, however idle. Shard
// numbers have five digits in keys.
const (
	DefaultShards = 64
	MaxShards     = 100_000 - 1
)

// Cluster is the identity of a cluster, written once and never changed but for its level.
type Cluster struct {
	ID            string // random, in Kafka's notation: 22 characters of base64
	FormatVersion int    // the level as it was read, which may have risen since
	Shards        uint32
}

// Want is what a new cluster is to be like.
type Want struct {
	Shards uint32      // 0: DefaultShards
	Level  level.Level // of a new cluster; 0: level.Newest
}

// clusterValue is the value of the cluster's key, in JSON.
type clusterValue struct {
	Version int    `json:"version"`
	ID      string `json:"id"`
	Shards  uint32 `json:"shards"`
}

// EnsureCluster returns the identity of the cluster and creates it if there is none. One
// that exists is returned as it is, whatever is wanted.
//
// Putting the creation again after an unknown outcome is safe: it demands that the key
// is absent, and the key is never deleted.
func EnsureCluster(ctx context.Context, store metadata.Store, keys metadata.Keys, want Want) (Cluster, error) {
	if want.Shards == 0 {
		want.Shards = DefaultShards
	}
	if want.Shards > MaxShards {
		return Cluster{}, fmt.Errorf("%w: a cluster of %d shards; the limit is %d", metadata.ErrInvalid, want.Shards, MaxShards)
	}
	id, err := newID(rand.Reader)
	if err != nil {
		return Cluster{}, err
	}
	value, err := json.Marshal(clusterValue{int(cmp.Or(want.Level, level.Newest)), tiering.TopicID(id).String(), want.Shards})
	if err != nil {
		return Cluster{}, fmt.Errorf("encoding the cluster's identity: %w", err)
	}
	key := keys.Cluster()
	res, _, err := retry.Txn(ctx, store, retry.NewPacer(rand.Reader), metadata.Txn{
		If:   []metadata.Condition{metadata.Absent(key)},
		Then: []metadata.Op{metadata.Put(key, value)},
		Else: []string{key},
	})
	if err != nil {
		return Cluster{}, fmt.Errorf("creating or reading %s: %w", key, err)
	}
	if !res.Succeeded {
		value = res.Else[0].Value
	}
	return decodeCluster(key, value)
}

// ErrRecovering says that a recovery of the cluster has begun and not ended.
var ErrRecovering = errors.New("the cluster is being recovered")

func decodeCluster(key string, value []byte) (Cluster, error) {
	if checkVersion(value, 0) == nil {
		return Cluster{}, fmt.Errorf("cluster %s: %w: wait for floe recover, or run it again with --execute if it was cut short", key, ErrRecovering)
	}
	at, err := level.Of(value)
	if err != nil {
		return Cluster{}, fmt.Errorf("cluster %s: %w", key, err)
	}
	if !at.Known() {
		return Cluster{}, fmt.Errorf("cluster %s: its format level is %d, and this release reads levels %s: run a release of floe that reads level %d", key, at, level.Own(), at)
	}
	var v clusterValue
	if err := unmarshalStrict(value, &v); err != nil {
		return Cluster{}, fmt.Errorf("cluster %s: %w", key, err)
	}
	if _, err := tiering.ParseTopicID(v.ID); err != nil {
		return Cluster{}, fmt.Errorf("cluster %s: cluster id %q: want 22 characters of base64", key, v.ID)
	}
	if v.Shards == 0 || v.Shards > MaxShards {
		return Cluster{}, fmt.Errorf("cluster %s: %d shards: want 1 to %d", key, v.Shards, MaxShards)
	}
	return Cluster{v.ID, v.Version, v.Shards}, nil
}

// AtLevel returns the value of a cluster's key with the given level in place of its own.
func AtLevel(value []byte, to level.Level) ([]byte, error) {
	c, err := decodeCluster("", value)
	if err != nil {
		return nil, err
	}
	c.FormatVersion = int(to)
	return c.Store(), nil
}
