package agent

import (
	"math/rand/v2"
	"strings"
	"sync"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/tiering"
)

const (
	// topEntries is how many clients, partitions, topics and groups are told apart at a time. Fewer:
	// many that matter little push out one that matters. More: a search for the least takes longer.
	topEntries = 100

	// maxNameBytes of a client id or group are kept: clients may send 32 KiB of it.
	maxNameBytes = 128

	// sampleStep is how many produced bytes one sample of partitions stands for. Smaller: with many
	// partitions each batch takes the place of another. Larger: a partition with a megabyte a second is
	// seen only now and then.
	sampleStep = 64 << 10
)

// top counts by key and keeps those with the greatest counts: the space-saving sketch (Metwally,
// Agrawal, El Abbadi 2005). What takes the place of the least takes over its rank, not its counts,
// so that counts are never more than what happened. It is not safe for concurrent use.
type top[K comparable] struct {
	at      map[K]int
	entries []topEntry[K]
}

type topEntry[K comparable] struct {
	key   K
	rank  float64 // at least n
	n     float64
	bytes float64
}

func newTop[K comparable]() top[K] { return top[K]{at: make(map[K]int, topEntries)} }

func (t *top[K]) add(key K, n, bytes float64) {
	i, ok := t.at[key]
	switch {
	case ok:
	case len(t.entries) < topEntries:
		i = len(t.entries)
		t.entries = append(t.entries, topEntry[K]{key: key})
		t.at[key] = i
	default:
		i = 0
		for j := range t.entries {
			if t.entries[j].rank < t.entries[i].rank {
				i = j
			}
		}
		delete(t.at, t.entries[i].key)
		t.entries[i] = topEntry[K]{key: key, rank: t.entries[i].rank}
		t.at[key] = i
	}
	e := &t.entries[i]
	e.rank, e.n, e.bytes = e.rank+n, e.n+n, e.bytes+bytes
}

// take returns what was counted, and begins anew.
func (t *top[K]) take() []topEntry[K] {
	out := t.entries
	*t = newTop[K]()
	return out
}

// sum adds up what was taken several times.
func sum[K comparable](of ...[]topEntry[K]) map[K]topEntry[K] {
	all := map[K]topEntry[K]{}
	for _, entries := range of {
		for _, e := range entries {
			s := all[e.key]
			s.n, s.bytes = s.n+e.n, s.bytes+e.bytes
			all[e.key] = s
		}
	}
	return all
}

// busiest counts who sends most batches, and where most bytes go. It is safe for concurrent use.
type busiest struct {
	mu sync.Mutex // guards the following

	// Bytes that were produced, and at which of them the next sample is due. Its distance is drawn:
	// batches of like sizes in turn would otherwise meet samples always at the same partition.
	produced, due int64
	rand          *rand.Rand

	clients    top[string]
	partitions top[tiering.TopicPartition]
	topics     top[tiering.TopicID]
	groups     top[string]
	epochs     map[string]int32 // of groups of the consumer protocol, as members were told last
}

func newBusiest() *busiest {
	return &busiest{rand: rand.New(rand.NewPCG(1, 2)), clients: newTop[string](), partitions: newTop[tiering.TopicPartition](), topics: newTop[tiering.TopicID](), groups: newTop[string](), epochs: map[string]int32{}}
}

// sent counts the batches of one request.
func (b *busiest) sent(batches []*kafka.AppendBatch) {
	if len(batches) == 0 {
		return
	}
	bytes := int64(0)
	for _, batch := range batches {
		bytes += int64(len(batch.Data))
	}
	client := clipped(batches[0].Client)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clients.add(client, float64(len(batches)), float64(bytes))
	if b.produced+bytes < b.due {
		b.produced += bytes
		return // no sample falls into these
	}
	for _, batch := range batches {
		b.produced += int64(len(batch.Data))
		n := 0.0
		for ; b.due <= b.produced; n++ {
			b.due += 1 + b.rand.Int64N(2*sampleStep)
		}
		if n > 0 {
			b.partitions.add(batch.Partition, n*sampleStep, n*sampleStep)
			b.topics.add(batch.Partition.Topic, n*sampleStep, n*sampleStep)
		}
	}
}

// rebalanced counts one rebalance of a group.
func (b *busiest) rebalanced(group string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.groups.add(clipped(group), 1, 0)
}

// maxEpochs bounds the groups of the consumer protocol whose epochs are known. With fewer, a cluster
// with more groups than this would count a rebalance for some that only came back.
const maxEpochs = 10000

// assigned counts a rebalance when the members of a group are told of an epoch for the first time.
func (b *busiest) assigned(group string, epoch int32) {
	group = clipped(group)
	b.mu.Lock()
	defer b.mu.Unlock()
	last, known := b.epochs[group]
	if known && epoch <= last {
		return
	}
	if !known && len(b.epochs) >= maxEpochs {
		clear(b.epochs)
	}
	b.epochs[group] = epoch
	if known {
		b.groups.add(group, 1, 0)
	}
}

// counted is what busiest counted between two looks.
type counted struct {
	clients    []topEntry[string]
	partitions []topEntry[tiering.TopicPartition]
	topics     []topEntry[tiering.TopicID]
	groups     []topEntry[string]
}

func (b *busiest) take() counted {
	b.mu.Lock()
	defer b.mu.Unlock()
	return counted{b.clients.take(), b.partitions.take(), b.topics.take(), b.groups.take()}
}

// clipped returns what is kept of a name; of a long one a copy, or all of it would stay in memory.
func clipped(name string) string {
	if len(name) <= maxNameBytes {
		return name
	}
	return strings.Clone(name[:maxNameBytes])
}
