package agent_test

import (
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// segments returns the keys of the segments that are stored, and of those that states name. There
// must be no manifests.
func (c *cluster) segments(n *node) (stored, named map[string]bool) {
	c.t.Helper()
	infos, err := c.objects.List(c.t.Context(), tiering.SegmentPrefix, "", 1<<20)
	if err != nil {
		c.t.Fatal(err)
	}
	stored, named = map[string]bool{}, map[string]bool{}
	for _, info := range infos {
		stored[info.Key] = true
	}
	for i := range tiering.ShardID(numShards) {
		n.ReadShard(i, func(s *shard.State) {
			s.Objects(func(id tiering.SegmentID) { named[id.Key()] = true }, func(id tiering.SegmentID) { c.t.Errorf("manifest %s", id) })
		})
	}
	return stored, named
}

// rest is how long a cluster takes to be at rest: snapshots, sweeps, their grace.
const rest = 2 * time.Hour

func TestADeletedTopicsDataGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a, b := c.start("a", 1, c.objects), c.start("b", 2, c.objects)
		c.ready(a)
		c.ready(b)
		topic, other := c.topic(a, "events"), c.topic(a, "others")
		for p := range int32(numShards) {
			c.sendLarge(a, topic, p)
			c.sendLarge(b, other, p)
		}
		if _, err := a.Ports().Changes.Delete(t.Context(), "events"); err != nil {
			t.Fatal(err)
		}
		again := c.topic(a, "events") // at once, under the same name
		c.sendLarge(a, again, 1)
		time.Sleep(rest)
		if n, _ := b.extents(topic); n != 0 {
			t.Errorf("the deleted topic has %d extents", n)
		}
		if _, records := b.extents(again); records != 1 {
			t.Errorf("the new topic has %d records, want the one", records)
		}
		if _, records := b.extents(other); records != numShards {
			t.Errorf("the other topic has %d records, want %d", records, numShards)
		}
		stored, named := c.segments(b)
		if !maps.Equal(stored, named) || len(named) == 0 {
			t.Errorf("%d segments are stored, %d are named", len(stored), len(named))
		}
		c.end(a, b)
	})
}

func TestRetentionTrimsAndDataGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a, b := c.start("a", 1, c.objects), c.start("b", 2, c.objects)
		c.ready(a)
		c.ready(b)
		created := a.Ports().Changes.Create(t.Context(), []catalogue.NewTopic{{Name: "short", Partitions: numShards, Configs: map[string]string{"retention.ms": "1800000"}}})
		if created[0].Err != nil {
			t.Fatal(created[0].Err)
		}
		topic, err := a.Ports().Topics.Find(t.Context(), "short")
		if err != nil {
			t.Fatal(err)
		}
		kept := func() int64 {
			_, n := b.extents(topic)
			return n
		}
		for p := range int32(numShards) {
			c.sendLarge(b, topic, p)
		}
		time.Sleep(29 * time.Minute)
		if n := kept(); n != numShards {
			t.Errorf("after 29 minutes %d records are left, want all", n)
		}
		time.Sleep(7 * time.Minute)
		if n := kept(); n != 0 {
			t.Errorf("after 36 minutes %d records are left", n)
		}
		for p := range int32(numShards) {
			c.sendLarge(a, topic, p)
		}
		time.Sleep(time.Minute)
		if n := kept(); n != numShards {
			t.Errorf("after a minute %d records are left, want all", n)
		}
		_, err = a.Ports().Changes.AlterConfigs(t.Context(), "short", func(map[string]string) (map[string]string, error) {
			return map[string]string{"retention.bytes": "0"}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if n := kept(); n != 0 {
			t.Errorf("three seconds after retention.bytes became 0, %d records are left", n)
		}
		time.Sleep(rest)
		if stored, named := c.segments(b); len(stored) != 0 || len(named) != 0 {
			t.Errorf("%d segments are stored, %d are named", len(stored), len(named))
		}
		infos, err := c.objects.List(t.Context(), "gc/clock/", "", 10)
		if err != nil || len(infos) != 0 {
			t.Errorf("left behind: %v, %v", infos, err)
		}
		c.end(a, b)
	})
}
