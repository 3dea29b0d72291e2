package catalogue

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/floelog/floe/tiering"
)

const (
	topicVersion = 1

	// MaxPartitions bounds one topic. Fewer would refuse what large clusters do; more
	// would make answers about one topic many megabytes large.
	MaxPartitions = 100_000

	// maxTopicBytes bounds one topic's value. Smaller could refuse sensible overrides,
	// larger would let topics fill the metadata store and its transactions.
	maxTopicBytes = 64 << 10

	maxNameBytes = 249 // Kafka's, where a name was also that of a directory
)

// Topic is one topic. It is shared by all who look it up and must not be modified.
type Topic struct {
	Name              string
	ID                tiering.TopicID
	Partitions        int32
	ReplicationFactor int16             // as asked for, reported, without effect
	FirstShard        tiering.ShardID   // of partition 0; see tiering.ShardOf
	Configs           map[string]string // overrides only
	Created           int64             // milliseconds since 1970, by the creating agent's clock

	change changeID // of the value it was read from
}

// changeID is drawn for every value of a topic that is written.
type changeID [16]byte

// topicValue is the value of a topic's key, in JSON. Fields that this version does not
// know make a value unreadable rather than vanish at the next change: a new field takes
// a new version.
type topicValue struct {
	Version           int               `json:"version"`
	ID                string            `json:"id"`
	Change            string            `json:"change"`
	Partitions        int32             `json:"partitions"`
	ReplicationFactor int16             `json:"replication_factor"`
	FirstShard        uint32            `json:"first_shard"`
	CreatedMs         int64             `json:"created_ms"`
	Configs           map[string]string `json:"configs,omitempty"`
}

// FirstShard returns the shard of the first partition of a topic with this id.
func FirstShard(id tiering.TopicID, shards uint32) tiering.ShardID {
	h := uint32(2166136261) // FNV-1a
	for _, b := range id {
		h = (h ^ uint32(b)) * 16777619
	}
	return tiering.ShardID(h % shards)
}

func (t *Topic) encode() ([]byte, error) {
	value, err := json.Marshal(topicValue{
		Version: topicVersion, ID: t.ID.String(), Change: tiering.TopicID(t.change).String(),
		Partitions: t.Partitions, ReplicationFactor: t.ReplicationFactor,
		FirstShard: uint32(t.FirstShard), CreatedMs: t.Created, Configs: t.Configs,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding topic %q: %w", t.Name, err)
	}
	if len(value) > maxTopicBytes {
		return nil, fmt.Errorf("%w: topic %q would take %d bytes, the limit is %d", ErrConfigTooLarge, t.Name, len(value), maxTopicBytes)
	}
	return value, nil
}

func decodeTopic(name string, value []byte, shards uint32) (Topic, error) {
	t, err := decodeTopicValue(value, shards)
	if err == nil {
		err = ValidateTopicName(name)
	}
	if err != nil {
		return Topic{}, fmt.Errorf("topic %q: %w", name, err)
	}
	t.Name = name
	return t, nil
}

func decodeTopicValue(value []byte, shards uint32) (Topic, error) {
	if err := checkVersion(value, topicVersion); err != nil {
		return Topic{}, err
	}
	var v topicValue
	if err := unmarshalStrict(value, &v); err != nil {
		return Topic{}, err
	}
	id, err := tiering.ParseTopicID(v.ID)
	if err != nil {
		return Topic{}, err
	}
	change, err := tiering.ParseTopicID(v.Change)
	if err != nil {
		return Topic{}, fmt.Errorf("change id: %w", err)
	}
	switch {
	case id == tiering.TopicID{}:
		return Topic{}, errors.New("topic id is zero")
	case v.Partitions < 1 || v.Partitions > MaxPartitions:
		return Topic{}, fmt.Errorf("%d partitions: want 1 to %d", v.Partitions, MaxPartitions)
	case v.FirstShard >= shards:
		return Topic{}, fmt.Errorf("first shard %d: the cluster has %d shards", v.FirstShard, shards)
	}
	return Topic{ID: id, Partitions: v.Partitions, ReplicationFactor: v.ReplicationFactor,
		FirstShard: tiering.ShardID(v.FirstShard), Configs: v.Configs, Created: v.CreatedMs, change: changeID(change)}, nil
}

// checkVersion refuses a value of a version other than the one that this code reads.
func checkVersion(value []byte, want int) error {
	var v struct {
		Version *int `json:"version"`
	}
	if err := json.Unmarshal(value, &v); err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	if v.Version == nil {
		return errors.New("value names no format version")
	}
	if *v.Version != want {
		return fmt.Errorf("format version is %d, but this release of floe reads version %d: run a release that reads version %d",
			*v.Version, want, *v.Version)
	}
	return nil
}

func unmarshalStrict(value []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(value))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("decoding: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("decoding: bytes after the value")
	}
	return nil
}

// ValidateTopicName reports, as ErrInvalidTopic, why no topic can have this name. The
// rules are Kafka's: 1 to 249 ASCII letters, digits, '.', '_' and '-', but not "." or "..".
func ValidateTopicName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: it is empty", ErrInvalidTopic)
	case name == "." || name == "..":
		return fmt.Errorf("%w: it must not be %q", ErrInvalidTopic, name)
	case len(name) > maxNameBytes:
		return fmt.Errorf("%w: it has %d characters, the limit is %d", ErrInvalidTopic, len(name), maxNameBytes)
	}
	for i := range len(name) {
		c := name[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
			return fmt.Errorf("%w: %q contains %q; only ASCII letters, digits, '.', '_' and '-' may be used", ErrInvalidTopic, name, c)
		}
	}
	return nil
}

// folded returns what names have in common that differ only in '.' and '_', which
// Kafka's metrics cannot tell apart; ok is false for a name that has neither.
func folded(name string) (f string, ok bool) {
	if !strings.ContainsAny(name, "._") {
		return "", false
	}
	return strings.ReplaceAll(name, ".", "_"), true
}
