package agent_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/tiering"
)

// Clients put the lists of all agents together: what none of them has they take for what there
// is not, and its open transactions for hanging ones. So no list may leave out silently what
// is coordinated by nobody for a while.
func TestListsLeaveNothingOutWhileAShardHasNoLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := newCluster(t)
		a, b := c.start("a", 1, c.objects), c.start("b", 2, c.objects)
		c.ready(a)
		c.ready(b)
		time.Sleep(time.Second) // shards have moved
		byShard := map[tiering.ShardID]string{}
		for i := 0; len(byShard) < numShards; i++ {
			id := fmt.Sprint("id-", i)
			byShard[tiering.ShardOfName(id, numShards)] = id
		}
		for shard, id := range byShard {
			n := b
			if node, _ := b.Ports().Cluster.Leader(shard); node == 1 {
				n = a
			}
			req := kmsg.NewPtrInitProducerIDRequest()
			req.SetVersion(4)
			req.TransactionalID, req.TransactionTimeoutMillis = &id, 60_000
			got, err := n.Ports().Transactions.Ask(ctx, kafka.From{}, id, req)
			if err != nil || got.(*kmsg.InitProducerIDResponse).ErrorCode != 0 {
				t.Fatalf("a producer id for %s: %v, %v", id, got, err)
			}
		}
		// listed returns the ids that agent b lists, and its code.
		listed := func() ([]string, int16) {
			resp, err := b.Ports().Transactions.List(ctx, kafka.From{}, kmsg.NewPtrListTransactionsRequest())
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, s := range resp.TransactionStates {
				ids = append(ids, s.TransactionalID)
			}
			return ids, resp.ErrorCode
		}
		if ids, code := listed(); code != 0 || len(ids) == 0 || len(ids) == numShards {
			t.Fatalf("agent b lists %v, code %d, want some of the %d", ids, code, numShards)
		}
		held := make(chan struct{})
		hold := func(ctx context.Context) error {
			select {
			case <-held:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		b.hooked.takeovers.Store(&hold)
		a.meta.Pause()
		time.Sleep(2 * leaseTTL)
		groups, err := b.Ports().Groups.List(ctx, kafka.From{}, kmsg.NewPtrListGroupsRequest())
		if err != nil || groups.ErrorCode != kerr.CoordinatorLoadInProgress.Code {
			t.Errorf("groups: code %d, %v, want COORDINATOR_LOAD_IN_PROGRESS", groups.ErrorCode, err)
		}
		if ids, code := listed(); code != kerr.CoordinatorLoadInProgress.Code || len(ids) != 0 {
			t.Errorf("while shards have no leader: %v, code %d, want COORDINATOR_LOAD_IN_PROGRESS", ids, code)
		}
		close(held)
		time.Sleep(2 * leaseTTL)
		ids, code := listed()
		slices.Sort(ids)
		want := make([]string, 0, numShards)
		for _, id := range byShard {
			want = append(want, id)
		}
		slices.Sort(want)
		if code != 0 || !slices.Equal(ids, want) {
			t.Errorf("after the takeover: %v, code %d, want %v", ids, code, want)
		}
		c.end(a, b)
	})
}
