package topicconfig_test

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/agent/kafka/topicconfig"
)

func TestEveryDefaultIsAllowed(t *testing.T) {
	keys := topicconfig.All()
	if len(keys) < 30 {
		t.Fatalf("only %d configs", len(keys))
	}
	for i, k := range keys {
		if err := k.Check(k.Default); err != nil {
			t.Errorf("%s: default %q: %v", k.Name, k.Default, err)
		}
		if k.Doc == "" || k.Type.String() == "" {
			t.Errorf("%s: documentation %q, type %v", k.Name, k.Doc, k.Type)
		}
		if i > 0 && keys[i-1].Name >= k.Name {
			t.Errorf("%s after %s", k.Name, keys[i-1].Name)
		}
		if topicconfig.Lookup(k.Name) != k {
			t.Errorf("%s: not found, or defined twice", k.Name)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"retention.ms", "-1", ""},
		{"retention.ms", " 5 ", ""},
		{"retention.ms", "-2", "Invalid value -2 for configuration retention.ms: Value must be at least -1"},
		{"retention.ms", "soon", "Invalid value soon for configuration retention.ms: Not a number of type LONG"},
		{"max.message.bytes", "3000000000", "Invalid value 3000000000 for configuration max.message.bytes: Not a number of type INT"},
		{"min.cleanable.dirty.ratio", "1.5", "Invalid value 1.5 for configuration min.cleanable.dirty.ratio: Value must be no more than 1"},
		{"min.cleanable.dirty.ratio", "NaN", "Invalid value NaN for configuration min.cleanable.dirty.ratio: Not a number of type DOUBLE"},
		{"preallocate", "yes", "Invalid value yes for configuration preallocate: Expected value to be either true or false"},
		{"preallocate", "TRUE", ""},
		{"compression.type", "brotli", "Invalid value brotli for configuration compression.type: String must be one of: uncompressed, zstd, lz4, snappy, gzip, producer"},
		{"compression.gzip.level", "-1", ""},
		{"compression.gzip.level", "0", "Invalid value 0 for configuration compression.gzip.level: Value must be at least 1"},
		{"cleanup.policy", "compact, delete", ""},
		{"cleanup.policy", "", ""},
		{"cleanup.policy", "delete,delete", "Invalid value delete,delete for configuration cleanup.policy: Configuration values must not be duplicated"},
		{"cleanup.policy", "burn", "Invalid value burn for configuration cleanup.policy: String must be one of: compact, delete"},
		{"leader.replication.throttled.replicas", "*", ""},
		{"leader.replication.throttled.replicas", "0:1,1:2", ""},
		{"leader.replication.throttled.replicas", "0-1", "must be the literal '*'"},
		{"segment.bytes", "14", "Invalid value 14 for configuration segment.bytes: Value must be at least 1048576"},
		{"no.such", "1", "Unknown topic config name: no.such"},
		{"min.compaction.lag.ms", "9223372036854775807", ""},
	} {
		err := topicconfig.Validate(map[string]string{c.name: c.value}, nil)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s=%q: %v", c.name, c.value, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, topicconfig.ErrInvalid)):
			t.Errorf("%s=%q: %v, want %q", c.name, c.value, err, c.want)
		}
	}
	both := map[string]string{"min.compaction.lag.ms": "10", "max.compaction.lag.ms": "5"}
	if err := topicconfig.Validate(both, nil); !errors.Is(err, topicconfig.ErrInvalid) {
		t.Errorf("contradicting lags: %v", err)
	}
}

func TestApply(t *testing.T) {
	str := func(s string) *string { return &s }
	for name, c := range map[string]struct {
		edit topicconfig.Edit
		want map[string]string // nil: refused
	}{
		"set":                   {topicconfig.Edit{"retention.ms", topicconfig.Set, str("5")}, map[string]string{"cleanup.policy": "compact", "retention.ms": "5"}},
		"set null":              {topicconfig.Edit{"retention.ms", topicconfig.Set, nil}, nil},
		"set unknown":           {topicconfig.Edit{"no.such", topicconfig.Set, str("5")}, nil},
		"delete":                {topicconfig.Edit{"cleanup.policy", topicconfig.Delete, nil}, map[string]string{}},
		"delete what is unset":  {topicconfig.Edit{"retention.ms", topicconfig.Delete, nil}, map[string]string{"cleanup.policy": "compact"}},
		"delete unknown":        {topicconfig.Edit{"no.such", topicconfig.Delete, nil}, nil},
		"append":                {topicconfig.Edit{"cleanup.policy", topicconfig.Append, str("delete")}, map[string]string{"cleanup.policy": "compact,delete"}},
		"append what is there":  {topicconfig.Edit{"cleanup.policy", topicconfig.Append, str("compact")}, map[string]string{"cleanup.policy": "compact"}},
		"append to number":      {topicconfig.Edit{"retention.ms", topicconfig.Append, str("5")}, nil},
		"subtract":              {topicconfig.Edit{"cleanup.policy", topicconfig.Subtract, str("compact")}, map[string]string{"cleanup.policy": ""}},
		"subtract what is not":  {topicconfig.Edit{"cleanup.policy", topicconfig.Subtract, str("delete")}, map[string]string{"cleanup.policy": "compact"}},
		"operation of no kind":  {topicconfig.Edit{"cleanup.policy", 9, str("delete")}, nil},
		"operation below range": {topicconfig.Edit{"cleanup.policy", -1, str("delete")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			current := map[string]string{"cleanup.policy": "compact"}
			got, err := topicconfig.Apply(current, nil, []topicconfig.Edit{c.edit})
			if (err == nil) != (c.want != nil) || c.want != nil && !maps.Equal(got, c.want) {
				t.Fatalf("got %v, %v; want %v", got, err, c.want)
			}
			if err != nil && !errors.Is(err, topicconfig.ErrInvalid) {
				t.Errorf("%v is not ErrInvalid", err)
			}
			if len(current) != 1 || current["cleanup.policy"] != "compact" {
				t.Errorf("current was changed: %v", current)
			}
		})
	}
}

func TestParse(t *testing.T) {
	s, err := topicconfig.Parse(
		map[string]string{"compression.type": "zstd", "message.timestamp.type": "LogAppendTime", "cleanup.policy": "compact,delete", "of.a.newer.release": "x"},
		map[string]string{"max.message.bytes": "1000", "compression.type": "gzip"})
	if err != nil {
		t.Fatal(err)
	}
	want := topicconfig.Settings{
		MaxMessageBytes: 1000, TimestampType: topicconfig.LogAppendTime, BeforeMaxMs: 1<<63 - 1, AfterMaxMs: 3600_000,
		Compression: "zstd", Level: 3, Compacted: true, Deleted: true,
		Retention: 7 * 24 * time.Hour, RetentionBytes: -1, SegmentBytes: 1 << 30, SegmentAge: 7 * 24 * time.Hour, DeleteRetention: 24 * time.Hour, MaxCompactionLag: 1<<63 - 1, MinDirtyRatio: 0.5,
	}
	if *s != want {
		t.Errorf("got %+v\nwant %+v", *s, want)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add("retention.ms", "-1")
	f.Add("cleanup.policy", ",,")
	f.Fuzz(func(t *testing.T, name, value string) {
		overrides := map[string]string{name: value}
		if topicconfig.Validate(overrides, nil) != nil {
			return
		}
		if _, err := topicconfig.Parse(overrides, nil); err != nil {
			t.Errorf("%s=%q is valid, but does not parse: %v", name, value, err)
		}
	})
}
