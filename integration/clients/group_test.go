//go:build integration && unix

package clients

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

const groupWhat = "members join, share the partitions and leave; commits, resumed from by another member; written with none and gzip"

const (
	groupPartitions = 4
	groupRecords    = 15 // to each partition at a time
)

// groupSuite returns a suite of one client's groups.
func groupSuite(client, protocol string) func(*testing.T, *env) {
	return func(t *testing.T, e *env) {
		w := e.workers.of(t, client)
		t.Run("members", func(t *testing.T) { testMembers(t, e.floe.Addrs(), w, protocol) })
		// Of clients with a choice of protocol, franz-go 1.22.2 cannot: its heartbeat that
		// leaves for a while names no instance, which the consumer protocol demands.
		if protocol != "" && (client != "franz" || protocol == classic) {
			t.Run("static", func(t *testing.T) { testStatic(t, e.floe.Addrs(), w, protocol) })
		}
	}
}

// input is a topic that is written bit by bit.
type input struct {
	addrs  []string
	topic  string
	w      worker
	lots   int
	values [groupPartitions][]string // in order of offsets
}

func newInput(t *testing.T, addrs []string, topic string, w worker) *input {
	t.Helper()
	in := &input{addrs: addrs, topic: topic, w: w}
	createTopic(t, addrs, in.topic, groupPartitions)
	for _, addr := range addrs { // not every client repeats what was too early
		a := admin(t, []string{addr})
		eventually(t, addr+" knows "+in.topic, func() (bool, string) {
			listed, err := a.ListTopics(deadline(t), in.topic)
			return err == nil && listed.Error() == nil && len(listed[in.topic].Partitions.Numbers()) == groupPartitions,
				fmt.Sprint(listed, err)
		})
	}
	return in
}

// write adds records to every partition, of alternating codecs.
func (in *input) write(t *testing.T, records int) {
	t.Helper()
	codec := []string{"none", "gzip"}[in.lots%2]
	in.lots++
	for p := range in.values {
		from := len(in.values[p])
		for range records {
			in.values[p] = append(in.values[p], fmt.Sprintf("%d/%d of lot %d", p, len(in.values[p]), in.lots))
		}
		in.w.write(t, in.addrs, in.topic, codec, int32(p), in.values[p][from:])
	}
}

// awaitAll waits until members have got all that was written, and compares it.
func (in *input) awaitAll(t *testing.T, b *board, what string, members ...*member) {
	t.Helper()
	b.await(t, what, func() bool {
		seen := map[[2]int64]bool{}
		for _, m := range members {
			for _, r := range m.records {
				seen[[2]int64{int64(r.partition), r.offset}] = true
			}
		}
		return len(seen) >= groupPartitions*len(in.values[0])
	})
	got := b.values(t, members...)
	for p, values := range in.values {
		if len(got[int32(p)]) != len(values) {
			t.Errorf("%s: partition %d gave %d records, want %d", what, p, len(got[int32(p)]), len(values))
		}
		for o, want := range values {
			if v, ok := got[int32(p)][int64(o)]; !ok || v != want {
				t.Errorf("%s: partition %d offset %d is %q (%v), want %q", what, p, o, v, ok, want)
			}
		}
	}
}

// checkCommitted checks the group's committed offsets: the ends of what was written.
func (in *input) checkCommitted(t *testing.T, group string) {
	t.Helper()
	got := committed(t, in.addrs, group, in.topic)
	for p, values := range in.values {
		if o, ok := got[int32(p)]; !ok || o != int64(len(values)) {
			t.Errorf("group %s has committed %d (%v) of partition %d, want %d", group, o, ok, p, len(values))
		}
	}
}

// awaitCommitted waits until the group has committed the ends of what was written.
func (in *input) awaitCommitted(t *testing.T, group string) {
	t.Helper()
	eventually(t, "the members of "+group+" commit what they got", func() (bool, string) {
		got := committed(t, in.addrs, group, in.topic)
		for p, values := range in.values {
			if got[int32(p)] != int64(len(values)) {
				return false, fmt.Sprintf("committed %v", got)
			}
		}
		return true, ""
	})
}

// committed returns what a group has committed, by partition, when no transaction is about to
// change that: a producer hears that one has ended before the group does.
func committed(t *testing.T, addrs []string, group, topic string) map[int32]int64 {
	t.Helper()
	a, ctx := admin(t, addrs), kadm.RequireStable(deadline(t))
	var offsets kadm.OffsetResponses
	eventually(t, "the committed offsets of "+group+" are stable", func() (bool, string) {
		var err error
		if offsets, err = a.FetchOffsets(ctx, group); err == nil {
			err = offsets.Error()
		}
		if err != nil && !errors.Is(err, kerr.UnstableOffsetCommit) {
			t.Fatalf("committed offsets of %s: %v", group, err)
		}
		return err == nil, fmt.Sprint(err)
	})
	out := map[int32]int64{}
	offsets.Each(func(o kadm.OffsetResponse) {
		if o.Topic == topic {
			out[o.Partition] = o.At
		}
	})
	return out
}

// share tells whether members hold every partition between them, each one at least one
// and none twice.
func share(members ...*member) func() bool {
	return func() bool {
		var all []int32
		for _, m := range members {
			if len(m.assigned) == 0 {
				return false
			}
			all = append(all, m.assigned...)
		}
		slices.Sort(all)
		return slices.Equal(all, []int32{0, 1, 2, 3})
	}
}

// testMembers has members come and go while records are written.
func testMembers(t *testing.T, addrs []string, w worker, protocol string) {
	in := newInput(t, addrs, topicName(t), w)
	membersShare(t, in, membership{addrs: addrs, group: in.topic, topic: in.topic, protocol: protocol})
}

// testPattern is testMembers by the server's own means: it finds the topic by a regular
// expression, and assigns ranges.
func testPattern(t *testing.T, e *env) {
	in := newInput(t, e.floe.Addrs(), topicName(t), e.workers.of(t, "java"))
	membersShare(t, in, membership{addrs: in.addrs, group: in.topic, topic: in.topic, protocol: consumer,
		pattern: in.topic[:len(in.topic)-2] + "[a-z]{2}", assignor: "range"})
}

func membersShare(t *testing.T, in *input, m membership) {
	t.Helper()
	w, b, addrs, protocol := in.w, newBoard(), in.addrs, m.protocol
	in.write(t, groupRecords)
	first := w.join(t, b, m)
	b.await(t, "the first member has all partitions", share(first))
	in.awaitAll(t, b, "the first member reads all", first)

	second := w.join(t, b, m)
	b.await(t, "two members share the partitions", share(first, second))
	in.write(t, groupRecords)
	in.awaitAll(t, b, "two members read all", first, second)
	b.mu.Lock()
	if len(second.records) == 0 {
		t.Errorf("the second member got no record: %s", b)
	}
	b.mu.Unlock()
	checkDescribed(t, addrs, m.group, protocol, 2)

	b.awaitLeft(t, first)
	b.await(t, "the second member has all partitions", share(second))
	in.write(t, groupRecords)
	in.awaitAll(t, b, "the member that is left reads all", first, second)
	b.awaitLeft(t, second)
	in.checkCommitted(t, m.group)
	checkDescribed(t, addrs, m.group, protocol, 0)

	was := len(in.values[0])
	in.write(t, groupRecords)
	third := w.join(t, b, m)
	in.awaitAll(t, b, "a member resumes", first, second, third)
	b.mu.Lock()
	for _, r := range third.records {
		if r.offset < int64(was) {
			t.Errorf("the member that resumes got partition %d offset %d, which was committed up to %d", r.partition, r.offset, was)
		}
	}
	b.mu.Unlock()
	b.awaitLeft(t, third)
	in.checkCommitted(t, m.group)
}

// testMigration turns a group that has members from the classic protocol into one of the
// consumer protocol and back.
func testMigration(t *testing.T, e *env) {
	addrs, w := e.floe.Addrs(), e.workers.of(t, "java")
	in, b := newInput(t, addrs, topicName(t), w), newBoard()
	var all []*member
	join := func(protocol string) *member {
		t.Helper()
		m := w.join(t, b, membership{addrs: addrs, group: in.topic, topic: in.topic, protocol: protocol})
		all = append(all, m)
		return m
	}
	step := func(what, protocol string, members ...*member) {
		t.Helper()
		b.await(t, what+": the members share the partitions", share(members...))
		in.write(t, groupRecords)
		in.awaitAll(t, b, what, all...)
		checkDescribed(t, addrs, in.topic, protocol, len(members))
	}
	old := join(classic)
	step("a classic group", classic, old)
	newer := join(consumer)
	step("both protocols", consumer, old, newer)
	b.awaitLeft(t, old)
	step("a consumer group", consumer, newer)
	old = join(classic)
	step("both protocols again", consumer, newer, old)
	b.awaitLeft(t, newer)
	step("a classic group again", classic, old)
	b.awaitLeft(t, old)
	in.checkCommitted(t, in.topic)
}

// testStatic ends a static member and starts it again: nobody's partitions move.
func testStatic(t *testing.T, addrs []string, w worker, protocol string) {
	in, b := newInput(t, addrs, topicName(t), w), newBoard()
	m := func(instance string) membership {
		return membership{addrs: addrs, group: in.topic, topic: in.topic, protocol: protocol, instance: instance}
	}
	first, second := w.join(t, b, m("one")), w.join(t, b, m("two"))
	b.await(t, "two static members share the partitions", share(first, second))
	in.write(t, groupRecords) // not before: who has read it has heard of all changes
	in.awaitAll(t, b, "two static members read all", first, second)
	b.mu.Lock()
	had, times := slices.Clone(second.assigned), first.times
	b.mu.Unlock()
	b.awaitLeft(t, second)
	again := w.join(t, b, m("two"))
	b.await(t, "the static member is back", share(first, again))
	in.write(t, groupRecords)
	in.awaitAll(t, b, "static members read all", first, second, again)
	b.mu.Lock()
	if !slices.Equal(sorted(again.assigned), sorted(had)) || first.times != times {
		t.Errorf("the static member had %v; when it was back: %s(the first member had %d changes)", had, b, times)
	}
	b.mu.Unlock()
	b.awaitLeft(t, again)
	b.awaitLeft(t, first)
	in.checkCommitted(t, in.topic)
}

func sorted(partitions []int32) []int32 {
	s := slices.Clone(partitions)
	slices.Sort(s)
	return s
}

// checkDescribed checks how many members the cluster comes to know of a group.
func checkDescribed(t *testing.T, addrs []string, group, protocol string, members int) {
	t.Helper()
	want := fmt.Sprintf("%d members, Stable", members)
	if members == 0 {
		want = "0 members, Empty"
	}
	a, ctx := admin(t, addrs), deadline(t)
	eventually(t, "group "+group+" is described with "+want, func() (bool, string) {
		var n int
		var state string
		var err error
		if protocol == consumer {
			described, failed := a.DescribeConsumerGroups(ctx, group)
			err = errors.Join(failed, described.Error())
			n, state = len(described[group].Members), described[group].State
		} else {
			described, failed := a.DescribeGroups(ctx, group)
			err = errors.Join(failed, described.Error())
			n, state = len(described[group].Members), described[group].State
		}
		got := fmt.Sprintf("%d members, %s", n, state)
		return err == nil && got == want, fmt.Sprint(got, ", ", err)
	})
	listed, err := a.ListGroups(ctx)
	if err != nil {
		t.Fatalf("list groups: %v", err)
	}
	if g, ok := listed[group]; !ok || g.ProtocolType != "consumer" || !strings.HasSuffix(want, g.State) {
		t.Errorf("group %s is listed as %+v (%v), want one of type consumer with %s", group, g, ok, want)
	}
}

// eventually waits until a condition holds that nothing tells of: it is looked at again
// and again.
func eventually(t *testing.T, what string, holds func() (bool, string)) {
	t.Helper()
	ctx := deadline(t)
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		ok, state := holds()
		if ok {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatalf("not in %v: %s: %s", patience, what, state)
		}
	}
}
