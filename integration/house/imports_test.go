package house

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// floors are the storeys of the house, from the ground up. A package may import what
// lies on a lower floor, and its own floor only within its own wing.
var floors = []struct {
	folder string
	floor  int
}{
	{"protocol", 1},
	{"diagnosis", 1},
	{"tiering", 2},
	{"metadata", 3},
	{"compaction", 4},
	{"repair", 4},
	{"agent", 4},
	{"cmd", 5},
	{"integration", 6},
}

func floorOf(dir string) (wing string, floor int) {
	for _, f := range floors {
		if within(dir, f.folder) {
			return f.folder, f.floor
		}
	}
	return "", 0
}

// known names, for the wings of agent that are made of several packages, the packages of
// agent that each knows, and no others. agent/coordinator is the shell that groups and
// transactions are made for: they know it, it does not know them.
var known = map[string][]string{
	"agent/coordinator":    {},
	"agent/txn":            {"agent/coordinator"},
	"agent/group":          {"agent/coordinator", "agent/group/assignor", "agent/group/classic", "agent/group/consumer", "agent/group/step"},
	"agent/group/classic":  {"agent/coordinator", "agent/group/step"},
	"agent/group/consumer": {"agent/coordinator", "agent/group/assignor", "agent/group/step"},
	"agent/group/step":     {"agent/coordinator"},
	"agent/group/assignor": {},
}

// importFault says why a package in folder from must not import the package in folder
// to, and what to do instead; empty if it may.
func importFault(from, to string) string {
	fromWing, fromFloor := floorOf(from)
	toWing, toFloor := floorOf(to)
	knows, listed := known[from]
	switch {
	case toFloor > fromFloor:
		return "arrows point downwards only: declare the interface that you call, and let the upper package hand in the part"
	case from == "agent" && within(to, "compaction") || from == "agent" && within(to, "agent"):
		return "" // the agent composes its children and the compaction
	case fromWing == "agent" && toWing == "agent" && to == "agent":
		return "a child of agent does not know its parent: declare the interface that you call, and agent hands in the part"
	case listed && slices.Contains(knows, to):
		return ""
	case listed && toWing == "agent" && child(from) == child(to):
		return fmt.Sprintf("in %s, %s knows only %v: hand the part in from above, or move what both need below both", child(from), from, knows)
	case fromWing == "agent" && toWing == "agent" && child(from) != child(to):
		return "children of agent do not know each other: declare the interface that you call, and agent hands in the part"
	case toFloor == fromFloor && fromWing != toWing:
		return fmt.Sprintf("%s and %s meet only in metadata and in objects", fromWing, toWing)
	}
	return ""
}

// child returns the second element of a folder: the child of agent that it belongs to.
func child(dir string) string {
	_, rest, _ := strings.Cut(dir, "/")
	name, _, _ := strings.Cut(rest, "/")
	return name
}

func TestImportsPointDownwards(t *testing.T) {
	checked := 0
	used := map[string]map[string]bool{}
	for _, f := range sources(t) {
		if _, floor := floorOf(f.dir()); floor == 0 {
			t.Errorf("%s: its folder is on no floor: move it, or add the folder to floors", f.path)
		}
		if f.test() || f.support() {
			continue
		}
		for _, p := range f.imports() {
			to, ours := strings.CutPrefix(p, module)
			if !ours {
				continue
			}
			checked++
			if used[f.dir()] == nil {
				used[f.dir()] = map[string]bool{}
			}
			used[f.dir()][to] = true
			if fault := importFault(f.dir(), to); fault != "" {
				t.Errorf("%s imports %s: %s", f.path, to, fault)
			}
		}
	}
	if checked == 0 {
		t.Error("no import of a package of this module was seen")
	}
	for from, to := range known {
		for _, to := range to {
			if !used[from][to] {
				t.Errorf("%s may import %s and does not: remove it from known", from, to)
			}
		}
	}
}

func TestImportRule(t *testing.T) {
	tests := []struct {
		from, to string
		allowed  bool
	}{
		{"tiering/segment", "protocol/batch", true},
		{"protocol/batch", "tiering", false},
		{"tiering/cache", "metadata", false},
		{"metadata/journal", "metadata/shard", true},
		{"agent/kafka", "metadata", true},
		{"agent/kafka", "agent/kafka/topicconfig", true},
		{"agent/kafka/topicconfig", "agent/kafka", true},
		{"agent/kafka", "agent/produce", false},
		{"agent/produce", "agent", false},
		{"agent", "agent/produce", true},
		{"agent", "compaction", true},
		{"agent/fetch", "compaction", false},
		{"compaction", "agent", false},
		{"agent/group", "agent/coordinator", true},
		{"agent/group/classic", "agent/coordinator", true},
		{"agent/txn", "agent/coordinator", true},
		{"agent/coordinator", "agent/group", false},
		{"agent/coordinator", "agent/txn", false},
		{"agent/kafka", "agent/coordinator", false},
		{"agent/kafka", "agent/group/step", false},
		{"agent/peer", "agent/coordinator", false},
		{"agent/txn", "agent/group", false},
		{"agent/txn", "agent/group/step", false},
		{"agent/group", "agent/txn", false},
		{"agent/group", "agent/group/consumer", true},
		{"agent/group/consumer", "agent/group/assignor", true},
		{"agent/group/consumer", "agent/group", false},
		{"agent/group/consumer", "agent/group/classic", false},
		{"agent/group/classic", "agent/group/consumer", false},
		{"agent/group/classic", "agent/group/assignor", false},
		{"agent/group/step", "agent/group/classic", false},
		{"agent/group/assignor", "agent/coordinator", false},
		{"cmd/floe", "agent", true},
		{"agent", "cmd/floe/settings", false},
		{"cmd/floe", "integration/sim", false},
	}
	for _, tt := range tests {
		if fault := importFault(tt.from, tt.to); (fault == "") != tt.allowed {
			t.Errorf("%s importing %s: allowed %v, want %v (%s)", tt.from, tt.to, fault == "", tt.allowed, fault)
		}
	}
}

// reserved names the only folders that may import what begins with a path.
var reserved = []struct {
	path    string
	folders []string
	cure    string
}{
	{"go.etcd.io/", []string{"metadata/etcd"}, "speak metadata.Store"},
	{"github.com/aws/", []string{"tiering/objstore/s3"}, "speak objstore.Store"},
	{"github.com/minio/", []string{"tiering/objstore/minio"}, "speak objstore.Store"},
	{module + "metadata/etcd", []string{"cmd"}, "take a metadata.Store; cmd/floe chooses which"},
	{module + "metadata/memory", []string{"cmd"}, "take a metadata.Store; cmd/floe chooses which"},
	{module + "tiering/objstore/s3", []string{"tiering/objstore/open"}, "take an objstore.Store; objstore/open makes it from a URL"},
	{module + "tiering/objstore/minio", []string{"tiering/objstore/open"}, "take an objstore.Store; objstore/open makes it from a URL"},
	{module + "tiering/objstore/file", []string{"tiering/objstore/open", "cmd"}, "take an objstore.Store; objstore/open makes it from a URL"},
	{module + "tiering/objstore/memory", []string{"tiering/objstore/open"}, "take an objstore.Store; objstore/open makes it from a URL"},
	{"github.com/spf13/", []string{"cmd"}, "flags belong to cmd: take a plain value"},
	{"go.yaml.in/", []string{"cmd"}, "files of settings belong to cmd: take a plain value"},
	{"github.com/twmb/franz-go/pkg/kgo", []string{"cmd"}, "a client is for tests and for the commands that ask a running cluster"},
	{"github.com/twmb/franz-go/pkg/kadm", []string{"cmd"}, "a client is for tests and for the commands that ask a running cluster"},
}

func TestReservedImports(t *testing.T) {
	for _, f := range sources(t) {
		if f.test() || f.support() {
			continue
		}
		for _, p := range f.imports() {
			for _, r := range reserved {
				if !strings.HasPrefix(p+"/", strings.TrimSuffix(r.path, "/")+"/") {
					continue
				}
				allowed := false
				for _, folder := range r.folders {
					allowed = allowed || within(f.dir(), folder)
				}
				if !allowed {
					t.Errorf("%s imports %s: only %v may: %s", f.path, p, r.folders, r.cure)
				}
			}
		}
	}
}

// pure packages compute: the same input gives the same output, without waiting.
var pure = []string{"metadata/shard", "tiering/segment", "protocol/batch", "diagnosis"}

func TestPurePackages(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range sources(t) {
		for _, folder := range pure {
			if f.dir() != folder || f.test() {
				continue
			}
			seen[folder] = true
			for _, p := range f.imports() {
				switch p {
				case "os", "net", "net/http", "context", "log/slog", "math/rand", "math/rand/v2", "crypto/rand":
					t.Errorf("%s imports %s: %s is pure: take the value as an argument", f.path, p, folder)
				}
			}
		}
	}
	for _, folder := range pure {
		if !seen[folder] {
			t.Errorf("%s is listed as pure and does not exist: correct the list", folder)
		}
	}
}
