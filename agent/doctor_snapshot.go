package agent

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/floelog/floe/diagnosis"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

const (
	// examineTimeout bounds a question to another agent or to a member of etcd. Whoever takes longer does
	// not answer, as far as a client is concerned.
	examineTimeout = 2 * time.Second
	// maxAsked bounds the agents that this one asks at a look: those that follow it by node id. All
	// agents together so ask each several times; if each asked all, a large fleet would do little else.
	maxAsked = 8
	// snapshotRecords is Config.SnapshotRecords unless it is given: the journal's default.
	snapshotRecords = 2000
	// maxOpen bounds the open transactions that are told of.
	maxOpen = 10
)

// before returns the oldest look that is not older than that, and whether looks go back as far.
func (d *doctor) before(age time.Duration) *look {
	now := d.looks[len(d.looks)-1].at
	for i := range d.looks {
		if now.Sub(d.looks[i].at) <= age {
			return &d.looks[i]
		}
	}
	return &d.looks[len(d.looks)-1]
}

// recent are the looks of recentFor, but the one that they begin with.
func (d *doctor) recent() []look {
	from := d.before(recentFor)
	for i := range d.looks {
		if &d.looks[i] == from {
			return d.looks[i+1:]
		}
	}
	return nil
}

// snapshot puts together what was measured.
func (d *doctor) snapshot(ctx context.Context) *diagnosis.Snapshot {
	a, now := d.a, &d.looks[len(d.looks)-1]
	from := d.before(recentFor)
	s := &diagnosis.Snapshot{
		Node: a.node.Load(), Zone: a.cfg.Zone, Version: a.cfg.Version, Window: now.at.Sub(from.at),
		Recent: now.totals.since(from.totals), Lately: now.totals.since(d.looks[0].totals),
		Doubts: a.cfg.Doubts,
	}
	topics := a.catalogue.View()
	d.levels(s, topics)
	d.lists(s, topics)
	s.Open = a.openTransactions(topics, now.at)
	for _, c := range a.cfg.Certificates {
		s.Certs = append(s.Certs, diagnosis.Certificate{Setting: c.Setting, Left: c.Expires.Sub(now.at)})
	}
	var asking sync.WaitGroup
	asking.Go(func() { s.Members = a.members(ctx) })
	asking.Go(func() { s.Agents = a.askOthers(ctx) })
	asking.Wait()
	return s
}

func (d *doctor) levels(s *diagnosis.Snapshot, topics catalogue.View) {
	a, now := d.a, &d.looks[len(d.looks)-1]
	t, v := now.totals, &s.Levels
	v.Connections, v.MaxConnections = t.connections, float64(a.cfg.MaxConnections)
	v.Files, v.MaxFiles = t.files, t.maxFiles
	v.DiskCacheGivenUp, v.Frozen, v.ClockInDoubt = t.diskGivenUp > 0, t.frozen > 0, t.doubtful > 0
	v.LostObjects, v.LiveBytes, v.StoredBytes = t.lost, t.live, t.stored
	v.ExtentsMax = t.extents
	s.Troubles = t.troubles
	v.JournalMax, v.SnapshotRecords = t.longest(), float64(cmp.Or(a.cfg.SnapshotRecords, snapshotRecords))
	v.SnapshotWait, v.SnapshotAge = d.snapshots.waiting(t.journals, now.at), cmp.Or(a.cfg.SnapshotAge, snapshotAge)
	v.CarryWait, v.CarryAge = a.carrier.waiting(now.at), a.cfg.CarryAge
	v.Shards, v.Leading = float64(a.set.NumShards()), float64(len(a.agents.View().ServingIDs(membership.RoleProduce)))
	v.FlushBytes = float64(a.cfg.FlushBytes)
	for topic := range topics.Topics() {
		v.Partitions += float64(topic.Partitions)
	}
	recent := d.recent()
	if s.Window >= settledAfter {
		v.Led, v.Leaderless = now.led, now.leaderless
		for _, l := range recent {
			v.Led, v.Leaderless = min(v.Led, l.led), min(v.Leaderless, l.leaderless)
		}
	}
	for _, l := range recent {
		v.MemoryShare += l.memory / float64(len(recent))
		v.ThrottleSeconds += l.totals.throttle / float64(len(recent))
	}
	v.LeaseTTL, v.LeaseMargin = a.cfg.LeaseTTL, noMargin
	for _, l := range d.looks {
		v.LeaseMargin = min(v.LeaseMargin, l.margin)
	}
	v.LeaseMeasured = v.LeaseMargin != noMargin
	if skew := d.skew.Load(); skew != noSkew {
		v.StoreSkew, v.StoreSkewMeasured = time.Duration(skew), true
	}
}

// lists fills in who and what was busiest.
func (d *doctor) lists(s *diagnosis.Snapshot, topics catalogue.View) {
	var clients [][]topEntry[string]
	var partitions [][]topEntry[tiering.TopicPartition]
	var byTopic [][]topEntry[tiering.TopicID]
	for _, l := range d.recent() {
		clients = append(clients, l.counted.clients)
		partitions = append(partitions, l.counted.partitions)
		byTopic = append(byTopic, l.counted.topics)
	}
	for id, n := range sum(clients...) {
		s.Clients = append(s.Clients, diagnosis.Client{ID: id, Batches: n.n, Bytes: n.bytes})
	}
	slices.SortFunc(s.Clients, func(a, b diagnosis.Client) int { return cmp.Compare(b.Batches, a.Batches) })
	total := sum(byTopic...)
	for tp, n := range sum(partitions...) {
		topic, ok := topics.TopicByID(tp.Topic)
		if !ok {
			continue
		}
		s.Partitions = append(s.Partitions, diagnosis.Partition{Topic: topic.Name, Index: tp.Partition, Bytes: n.bytes, Of: topic.Partitions, Total: total[tp.Topic].bytes})
	}
	slices.SortFunc(s.Partitions, func(a, b diagnosis.Partition) int { return cmp.Compare(b.Bytes, a.Bytes) })
	var groups [][]topEntry[string]
	for _, l := range d.looks {
		groups = append(groups, l.counted.groups)
	}
	for name, n := range sum(groups...) {
		s.Groups = append(s.Groups, diagnosis.Group{Name: name, Rebalances: n.n})
	}
	slices.SortFunc(s.Groups, func(a, b diagnosis.Group) int { return cmp.Compare(b.Rebalances, a.Rebalances) })
}

// openTransactions returns the oldest open transactions of partitions that this agent leads.
func (a *Agent) openTransactions(topics catalogue.View, now time.Time) []diagnosis.Transaction {
	var out []diagnosis.Transaction
	a.led(func(id tiering.ShardID, _ *journal.Leader) {
		a.set.View(id).Read(func(s *shard.State) {
			for _, tp := range s.Partitions() {
				for _, open := range s.Partition(tp).Open() {
					topic, ok := topics.TopicByID(tp.Topic)
					if !ok {
						continue
					}
					name := diagnosis.Partition{Topic: topic.Name, Index: tp.Partition}.Name()
					out = append(out, diagnosis.Transaction{Partition: name, ProducerID: open.ProducerID, Age: now.Sub(time.UnixMilli(open.Since))})
				}
			}
		})
	})
	slices.SortFunc(out, func(a, b diagnosis.Transaction) int { return cmp.Compare(b.Age, a.Age) })
	return out[:min(len(out), maxOpen)]
}

// members asks the members of the metadata store how they are, if that is known at all.
func (a *Agent) members(ctx context.Context) []diagnosis.Member {
	i, ok := a.parts.Meta.(metadata.Inspector)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	return DiagnoseMembers(i.Members(ctx))
}

// DiagnoseMembers is what members of the metadata store say, as package diagnosis takes it.
func DiagnoseMembers(members []metadata.MemberStatus) []diagnosis.Member {
	out := make([]diagnosis.Member, 0, len(members))
	for _, m := range members {
		d := diagnosis.Member{Name: m.Name, Latency: m.Latency, Bytes: float64(m.Bytes), Quota: float64(m.Quota), Alarms: m.Alarms, Skew: m.Skew}
		if m.Err != nil {
			d.Failed = m.Err.Error()
		}
		out = append(out, d)
	}
	return out
}

// askOthers lists the registered agents, and asks some of them what time it is.
func (a *Agent) askOthers(ctx context.Context) []diagnosis.Agent {
	self := membership.NodeID(a.node.Load())
	all := a.agents.View().All()
	out := make([]diagnosis.Agent, len(all))
	first := 0
	for i, ag := range all {
		out[i] = diagnosis.Agent{Node: int32(ag.NodeID), Zone: ag.Zone, Version: ag.Version}
		if ag.NodeID <= self {
			first = i + 1
		}
	}
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	var asking sync.WaitGroup
	for n := range min(len(all), maxAsked) {
		i := (first + n) % len(all)
		if all[i].NodeID == self || all[i].Leaving {
			continue
		}
		asking.Go(func() { a.askClock(ctx, all[i], &out[i]) })
	}
	asking.Wait()
	return out
}
