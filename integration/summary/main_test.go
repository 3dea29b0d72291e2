package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	tests := []struct {
		name  string
		input string
		last  string
		ok    bool
		shows []string
		hides []string
	}{
		{
			name: "all pass",
			input: `==> tests
{"Action":"start","Package":"a"}
{"Action":"run","Package":"a","Test":"TestOne"}
{"Action":"output","Package":"a","Test":"TestOne","Output":"=== RUN   TestOne\n"}
{"Action":"output","Package":"a","Test":"TestOne","Output":"chatter\n"}
{"Action":"pass","Package":"a","Test":"TestOne/sub"}
{"Action":"pass","Package":"a","Test":"TestOne"}
{"Action":"output","Package":"a","Output":"PASS\n"}
{"Action":"output","Package":"a","Output":"ok  \ta\t0.1s\n"}
{"Action":"pass","Package":"a"}
{"Action":"output","Package":"b","Output":"?   \tb\t[no test files]\n"}
{"Action":"skip","Package":"b"}
`,
			last: "2 passed, 0 failed", ok: true,
			shows: []string{"==> tests\n", "ok  \ta\t0.1s\n", "[no test files]"},
			hides: []string{"chatter", "PASS", "=== RUN"},
		},
		{
			name: "one fails",
			input: `{"Action":"pass","Package":"a","Test":"TestOne"}
{"Action":"output","Package":"a","Test":"TestTwo","Output":"    two_test.go:1: wrong\n"}
{"Action":"fail","Package":"a","Test":"TestTwo"}
{"Action":"output","Package":"a","Output":"FAIL\ta\t0.1s\n"}
{"Action":"fail","Package":"a"}
`,
			last: "1 passed, 1 failed", ok: false,
			shows: []string{"two_test.go:1: wrong", "FAIL\ta\t0.1s"},
		},
		{
			name: "does not compile",
			input: `{"Action":"pass","Package":"a","Test":"TestOne"}
{"ImportPath":"b","Action":"build-output","Output":"b.go:1: undefined: x\n"}
{"ImportPath":"b","Action":"build-fail"}
{"Action":"output","Package":"b","Output":"FAIL\tb [build failed]\n"}
{"Action":"fail","Package":"b","FailedBuild":"b"}
`,
			last: "1 passed, 1 failed", ok: false,
			shows: []string{"undefined: x", "[build failed]"},
		},
		{
			name: "panics inside a test",
			input: `{"Action":"pass","Package":"a","Test":"TestOne"}
{"Action":"run","Package":"a","Test":"TestTwo"}
{"Action":"output","Package":"a","Test":"TestTwo","Output":"panic: oh\n"}
{"Action":"output","Package":"a","Output":"FAIL\ta\t0.1s\n"}
{"Action":"fail","Package":"a"}
`,
			last: "1 passed, 1 failed", ok: false,
			shows: []string{"panic: oh"},
		},
		{
			name: "skips are told",
			input: `{"Action":"output","Package":"a","Test":"TestTwo","Output":"    a_test.go:1: no MinIO\n"}
{"Action":"output","Package":"a","Test":"TestTwo","Output":"--- SKIP: TestTwo (0.00s)\n"}
{"Action":"skip","Package":"a","Test":"TestTwo"}
{"Action":"pass","Package":"a","Test":"TestOne"}
{"Action":"pass","Package":"a"}
`,
			last: "1 passed, 0 failed", ok: true,
			shows: []string{"--- SKIP: TestTwo", "1 skipped"},
		},
		{name: "nothing ran", input: "make: *** [check] Error 1\n", last: "0 passed, 0 failed", ok: false, shows: []string{"make: ***", "no test ran"}},
		{name: "a line that only looks like JSON", input: "{broken\n" + `{"Action":"pass","Package":"a","Test":"T"}` + "\n", last: "1 passed, 0 failed", ok: true, shows: []string{"{broken"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			s := newSummary(&out)
			if err := s.read(strings.NewReader(tt.input)); err != nil {
				t.Fatal(err)
			}
			if ok := s.finish(); ok != tt.ok {
				t.Errorf("ok is %v, want %v", ok, tt.ok)
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if last := lines[len(lines)-1]; last != tt.last {
				t.Errorf("the last line is %q, want %q", last, tt.last)
			}
			for _, want := range tt.shows {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the output lacks %q:\n%s", want, &out)
				}
			}
			for _, not := range tt.hides {
				if strings.Contains(out.String(), not) {
					t.Errorf("the output has %q:\n%s", not, &out)
				}
			}
		})
	}
}
