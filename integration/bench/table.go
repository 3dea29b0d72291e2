//go:build linux

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// report is all that a run found out.
type report struct {
	Started time.Time `json:"started"`
	Took    string    `json:"took"`
	Machine string    `json:"machine"`
	Commit  string    `json:"commit"`
	Quick   bool      `json:"quick"`
	Rows    []row     `json:"rows"`
	Errors  []string  `json:"errors,omitempty"`
}

var columns = []string{
	"scenario", "records/s", "MiB/s", "ack p50 / p99 ms", "e2e p50 / p99 ms", "server CPU s/GiB", "etcd+MinIO CPU s/GiB",
	"peak RSS MiB", "result", "ceiling", "ratio", "target", "met", "spread", "load",
}

func (r row) cells() []string {
	number := func(format string, v float64) string {
		if v == 0 {
			return ""
		}
		return fmt.Sprintf(format, v)
	}
	pair := func(a, b float64) string {
		if b == 0 {
			return number("%.2f", a)
		}
		return fmt.Sprintf("%.2f / %.2f", a, b)
	}
	var ceiling, spread string
	if r.Ceiling > 0 {
		ceiling = figure(r.Ceiling) + " " + r.CeilingUnit
	}
	if r.Runs > 1 {
		spread = fmt.Sprintf("%.0f %% of %d", r.SpreadPct, r.Runs)
	}
	rate := ""
	if r.RecordsPerS > 0 {
		rate = thousands(r.RecordsPerS)
	}
	return []string{
		r.Scenario, rate, number("%.1f", r.MiBPerS), pair(r.AckP50ms, r.AckP99ms), pair(r.E2EP50ms, r.E2EP99ms),
		number("%.2f", r.CPUPerGiB), number("%.2f", r.OtherCPUPerGiB), number("%.0f", r.PeakRSSMiB), r.Result,
		ceiling, number("%.2f", r.Ratio), r.Target, r.verdictWord(), spread, r.Load,
	}
}

// figure prints three digits or more.
func figure(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.2f", v)
	}
	return thousands(v)
}

// thousands prints a whole number in groups of three digits.
func thousands(v float64) string {
	s := fmt.Sprintf("%.0f", math.Abs(v))
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if v < 0 {
		s = "-" + s
	}
	return s
}

// about is the line that a table is nothing without.
func (r report) about() string {
	how := "full run"
	if r.Quick {
		how = "QUICK RUN: it shows that everything works, its figures mean little"
	}
	return fmt.Sprintf("%s; commit %s; %s, took %s; %s", r.Machine, r.Commit, r.Started.UTC().Format(time.DateOnly), r.Took, how)
}

func (r report) text(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(columns, "\t"))
	for _, row := range r.Rows {
		fmt.Fprintln(tw, strings.Join(row.cells(), "\t"))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, "\n"+r.about())
	return err
}

func (r report) markdown() string {
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	fmt.Fprintf(&b, "%s.\n\n", r.about())
	line(columns)
	rule := make([]string, len(columns))
	for i := range rule {
		rule[i] = "---"
	}
	line(rule)
	for _, row := range r.Rows {
		line(row.cells())
	}
	for _, e := range r.Errors {
		first, _, _ := strings.Cut(e, "\n")
		fmt.Fprintf(&b, "\nFailed: %s\n", first)
	}
	return b.String()
}

// What stands between these marks in a page is replaced.
const (
	beginMark = "<!-- bench:begin -->"
	endMark   = "<!-- bench:end -->"
)

// insert puts text between the marks of a page.
func insert(page, text string) (string, error) {
	before, rest, ok := strings.Cut(page, beginMark)
	if !ok {
		return "", fmt.Errorf("no line %s", beginMark)
	}
	_, after, ok := strings.Cut(rest, endMark)
	if !ok {
		return "", fmt.Errorf("no line %s after %s", endMark, beginMark)
	}
	return before + beginMark + "\n" + strings.TrimSpace(text) + "\n" + endMark + after, nil
}

func (r report) writeMarkdown(file string) error {
	page, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	text, err := insert(string(page), r.markdown())
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

func (r report) writeJSON(file string) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(r); err != nil {
		return err
	}
	return os.WriteFile(file, b.Bytes(), 0o644)
}

// machine describes where the figures come from.
func machine() string {
	first := func(file, key string) string {
		f, err := os.Open(file)
		if err != nil {
			return "?"
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == key {
				return strings.TrimSpace(value)
			}
		}
		return "?"
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		kernel = []byte("?")
	}
	var gib float64
	if _, err := fmt.Sscanf(first("/proc/meminfo", "MemTotal"), "%f kB", &gib); err == nil {
		gib /= 1 << 20
	}
	return fmt.Sprintf("%d cores (%s), %.0f GiB, Linux %s, %s", runtime.NumCPU(), first("/proc/cpuinfo", "model name"), gib,
		strings.TrimSpace(string(kernel)), runtime.Version())
}

// commit names what was measured, and says if it was changed since.
func commit(root string) string {
	cmd := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=12")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
