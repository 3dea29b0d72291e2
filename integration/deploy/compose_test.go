//go:build integration

package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"sigs.k8s.io/yaml"
)

const composeDir = "deploy/compose"

// project loads the Compose file, whose schema refuses what it does not know.
func project(t *testing.T, env map[string]string) *types.Project {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join(root, composeDir))
	if err != nil {
		t.Fatal(err)
	}
	p, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir: dir, ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(dir, "compose.yaml")}}, Environment: env,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCompose(t *testing.T) {
	p := project(t, nil)
	agents, members := 0, 0
	for name, s := range p.Services {
		for dependency := range s.DependsOn {
			if _, ok := p.Services[dependency]; !ok {
				t.Errorf("%s depends on %s, which does not exist", name, dependency)
			}
		}
		for _, v := range s.Volumes {
			if v.Type == types.VolumeTypeBind {
				if _, err := os.Stat(v.Source); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		if !strings.Contains(s.Image, ":") || strings.HasSuffix(s.Image, ":latest") {
			t.Errorf("%s: image %s has no version", name, s.Image)
		}
		switch {
		case strings.HasPrefix(name, "agent-"):
			agents++
			checkAgentService(t, name, s)
		case strings.HasPrefix(name, "etcd-"):
			members++
			if want := "gcr.io/etcd-development/etcd:" + moduleVersion(t, "go.etcd.io/etcd/server/v3"); s.Image != want {
				t.Errorf("%s: image %s, want that of the version that Floe is tested with: %s", name, s.Image, want)
			}
		}
	}
	if agents != 3 || members != 3 {
		t.Errorf("%d agents and %d etcd members, want three of each", agents, members)
	}
}

func checkAgentService(t *testing.T, name string, s types.ServiceConfig) {
	t.Helper()
	env := func(key string) string {
		if v := s.Environment[key]; v != nil {
			return *v
		}
		return ""
	}
	drain, err := time.ParseDuration(env("FLOE_DRAIN_TIMEOUT"))
	if s.StopGracePeriod == nil || err != nil || time.Duration(*s.StopGracePeriod) < drain+15*time.Second {
		t.Errorf("%s: a grace period of %v for a drain of %v (%v)", name, s.StopGracePeriod, drain, err)
	}
	if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) {
		t.Errorf("%s: read-only %v, dropped %v", name, s.ReadOnly, s.CapDrop)
	}
	// What clients are told must be what is published; what agents tell each other, the service.
	if len(s.Ports) != 1 || env("FLOE_ADDR") != ":"+s.Ports[0].Published || env("FLOE_ADVERTISE") != "localhost:"+s.Ports[0].Published || s.Ports[0].HostIP != "127.0.0.1" {
		t.Errorf("%s: it listens on %s, is advertised as %s and published as %+v", name, env("FLOE_ADDR"), env("FLOE_ADVERTISE"), s.Ports)
	}
	if env("FLOE_RPC_ADVERTISE") != name+env("FLOE_RPC_ADDR") {
		t.Errorf("%s: other agents are told %s", name, env("FLOE_RPC_ADVERTISE"))
	}
}

func TestComposeVariables(t *testing.T) {
	p := project(t, map[string]string{"ADVERTISED_HOST": "kafka.example", "PUBLISH": "0.0.0.0", "MINIO_PASSWORD": "other"})
	s := p.Services["agent-2"]
	if got := *s.Environment["FLOE_ADVERTISE"]; got != "kafka.example:9192" || s.Ports[0].HostIP != "0.0.0.0" {
		t.Errorf("advertised as %s, published at %s", got, s.Ports[0].HostIP)
	}
	if a, b := *s.Environment["AWS_SECRET_ACCESS_KEY"], *p.Services["minio"].Environment["MINIO_ROOT_PASSWORD"]; a != "other" || a != b {
		t.Errorf("agents use password %q, MinIO %q", a, b)
	}
}

// The scrape targets are services of the Compose file, on the ports of their metrics.
func TestComposePrometheus(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, composeDir, "prometheus.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var cfg struct {
		Global struct {
			ScrapeInterval     string `json:"scrape_interval"`
			EvaluationInterval string `json:"evaluation_interval"`
		} `json:"global"`
		RuleFiles     []string `json:"rule_files"`
		ScrapeConfigs []struct {
			JobName       string `json:"job_name"`
			StaticConfigs []struct {
				Targets []string          `json:"targets"`
				Labels  map[string]string `json:"labels"`
			} `json:"static_configs"`
		} `json:"scrape_configs"`
	}
	if err := yaml.UnmarshalStrict(content, &cfg); err != nil {
		t.Fatal(err)
	}
	p := project(t, nil)
	var mounted []string
	for _, v := range p.Services["prometheus"].Volumes {
		mounted = append(mounted, v.Target)
	}
	for _, file := range cfg.RuleFiles {
		if !slices.Contains(mounted, file) {
			t.Errorf("rules of %s are not mounted", file)
		}
	}
	ports := map[string]string{"floe": "9644", "etcd": "2379"}
	for _, job := range cfg.ScrapeConfigs {
		n := 0
		for _, targets := range job.StaticConfigs {
			for _, target := range targets.Targets {
				n++
				host, port, _ := strings.Cut(target, ":")
				if _, ok := p.Services[host]; !ok || port != ports[job.JobName] {
					t.Errorf("job %s scrapes %s", job.JobName, target)
				}
			}
		}
		if n != 3 {
			t.Errorf("job %s has %d targets, want 3", job.JobName, n)
		}
	}
	if len(cfg.ScrapeConfigs) != 2 {
		t.Errorf("%d jobs, want floe and etcd, which alerts are about", len(cfg.ScrapeConfigs))
	}
}

// moduleVersion returns the version of a module that Floe's go.mod requires.
func moduleVersion(t *testing.T, module string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^\s*` + regexp.QuoteMeta(module) + ` (v\S+)`).FindSubmatch(content)
	if m == nil {
		t.Fatalf("go.mod does not name %s", module)
	}
	return string(m[1])
}
