//go:build integration && unix

package clients

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
)

// survivors are members of a group that live through the end of every agent.
type survivors struct {
	in      *input
	b       *board
	members []*member
	had     [][]int32
	times   []int
}

// testSurvives kills every agent and starts them again: what was committed is committed,
// the states of transactions are what they were, and groups go on without a rebalance.
func testSurvives(t *testing.T, e *env) {
	if e.floe.Processes() == 0 {
		t.Skip("the cluster is not ours to kill")
	}
	addrs := e.floe.Addrs()
	var groups []*survivors
	// The others have their members join again when they lose a connection.
	for _, client := range []string{"java", "librdkafka", "franz"} {
		for _, protocol := range []string{classic, consumer} {
			groups = append(groups, newSurvivors(t, addrs, e.workers.of(t, client), client, protocol))
		}
	}
	offsets, states := everyOffset(t, addrs), everyTransaction(t, addrs)
	if len(offsets) == 0 {
		t.Error("no offsets are committed")
	}
	e.floe.Kill()
	e.floe.Start()
	if now := everyOffset(t, addrs); !maps.Equal(now, offsets) {
		t.Errorf("committed offsets were\n%v, and are\n%v", offsets, now)
	}
	if now := everyTransaction(t, addrs); !maps.Equal(now, states) {
		t.Errorf("transactions were\n%v, and are\n%v", states, now)
	}
	for _, s := range groups {
		s.check(t)
	}
}

func newSurvivors(t *testing.T, addrs []string, w worker, client, protocol string) *survivors {
	t.Helper()
	topic := topicName(t, client, protocol)
	s := &survivors{in: newInput(t, addrs, topic, w), b: newBoard()}
	m := membership{addrs: addrs, group: topic, topic: topic, protocol: protocol}
	s.members = []*member{w.join(t, s.b, m), w.join(t, s.b, m)}
	s.b.await(t, topic+": the members share the partitions", share(s.members...))
	s.in.write(t, groupRecords)
	s.in.awaitAll(t, s.b, topic+": all is read", s.members...)
	checkDescribed(t, addrs, topic, protocol, len(s.members))
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	for _, m := range s.members {
		s.had, s.times = append(s.had, m.assigned), append(s.times, m.times)
	}
	return s
}

// check has the members read more, and leave.
func (s *survivors) check(t *testing.T) {
	t.Helper()
	s.in.write(t, groupRecords)
	s.in.awaitAll(t, s.b, s.in.topic+": all is read after all agents were killed", s.members...)
	s.b.mu.Lock()
	for i, m := range s.members {
		if !slices.Equal(m.assigned, s.had[i]) || m.times != s.times[i] {
			t.Errorf("%s: %s had %v after %d changes; after all agents were killed: %s", s.in.topic, m.name, s.had[i], s.times[i], s.b)
		}
	}
	s.b.mu.Unlock()
	for _, m := range s.members {
		s.b.awaitLeft(t, m)
	}
	s.in.checkCommitted(t, s.in.topic)
}

// everyOffset returns what is committed in the cluster, by group, topic and partition.
func everyOffset(t *testing.T, addrs []string) map[string]int64 {
	t.Helper()
	a, ctx := admin(t, addrs), deadline(t)
	listed, err := a.ListGroups(ctx)
	if err != nil {
		t.Fatalf("list groups: %v", err)
	}
	all := map[string]int64{}
	for group, r := range a.FetchManyOffsets(ctx, listed.Groups()...) {
		if r.Err != nil || r.Fetched.Error() != nil {
			t.Errorf("committed offsets of %s: %v, %v", group, r.Err, r.Fetched.Error())
		}
		r.Fetched.Each(func(o kadm.OffsetResponse) { all[fmt.Sprintf("%s/%s/%d", group, o.Topic, o.Partition)] = o.At })
	}
	return all
}

// everyTransaction returns the states of all transactional ids.
func everyTransaction(t *testing.T, addrs []string) map[string]string {
	t.Helper()
	listed, err := admin(t, addrs).ListTransactions(deadline(t), nil, nil)
	if err != nil {
		t.Fatalf("list transactions: %v", err)
	}
	all := map[string]string{}
	for id, txn := range listed {
		all[id] = fmt.Sprintf("%s of %d", txn.State, txn.ProducerID)
	}
	return all
}
