//go:build integration && unix

package tiers

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/floelog/floe/integration/fixture"
)

// meterEvery is how often agents are asked for their metrics. What an agent counts between
// the last answer and its end by SIGKILL is lost.
const meterEvery = 300 * time.Millisecond

// meter adds up the counters of agents over all their processes.
type meter struct {
	floe *fixture.Floe
	stop chan struct{}
	work sync.WaitGroup

	mu   sync.Mutex           // guards the following
	past []map[string]float64 // by agent: of its processes before
	last []map[string]float64 // by agent: of the one that runs
}

func startMeter(t testing.TB, f *fixture.Floe) *meter {
	m := &meter{floe: f, stop: make(chan struct{})}
	for i := range f.Addrs() {
		m.past, m.last = append(m.past, map[string]float64{}), append(m.last, map[string]float64{})
		m.work.Go(func() { m.follow(i) })
	}
	t.Cleanup(func() {
		close(m.stop)
		m.work.Wait()
	})
	return m
}

func (m *meter) follow(i int) {
	tick := time.NewTicker(meterEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-m.stop:
			return
		}
		if samples, err := m.floe.TryScrape(i); err == nil { // else it does not run just now
			m.add(i, samples)
		}
	}
}

// add notes what an agent has counted. A counter that went back is another process's.
func (m *meter) add(i int, samples []fixture.Sample) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := map[string]float64{}
	for _, s := range samples {
		now[s.Name+"{"+s.Labels+"}"] = s.Value
	}
	const born = "process_start_time_seconds{}"
	if was, ok := m.last[i][born]; ok && was != now[born] {
		for name, v := range m.last[i] {
			if isCounter(name) {
				m.past[i][name] += v
			}
		}
	}
	m.last[i] = now
}

func isCounter(name string) bool {
	name, _, _ = strings.Cut(name, "{")
	return strings.HasSuffix(name, "_total")
}

// sum returns what all agents say of a name, over all labels that contain the given ones.
func (m *meter) sum(name string, labels ...string) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	total := 0.0
	for _, of := range append(slices.Clone(m.past), m.last...) {
		for full, v := range of {
			is, rest, _ := strings.Cut(full, "{")
			if is == name && !slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(rest, l) }) {
				total += v
			}
		}
	}
	return total
}

// labelled returns the sums of a counter by its labels, those above 0.
func (m *meter) labelled(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	by := map[string]float64{}
	for _, of := range append(slices.Clone(m.past), m.last...) {
		for full, v := range of {
			if is, rest, _ := strings.Cut(full, "{"); is == name && v > 0 {
				by[strings.TrimSuffix(rest, "}")] += v
			}
		}
	}
	var out []string
	for _, label := range slices.Sorted(maps.Keys(by)) {
		out = append(out, fmt.Sprintf("%s %.0f", label, by[label]))
	}
	return strings.Join(out, ", ")
}
