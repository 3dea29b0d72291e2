package membership

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/retry"
)

// Registered reads the registrations of all live agents once, linearizably, by ascending node id,
// for who keeps no copy. Registrations that cannot be read are left out.
func Registered(ctx context.Context, store metadata.Store, keys metadata.Keys) ([]Agent, error) {
	kvs, err := readAll(ctx, store, retry.NewPacer(rand.Reader), keys.Agents())
	if err != nil {
		return nil, fmt.Errorf("reading the registered agents: %w", err)
	}
	var agents []Agent
	for _, kv := range kvs {
		if a, err := decodeAgent(strings.TrimPrefix(kv.Key, keys.Agents()), kv.Value); err == nil {
			agents = append(agents, a)
		}
	}
	slices.SortFunc(agents, func(a, b Agent) int { return int(a.NodeID) - int(b.NodeID) })
	return agents, nil
}
