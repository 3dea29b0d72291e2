package sim

import (
	"context"
	"fmt"
	"log/slog"
	"sort"
	"strings"
	"sync"
	"time"
)

// history is the log of one seed. Lines are put together only when a seed has failed.
type history struct {
	start time.Time

	mu     sync.Mutex // guards the following
	events []event
}

// violationEvent is what the checker writes.
const violationEvent = "VIOLATION"

// event is one line: when, who, what, about which partition (nil for none), and details.
type event struct {
	at     time.Duration
	who    string
	what   string
	part   *partition
	format string
	args   []any
}

func (h *history) add(who, what string, part *partition, format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, event{time.Since(h.start), who, what, part, format, args})
}

func (e *event) String() string {
	part := "-"
	if e.part != nil {
		part = e.part.name
	}
	return fmt.Sprintf("%9.4fs %-10s %-12s %-8s %s", e.at.Seconds(), e.who, e.what, part, fmt.Sprintf(e.format, e.args...))
}

// show returns the last n lines up to the first violation (and a few after it) about a
// partition, or about the cluster as a whole.
func (h *history) show(part *partition, n int) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var lines []string
	after := 0
	for i := range h.events {
		e := &h.events[i]
		if e.what == violationEvent || after > 0 {
			after++
		}
		if after > 5 {
			break
		}
		if part == nil || e.part == nil || e.part == part {
			lines = append(lines, e.String())
		}
	}
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

// counts says how often each kind of event happened.
func (h *history) counts() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := map[string]int{}
	for i := range h.events {
		n[h.events[i].what]++
	}
	var out []string
	for what, k := range n {
		out = append(out, fmt.Sprintf("%s %d", what, k))
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}

// agentLog turns what an agent logs into events.
type agentLog struct {
	h     *history
	who   string
	attrs []slog.Attr
}

func (l *agentLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (l *agentLog) Handle(_ context.Context, r slog.Record) error {
	args := make([]any, 0, 1+r.NumAttrs())
	args = append(args, r.Message)
	r.Attrs(func(a slog.Attr) bool {
		args = append(args, a.Key+"="+a.Value.String())
		return true
	})
	l.h.add(l.who, "log", nil, strings.Repeat("%v ", len(args)), args...)
	return nil
}

func (l *agentLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &agentLog{l.h, l.who, append(l.attrs[:len(l.attrs):len(l.attrs)], attrs...)}
}

func (l *agentLog) WithGroup(string) slog.Handler { return l }
