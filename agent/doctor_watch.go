package agent

import (
	"context"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/tiering"
)

// noMargin says that no lease was renewed.
const noMargin = time.Duration(math.MaxInt64)

// leaseWatch measures how much of a lease was left when it was renewed: how far the agent was from
// losing its session.
type leaseWatch struct {
	mu      sync.Mutex // guards the following
	renewed time.Time  // when the last renewal that was answered began; zero: none
	least   time.Duration
}

// begin tells of a lease that was granted at that time.
func (w *leaseWatch) begin(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.renewed = at
}

// answered tells of a renewal.
func (w *leaseWatch) answered(began, now time.Time, ttl time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.renewed.IsZero() {
		w.least = min(w.least, ttl-now.Sub(w.renewed))
	}
	w.renewed = began
}

// take returns the least margin since it was called last, or noMargin.
func (w *leaseWatch) take() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	least := w.least
	w.least = noMargin
	return least
}

// forget begins anew: there is no lease.
func (w *leaseWatch) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.renewed, w.least = time.Time{}, noMargin
}

// watchedLease is a metadata store whose renewals of a session's lease are measured.
type watchedLease struct {
	metadata.Store
	watch *leaseWatch
	ttl   time.Duration
}

// Grant implements metadata.Store.
func (w watchedLease) Grant(ctx context.Context, ttl time.Duration) (metadata.LeaseID, error) {
	began := time.Now()
	id, err := w.Store.Grant(ctx, ttl)
	if err == nil {
		w.watch.begin(began)
	}
	return id, err
}

// KeepAlive implements metadata.Store.
func (w watchedLease) KeepAlive(ctx context.Context, lease metadata.LeaseID) error {
	began := time.Now()
	err := w.Store.KeepAlive(ctx, lease)
	if err == nil {
		w.watch.answered(began, time.Now(), w.ttl)
	}
	return err
}

// snapshotWatch knows for how long journals have grown without a snapshot.
type snapshotWatch struct {
	since map[string]time.Time // by shard, of journals with records; of the goroutine that looks

	mu      sync.Mutex // guards the following
	written map[string]time.Time
}

// waiting returns the longest time, given the records of the journals of the shards that are led.
func (w *snapshotWatch) waiting(journals map[string]float64, now time.Time) time.Duration {
	w.mu.Lock()
	written := w.written
	w.written = nil
	w.mu.Unlock()
	since, longest := map[string]time.Time{}, time.Duration(0)
	for id, records := range journals {
		if records == 0 {
			continue
		}
		from, known := w.since[id]
		if at, new := written[id]; new || !known {
			from = now
			if new {
				from = at
			}
		}
		since[id] = from
		longest = max(longest, now.Sub(from))
	}
	w.since = since
	return longest
}

// watchedJournals tells the doctor of snapshots.
type watchedJournals struct {
	journal.Observer
	doctor *doctor
}

// SnapshotWritten implements journal.Observer.
func (w watchedJournals) SnapshotWritten(id tiering.ShardID, bytes int) {
	s := &w.doctor.snapshots
	s.mu.Lock()
	if s.written == nil {
		s.written = map[string]time.Time{}
	}
	s.written[strconv.Itoa(int(id))] = time.Now()
	s.mu.Unlock()
	w.Observer.SnapshotWritten(id, bytes)
}

// waiting returns for how long the oldest journal record has waited for an object to carry it.
func (c *carrier) waiting(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.records) == 0 {
		return 0
	}
	return max(0, now.Sub(c.since))
}

// watchedProducer counts who sends what before it goes on.
type watchedProducer struct {
	kafka.Producer
	busiest *busiest
}

// Append implements kafka.Producer.
func (p watchedProducer) Append(batches []*kafka.AppendBatch, done func()) {
	p.busiest.sent(batches)
	p.Producer.Append(batches, done)
}

// watchedGroups counts rebalances.
type watchedGroups struct {
	kafka.Groups
	busiest *busiest
}

// Ask implements kafka.Groups.
func (g watchedGroups) Ask(ctx context.Context, from kafka.From, name string, req kmsg.Request) (kmsg.Response, error) {
	resp, err := g.Groups.Ask(ctx, from, name, req)
	if err != nil {
		return resp, err
	}
	switch resp := resp.(type) {
	case *kmsg.SyncGroupResponse:
		// The leader of a classic group brings what all members are to read, once a rebalance.
		if r, ok := req.(*kmsg.SyncGroupRequest); ok && len(r.GroupAssignment) > 0 && resp.ErrorCode == 0 {
			g.busiest.rebalanced(name)
		}
	case *kmsg.ConsumerGroupHeartbeatResponse:
		if resp.Assignment != nil && resp.ErrorCode == 0 {
			g.busiest.assigned(name, resp.MemberEpoch)
		}
	}
	return resp, nil
}
