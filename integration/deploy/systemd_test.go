//go:build integration

package deploy_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// directives are those of systemd.unit(5), systemd.service(5), systemd.exec(5), systemd.kill(5)
// and systemd.resource-control(5) that units may use, by section. What is not here is looked
// up there first: systemd ignores what it does not know.
var directives = map[string][]string{
	"Unit":    {"Description", "Documentation", "Wants", "After", "Requires", "ConditionPathExists"},
	"Install": {"WantedBy"},
	"Service": {
		"Type", "ExecStart", "Restart", "RestartSec", "RestartSteps", "RestartMaxDelaySec", "TimeoutStartSec", "TimeoutStopSec",
		"KillSignal", "KillMode", "EnvironmentFile", "Environment", "LimitNOFILE", "OOMScoreAdjust", "MemoryHigh", "MemoryMax",
		"DynamicUser", "User", "Group", "SupplementaryGroups", "CacheDirectory", "CacheDirectoryMode", "UMask", "LoadCredential",
		"AmbientCapabilities", "CapabilityBoundingSet", "NoNewPrivileges", "LockPersonality", "MemoryDenyWriteExecute",
		"PrivateDevices", "PrivateTmp", "ProtectClock", "ProtectControlGroups", "ProtectHome", "ProtectHostname",
		"ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "ProtectSystem", "RemoveIPC",
		"RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "SystemCallArchitectures",
		"SystemCallErrorNumber", "SystemCallFilter",
	},
}

// mayRepeat are directives of which several add up.
var mayRepeat = []string{"EnvironmentFile", "SystemCallFilter", "Environment", "LoadCredential"}

// unit reads a unit file: the values of each directive, in order.
func unit(t *testing.T, path string) map[string][]string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string][]string{}
	section := ""
	for i, line := range strings.Split(string(content), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if name, ok := strings.CutPrefix(line, "["); ok {
			section = strings.TrimSuffix(name, "]")
			if directives[section] == nil {
				t.Errorf("%s:%d: section %q is not known", path, i+1, section)
			}
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok || !slices.Contains(directives[section], name) {
			t.Errorf("%s:%d: section %s knows no %q", path, i+1, section, line)
		}
		if values[name] != nil && !slices.Contains(mayRepeat, name) {
			t.Errorf("%s:%d: %s is there twice", path, i+1, name)
		}
		values[name] = append(values[name], value)
	}
	return values
}

func TestUnits(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, "deploy/systemd/floe.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]any{}
	if err := yaml.UnmarshalStrict(content, &settings); err != nil {
		t.Fatal(err)
	}
	drain, err := time.ParseDuration(settings["drain-timeout"].(string))
	if err != nil {
		t.Fatal(err)
	}
	units, err := filepath.Glob(filepath.Join(root, "deploy/systemd/*.service"))
	if err != nil || len(units) != 2 {
		t.Fatalf("units: %v, %v", units, err)
	}
	for _, path := range units {
		u := unit(t, path)
		one := func(name string) string {
			if len(u[name]) == 0 {
				t.Errorf("%s has no %s", path, name)
				return ""
			}
			return u[name][0]
		}
		stop, err := time.ParseDuration(one("TimeoutStopSec"))
		if err != nil || stop < drain+15*time.Second {
			t.Errorf("%s: stopped after %v (%v), but a drain takes up to %v and some more", path, stop, err, drain)
		}
		if one("KillSignal") != "SIGTERM" || one("KillMode") == "control-group" || one("Restart") != "always" {
			t.Errorf("%s: an agent that is stopped must get SIGTERM, one that fails must be started again", path)
		}
		if !strings.HasPrefix(one("ExecStart"), "/usr/local/bin/floe agent ") {
			t.Errorf("%s runs %s", path, one("ExecStart"))
		}
		for _, name := range []string{"DynamicUser", "NoNewPrivileges"} {
			if one(name) != "yes" {
				t.Errorf("%s: %s is %s", path, name, one(name))
			}
		}
		if one("ProtectSystem") != "strict" || one("CapabilityBoundingSet") != "" {
			t.Errorf("%s has rights that an agent does not need", path)
		}
		if template := strings.Contains(path, "@"); template != strings.Contains(one("CacheDirectory"), "%i") {
			t.Errorf("%s: agents need cache folders of their own: %s", path, one("CacheDirectory"))
		}
	}
}
