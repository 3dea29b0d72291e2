package memory_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/metadata/metadatatest"
)

func open(t *testing.T, clients int) []metadata.Store {
	server := memory.New()
	t.Cleanup(server.Close)
	stores := make([]metadata.Store, clients)
	for i := range stores {
		stores[i] = server.Client("test")
	}
	return stores
}

func TestContract(t *testing.T) {
	metadatatest.Run(t, metadatatest.Harness{Open: open, Bubble: synctest.Test, TTL: 10 * time.Second})
}
