package settings_test

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/floelog/floe/cmd/floe/settings"
)

func loaded(args ...string) (*settings.Settings, error) {
	fs := pflag.NewFlagSet("t", pflag.ContinueOnError)
	settings.AddFlags(fs, settings.Agent)
	if err := fs.Parse(append([]string{"--etcd", "e:2379", "--store", "s3://b/p"}, args...)); err != nil {
		return nil, err
	}
	return settings.Load(fs, nil, settings.Agent)
}

// What makes no sense together is refused in one line that names the setting and a remedy.
func TestInterplayIsRefused(t *testing.T) {
	for args, want := range map[string]string{
		"--group-initial-rebalance-delay 30s --group-max-session-timeout 30s": "group-max-session-timeout",
	} {
		fields := strings.Fields(args)
		_, err := loaded(fields...)
		if err == nil || !strings.Contains(err.Error(), fields[0]) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// What is allowed and seldom meant is doubted; the defaults are not.
func TestDoubts(t *testing.T) {
	s, err := loaded()
	if err != nil {
		t.Fatal(err)
	}
	if doubts := s.Doubts(); len(doubts) != 0 {
		t.Errorf("the defaults are doubted: %v", doubts)
	}
	for args, setting := range map[string]string{
		"--gc-grace 6s --carry-age 10s":                               "gc-grace",
		"--gc-grace 8s --lease-ttl 5s":                                "gc-grace",
		"--carry-age 10m":                                             "carry-age",
		"--etcd-history 15s --lease-ttl 10s":                          "etcd-history",
		"--group-min-session-timeout 3s":                              "group-min-session-timeout",
		"--consumer-session-timeout 10s --lease-ttl 10s":              "consumer-session-timeout",
		"--consumer-heartbeat-interval 20s":                           "consumer-heartbeat-interval",
		"--idle-timeout 9s":                                           "idle-timeout",
		"--flush-age 6s":                                              "flush-age",
		"--jobs-rate 1000KiB":                                         "jobs-rate",
		"--retention 4m":                                              "retention-check-interval",
		"--merge-age 10m --retention 5m":                              "merge-age",
		"--clean-memory 1GiB":                                         "clean-memory",
		"--cache-disk-bytes 1GiB":                                     "cache-disk-bytes",
		"--cache-disk-bytes 1GiB --cache-disk-dir /var/cache --zone=": "zone",
	} {
		s, err := loaded(strings.Fields(args)...)
		if err != nil {
			t.Errorf("%s: %v", args, err)
			continue
		}
		found := false
		for _, d := range s.Doubts() {
			found = found || d.Setting == setting && d.Text != ""
		}
		if !found {
			t.Errorf("%s: doubted are %v, want %s", args, s.Doubts(), setting)
		}
	}
	if s, err := loaded("--gc-grace", "10s", "--carry-age", "10s"); err != nil || len(s.Doubts()) != 0 {
		t.Errorf("a gc-grace of carry-age: %v", err)
	}
}
