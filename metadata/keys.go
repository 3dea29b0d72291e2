package metadata

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/floelog/floe/tiering"
)

// Keys builds the keys of one cluster:
//
//	/floe/<cluster>/
//	    cluster                     cluster id, level, number of shards; only the level ever changes, upwards
//	    level-intent                announces that the level is about to rise
//	    rpc-secret                  what agents know each other by; written once
//	    producer-ids                next producer id to hand out, in blocks
//	    gc-freeze                   while it is there nothing is deleted from the object store
//	    gc-mark                     number of the newest sweep, see compaction/sweep
//	    agents/<node id>            registration of an agent            leased
//	    sessions/<session>          present while that session lives    leased
//	    topic-fence                 moved to make unanswered creations of topics impossible
//	    topics/<name>               topic id, partitions, first shard, configs
//	    placement                   shards that are pinned to agents because of their load
//	    jobs/<shard>                session of the agent that does the shard's jobs    leased
//	    shards/<n>/leader           node id, session, epoch             leased
//	    shards/<n>/head             epoch, session, seq of the last record
//	    shards/<n>/journal/<seq>    one journal record
//	    shards/<n>/snapshot         object key and seq of the newest snapshot
//
// Shard and node numbers and journal sequence numbers are zero-padded, so that the order
// of keys is the order of numbers. A session has a key of its own, apart from its
// agent's registration, so that an append can demand that the session lives by a
// condition that no update of the registration disturbs.
type Keys struct{ root string }

// NewKeys returns the keys of the named cluster.
func NewKeys(cluster string) Keys { return Keys{"/floe/" + cluster + "/"} }

// Root is the prefix of all keys of the cluster.
func (k Keys) Root() string { return k.root }

// Cluster is the key of the cluster's identity.
func (k Keys) Cluster() string { return k.root + "cluster" }

// LevelIntent is the key that announces that the cluster's level is about to rise.
func (k Keys) LevelIntent() string { return k.root + "level-intent" }

// RPCSecret is the key of the secret by which agents know each other.
func (k Keys) RPCSecret() string { return k.root + "rpc-secret" }

// ProducerIDs is the key of the producer id allocator.
func (k Keys) ProducerIDs() string { return k.root + "producer-ids" }

// GCFreeze is the key that stops all deletion from the object store while it exists: a
// recovery puts it, and the operator lifts it when what was recovered has been checked.
func (k Keys) GCFreeze() string { return k.root + "gc-freeze" }

// GCMark is the key of the newest sweep's mark, whose twin in the object store tells when the
// metadata store was restored from a backup.
func (k Keys) GCMark() string { return k.root + "gc-mark" }

// Agents is the prefix of all registrations.
func (k Keys) Agents() string { return k.root + "agents/" }

// Agent is the key of one agent's registration.
func (k Keys) Agent(node int32) string { return fmt.Sprintf("%sagents/%010d", k.root, node) }

// Session is the key that exists while a session lives.
func (k Keys) Session(s tiering.SessionID) string { return k.root + "sessions/" + s.String() }

// Sessions is the prefix of all sessions.
func (k Keys) Sessions() string { return k.root + "sessions/" }

// TopicFence is the key on whose value every creation of a topic depends: moving it ends
// all creations whose outcome is unknown.
func (k Keys) TopicFence() string { return k.root + "topic-fence" }

// Placement is the key of the shards that are pinned to agents because of their load.
func (k Keys) Placement() string { return k.root + "placement" }

// Jobs is the prefix of all claims of shards' jobs.
func (k Keys) Jobs() string { return k.root + "jobs/" }

// Job is the key of who does a shard's jobs.
func (k Keys) Job(n tiering.ShardID) string { return fmt.Sprintf("%sjobs/%05d", k.root, n) }

// Topics is the prefix of all topics.
func (k Keys) Topics() string { return k.root + "topics/" }

// Topic is the key of one topic, by name.
func (k Keys) Topic(name string) string { return k.root + "topics/" + name }

// Shards is the prefix of everything about shards.
func (k Keys) Shards() string { return k.root + "shards/" }

// Shard is the prefix of everything about one shard.
func (k Keys) Shard(n tiering.ShardID) string { return fmt.Sprintf("%sshards/%05d/", k.root, n) }

// Leader is the key of a shard's leadership.
func (k Keys) Leader(n tiering.ShardID) string { return k.Shard(n) + "leader" }

// Head is the key of a shard's journal head.
func (k Keys) Head(n tiering.ShardID) string { return k.Shard(n) + "head" }

// Journal is the prefix of a shard's journal records.
func (k Keys) Journal(n tiering.ShardID) string { return k.Shard(n) + "journal/" }

// JournalRecord is the key of one journal record.
func (k Keys) JournalRecord(n tiering.ShardID, seq uint64) string {
	return fmt.Sprintf("%s%016x", k.Journal(n), seq)
}

// Snapshot is the key of the pointer to a shard's newest snapshot.
func (k Keys) Snapshot(n tiering.ShardID) string { return k.Shard(n) + "snapshot" }

// ShardKey is a key under Shards, taken apart.
type ShardKey struct {
	Shard tiering.ShardID
	Name  string // leader, head, journal or snapshot
	Seq   uint64 // of a journal record
}

// ParseShardKey takes apart a key under Shards.
func (k Keys) ParseShardKey(key string) (ShardKey, error) {
	rest, ok := strings.CutPrefix(key, k.Shards())
	f := strings.Split(rest, "/")
	bad := fmt.Errorf("shard key %q: unknown form", key)
	if !ok || len(f) < 2 {
		return ShardKey{}, bad
	}
	n, err := strconv.ParseUint(f[0], 10, 32)
	if err != nil {
		return ShardKey{}, bad
	}
	sk := ShardKey{Shard: tiering.ShardID(n), Name: f[1]}
	switch {
	case len(f) == 2 && (f[1] == "leader" || f[1] == "head" || f[1] == "snapshot"):
		return sk, nil
	case len(f) == 3 && f[1] == "journal":
		if sk.Seq, err = strconv.ParseUint(f[2], 16, 64); err == nil {
			return sk, nil
		}
	}
	return ShardKey{}, bad
}
