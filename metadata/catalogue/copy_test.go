package catalogue_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/tiering"
)

var rewrite = flag.Bool("rewrite", false, "write golden files that do not exist yet")

func sampleCopy(t testing.TB) catalogue.Copy {
	t.Helper()
	c := catalogue.Copy{
		Cluster:   catalogue.Cluster{ID: tiering.TopicID{1, 2, 3}.String(), FormatVersion: 1, Shards: 8},
		CreatedAt: 1_700_000_000_000, Revision: 77, ProducerID: 4000,
	}
	for i, name := range []string{"a", "orders.v1"} {
		topic := catalogue.Topic{Name: name, ID: tiering.TopicID{9, byte(i)}, Partitions: int32(i + 1), ReplicationFactor: 1, FirstShard: tiering.ShardID(i), Created: 5, Configs: map[string]string{"cleanup.policy": "compact"}}
		value, err := topic.Store([16]byte{byte(i), 7})
		if err != nil {
			t.Fatal(err)
		}
		stored, err := catalogue.StoredTopic(name, value, 8)
		if err != nil {
			t.Fatal(err)
		}
		c.Topics = append(c.Topics, stored)
	}
	return c
}

func TestCopyReadsBack(t *testing.T) {
	c := sampleCopy(t)
	b, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := catalogue.DecodeCopy(b)
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Fatalf("reads back as %+v, %v\nwant %+v", got, err, c)
	}
	for i := range b {
		damaged := bytes.Clone(b)
		damaged[i] ^= 1
		if _, err := catalogue.DecodeCopy(damaged); err == nil {
			t.Errorf("a flip of byte %d went unnoticed", i)
		}
		if _, err := catalogue.DecodeCopy(b[:i]); err == nil {
			t.Errorf("a cut at %d went unnoticed", i)
		}
	}
}

func TestCopyGolden(t *testing.T) {
	name := filepath.Join("testdata", "copy.v1.hex")
	c := sampleCopy(t)
	b, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) && *rewrite {
		want = []byte(hex.EncodeToString(b) + "\n")
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		err = os.WriteFile(name, want, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(b) + "\n"; got != string(want) {
		t.Errorf("the format has changed without a new version:\n%s\nwant\n%s", got, want)
	}
}

func TestCopyKeys(t *testing.T) {
	s := tiering.SessionID{5}
	key := catalogue.CopyKey(s, 17)
	if got, seq, err := catalogue.ParseCopyKey(key); err != nil || got != s || seq != 17 {
		t.Errorf("%s reads as %s, %d, %v", key, got, seq, err)
	}
	for _, bad := range []string{"cat/x/1", "cat/" + s.String(), "seg/" + s.String() + "/0000000000000001", key + "0"} {
		if _, _, err := catalogue.ParseCopyKey(bad); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestNoAgentStartsOnAClusterThatIsBeingRecovered(t *testing.T) {
	c := sampleCopy(t)
	kv := metadata.KV{Key: "k", Value: c.Cluster.Recovering(), Revision: 1}
	if _, err := catalogue.StoredCluster(kv); !errors.Is(err, catalogue.ErrRecovering) {
		t.Errorf("%v, want ErrRecovering", err)
	}
	if id, ok := catalogue.RecoveringID(kv.Value); !ok || id != c.Cluster.ID {
		t.Errorf("recovering %q, %v", id, ok)
	}
	kv.Value = c.Cluster.Store()
	if id, ok := catalogue.RecoveringID(kv.Value); ok {
		t.Errorf("recovering %q, although it is done", id)
	}
	if got, err := catalogue.StoredCluster(kv); err != nil || got != c.Cluster {
		t.Errorf("%+v, %v; want %+v", got, err, c.Cluster)
	}
}

func FuzzDecodeCopy(f *testing.F) {
	c := sampleCopy(f)
	b, err := c.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:70])
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := catalogue.DecodeCopy(b)
		if err != nil {
			return
		}
		again, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := catalogue.DecodeCopy(again)
		if err != nil || !reflect.DeepEqual(back, c) {
			t.Errorf("%+v reads back as %+v, %v", c, back, err)
		}
	})
}
