//go:build integration && unix

package clients

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/fixture"
)

// TestChangelogIsCompacted: log compaction works on the changelog of an application of Kafka
// Streams, which is then restored from what is left, on a machine that has nothing else.
func TestChangelogIsCompacted(t *testing.T) {
	t.Parallel()
	jvm := fixture.Java(t, javaProject)
	java := append(jvmFlags(jvm, compileJava(t, jvm, "Workers.java", "WordCount.java")), "Workers")
	f := fixture.Agents(t, 3, fixture.StoreMinIO, "--group-initial-rebalance-delay=100ms",
		"--clean-interval=200ms", "--clean-min-bytes=0B", "--rollup-age=1s", "--merge-age=100ms", "--gc-interval=500ms", "--gc-grace=500ms")
	e := &env{floe: f, workers: workers{"java": startRemote(t, "Apache Kafka (Java)", append([]string{jvm.Java}, java...)...)}}
	w := newWords(t, e, map[string]string{"topic.min.cleanable.dirty.ratio": "0.01", "topic.delete.retention.ms": "1000"})
	updates := 0
	for range 3 {
		w.count(t)
		updates = 0
		for _, n := range w.want {
			updates += n // each is a record of the changelog
		}
		left := w.awaitCompacted(t)
		t.Logf("of %d updates of %d words the changelog keeps %d", updates, len(w.want), left)
	}
	if n := f.Metric("floe_clean_passes_total"); n == 0 {
		t.Error("log compaction did nothing")
	}
	checkLeftOver(t, f.Addrs(), w.application, w.in)
	f.Stop()
}

// awaitCompacted waits until the changelog keeps a few records beside the newest of each word,
// and checks that those are there. It returns how many it keeps.
func (w *words) awaitCompacted(t *testing.T) (left int) {
	t.Helper()
	addrs := w.e.floe.Addrs()
	eventually(t, "the changelog is compacted", func() (bool, string) {
		left = 0
		newest := map[string]int{}
		readRecords(t, addrs, w.changelog(), kgo.ReadCommitted(), func(k *kgo.Record) {
			left++
			newest[string(k.Key)] = countOf(t, k.Value)
		})
		for word, n := range w.want {
			if newest[word] != n {
				t.Fatalf("the changelog says %d of %q, counted were %d", newest[word], word, n)
			}
		}
		return left <= 2*len(w.want), fmt.Sprintf("%d records of %d words", left, len(w.want))
	})
	return left
}

// countOf reads a value of a changelog; its time is the record's.
func countOf(t *testing.T, value []byte) int {
	t.Helper()
	if len(value) != 8 {
		t.Fatalf("a value of the changelog has %d bytes", len(value))
	}
	return int(binary.BigEndian.Uint64(value))
}
