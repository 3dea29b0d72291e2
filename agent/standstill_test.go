package agent_test

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/tiering"
)

// counting counts the lines of a log that begin with a text.
type counting struct {
	slog.Handler
	text  string
	lines atomic.Int64
}

func (c *counting) Enabled(context.Context, slog.Level) bool { return true }

func (c *counting) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, c.text) {
		c.lines.Add(1)
	}
	return nil
}

// TestAShardThatStandsStillKeepsNoAgentFromServing starts agents while the journal of a shard cannot be read: they
// become ready, lead the others, look after it now and then, and lead it once it is mended.
func TestAShardThatStandsStillKeepsNoAgentFromServing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const damaged = tiering.ShardID(1)
		c := newCluster(t)
		key, store := keys.JournalRecord(damaged, 1), c.server.Client("damage")
		if _, err := store.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Put(key, []byte{4, 0})}}); err != nil {
			t.Fatal(err)
		}
		log := &counting{Handler: slog.DiscardHandler, text: "a shard could not be taken over"}
		n := c.startWith("a", 1, c.objects, func(_ *agent.Config, p *agent.Parts) { p.Log = slog.New(log) })
		c.ready(n)
		log.lines.Store(0)
		time.Sleep(time.Minute)
		if tried := log.lines.Load(); tried < 1 || tried > 30 {
			t.Errorf("within a minute the shard was tried %d times: each reads all of its journal", tried)
		}
		if _, err := store.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Delete(key)}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		kvs, _, err := store.Get(t.Context(), keys.Leader(damaged))
		if err != nil || !kvs[0].Exists() {
			t.Errorf("mended, the shard is not led: %v", err)
		}
		c.end(n)
	})
}
