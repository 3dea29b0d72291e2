package journal

import (
	"encoding/json"
	"fmt"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/tiering"
)

// The values of the keys leader, head and snapshot are JSON, for the eyes of operators.
// Leadership and head are compared byte by byte in every append, so their encoding must
// stay deterministic: fields in this order, nothing else.

type leaderValue struct {
	Node    int32               `json:"node"`
	Session string              `json:"session"`
	Epoch   tiering.LeaderEpoch `json:"epoch"`
}

// headValue names the last record: its leader's epoch and session, and its seq. A takeover
// rewrites it with the new leader's epoch and session, at the same seq.
type headValue struct {
	Epoch   tiering.LeaderEpoch `json:"epoch"`
	Session string              `json:"session"`
	Seq     uint64              `json:"seq"`
}

// snapshotValue points to a shard's newest snapshot. Previous is the one before, kept so
// that a reader of the old pointer still finds its object.
type snapshotValue struct {
	Key      string `json:"key"`
	Size     int64  `json:"size"`
	Seq      uint64 `json:"seq"`
	Previous string `json:"previous,omitempty"`
}

func encodeHead(epoch tiering.LeaderEpoch, session tiering.SessionID, seq uint64) []byte {
	return fmt.Appendf(nil, `{"epoch":%d,"session":"%s","seq":%d}`, epoch, session, seq)
}

func encodeLeader(node int32, session tiering.SessionID, epoch tiering.LeaderEpoch) []byte {
	return fmt.Appendf(nil, `{"node":%d,"session":"%s","epoch":%d}`, node, session, epoch)
}

func decodeHead(b []byte) (h headValue, err error) {
	if err := json.Unmarshal(b, &h); err != nil {
		return h, fmt.Errorf("reading a journal's head %q: %w", b, err)
	}
	return h, nil
}

func decodeLeader(b []byte) (Leadership, error) {
	var l leaderValue
	if err := json.Unmarshal(b, &l); err != nil {
		return Leadership{}, fmt.Errorf("reading a shard's leader %q: %w", b, err)
	}
	session, err := tiering.ParseSessionID(l.Session)
	return Leadership{l.Node, session, l.Epoch, true}, err
}

func decodeSnapshotPointer(kv metadata.KV) (p snapshotValue, err error) {
	if !kv.Exists() {
		return p, nil
	}
	if err := json.Unmarshal(kv.Value, &p); err != nil {
		return p, fmt.Errorf("reading a snapshot pointer %q: %w", kv.Value, err)
	}
	return p, nil
}

func (p snapshotValue) encode() []byte {
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	return b
}
