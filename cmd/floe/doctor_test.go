package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/cmd/floe/settings"
	"github.com/floelog/floe/diagnosis"
)

// What the table of findings names exists: settings, and headings of the runbooks.
func TestFindingsNameWhatThereIs(t *testing.T) {
	runbooks, err := os.ReadFile("../../docs/runbooks.md")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, row := range settings.Table() {
		names[row.Name] = true
	}
	for _, k := range diagnosis.Kinds() {
		for _, s := range k.Settings {
			if !names[s] {
				t.Errorf("%s: %s is no setting", k.Name, s)
			}
		}
		if !strings.Contains(string(runbooks), "# "+k.Runbook+"\n") {
			t.Errorf("%s: docs/runbooks.md has no heading %s", k.Name, k.Runbook)
		}
	}
}

func TestDoctorPageIsCurrent(t *testing.T) {
	page, err := os.ReadFile("../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := doctorPage(&want); err != nil {
		t.Fatal(err)
	}
	if want.String() != string(page) {
		t.Error("docs/doctor.md is not what the code says: run make docs")
	}
}

// reporting serves a report as an agent's admin address does.
func reporting(t *testing.T, r *diagnosis.Report) (addr string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/doctor" {
			http.NotFound(w, req)
			return
		}
		if err := json.NewEncoder(w).Encode(r); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func TestDoctorCommand(t *testing.T) {
	snapshot := &diagnosis.Snapshot{Node: 3, Window: time.Minute, Clients: []diagnosis.Client{{ID: "chatty", Batches: 6000, Bytes: 600000}}}
	warned := diagnosis.Of(snapshot).Findings
	snapshot.Recent.StoreDenied = 4
	bad := diagnosis.Of(snapshot).Findings
	info := diagnosis.Of(&diagnosis.Snapshot{Node: 3, Doubts: []diagnosis.Doubt{{Setting: "gc-grace", Text: "short"}}}).Findings
	report := func(f []diagnosis.Finding) *diagnosis.Report {
		return diagnosis.NewReport("events", time.Now(), []diagnosis.Examined{
			{Node: 3, Address: "a:9092", Zone: "z", Version: "v1", Looked: time.Now(), Findings: f},
			{Node: 4, Address: "b:9092", Error: "it does not answer"},
		})
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	defer gone.Close()
	older := strings.TrimPrefix(gone.URL, "http://")
	tests := []struct {
		name  string
		admin string
		code  int
		says  []string
	}{
		{"nothing", reporting(t, report(nil)), 0, []string{"cluster events", "nothing was found", "a:9092", "? it does not answer"}},
		{"information", reporting(t, report(info)), 0, []string{"INFO", "settings_doubtful", "gc-grace: short"}},
		{"warnings", reporting(t, report(warned)), 1, []string{"WARNING", "small_batches", "client.id chatty", "agent 3", "100B, at least 4KiB is good", "linger.ms", "docs/runbooks.md#small_batches"}},
		{"critical", reporting(t, report(bad)), 2, []string{"CRITICAL", "store_denied", "WARNING"}},
		{"the second address answers", older + "," + reporting(t, report(bad)), 2, []string{"CRITICAL"}},
		{"nobody answers", older, 3, nil},
		{"no address", "nonsense", 3, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			code := run(process{args: []string{"doctor", "--admin-addr", tt.admin}, stdout: &out, stderr: &errs})
			if code != tt.code {
				t.Errorf("exit code %d, want %d: %s", code, tt.code, errs.String())
			}
			for _, want := range tt.says {
				if !strings.Contains(out.String(), want) {
					t.Errorf("it does not say %q:\n%s", want, out.String())
				}
			}
			if code == exitUnknown {
				if !strings.HasPrefix(errs.String(), "floe: ") {
					t.Errorf("it says %q", errs.String())
				}
				return
			}
			var js bytes.Buffer
			if again := run(process{args: []string{"doctor", "--json", "--admin-addr", tt.admin}, stdout: &js, stderr: &errs}); again != code {
				t.Errorf("with --json the exit code is %d", again)
			}
			var got diagnosis.Report
			if err := json.Unmarshal(js.Bytes(), &got); err != nil || got.Cluster != "events" || len(got.Agents) != 2 {
				t.Errorf("as JSON: %v\n%s", err, js.String())
			}
		})
	}
}

// Without agents the stores are looked at: an etcd that does not answer and a bucket that works.
func TestDoctorWithoutAgents(t *testing.T) {
	var out, errs bytes.Buffer
	code := run(process{args: []string{"doctor", "--json", "--etcd", "127.0.0.1:1", "--store", "file://" + t.TempDir()}, stdout: &out, stderr: &errs})
	var got diagnosis.Report
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s %s", err, out.String(), errs.String())
	}
	var names []string
	for _, f := range got.Findings {
		names = append(names, f.Name)
	}
	if code != exitCritical || !slices.Equal(names, []string{"etcd_unreachable"}) || got.Findings[0].Subject == "etcd" {
		t.Errorf("code %d, found %+v", code, got.Findings)
	}
}
