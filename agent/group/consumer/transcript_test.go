package consumer_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata anew")

// TestTranscripts plays testdata/*.txt: each line is a command, and below it, after "> ",
// what came of it. With -update the files are written anew: read what changed.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t)
			var got []string
			for line := range strings.SplitSeq(strings.TrimSuffix(string(text), "\n"), "\n") {
				if strings.HasPrefix(line, "> ") {
					continue
				}
				got = append(got, line)
				if line != "" && !strings.HasPrefix(line, "#") {
					got = append(got, "> "+w.do(line))
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(strings.Join(got, "\n")+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n"); strings.Join(got, "\n") != strings.Join(want, "\n") {
				for i := range max(len(got), len(want)) {
					if i >= len(got) || i >= len(want) || got[i] != want[i] {
						t.Errorf("line %d differs", i+1)
						break
					}
				}
				t.Logf("got:\n%s", strings.Join(got, "\n"))
			}
		})
	}
}
