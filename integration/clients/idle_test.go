//go:build integration && unix

package clients

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/fixture"
)

const requests = "floe_objstore_requests_total"

// The times of TestIdle: a cluster that has asked the store nothing for quiet is taken to
// be done with its work, and watched for watched.
const (
	quiet   = 15 * time.Second // longer than an agent waits for its first sweep, and than the age of a roll-up below
	watched = 20 * time.Second
)

// TestIdle checks that a cluster without traffic makes no request to its store, however
// many topics it has and consumers wait at their ends.
func TestIdle(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		start func(t testing.TB, args ...string) *fixture.Floe
		load  bool
	}{
		{"new", environments[0].start, false},
		{"dev-3-agents", environments[1].start, true},
		{"etcd-minio", environments[2].start, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := tt.start(t, "--rollup-age", "3s")
			if tt.load {
				loadForIdleness(t, f)
			}
			before := awaitQuiet(t, f)
			if tt.load && before == 0 {
				t.Errorf("%s is 0 after a load with large records: it does not count", requests)
			}
			pass(t, watched)
			if after := f.Metric(requests); after != before {
				t.Errorf("%s went from %v to %v in %v of idleness", requests, before, after, watched)
			}
			f.Stop()
		})
	}
}

// loadForIdleness writes what is committed inline and what is not, and leaves a consumer
// at the end of it.
func loadForIdleness(t *testing.T, f *fixture.Floe) {
	t.Helper()
	for i := range 10 {
		topic := topicName(t, fmt.Sprint(i))
		createTopic(t, f.Addrs(), topic, 3)
		for p := range int32(3) {
			franz{}.produce(t, f.Addrs(), topic, "none", samples(p))
		}
		franz{}.produceWith(t, f.Addrs(), topic, []record{{value: bytes.Repeat([]byte{'x'}, 500_000)}}, kgo.ProducerBatchCompression(kgo.NoCompression()))
		all := map[int32]kgo.Offset{0: kgo.NewOffset().AtStart(), 1: kgo.NewOffset().AtStart(), 2: kgo.NewOffset().AtStart()}
		c := dial(t, f.Addrs(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: all}), kgo.FetchMaxWait(500*time.Millisecond))
		poll(t, c, 3*len(samples(0))+1)
	}
}

// awaitQuiet waits until the store has not been asked anything for quiet.
func awaitQuiet(t *testing.T, f *fixture.Floe) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience) // rest begins when the last of the load's work is done
	defer cancel()
	again := time.NewTicker(250 * time.Millisecond)
	defer again.Stop()
	count, since := f.Metric(requests), time.Now()
	for time.Since(since) < quiet {
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatalf("%s does not come to rest: it is %v", requests, count)
		}
		if now := f.Metric(requests); now != count {
			count, since = now, time.Now()
		}
	}
	return count
}

// pass lets time pass: that is what is tested.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}
