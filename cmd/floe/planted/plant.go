//go:build planted

package planted

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// Plant is the bug that the environment names; the zero value is none.
type Plant struct{ name string }

// Choose takes FLOE_PLANTED out of the environment.
func Choose(environ []string) (rest []string, p Plant) {
	for _, kv := range environ {
		if name, ok := strings.CutPrefix(kv, Variable+"="); ok {
			p.name = name
		} else {
			rest = append(rest, kv)
		}
	}
	return rest, p
}

// bug is what is put between an agent of a cluster and what it works with; nil fields: nothing.
type bug struct {
	meta     func(*host, metadata.Store) metadata.Store
	objects  func(*host, objstore.Store) objstore.Store
	clients  func(*host, *kafka.Parts)
	machines func(h *host, name string, m coordinator.Machine) coordinator.Machine
	jobs     func(*host, job.Journals) job.Journals
}

// host is the agent that has a bug.
type host struct {
	keys    metadata.Keys
	objects objstore.Store // without it

	mu  sync.Mutex // guards the following
	rnd *mathrand.Rand
}

// oneIn reports true once in n times.
func (h *host) oneIn(n int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rnd.IntN(n) == 0
}

// bugs returns all that the table names.
func bugs() map[string]func() bug {
	all := map[string]func() bug{}
	for _, some := range []map[string]func() bug{appendBugs(), journalBugs(), fetchBugs(), txnBugs(), groupBugs(), objectBugs(), jobBugs()} {
		maps.Copy(all, some)
	}
	return all
}

// In puts the bug between an agent of the named cluster and its parts.
func (p Plant) In(cluster string, parts agent.Parts) (agent.Parts, error) {
	if p.name == "" || p.name == None {
		return parts, nil
	}
	plant, ok := bugs()[p.name]
	if !ok {
		return parts, fmt.Errorf("%s: no bug is called %q", Variable, p.name)
	}
	var seed [16]byte
	_, _ = rand.Read(seed[:]) // never fails
	h := &host{keys: metadata.NewKeys(cluster), objects: parts.Objects,
		rnd: mathrand.New(mathrand.NewPCG(binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:])))}
	b := plant()
	parts.Log.Warn("this agent has a planted bug", "bug", p.name)
	if b.meta != nil {
		parts.Meta = b.meta(h, parts.Meta)
	}
	if b.objects != nil {
		parts.Objects = b.objects(h, parts.Objects)
	}
	if b.clients != nil {
		parts.Clients = func(p kafka.Parts) kafka.Parts {
			b.clients(h, &p)
			return p
		}
	}
	if b.jobs != nil {
		parts.Jobs = func(j job.Journals, _ job.Segments) job.Journals { return b.jobs(h, j) }
	}
	if b.machines != nil {
		parts.Machines = func(name string, load coordinator.Load) coordinator.Load {
			return func(id tiering.ShardID, epoch tiering.LeaderEpoch, s *shard.State, topics coordinator.Topics, now time.Time) (coordinator.Machine, error) {
				m, err := load(id, epoch, s, topics, now)
				if err != nil {
					return m, err
				}
				return b.machines(h, name, m), nil
			}
		}
	}
	return parts, nil
}
