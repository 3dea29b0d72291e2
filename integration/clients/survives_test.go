//go:build integration && unix

package clients

import (
	"fmt"
	"maps"
	"slices"
	"strings"
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
	// Listed once: a list made while leadership of a shard moves may lack its groups.
	names, ids := groupsAndTransactions(t, addrs)
	var states map[string]string
	eventually(t, "no transaction is under way, to end by itself meanwhile", func() (bool, string) {
		states = everyTransaction(t, addrs, ids)
		for id, state := range states {
			if strings.HasPrefix(state, "Ongoing") || strings.HasPrefix(state, "Prepare") {
				return false, id + ": " + state
			}
		}
		return true, ""
	})
	offsets := everyOffset(t, addrs, names)
	if len(offsets) == 0 {
		t.Error("no offsets are committed")
	}
	e.floe.Kill()
	e.floe.Start()
	checkSame(t, "committed offset", offsets, everyOffset(t, addrs, names))
	checkSame(t, "transaction", states, everyTransaction(t, addrs, ids))
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
	s.in.awaitCommitted(t, topic) // members say what they got before they commit it
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

// checkSame says what of a cluster's state is not what it was.
func checkSame[V comparable](t *testing.T, what string, was, is map[string]V) {
	t.Helper()
	for _, key := range slices.Sorted(maps.Keys(was)) {
		if now, ok := is[key]; !ok || now != was[key] {
			t.Errorf("%s of %s was %v, and is %v (%v)", what, key, was[key], now, ok)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(is)) {
		if _, ok := was[key]; !ok {
			t.Errorf("%s of %s is %v, and there was none", what, key, is[key])
		}
	}
}

// groupsAndTransactions returns the names of the cluster's groups and its transactional ids.
func groupsAndTransactions(t *testing.T, addrs []string) (groups, ids []string) {
	t.Helper()
	a, ctx := admin(t, addrs), deadline(t)
	listed, err := a.ListGroups(ctx)
	if err != nil {
		t.Fatalf("list groups: %v", err)
	}
	txns, err := a.ListTransactions(ctx, nil, nil)
	if err != nil {
		t.Fatalf("list transactions: %v", err)
	}
	return listed.Groups(), txns.TransactionalIDs()
}

// everyOffset returns what the groups have committed, by group, topic and partition.
func everyOffset(t *testing.T, addrs, groups []string) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	for group, r := range admin(t, addrs).FetchManyOffsets(deadline(t), groups...) {
		if r.Err != nil || r.Fetched.Error() != nil {
			t.Errorf("committed offsets of %s: %v, %v", group, r.Err, r.Fetched.Error())
		}
		r.Fetched.Each(func(o kadm.OffsetResponse) { all[fmt.Sprintf("%s/%s/%d", group, o.Topic, o.Partition)] = o.At })
	}
	return all
}

// everyTransaction returns the states of transactional ids.
func everyTransaction(t *testing.T, addrs, ids []string) map[string]string {
	t.Helper()
	described, err := admin(t, addrs).DescribeTransactions(deadline(t), ids...)
	if err != nil {
		t.Fatalf("describe transactions: %v", err)
	}
	all := map[string]string{}
	for id, txn := range described {
		if txn.Err != nil {
			t.Errorf("transactional id %s: %v", id, txn.Err)
		}
		all[id] = fmt.Sprintf("%s of %d/%d", txn.State, txn.ProducerID, txn.ProducerEpoch)
	}
	return all
}
