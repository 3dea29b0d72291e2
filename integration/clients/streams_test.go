//go:build integration && unix

package clients

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// testStreams counts words with Kafka Streams, exactly once; then again with what is
// known only to the changelog.
func testStreams(t *testing.T, e *env) {
	w := newWords(t, e, nil)
	for range 2 {
		w.count(t)
	}
	checkLeftOver(t, e.floe.Addrs(), w.application, w.in)
}

// words is an application of Kafka Streams that counts words.
type words struct {
	e                    *env
	in, out, application string
	settings             map[string]string
	rounds               int
	want                 map[string]int
}

func newWords(t *testing.T, e *env, settings map[string]string) *words {
	t.Helper()
	w := &words{e: e, in: topicName(t, "in"), out: topicName(t, "out"), application: topicName(t, "words"), settings: settings, want: map[string]int{}}
	createTopic(t, e.floe.Addrs(), w.in, 2)
	createTopic(t, e.floe.Addrs(), w.out, 2)
	return w
}

// count writes words and has a new process, with an empty folder, count all that were ever
// written.
func (w *words) count(t *testing.T) {
	t.Helper()
	addrs := w.e.floe.Addrs()
	for p := range int32(2) {
		var lines []string
		for i := range 50 {
			line := fmt.Sprintf("all of-%d round-%d line-%d", p, w.rounds, i%10)
			lines = append(lines, line)
			for word := range strings.FieldsSeq(line) {
				w.want[word]++
			}
		}
		franz{}.write(t, addrs, w.in, "gzip", p, lines)
	}
	w.rounds++
	settings := map[string]string{"state.dir": t.TempDir(), "replication.factor": fmt.Sprint(len(addrs)),
		"commit.interval.ms": "100", "statestore.cache.max.bytes": "0", "num.stream.threads": "2",
		// An application does not leave its group: its successor waits for this.
		"session.timeout.ms": "6000", "heartbeat.interval.ms": "500"}
	maps.Copy(settings, w.settings)
	b := newBoard()
	m := w.e.workers.of(t, "java").(*remote).start(t, b, order{Do: "streams", Bootstrap: strings.Join(addrs, ","),
		Group: w.application, Topic: w.in, To: w.out, Settings: settings})
	awaitCounts(t, b, addrs, w.out, w.want)
	b.awaitLeft(t, m)
	checkGrowing(t, addrs, w.out, w.want)
}

// changelog is the topic that keeps what the application has counted.
func (w *words) changelog() string { return w.application + "-counts-changelog" }

// awaitCounts reads committed counts until they are those.
func awaitCounts(t *testing.T, b *board, addrs []string, topic string, want map[string]int) {
	t.Helper()
	ctx := deadline(t)
	c := dial(t, addrs, kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		topic: {0: kgo.NewOffset().AtStart(), 1: kgo.NewOffset().AtStart()}}))
	got := map[string]int{}
	for !maps.Equal(got, want) {
		fetches := c.PollFetches(ctx)
		b.await(t, "counting", func() bool { return true }) // fails when the application has
		if err := fetches.Err(); err != nil {
			t.Fatalf("%v: the counts are %v, want %v", err, got, want)
		}
		fetches.EachRecord(func(k *kgo.Record) { got[string(k.Key)] = int(number(t, string(k.Value))) })
	}
}

// checkGrowing checks that every count of a word was told once, from 1 on and in order:
// nothing was counted twice, and no state was lost in between.
func checkGrowing(t *testing.T, addrs []string, topic string, want map[string]int) {
	t.Helper()
	last := map[string]int{}
	ends := readRecords(t, addrs, topic, kgo.ReadCommitted(), func(k *kgo.Record) {
		word, n := string(k.Key), int(number(t, string(k.Value)))
		if n != last[word]+1 {
			t.Errorf("%q: count %d came after %d", word, n, last[word])
		}
		last[word] = n
	})
	if !maps.Equal(last, want) {
		t.Errorf("the counts are %v, want %v (ends %v)", last, want, ends)
	}
}

// checkLeftOver checks what an application leaves in its cluster: offsets at the end of
// its input, and a changelog that is compacted.
func checkLeftOver(t *testing.T, addrs []string, application, in string) {
	t.Helper()
	ends, err := admin(t, addrs).ListEndOffsets(deadline(t), in)
	if err != nil {
		t.Fatal(err)
	}
	at := committed(t, addrs, application, in)
	ends.Each(func(end kadm.ListedOffset) {
		if at[end.Partition] != end.Offset {
			t.Errorf("partition %d: %d is committed, want %d", end.Partition, at[end.Partition], end.Offset)
		}
	})
	changelog := application + "-counts-changelog"
	configs, err := admin(t, addrs).DescribeTopicConfigs(deadline(t), changelog)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range configs[0].Configs {
		if c.Key == "cleanup.policy" && c.MaybeValue() != "compact" {
			t.Errorf("%s has cleanup.policy %q", changelog, c.MaybeValue())
		}
	}
}
