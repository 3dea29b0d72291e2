package agent_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/level"
	"github.com/floelog/floe/metadata/membership"
)

// levelOf reads the cluster's level.
func levelOf(t *testing.T, c *cluster) level.Level {
	t.Helper()
	kvs, _, err := c.server.Client("reader").Get(t.Context(), metadata.NewKeys("t").Cluster())
	if err != nil {
		t.Fatal(err)
	}
	l, err := level.Of(kvs[0].Value)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestTheLevelRisesWhenTheOldReleaseHasBeenGoneForLongEnough has an agent of an older release beside a new one.
func TestTheLevelRisesWhenTheOldReleaseHasBeenGoneForLongEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const after = time.Minute
		c := newCluster(t)
		defer c.server.Close()
		first := c.startWith("first", 0, c.objects, func(cfg *agent.Config, _ *agent.Parts) {
			cfg.FormatLevel = int(level.First) // the cluster begins as one of the older release
		})
		<-first.Ready()
		first.stop()
		<-first.ended
		keys := metadata.NewKeys("t")
		old, err := membership.Start(t.Context(), c.server.Client("old"), keys, membership.SessionConfig{NodeID: 9, Address: "old:9092", RPCAddress: "old:9094",
			Version: "old", Roles: []string{"fetch"}, Levels: level.Range{Min: level.First, Max: level.First}})
		if err != nil {
			t.Fatal(err)
		}
		n := c.startWith("new", 0, c.objects, func(cfg *agent.Config, _ *agent.Parts) { cfg.FormatLevelAfter = after })
		time.Sleep(10 * after)
		if got := levelOf(t, c); got != level.First {
			t.Errorf("beside the older release the level is %d", got)
		}
		if err := old.Close(t.Context()); err != nil {
			t.Error(err)
		}
		time.Sleep(after / 2)
		if got := levelOf(t, c); got != level.First {
			t.Errorf("the level rose to %d at once", got)
		}
		time.Sleep(after)
		if got := levelOf(t, c); got != level.Newest {
			t.Errorf("a minute and a half after the older release had gone the level is %d", got)
		}
		_, err = membership.Start(t.Context(), c.server.Client("old"), keys, membership.SessionConfig{NodeID: 9, Address: "old:9092",
			Levels: level.Range{Min: level.First, Max: level.First}})
		if err == nil || !strings.Contains(err.Error(), "run a release of floe that reads level 2") {
			t.Errorf("the older release came back: %v", err)
		}
		n.stop()
		<-n.ended
		if n.err != nil {
			t.Error(n.err)
		}
	})
}

// TestALevelThatFellWithItsStoreRisesAgain takes the cluster's key back to what a backup of the metadata store had,
// while its agents live on: they write at the newer level, which no older release may join.
func TestALevelThatFellWithItsStoreRisesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.server.Close()
		n := c.startWith("new", 0, c.objects, func(cfg *agent.Config, _ *agent.Parts) { cfg.FormatLevelAfter = time.Hour })
		<-n.Ready()
		key, store := metadata.NewKeys("t").Cluster(), c.server.Client("restore")
		kvs, _, err := store.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		older, err := catalogue.AtLevel(kvs[0].Value, level.First)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Put(key, older)}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := levelOf(t, c); got != level.Newest {
			t.Errorf("a minute after the restore the level is %d", got)
		}
		n.stop()
		<-n.ended
		if n.err != nil {
			t.Error(n.err)
		}
	})
}

// TestTheSecretOutlivesARestoreOfTheStore takes the secret and the agent's session away, as a restore from a backup of
// the time before there were secrets does.
func TestTheSecretOutlivesARestoreOfTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		n := c.start("a", 1, c.objects)
		c.ready(n)
		store := c.server.Client("restore")
		before, _, err := store.Get(t.Context(), keys.RPCSecret())
		if err != nil {
			t.Fatal(err)
		}
		n.meta.Pause()
		if _, err := store.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Delete(keys.RPCSecret())}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * leaseTTL)
		n.meta.Resume()
		time.Sleep(time.Minute)
		after, _, err := store.Get(t.Context(), keys.RPCSecret(), keys.Agent(1))
		if err != nil || !after[1].Exists() || !after[0].Exists() || string(after[0].Value) != string(before[0].Value) {
			t.Errorf("registered again: %v; the secret is there: %v, %v", after[1].Exists(), after[0].Exists(), err)
		}
		c.end(n)
	})
}

func TestALevelThatIsNotKnownIsRefused(t *testing.T) {
	_, err := agent.New(agent.Config{Cluster: "t", FormatLevel: int(level.Newest) + 1}, agent.Parts{})
	if err == nil || !strings.Contains(err.Error(), "this release knows") {
		t.Errorf("got %v", err)
	}
}
