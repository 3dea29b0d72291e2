package journal

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/tiering"
)

// Head is the value of a shard's head, for those who check or rebuild what is stored.
type Head struct {
	Epoch   tiering.LeaderEpoch
	Session tiering.SessionID
	Seq     uint64
}

// Encode returns the value as an append compares it.
func (h Head) Encode() []byte { return encodeHead(h.Epoch, h.Session, h.Seq) }

// ParseHead reads the value of a shard's head.
func ParseHead(b []byte) (Head, error) {
	v, err := decodeHead(b)
	if err != nil {
		return Head{}, err
	}
	session, err := tiering.ParseSessionID(v.Session)
	return Head{v.Epoch, session, v.Seq}, err
}

// Pointer is the value that points to a shard's newest snapshot.
type Pointer struct {
	Key      string
	Size     int64
	Seq      uint64
	Previous string // the object before, kept for readers of the old pointer; empty: none
}

// Encode returns the value as it is stored.
func (p Pointer) Encode() []byte { return snapshotValue(p).encode() }

// ParsePointer reads a snapshot pointer; a key that does not exist is the zero Pointer.
func ParsePointer(kv metadata.KV) (Pointer, error) {
	v, err := decodeSnapshotPointer(kv)
	return Pointer(v), err
}

// SnapshotName is what the key of a snapshot says: snap/<shard>/<seq>-<session>-<nonce>.
type SnapshotName struct {
	Shard   tiering.ShardID
	Seq     uint64
	Session tiering.SessionID // of the leader that wrote it
	Nonce   uint64
}

// Key returns the object key.
func (n SnapshotName) Key() string { return snapshotKey(n.Shard, n.Session, n.Seq, n.Nonce) }

// ParseSnapshotKey reads what SnapshotName.Key wrote.
func ParseSnapshotKey(key string) (n SnapshotName, err error) {
	bad := fmt.Errorf("key %q: want %s<shard>/<seq>-<session>-<nonce>", key, SnapshotPrefix)
	id, rest, ok := strings.Cut(strings.TrimPrefix(key, SnapshotPrefix), "/")
	f := strings.Split(rest, "-")
	if !ok || len(f) != 3 {
		return n, bad
	}
	number, err1 := strconv.ParseUint(id, 10, 32)
	seq, err2 := strconv.ParseUint(f[0], 16, 64)
	session, err3 := tiering.ParseSessionID(f[1])
	nonce, err4 := strconv.ParseUint(f[2], 16, 64)
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil {
		return n, bad
	}
	n = SnapshotName{tiering.ShardID(number), seq, session, nonce}
	if n.Key() != key {
		return SnapshotName{}, bad
	}
	return n, nil
}
