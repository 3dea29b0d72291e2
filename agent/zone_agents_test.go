package agent_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/objstore"
)

// inZone gives an agent peers that serve blocks, too.
func (c *cluster) inZone(_ *agent.Config, parts *agent.Parts) { parts.Peers = zonePeers{peers{c}} }

// zonePeers are peers that serve blocks, too.
type zonePeers struct{ peers }

func (p zonePeers) Block(ctx context.Context, addr string, r cache.Range) ([]byte, error) {
	n, err := p.at(addr)
	if err != nil {
		return nil, err
	}
	out, err := n.BlockHere(ctx, r)
	return objstore.Body(out).Copy(), err
}

// fetchedBytes notes what was got of segments for consumers, from where to where, by key.
type fetchedBytes struct {
	objstore.Store
	mu   sync.Mutex
	seen map[string][][2]int64
}

func (s *fetchedBytes) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if objstore.PurposeOf(ctx) == objstore.Fetch && strings.HasPrefix(key, tiering.SegmentPrefix) {
		s.mu.Lock()
		s.seen[key] = append(s.seen[key], [2]int64{off, off + n})
		s.mu.Unlock()
	}
	return s.Store.GetRange(ctx, key, off, n)
}

func (s *fetchedBytes) GetUpTo(ctx context.Context, key string, off, n int64) (objstore.Body, int64, error) {
	data, size, err := s.Store.GetUpTo(ctx, key, off, n)
	if err == nil && objstore.PurposeOf(ctx) == objstore.Fetch && strings.HasPrefix(key, tiering.SegmentPrefix) {
		s.mu.Lock()
		s.seen[key] = append(s.seen[key], [2]int64{off, off + data.Size()})
		s.mu.Unlock()
	}
	return data, size, err
}

// consume reads all partitions of a topic at an agent, and returns how many bytes there are.
func (c *cluster) consume(n *node, topic *catalogue.Topic) (bytes int) {
	for p := range int32(numShards) {
		for offset := tiering.Offset(0); ; offset++ {
			res := n.Ports().Reader.Fetch(c.t.Context(), kafka.FetchRequest{MaxBytes: 1 << 20, Partitions: []kafka.FetchPartition{{
				Partition: kafka.Partition{TopicPartition: tiering.TopicPartition{Topic: topic.ID, Partition: p}, Shard: tiering.ShardOf(topic.FirstShard, p, numShards)},
				Offset:    offset, MaxBytes: 1,
			}}})
			if res[0].Code != 0 {
				c.t.Errorf("partition %d at %d: code %d", p, offset, res[0].Code)
			}
			if offset == res[0].HighWatermark {
				break
			}
			bytes += int(objstore.Body(res[0].Records).Size())
		}
	}
	return bytes
}

// However many agents of a zone read what other agents wrote, the store is asked once for it,
// and an agent that is gone is done without.
func TestAgentsOfAZoneFetchABlockOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		s := &fetchedBytes{Store: c.objects, seen: map[string][][2]int64{}}
		writer := c.startWith("w", 1, s, c.inZone)
		c.ready(writer)
		topic := c.topic(writer, "x")
		for p := range int32(numShards) {
			for range 5 {
				c.sendLarge(writer, topic, p)
			}
		}
		writer.stop() // what it wrote is in nobody's memory any more
		<-writer.ended
		var nodes []*node
		for i, name := range []string{"a", "b", "d"} {
			n := c.startWith(name, int32(i+2), s, c.inZone)
			c.ready(n)
			nodes = append(nodes, n)
		}
		time.Sleep(time.Second) // until all know of each other
		want := c.consume(nodes[0], topic)
		for _, n := range nodes[1:] {
			if got := c.consume(n, topic); got != want || got < 5*numShards*20<<10 {
				t.Errorf("%d bytes were read, want %d", got, want)
			}
		}
		s.mu.Lock()
		for key, ranges := range s.seen {
			for i, r := range ranges {
				for _, o := range ranges[:i] {
					if r[0] < o[1] && o[0] < r[1] {
						t.Errorf("of %s, %v and %v were got", key, o, r)
					}
				}
			}
		}
		if len(s.seen) == 0 {
			t.Error("nothing was got from the store")
		}
		s.mu.Unlock()
		nodes[1].meta.Partition() // it still has its lease, and answers nobody
		c.mu.Lock()
		delete(c.nodes, "b:9094")
		c.mu.Unlock()
		if got := c.consume(nodes[2], topic); got != want {
			t.Errorf("%d bytes were read, want %d", got, want)
		}
		c.end(append(nodes, writer)...)
	})
}

// With a disk cache, an agent that starts again asks the store for nothing that it had got
// before; and whatever is done to the folder, the records are there.
func TestAnAgentReadsFromItsDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		s := &fetchedBytes{Store: c.objects, seen: map[string][][2]int64{}}
		dir := t.TempDir()
		onDisk := func(cfg *agent.Config, _ *agent.Parts) { cfg.CacheDiskDir, cfg.CacheDiskBytes = dir, 16<<20 }
		first := c.startWith("a", 1, s, onDisk)
		c.ready(first)
		topic := c.topic(first, "x")
		for p := range int32(numShards) {
			c.sendLarge(first, topic, p)
		}
		nodes := []*node{first}
		read := func() (bytes, gets int) {
			nodes[len(nodes)-1].stop()
			<-nodes[len(nodes)-1].ended
			n := c.startWith("a", 1, s, onDisk)
			nodes = append(nodes, n)
			c.ready(n)
			s.mu.Lock()
			clear(s.seen)
			s.mu.Unlock()
			bytes = c.consume(n, topic)
			time.Sleep(time.Second)
			synctest.Wait() // until the disk has it
			s.mu.Lock()
			defer s.mu.Unlock()
			return bytes, len(s.seen)
		}
		want, gets := read()
		if want < numShards*20<<10 || gets == 0 {
			t.Fatalf("%d bytes were read, of %d segments", want, gets)
		}
		if bytes, gets := read(); bytes != want || gets != 0 {
			t.Errorf("%d bytes were read, want %d; of %d segments something was got", bytes, want, gets)
		}
		blocks, err := filepath.Glob(filepath.Join(dir, "*", "*.blk"))
		if err != nil || len(blocks) == 0 {
			t.Fatalf("%d files, %v", len(blocks), err)
		}
		for _, name := range blocks {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)-1] ^= 1
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if bytes, gets := read(); bytes != want || gets == 0 {
			t.Errorf("%d bytes were read, want %d; of %d segments something was got", bytes, want, gets)
		}
		c.end(nodes...)
	})
}

func TestAnAgentDoesNotStartWithAFolderThatIsNotACache(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := agent.New(agent.Config{Cluster: "t", CacheBytes: 8 << 20, CacheDiskDir: dir, CacheDiskBytes: 1 << 30},
		agent.Parts{Log: slog.New(slog.DiscardHandler), Registry: noRegistry{}})
	if err == nil || !strings.Contains(err.Error(), "give an empty one") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v", err)
	}
}
