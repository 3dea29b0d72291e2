//go:build linux

package rig

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// meterInterval is between two looks at the agents' metrics: what an agent counts after the last look before its
	// end is lost.
	meterInterval = time.Second
	// mostMetrics bounds what is read of an agent's metrics.
	mostMetrics = 8 << 20
)

// Metrics asks the agent for its metrics; keys are names with labels, as they are exposed.
func (a *Agent) Metrics(ctx context.Context) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.admin+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics of %s: status %d", a.Name(), resp.StatusCode)
	}
	all := map[string]float64{}
	lines := bufio.NewScanner(io.LimitReader(resp.Body, mostMetrics))
	for lines.Scan() {
		key, value, ok := cutLast(lines.Text())
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		if all[key], err = strconv.ParseFloat(value, 64); err != nil {
			return nil, fmt.Errorf("metrics of %s: %w", a.Name(), err)
		}
	}
	return all, lines.Err()
}

func cutLast(line string) (key, value string, ok bool) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 {
		return "", "", false
	}
	return line[:i], line[i+1:], true
}

// meter adds the agents' counters up, over their restarts.
type meter struct {
	cluster *Cluster
	stop    func()

	mu     sync.Mutex // guards the following
	totals map[string]float64
	last   []map[string]float64 // of each agent
	starts []int                // of each agent, when last was read
}

func startMeter(c *Cluster) *meter {
	ctx, cancel := context.WithCancel(context.Background())
	m := &meter{cluster: c, totals: map[string]float64{}, last: make([]map[string]float64, Agents), starts: make([]int, Agents)}
	var work sync.WaitGroup
	m.stop = func() {
		cancel()
		work.Wait()
	}
	work.Go(func() {
		for pause(ctx, meterInterval) {
			for i := range Agents {
				m.look(ctx, i)
			}
		}
	})
	return m
}

// look adds what an agent has counted since the last look.
func (m *meter) look(ctx context.Context, agent int) {
	a := m.cluster.agents[agent]
	starts := a.Starts()
	if !a.Serves() {
		return
	}
	now, err := a.Metrics(ctx)
	if err != nil {
		return // it has just been stopped or killed
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.last[agent]
	if m.starts[agent] != starts {
		before = nil
	}
	for key, v := range now {
		if d := v - before[key]; d > 0 {
			m.totals[key] += d
		}
	}
	m.last[agent], m.starts[agent] = now, starts
}

// Total returns what all agents have counted since the cluster was started, over restarts, of counters of that
// name whose labels have all the parts, such as `outcome="complete"`.
func (c *Cluster) Total(name string, parts ...string) float64 {
	c.meter.mu.Lock()
	defer c.meter.mu.Unlock()
	sum := 0.0
next:
	for key, v := range c.meter.totals {
		if own, _, _ := strings.Cut(key, "{"); own != name {
			continue
		}
		for _, part := range parts {
			if !strings.Contains(key, part) {
				continue next
			}
		}
		sum += v
	}
	return sum
}
