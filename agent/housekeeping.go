package agent

import (
	"context"
	"time"

	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

const (
	// houseEvery is how often the shards that this agent leads are looked through. Looking
	// costs no request unless there is something to do.
	houseEvery = 5 * time.Second
	// sessionsEvery is how often sessions that an agent does not see any more are proved
	// dead by a read of the store.
	sessionsEvery = 30 * time.Second
	// producersEvery is how often expired producers are looked for.
	producersEvery = time.Minute
)

// keepHouse forgets what is over: topics that were deleted, sessions that are dead,
// producers that have long been silent, and etcd's history.
func (a *Agent) keepHouse(ctx context.Context, l *life) {
	house := time.NewTicker(houseEvery)
	defer house.Stop()
	mark := time.NewTicker(watermarkEvery)
	defer mark.Stop()
	var sessionsAt, producersAt time.Time
	var history history
	for {
		topics := a.catalogue.View()
		select {
		case <-ctx.Done():
			return
		case <-mark.C:
			l.session.SetLowWatermark(l.pipeline.LowWatermark())
			continue
		case <-topics.Changed():
		case <-house.C:
		}
		now := time.Now()
		a.dropDeletedTopics(ctx)
		if now.Sub(sessionsAt) >= sessionsEvery {
			a.forgetDeadSessions(ctx)
			sessionsAt = now
		}
		if now.Sub(producersAt) >= producersEvery {
			a.expireProducers(now)
			a.traffic.tidy()
			producersAt = now
		}
		if a.set.Leader(0) != nil {
			history.compact(ctx, a, now)
		}
	}
}

// led calls f with each shard that this agent leads.
func (a *Agent) led(f func(id tiering.ShardID, l *journal.Leader)) {
	for i := range a.set.NumShards() {
		if l := a.set.Leader(tiering.ShardID(i)); l != nil {
			f(tiering.ShardID(i), l)
		}
	}
}

// change proposes changes that nobody waits for: what fails is found again next time.
func (a *Agent) change(id tiering.ShardID, l *journal.Leader, what string, changes ...shard.Change) {
	l.Propose(&journal.Proposal{
		Size: 64 * len(changes),
		Draft: func(d *shard.Draft) error {
			for _, c := range changes {
				d.Add(c)
			}
			return nil
		},
		Done: func(_ uint64, err error) {
			if err != nil {
				a.parts.Log.Info("housekeeping was refused; it is tried again", "what", what, "shard", id, "err", err)
			}
		},
	})
}

// dropDeletedTopics forgets the partitions of topics that are proved to be deleted.
func (a *Agent) dropDeletedTopics(ctx context.Context) {
	view := a.catalogue.View()
	missing := map[tiering.TopicID][]tiering.ShardID{}
	a.led(func(id tiering.ShardID, _ *journal.Leader) {
		a.set.View(id).Read(func(s *shard.State) {
			for topic := range s.Topics() {
				if _, ok := view.TopicByID(topic); !ok {
					missing[topic] = append(missing[topic], id)
				}
			}
		})
	})
	if len(missing) == 0 {
		return
	}
	ids := make([]tiering.TopicID, 0, len(missing))
	for topic := range missing {
		ids = append(ids, topic)
	}
	gone, err := a.catalogue.Gone(ctx, ids)
	if err != nil {
		a.parts.Log.Info("looking for deleted topics", "err", err)
		return
	}
	for _, topic := range gone {
		for _, id := range missing[topic] {
			if l := a.set.Leader(id); l != nil {
				a.change(id, l, "drop topic", shard.DropTopic{Topic: topic})
			}
		}
	}
}

// forgetDeadSessions forgets the submissions of sessions that are proved to be dead: they
// can commit nothing any more, so nothing of theirs can be repeated.
func (a *Agent) forgetDeadSessions(ctx context.Context) {
	live := map[tiering.SessionID]bool{}
	for _, ag := range a.agents.View().All() {
		live[ag.Session] = true
	}
	suspects := map[tiering.ShardID][]tiering.SessionID{}
	a.led(func(id tiering.ShardID, _ *journal.Leader) {
		a.set.View(id).Read(func(s *shard.State) {
			for _, session := range s.Sessions() {
				if !live[session] {
					suspects[id] = append(suspects[id], session)
				}
			}
		})
	})
	if len(suspects) == 0 {
		return
	}
	alive, err := membership.Sessions(ctx, a.parts.Meta, a.keys)
	if err != nil {
		a.parts.Log.Info("looking for dead sessions", "err", err)
		return
	}
	for id, sessions := range suspects {
		var changes []shard.Change
		for _, session := range sessions {
			if _, ok := alive[session]; !ok {
				changes = append(changes, shard.ForgetSession{Session: session})
			}
		}
		if l := a.set.Leader(id); l != nil && len(changes) > 0 {
			a.change(id, l, "forget sessions", changes...)
		}
	}
}

func (a *Agent) expireProducers(now time.Time) {
	before := now.Add(-a.cfg.ProducerExpiry).UnixMilli()
	a.led(func(id tiering.ShardID, l *journal.Leader) {
		n := 0
		a.set.View(id).Read(func(s *shard.State) { n = s.ProducersBefore(before) })
		if n > 0 {
			a.change(id, l, "expire producers", shard.ExpireProducers{Before: before})
		}
	})
}

// history lets the metadata store forget revisions that are older than Config.History.
// Only the agent that leads shard 0 does so.
type history struct {
	samples []sample // ascending
	done    int64    // the revision compacted to last
}

// sample says which revision was the newest at some time.
type sample struct {
	at       time.Time
	revision int64
}

func (h *history) compact(ctx context.Context, a *Agent, now time.Time) {
	_, revision, err := a.parts.Meta.Get(ctx, a.keys.Cluster())
	if err != nil {
		return // the next look tries again
	}
	if n := len(h.samples); n == 0 || h.samples[n-1].revision != revision {
		h.samples = append(h.samples, sample{now, revision})
	}
	old := int64(0)
	for len(h.samples) > 1 && now.Sub(h.samples[0].at) >= a.cfg.History {
		old = h.samples[0].revision
		h.samples = h.samples[1:]
	}
	if old <= h.done {
		return
	}
	if err := a.parts.Meta.Compact(ctx, old); err != nil {
		a.parts.Log.Warn("compacting the metadata store's history", "revision", old, "err", err)
		return
	}
	h.done = old
}
