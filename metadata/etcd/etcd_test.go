package etcd_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/etcd"
	"github.com/floelog/floe/metadata/metadatatest"
)

// testLog turns etcd's warnings into the test's output.
func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func start(t testing.TB, cfg etcd.EmbeddedConfig) *etcd.Embedded {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	cfg.Logger = testLog(t)
	server, err := etcd.StartEmbedded(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return server
}

// TestContractInProcess holds the clients without a network to the contract.
func TestContractInProcess(t *testing.T) {
	t.Parallel() // most of its time is waiting for leases
	server := start(t, etcd.EmbeddedConfig{})
	metadatatest.Run(t, metadatatest.Harness{
		TTL: time.Second,
		Open: func(t *testing.T, clients int) []metadata.Store {
			stores := make([]metadata.Store, clients)
			for i := range stores {
				c := server.NewClient()
				t.Cleanup(func() { closeClient(t, c) })
				stores[i] = c
			}
			return stores
		},
	})
}

// TestContractOverNetwork holds the clients that an agent of a cluster uses to it.
func TestContractOverNetwork(t *testing.T) {
	t.Parallel()
	server := start(t, etcd.EmbeddedConfig{ClientURL: "http://127.0.0.1:0"})
	metadatatest.Run(t, metadatatest.Harness{
		TTL: time.Second,
		Open: func(t *testing.T, clients int) []metadata.Store {
			stores := make([]metadata.Store, clients)
			for i := range stores {
				stores[i] = connect(t, server.Endpoint())
			}
			return stores
		},
	})
}

func connect(t testing.TB, endpoint string) *etcd.Client {
	t.Helper()
	c, err := etcd.Open(t.Context(), etcd.Config{Endpoints: []string{endpoint}, Logger: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeClient(t, c) })
	return c
}

func closeClient(t testing.TB, c *etcd.Client) {
	if err := c.Close(); err != nil {
		t.Errorf("close client: %v", err)
	}
}
