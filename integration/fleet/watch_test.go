//go:build integration && unix

package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// watch measures for how long clients stand still, and counts requests without an answer.
type watch struct {
	note func(format string, args ...any) // into the history's trace

	mu      sync.Mutex // guards the following
	acks    map[int32]time.Time
	reads   map[int32]time.Time
	stalls  stalls
	waiters []*waiter
}

// stalls is what is reported.
type stalls struct {
	Slowest time.Duration  // from handing a record in to its acknowledgement
	Acks    time.Duration  // longest time without an acknowledgement of some partition
	Reads   time.Duration  // longest time without a record read of some partition
	Torn    map[string]int // requests that were written and not answered, by API
	Late    map[string]int // of these, such as were written to a connection that had ended
}

// waiter waits for a record of every partition.
type waiter struct {
	since time.Time
	left  map[int32]bool
	done  chan struct{}
}

// reset begins a new measurement and returns the last one.
func (w *watch) reset() stalls {
	w.mu.Lock()
	defer w.mu.Unlock()
	old, now := w.stalls, time.Now()
	for _, at := range w.acks {
		old.Acks = max(old.Acks, now.Sub(at))
	}
	for _, at := range w.reads {
		old.Reads = max(old.Reads, now.Sub(at))
	}
	w.stalls = stalls{Torn: map[string]int{}, Late: map[string]int{}}
	w.acks, w.reads = map[int32]time.Time{}, map[int32]time.Time{}
	for p := range int32(partitions) {
		w.acks[p], w.reads[p] = now, now
	}
	return old
}

func (w *watch) acked(p int32, handed, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stalls.Slowest = max(w.stalls.Slowest, now.Sub(handed))
	w.stalls.Acks = max(w.stalls.Acks, now.Sub(w.acks[p]))
	w.acks[p] = now
	w.waiters = slices.DeleteFunc(w.waiters, func(x *waiter) bool {
		if handed.After(x.since) {
			delete(x.left, p)
		}
		if len(x.left) > 0 {
			return false
		}
		close(x.done)
		return true
	})
}

func (w *watch) read(p int32, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stalls.Reads = max(w.stalls.Reads, now.Sub(w.reads[p]))
	w.reads[p] = now
}

// wait returns a waiter for records that are handed in after since.
func (w *watch) wait(since time.Time) *waiter {
	x := &waiter{since: since, left: map[int32]bool{}, done: make(chan struct{})}
	for p := range int32(partitions) {
		x.left[p] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiters = append(w.waiters, x)
	return x
}

// OnBrokerE2E implements kgo.HookBrokerE2E.
func (w *watch) OnBrokerE2E(b kgo.BrokerMetadata, key int16, e2e kgo.BrokerE2E) {
	if e2e.WriteErr != nil || e2e.ReadErr == nil || errors.Is(e2e.ReadErr, context.Canceled) {
		return // answered, or not wanted any more by the client itself
	}
	w.note("TORN %s to agent %d, after %v: %v", kmsg.NameForKey(key), b.NodeID, e2e.TimeToWrite+e2e.ReadWait, e2e.ReadErr)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stalls.Torn[kmsg.NameForKey(key)]++
}

// late counts a request that is being written to a connection that has ended.
func (w *watch) late(api string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stalls.Late[api]++
}

// unanswered returns how many requests of an API an agent left without an answer.
func (s stalls) unanswered(api string) int { return max(0, s.Torn[api]-s.Late[api]) }

func (s stalls) String() string {
	var torn []string
	for _, name := range slices.Sorted(maps.Keys(s.Torn)) {
		torn = append(torn, fmt.Sprintf("%d %s", s.unanswered(name), name))
		if n := s.Late[name]; n > 0 {
			torn = append(torn, fmt.Sprintf("(%d too late)", n))
		}
	}
	if torn == nil {
		torn = []string{"none"}
	}
	return fmt.Sprintf("slowest acknowledgement %v, longest without one %v, longest without a read %v (of any partition); requests without an answer: %s",
		round(s.Slowest), round(s.Acks), round(s.Reads), strings.Join(torn, ", "))
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
