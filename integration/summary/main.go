// Command summary reads the output of `go test -json` runs, with any other lines in
// between, and prints what people want to see: other lines as they are, one line for each
// package, all output of what failed, and at the end
//
//	N passed, N failed
//
// which counts tests, subtests among them. A package that fails without a failed test (it
// does not compile, it panics, it times out) counts as one that failed. The exit code is 1
// if anything failed, or if nothing ran.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	s := newSummary(os.Stdout)
	if err := s.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "summary:", err)
		os.Exit(1)
	}
	if !s.finish() {
		os.Exit(1)
	}
}

// event is one line of go test -json (go doc test2json); only what is used here.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Output     string
}

// key names a test, or a package where test is empty.
type key struct{ pkg, test string }

type summary struct {
	out                    io.Writer
	output                 map[key][]string // kept until the outcome is known
	failed                 map[string]int   // failed tests by package
	passed, fails, skipped int
}

func newSummary(out io.Writer) *summary {
	return &summary{out: out, output: map[key][]string{}, failed: map[string]int{}}
}

// maxLine bounds a line. A test that logs more in one line is cut off by go test.
const maxLine = 16 << 20

func (s *summary) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for lines.Scan() {
		var e event
		if line := lines.Bytes(); len(line) == 0 || line[0] != '{' || json.Unmarshal(line, &e) != nil || e.Action == "" {
			fmt.Fprintln(s.out, lines.Text())
			continue
		}
		s.event(e)
	}
	return lines.Err()
}

func (s *summary) event(e event) {
	k := key{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(s.out, e.Output)
	case "output":
		s.output[k] = append(s.output[k], e.Output)
	case "pass", "skip", "fail":
		if e.Test == "" {
			s.packageEnded(e)
		} else {
			s.testEnded(e, k)
		}
	}
}

func (s *summary) testEnded(e event, k key) {
	switch e.Action {
	case "pass":
		s.passed++
	case "skip":
		s.skipped++
		s.print(k, "--- SKIP")
	case "fail":
		s.fails++
		s.failed[e.Package]++
		s.print(k, "")
	}
	delete(s.output, k)
}

// packageEnded prints the package's own lines and, if it failed, what its unfinished
// tests said: a panic or a timeout ends a package in the middle of one.
func (s *summary) packageEnded(e event) {
	own := key{e.Package, ""}
	if e.Action == "fail" {
		if s.failed[e.Package] == 0 {
			s.fails++
		}
		for k := range s.output {
			if k.pkg == e.Package && k != own {
				s.print(k, "")
			}
		}
	}
	for _, line := range s.output[own] {
		if line != "PASS\n" && line != "FAIL\n" {
			fmt.Fprint(s.out, line)
		}
	}
	for k := range s.output {
		if k.pkg == e.Package {
			delete(s.output, k)
		}
	}
}

// print writes what a test said; from the line that holds start on, if start is given.
func (s *summary) print(k key, start string) {
	show := start == ""
	for _, line := range s.output[k] {
		show = show || strings.Contains(line, start)
		if show && !strings.HasPrefix(line, "=== ") {
			fmt.Fprint(s.out, line)
		}
	}
}

// finish prints the counts and reports whether all is well.
func (s *summary) finish() bool {
	if s.skipped > 0 {
		fmt.Fprintf(s.out, "%d skipped\n", s.skipped)
	}
	if s.passed+s.fails == 0 {
		fmt.Fprintln(s.out, "summary: no test ran")
	}
	fmt.Fprintf(s.out, "%d passed, %d failed\n", s.passed, s.fails)
	return s.fails == 0 && s.passed > 0
}
