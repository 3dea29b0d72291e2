package topicconfig

import (
	"slices"
	"time"
)

// TimestampType says whose clock stamps records.
type TimestampType uint8

// The timestamp types.
const (
	CreateTime TimestampType = iota
	LogAppendTime
)

// Settings is what a topic's configs mean, parsed once per change of the topic, so that
// the path of a record neither looks up nor parses anything. Immutable.
type Settings struct {
	MaxMessageBytes int           // of one batch, as sent
	TimestampType   TimestampType // CreateTime or LogAppendTime
	BeforeMaxMs     int64         // how far a timestamp may lie in the past, milliseconds
	AfterMaxMs      int64         // how far it may lie in the future, milliseconds
	Compression     string        // producer, uncompressed, gzip, snappy, lz4 or zstd
	Level           int           // for Compression; codec specific
	Compacted       bool          // cleanup.policy has compact
	Deleted         bool          // cleanup.policy has delete

	Retention        time.Duration // age limit; negative for none
	RetentionBytes   int64         // size limit of a partition; negative for none
	SegmentBytes     int64         // no merged run of a partition is larger
	SegmentAge       time.Duration // no merged run of a partition spans more time
	DeleteRetention  time.Duration // of tombstones
	MinCompactionLag time.Duration
	MaxCompactionLag time.Duration
	MinDirtyRatio    float64
}

// Parse resolves a topic's settings from its overrides over the cluster's defaults over
// Kafka's. It fails, as ErrInvalid, where values are not allowed or contradict each
// other; overrides that are not known (those of a newer release) are ignored.
func Parse(overrides, defaults map[string]string) (*Settings, error) {
	p := parser{overrides: overrides, defaults: defaults}
	policy := p.get("cleanup.policy").list
	s := &Settings{
		MaxMessageBytes:  int(p.get("max.message.bytes").n),
		BeforeMaxMs:      p.get("message.timestamp.before.max.ms").n,
		AfterMaxMs:       p.get("message.timestamp.after.max.ms").n,
		Compression:      p.get("compression.type").s,
		Compacted:        slices.Contains(policy, "compact"),
		Deleted:          slices.Contains(policy, "delete"),
		Retention:        p.duration("retention.ms"),
		RetentionBytes:   p.get("retention.bytes").n,
		SegmentBytes:     p.get("segment.bytes").n,
		SegmentAge:       p.duration("segment.ms"),
		DeleteRetention:  p.duration("delete.retention.ms"),
		MinCompactionLag: p.duration("min.compaction.lag.ms"),
		MaxCompactionLag: p.duration("max.compaction.lag.ms"),
		MinDirtyRatio:    p.get("min.cleanable.dirty.ratio").f,
	}
	if p.get("message.timestamp.type").s == "LogAppendTime" {
		s.TimestampType = LogAppendTime
	}
	switch s.Compression {
	case "gzip", "lz4", "zstd":
		s.Level = int(p.get("compression." + s.Compression + ".level").n)
	}
	if p.err != nil {
		return nil, p.err
	}
	if lo, hi := p.get("min.compaction.lag.ms").n, p.get("max.compaction.lag.ms").n; lo > hi {
		return nil, invalidf("conflict topic config setting min.compaction.lag.ms (%d) > max.compaction.lag.ms (%d)", lo, hi)
	}
	return s, nil
}

// parser keeps the first error.
type parser struct {
	overrides, defaults map[string]string
	err                 error
}

func (p *parser) get(name string) value {
	k := byName[name]
	raw, ok := p.overrides[name]
	if !ok {
		raw = inForce(k, p.defaults)
	}
	v, err := k.parse(raw)
	if err != nil && p.err == nil {
		p.err = err
	}
	return v
}

// duration reads milliseconds; more than a Duration holds (292 years) is as good as for ever.
func (p *parser) duration(name string) time.Duration {
	const most = int64(1<<63-1) / int64(time.Millisecond)
	n := p.get(name).n
	if n > most {
		return 1<<63 - 1
	}
	return time.Duration(n) * time.Millisecond
}
