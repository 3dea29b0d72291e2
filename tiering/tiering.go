// Package tiering holds the nouns that every other package speaks in: partitions,
// offsets, byte positions, segments and extents. It does no I/O and imports nothing
// of Floe, so that an offset can never be passed where a byte position is meant.
package tiering

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// ShardID numbers a shard, the unit of leadership and of metadata, from 0 up to the
// cluster's number of shards, which is fixed when the cluster is created.
type ShardID uint32

// Offset numbers a record within a partition. Offsets are dense in commit order.
type Offset int64

// Position counts bytes within an object.
type Position int64

// LeaderEpoch numbers the leaderships of a shard, and so of its partitions. It only
// grows: a client that sees an older one waits for ever (KIP-320).
type LeaderEpoch int32

// TopicID identifies a topic for ever, across deletion and re-creation under the
// same name (KIP-516).
type TopicID [16]byte

// String renders the id as Kafka does: unpadded URL-safe base64.
func (id TopicID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// ParseTopicID reads what TopicID.String wrote.
func ParseTopicID(s string) (TopicID, error) {
	var id TopicID
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("topic id %q: want 22 characters of URL-safe base64", s)
	}
	copy(id[:], b)
	return id, nil
}

// TopicPartition names one partition of one topic.
type TopicPartition struct {
	Topic     TopicID
	Partition int32
}

func (tp TopicPartition) String() string {
	return tp.Topic.String() + "-" + strconv.Itoa(int(tp.Partition))
}

// Compare orders partitions by topic id, then by partition.
func (tp TopicPartition) Compare(o TopicPartition) int {
	if c := bytes.Compare(tp.Topic[:], o.Topic[:]); c != 0 {
		return c
	}
	return int(tp.Partition) - int(o.Partition)
}

// ShardOf returns the shard of partition p of a topic whose first partition lives on
// shard first: partition p lies p shards further, so that a topic spreads evenly.
func ShardOf(first ShardID, p int32, shards uint32) ShardID {
	return ShardID((uint32(first) + uint32(p)) % shards)
}

// ShardOfName returns the shard whose leader coordinates the consumer group, or the
// transactional id, of the given name. It is part of how a cluster's state is laid out:
// never change it.
func ShardOfName(name string, shards uint32) ShardID {
	h := uint32(2166136261) // FNV-1a, its bits mixed once more for small numbers of shards
	for i := range len(name) {
		h = (h ^ uint32(name[i])) * 16777619
	}
	h ^= h >> 16
	h *= 0x85ebca6b
	h ^= h >> 13
	return ShardID(h % shards)
}

// SessionID is drawn afresh at every start of an agent, so that nothing it wrote can
// be mistaken for the work of another life of the same agent.
type SessionID [16]byte

// String renders the session as 32 hexadecimal digits.
func (s SessionID) String() string { return hex.EncodeToString(s[:]) }

// IsZero reports whether no session is named.
func (s SessionID) IsZero() bool { return s == SessionID{} }

// ParseSessionID reads what SessionID.String wrote.
func ParseSessionID(s string) (SessionID, error) {
	var id SessionID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("session %q: want 32 hexadecimal digits", s)
	}
	copy(id[:], b)
	return id, nil
}

// SegmentID identifies a segment for ever: the session that wrote it and that
// session's own running number. It is never reused, whatever becomes of the upload.
type SegmentID struct {
	Session SessionID
	Seq     uint64
}

// IsZero reports whether no segment is named.
func (id SegmentID) IsZero() bool { return id == SegmentID{} }

func (id SegmentID) String() string { return fmt.Sprintf("%s/%016x", id.Session, id.Seq) }

// The key prefixes under which objects that a SegmentID names are stored.
const (
	SegmentPrefix  = "seg/" // segments
	ManifestPrefix = "man/" // manifests, see tiering/manifest
)

// Key returns the object key of the segment: seg/<hash>/<session>/<seq>. The two hex
// digits of hash spread a session's uploads over the store's key-space partitions.
func (id SegmentID) Key() string { return id.key(SegmentPrefix) }

// ManifestKey returns the object key of the manifest of that name: man/<hash>/<session>/<seq>.
// Manifests and segments share a session's running number.
func (id SegmentID) ManifestKey() string { return id.key(ManifestPrefix) }

func (id SegmentID) key(prefix string) string {
	h := uint32(2166136261) // FNV-1a over session and seq
	for _, b := range id.Session {
		h = (h ^ uint32(b)) * 16777619
	}
	for i := range 8 {
		h = (h ^ uint32(byte(id.Seq>>(8*i)))) * 16777619
	}
	return fmt.Sprintf("%s%02x/%s", prefix, byte(h^h>>8^h>>16), id)
}

// ParseSegmentKey reads what SegmentID.Key wrote.
func ParseSegmentKey(key string) (SegmentID, error) { return parseKey(SegmentPrefix, key) }

// ParseManifestKey reads what SegmentID.ManifestKey wrote.
func ParseManifestKey(key string) (SegmentID, error) { return parseKey(ManifestPrefix, key) }

func parseKey(prefix, key string) (SegmentID, error) {
	var id SegmentID
	f := strings.Split(strings.TrimPrefix(key, prefix), "/")
	bad := fmt.Errorf("key %q: want %s<hash>/<session>/<seq>", key, prefix)
	if len(f) != 3 || len(f[2]) != 16 {
		return id, bad
	}
	session, err := ParseSessionID(f[1])
	if err != nil {
		return id, bad
	}
	seq, err := strconv.ParseUint(f[2], 16, 64)
	if err != nil {
		return id, bad
	}
	id = SegmentID{Session: session, Seq: seq}
	if id.key(prefix) != key {
		return SegmentID{}, bad
	}
	return id, nil
}

// Extent is metadata's reference to a run of offsets of one partition: whole record
// batches, contiguous both in offsets and in bytes. Where they are is a byte range
// of a segment or, for an inline extent, the bytes themselves.
//
// The batches cover the extent's offsets without a gap: where log compaction has removed
// some between two batches, the last offset delta of the first one reaches up to the second
// one. A reader works out base offsets from Base, and leader epochs from where the
// partition's epochs begin, and patches them in: the batch CRC does not cover them. Of level 1
// on, segments hold them already, so that they can be read without metadata.
type Extent struct {
	Base         Offset
	Count        int64       // offsets covered, at least 1
	MaxTimestamp int64       // greatest record timestamp, milliseconds since 1970
	Epoch        LeaderEpoch // of the first batch
	Length       int32       // bytes; 0 for a hole
	Segment      SegmentID   // zero for an inline extent
	Position     Position    // of the first byte within the segment
	Inline       []byte      // the batches themselves, nil unless inline
}

// End returns the offset after the extent's last.
func (e Extent) End() Offset { return e.Base + Offset(e.Count) }

// IsInline reports whether the extent carries its bytes itself.
func (e Extent) IsInline() bool { return e.Segment.IsZero() && e.Length > 0 }

// IsHole reports whether the extent stands for offsets that have no records any more: log
// compaction removed all of them. Its MaxTimestamp is NoTimestamp.
func (e Extent) IsHole() bool { return e.Length == 0 }

// NoTimestamp is the timestamp of what has none.
const NoTimestamp int64 = -1
