package catalogue_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/tiering"
)

func TestValidateTopicName(t *testing.T) {
	for _, name := range []string{"a", "A.b_c-9", "...", "__consumer_offsets", strings.Repeat("x", 249)} {
		if err := catalogue.ValidateTopicName(name); err != nil {
			t.Errorf("%q is refused: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", "a b", "a/b", "ä", "a\x00", "a,b", strings.Repeat("x", 250)} {
		if err := catalogue.ValidateTopicName(name); !errors.Is(err, catalogue.ErrInvalidTopic) {
			t.Errorf("%q: error is %v, want ErrInvalidTopic", name, err)
		}
	}
}

func TestFirstShardIsSpreadAndFixed(t *testing.T) {
	id, err := tiering.ParseTopicID("AAECAwQFBgcICQoLDA0ODw")
	if err != nil {
		t.Fatal(err)
	}
	if got := catalogue.FirstShard(id, 64); got != 21 {
		t.Errorf("first shard is %d, want 21: it must not change between versions", got)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	counts := make([]int, 64)
	for range 64_000 {
		var id tiering.TopicID
		for i := range id {
			id[i] = byte(rnd.Uint32())
		}
		counts[catalogue.FirstShard(id, 64)]++
	}
	if lo, hi := slices.Min(counts), slices.Max(counts); lo < 800 || hi > 1200 {
		t.Errorf("64,000 topics on 64 shards: between %d and %d on each, want about 1,000", lo, hi)
	}
}

// TestTopicValue holds the encoding fixed: what is here is in clusters out there.
func TestTopicValue(t *testing.T) {
	const golden = `{"version":1,"id":"AAECAwQFBgcICQoLDA0ODw","change":"Dw4NDAsKCQgHBgUEAwIBAA","partitions":3,"replication_factor":2,"first_shard":37,"created_ms":1700000000123,"configs":{"retention.ms":"1000"}}`
	srv := memory.New()
	defer srv.Close()
	s := srv.Client("test")
	put(t, s, keys.Topic("a"), golden)
	c := newCatalogue(s, 1)
	got, err := c.Find(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != "a" || got.ID.String() != "AAECAwQFBgcICQoLDA0ODw" || got.Partitions != 3 || got.ReplicationFactor != 2 ||
		got.FirstShard != 37 || got.Created != 1700000000123 || !maps.Equal(got.Configs, map[string]string{"retention.ms": "1000"}) {
		t.Errorf("read %+v", got)
	}

	c = catalogue.New(s, keys, cluster, catalogue.Config{Random: newSource(1), Now: func() time.Time { return time.UnixMilli(1700000000123) }})
	made := mustCreate(t, c, "b", 3)
	kvs, _, err := s.Get(t.Context(), keys.Topic("b"))
	if err != nil {
		t.Fatal(err)
	}
	id := made.Topic.ID.String()
	want := fmt.Sprintf(`{"version":1,"id":"%s","change":"%s","partitions":3,"replication_factor":3,"first_shard":%d,"created_ms":1700000000123}`, id, id, made.Topic.FirstShard)
	if string(kvs[0].Value) != want {
		t.Errorf("wrote %s\nwant  %s", kvs[0].Value, want)
	}
}

// FuzzTopicValue feeds values to the decoder, through Find: it must never panic, and what
// it accepts must be a topic that one can work with.
func FuzzTopicValue(f *testing.F) {
	for _, v := range []string{
		`{"version":1,"id":"AAECAwQFBgcICQoLDA0ODw","change":"Dw4NDAsKCQgHBgUEAwIBAA","partitions":3,"replication_factor":2,"first_shard":37,"created_ms":1,"configs":{"a":"b"}}`,
		`{"version":2}`, `{"version":1,"partitions":-1}`, `[]`, `null`, ``, `{"version":1,"first_shard":64}`,
	} {
		f.Add([]byte(v))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		srv := memory.New()
		defer srv.Close()
		s := srv.Client("test")
		if len(value) > metadata.MaxTxnBytes/2 {
			return
		}
		put(t, s, keys.Topic("a"), string(value))
		topic, err := newCatalogue(s, 1).Find(t.Context(), "a")
		if err != nil {
			if !errors.Is(err, catalogue.ErrIncomplete) {
				t.Fatalf("error is %v, want ErrIncomplete", err)
			}
			return
		}
		if topic.ID == (tiering.TopicID{}) || topic.Partitions < 1 || uint32(topic.FirstShard) >= cluster.Shards {
			t.Fatalf("accepted %+v", topic)
		}
	})
}

func TestLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		other := newCatalogue(srv.Client("other"), 1)
		c := newCatalogue(srv.Client("agent"), 2)
		if _, ok := c.Topic("a"); ok || c.View().Len() != 0 {
			t.Error("an empty catalogue knows topics")
		}
		for range c.View().Topics() {
			t.Error("an empty catalogue lists topics")
		}
		defer start(t, c)()
		wait(t, c, 1)
		var last catalogue.Change
		for _, name := range []string{"c", "a", "b"} {
			last = mustCreate(t, other, name, 1)
		}
		if found, err := c.Find(t.Context(), "b"); err != nil || found.ID != last.Topic.ID {
			t.Errorf("Find: %v, %v", found, err)
		}
		if found, err := c.FindByID(t.Context(), last.Topic.ID); err != nil || found.Name != "b" {
			t.Errorf("FindByID: %v, %v", found, err)
		}
		if _, err := c.Find(t.Context(), "x"); !errors.Is(err, catalogue.ErrTopicNotFound) {
			t.Errorf("Find of an unknown topic: %v", err)
		}
		if _, err := c.Find(t.Context(), "x/y"); !errors.Is(err, catalogue.ErrInvalidTopic) {
			t.Errorf("Find of an impossible topic: %v", err)
		}
		unknown := tiering.TopicID{1}
		if _, err := c.FindByID(t.Context(), unknown); !errors.Is(err, catalogue.ErrTopicNotFound) {
			t.Errorf("FindByID of an unknown topic: %v", err)
		}
		wait(t, c, last.Revision)
		var names []string
		for topic := range c.View().Topics() {
			names = append(names, topic.Name)
			byID, ok := c.TopicByID(topic.ID)
			byName, ok2 := c.Topic(topic.Name)
			if !ok || !ok2 || byID != topic || byName != topic {
				t.Errorf("topic %q is not found by name and id", topic.Name)
			}
		}
		if !slices.Equal(names, []string{"a", "b", "c"}) {
			t.Errorf("topics are %q", names)
		}
		gone, err := c.Gone(t.Context(), []tiering.TopicID{unknown, last.Topic.ID})
		if err != nil || !slices.Equal(gone, []tiering.TopicID{unknown}) {
			t.Errorf("gone are %v, %v", gone, err)
		}
		// Nothing may be taken for deleted while a topic cannot be read.
		wait(t, c, put(t, srv.Client("newer"), keys.Topic("b"), `{"version":2}`))
		if _, err := c.Gone(t.Context(), []tiering.TopicID{unknown}); !errors.Is(err, catalogue.ErrIncomplete) {
			t.Errorf("Gone with an unreadable topic: %v", err)
		}
		if _, err := c.FindByID(t.Context(), unknown); !errors.Is(err, catalogue.ErrIncomplete) {
			t.Errorf("FindByID with an unreadable topic: %v", err)
		}
		if old, ok := c.Topic("b"); !ok || old.ID != last.Topic.ID {
			t.Error("the last readable state of an unreadable topic is gone")
		}
	})
}

// TestIndexAgainstMap follows random creations and deletions with a plain map.
func TestIndexAgainstMap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		c := newCatalogue(srv.Client("agent"), 3)
		defer start(t, c)()
		wait(t, c, 1)
		rnd := rand.New(rand.NewPCG(3, 4))
		truth := map[string]tiering.TopicID{}
		for range 400 {
			name := fmt.Sprint("t", rnd.IntN(60))
			var change catalogue.Change
			if _, ok := truth[name]; ok {
				var err error
				if change, err = c.Delete(t.Context(), name); err != nil {
					t.Fatal(err)
				}
				delete(truth, name)
			} else {
				change = mustCreate(t, c, name, 1)
				truth[name] = change.Topic.ID
			}
			if rnd.IntN(3) > 0 {
				continue // so that changes come together now and then
			}
			wait(t, c, change.Revision)
			v := c.View()
			got := map[string]tiering.TopicID{}
			for topic := range v.Topics() {
				got[topic.Name] = topic.ID
				if byID, ok := v.TopicByID(topic.ID); !ok || byID != topic {
					t.Fatalf("topic %q is not found by id", topic.Name)
				}
			}
			if !maps.Equal(got, truth) || v.Len() != len(truth) {
				t.Fatalf("catalogue has %d topics (%v), want %v", v.Len(), got, truth)
			}
		}
	})
}
