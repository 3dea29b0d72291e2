package agent

import (
	"context"
	"encoding/json"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// loadKind is the question how much load the shards have that the asked agent leads:
//
//	nothing      answer: {"<shard>": {"bytes": ..., "submissions": ...}, ...}, both per second
const loadKind = "load"

const (
	// loadEvery is how often counts become loads. Less often: what is told is older. More
	// often: it costs more, and tells nothing that a mean over loadOver would show.
	loadEvery = 5 * time.Second
	// loadOver is the time over which loads are averaged, with exponential weights. Shorter:
	// bursts look like load. Longer: what has changed is seen late.
	loadOver = time.Minute
)

// shardLoads measures the load of the shards that this agent leads. Counting takes two atomic
// additions and may be done concurrently, as all else here.
type shardLoads struct {
	set    *journal.Set
	counts []shardCounts

	mu    sync.Mutex // guards the following
	at    time.Time  // of the last look
	loads []smoothed
}

// shardCounts is what has been sequenced on a shard by this agent since it started.
type shardCounts struct{ bytes, submissions atomic.Int64 }

// smoothed is a shard's load as an exponential mean, and what it was made of.
type smoothed struct {
	led   bool
	epoch tiering.LeaderEpoch
	// weight is how much of the mean measurements make up by now, less than 1: what is
	// missing counts as zero in load, and is divided out when it is told.
	weight             float64
	load               membership.Load
	bytes, submissions int64 // counts at the last look
}

func newShardLoads(set *journal.Set) *shardLoads {
	n := set.NumShards()
	return &shardLoads{set: set, counts: make([]shardCounts, n), loads: make([]smoothed, n)}
}

// sequenced counts a submission that this agent, as the shard's leader, has answered.
func (s *shardLoads) sequenced(id tiering.ShardID, sub *shard.Submission) {
	bytes := int64(0)
	for i := range sub.Parts {
		for j := range sub.Parts[i].Batches {
			bytes += int64(sub.Parts[i].Batches[j].Length)
		}
	}
	s.counts[id].bytes.Add(bytes)
	s.counts[id].submissions.Add(1)
}

// run measures until ctx ends.
func (s *shardLoads) run(ctx context.Context) error {
	tick := time.NewTicker(loadEvery)
	defer tick.Stop()
	for {
		s.look(time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look takes what was counted since the last look into the means. A shard's mean begins with
// its leadership.
func (s *shardLoads) look(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	since := now.Sub(s.at).Seconds()
	fresh := 1 - math.Exp(-since/loadOver.Seconds())
	for i := range s.loads {
		l := &s.loads[i]
		was := *l
		l.bytes, l.submissions = s.counts[i].bytes.Load(), s.counts[i].submissions.Load()
		leader := s.set.Leader(tiering.ShardID(i))
		if leader == nil {
			*l = smoothed{bytes: l.bytes, submissions: l.submissions}
			continue
		}
		if !was.led || was.epoch != leader.Epoch() {
			*l = smoothed{led: true, epoch: leader.Epoch(), bytes: l.bytes, submissions: l.submissions}
			continue
		}
		if since <= 0 {
			continue
		}
		l.weight += fresh * (1 - l.weight)
		l.load.Bytes += fresh * (float64(l.bytes-was.bytes)/since - l.load.Bytes)
		l.load.Submissions += fresh * (float64(l.submissions-was.submissions)/since - l.load.Submissions)
	}
	s.at = now
}

// now returns the loads of the shards that this agent leads and that have any.
func (s *shardLoads) now() map[tiering.ShardID]membership.Load {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[tiering.ShardID]membership.Load{}
	for i, l := range s.loads {
		if l.led && l.weight > 0 && l.load.Submissions > 0 {
			out[tiering.ShardID(i)] = membership.Load{Bytes: l.load.Bytes / l.weight, Submissions: l.load.Submissions / l.weight}
		}
	}
	return out
}

// total is the load of all shards that this agent leads, as membership.Load.Weight counts.
func (s *shardLoads) total() (sum float64) {
	for _, l := range s.now() {
		sum += l.Weight()
	}
	return sum
}

// answerLoad tells another agent.
func answerLoad(_ context.Context, q *questions, _ tiering.ShardID, _ []byte) ([]byte, error) {
	return json.Marshal(q.loads.now())
}
