package agent

import (
	"context"
	"time"

	"github.com/floelog/floe/tiering"
)

// parting is what an agent knows that is about to leave, and sends its clients away.
type parting struct {
	moved map[tiering.ShardID]bool // shards that it led and that others lead now
}

// quietBefore is how long no client may have come before connections are closed: longer than one
// takes to go where NOT_LEADER_OR_FOLLOWER sends it, or than it waits before it asks again.
const quietBefore = 500 * time.Millisecond

// sendAway makes clients go to other agents, without a pause and without a request that is left
// without an answer; it returns when none comes any more. In this order:
//
//  1. The registration says that the agent leaves: from then on metadata does not name it.
//  2. Others take its shards, one after the other. Clients are served as before meanwhile, since any
//     agent takes any produce and any fetch.
//  3. Clients are refused, and told who leads now (KIP-951). They go there at once, because the
//     epochs are higher than those that they know; before, the hint would not have moved them.
//     Older clients ask for metadata first.
func (a *Agent) sendAway(ctx context.Context, l *life) error {
	if err := l.session.Leave(ctx); err != nil {
		return err
	}
	if err := a.agents.Fresh(ctx); err != nil {
		return err
	}
	if !a.others(l) { // they leave, too: nobody would take the shards
		return nil
	}
	left := &parting{moved: map[tiering.ShardID]bool{}}
	for i := range a.set.NumShards() {
		left.moved[tiering.ShardID(i)] = a.set.Leader(tiering.ShardID(i)) != nil
	}
	l.leadership.handAllOver(ctx)
	if !a.others(l) {
		// All leave at once. What was taken still needs leaders, and nobody else takes the shards.
		l.leadership.takeBack(ctx)
	}
	for id := range left.moved {
		k := a.set.Leadership(id)
		left.moved[id] = left.moved[id] && k.Live && k.Node != int32(l.session.NodeID())
	}
	a.parting.Store(left)
	a.current.CompareAndSwap(l, nil)
	a.reader.Hurry()
	if err := l.pipeline.Close(ctx); err != nil {
		return err
	}
	quiet := time.NewTimer(quietBefore)
	defer quiet.Stop()
	for {
		select {
		case <-a.refused:
			quiet.Reset(quietBefore)
		case <-quiet.C:
			return nil
		case <-ctx.Done():
			return nil // they have had their time; what is in flight is finished all the same
		}
	}
}
