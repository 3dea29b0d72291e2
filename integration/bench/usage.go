//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// sampleEvery is how often the memory of a server is looked at.
const sampleEvery = 100 * time.Millisecond

// userHz is the unit of CPU time in /proc, the same on every Linux that Go runs on.
const userHz = 100

// cpuSeconds returns user and system time of a process.
func cpuSeconds(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStat(b)
}

// parseStat reads utime and stime, fields 14 and 15 of proc(5). The name, field 2, is in
// parentheses and may hold anything.
func parseStat(b []byte) (float64, error) {
	const state, utime, stime = 3, 14, 15
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) <= stime-state {
		return 0, fmt.Errorf("process status of %d fields", len(fields))
	}
	var ticks uint64
	for _, f := range []int{utime, stime} {
		n, err := strconv.ParseUint(fields[f-state], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("process status: %w", err)
		}
		ticks += n
	}
	return float64(ticks) / userHz, nil
}

// rssMiB returns the resident memory of a process.
func rssMiB(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	return parseRSS(string(b))
}

func parseRSS(status string) (float64, error) {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("no VmRSS in the process status")
}

// usage is what servers used between watch and stop.
type usage struct {
	serverCPU float64 // seconds of Floe
	otherCPU  float64 // seconds of etcd and MinIO
	peakRSS   float64 // MiB of Floe
}

// meter watches a Floe process and what it depends on.
type meter struct {
	server *process
	others []*process

	mu    sync.Mutex // guards the rest
	base  usage
	peak  float64
	fault error

	quit chan struct{}
	wg   sync.WaitGroup
}

// watch starts to measure; stop must be called.
func watch(server *process, others ...*process) *meter {
	m := &meter{server: server, others: others, quit: make(chan struct{})}
	m.reset()
	m.wg.Go(func() {
		tick := time.NewTicker(sampleEvery)
		defer tick.Stop()
		for {
			m.sample()
			select {
			case <-tick.C:
			case <-m.quit:
				return
			}
		}
	})
	return m
}

// reset forgets what was used so far: the warm-up is over.
func (m *meter) reset() {
	base, err := m.cpu()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.base, m.peak = base, 0
	m.note(err)
}

func (m *meter) stop() (usage, error) {
	close(m.quit)
	m.wg.Wait()
	m.sample()
	now, err := m.cpu()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note(err)
	return usage{now.serverCPU - m.base.serverCPU, now.otherCPU - m.base.otherCPU, m.peak}, m.fault
}

func (m *meter) cpu() (u usage, err error) {
	if u.serverCPU, err = cpuSeconds(m.server.cmd.Process.Pid); err != nil {
		return u, fmt.Errorf("%s: %w", m.server.name, err)
	}
	for _, p := range m.others {
		s, err := cpuSeconds(p.cmd.Process.Pid)
		if err != nil {
			return u, fmt.Errorf("%s: %w", p.name, err)
		}
		u.otherCPU += s
	}
	return u, nil
}

func (m *meter) sample() {
	rss, err := rssMiB(m.server.cmd.Process.Pid)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.peak = max(m.peak, rss)
	m.note(err)
}

func (m *meter) note(err error) {
	if m.fault == nil {
		m.fault = err
	}
}

// loadAverage returns the machine's load over the last minute.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	one, _, _ := strings.Cut(string(b), " ")
	return one
}
