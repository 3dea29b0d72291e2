package catalogue_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/level"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/tiering"
)

func TestEnsureCluster(t *testing.T) {
	srv := memory.New()
	defer srv.Close()
	s := srv.Client("test")
	got, err := catalogue.EnsureCluster(t.Context(), s, keys, catalogue.Want{Shards: 16})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tiering.ParseTopicID(got.ID); err != nil || len(got.ID) != 22 || got.Shards != 16 || got.FormatVersion != catalogue.FormatVersion {
		t.Errorf("created %+v (%v), want 16 shards and an id of 22 characters", got, err)
	}
	again, err := catalogue.EnsureCluster(t.Context(), s, keys, catalogue.Want{Shards: 32})
	if err != nil || again != got {
		t.Errorf("the second call returned %+v, %v; want %+v", again, err, got)
	}
	if def, err := catalogue.EnsureCluster(t.Context(), s, metadata.NewKeys("other"), catalogue.Want{}); err != nil || def.Shards != catalogue.DefaultShards || def.ID == got.ID {
		t.Errorf("another cluster is %+v, %v", def, err)
	}
	if _, err := catalogue.EnsureCluster(t.Context(), s, metadata.NewKeys("big"), catalogue.Want{Shards: catalogue.MaxShards + 1}); !errors.Is(err, metadata.ErrInvalid) {
		t.Errorf("too many shards: %v", err)
	}
}

func TestEnsureClusterRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ value, want string }{
		"newer level":   {fmt.Sprintf(`{"version":%d,"id":"AAAAAAAAAAAAAAAAAAAAAA","shards":64,"x":1}`, level.Newest+1), fmt.Sprintf("run a release of floe that reads level %d", level.Newest+1)},
		"no version":    {`{"id":"AAAAAAAAAAAAAAAAAAAAAA","shards":64}`, "names no format version"},
		"no JSON":       {`hello`, "not JSON"},
		"bad id":        {`{"version":1,"id":"x","shards":64}`, "22 characters"},
		"no shards":     {`{"version":1,"id":"AAAAAAAAAAAAAAAAAAAAAA"}`, "0 shards"},
		"unknown field": {`{"version":1,"id":"AAAAAAAAAAAAAAAAAAAAAA","shards":64,"x":1}`, "unknown field"},
		"two values":    {`{"version":1,"id":"AAAAAAAAAAAAAAAAAAAAAA","shards":64}{}`, "JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := memory.New()
			defer srv.Close()
			s := srv.Client("test")
			put(t, s, keys.Cluster(), tc.value)
			_, err := catalogue.EnsureCluster(t.Context(), s, keys, catalogue.Want{})
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error is %v, want one line with %q", err, tc.want)
			}
		})
	}
}

func TestEnsureClusterAgreesUnderFaults(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			srv := memory.New()
			defer srv.Close()
			ids := make([]catalogue.Cluster, 5)
			var wg sync.WaitGroup
			for i := range ids {
				s := srv.Client("agent")
				s.Inject(memory.Faults{Latency: time.Millisecond, FailBefore: 0.2, FailAfter: 0.3, ApplyLate: 0.3, LateBy: time.Second}, rand.New(rand.NewPCG(seed, uint64(i))))
				wg.Go(func() {
					var err error
					if ids[i], err = catalogue.EnsureCluster(t.Context(), s, keys, catalogue.Want{Shards: uint32(i + 1)}); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			for _, id := range ids {
				if id != ids[0] {
					t.Errorf("agents disagree: %+v and %+v", id, ids[0])
				}
			}
		})
	}
}

// TestLevels creates a cluster at an older level and raises it.
func TestLevels(t *testing.T) {
	srv := memory.New()
	defer srv.Close()
	s := srv.Client("test")
	c, err := catalogue.EnsureCluster(t.Context(), s, keys, catalogue.Want{Level: level.First})
	if err != nil || c.FormatVersion != int(level.First) {
		t.Fatalf("created %+v, %v", c, err)
	}
	value, err := catalogue.AtLevel(c.Store(), level.Newest)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, keys.Cluster(), string(value))
	want := c
	want.FormatVersion = int(level.Newest)
	if got, err := catalogue.EnsureCluster(t.Context(), s, keys, catalogue.Want{Level: level.First}); err != nil || got != want {
		t.Errorf("raised to %s it is %+v, %v, want %+v", value, got, err, want)
	}
	if got, err := catalogue.AtLevel([]byte(`{"version":0,"id":"AAAAAAAAAAAAAAAAAAAAAA","shards":0}`), level.Newest); err == nil {
		t.Errorf("a cluster that is being recovered became %s", got)
	}
}
