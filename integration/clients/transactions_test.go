//go:build integration && unix

package clients

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

const transactionWhat = "consume, process and produce exactly once, with an aborted transaction in between; read_committed; a producer is fenced by its successor"

// transactionSuite returns a suite of one client's transactions.
func transactionSuite(client string) func(*testing.T, *env) {
	return func(t *testing.T, e *env) {
		w := e.workers.of(t, client).(transactor)
		t.Run("pipe", func(t *testing.T) { testPipe(t, e.floe.Addrs(), w) })
		t.Run("fence", func(t *testing.T) { testFence(t, e.floe.Addrs(), w) })
	}
}

// testPipe copies one topic into another. The transaction with the poison is aborted, by
// a pipe that ends with it; another one goes on.
func testPipe(t *testing.T, addrs []string, w transactor) {
	in, b := newInput(t, addrs, topicName(t), w), newBoard()
	p := piping{to: topicName(t, "to"), id: topicName(t, "id"),
		membership: membership{addrs: addrs, group: in.topic, topic: in.topic, protocol: classic}}
	createTopic(t, addrs, p.to, groupPartitions)
	in.write(t, groupRecords)
	first := p
	first.poison = fmt.Sprintf("2/%d of lot 2", groupRecords+groupRecords/2)
	one := w.pipe(t, b, first)
	in.awaitAll(t, b, "the pipe commits all", one)
	checkPiped(t, in, p)

	in.write(t, groupRecords)
	b.await(t, "the pipe ends after the transaction that it aborts", func() bool { return one.left })
	checkPiped(t, in, p)
	if at := committed(t, addrs, p.group, p.topic)[2]; at >= int64(len(in.values[2])) || at < groupRecords {
		t.Errorf("after an aborted transaction %d is committed of partition 2, which holds the poison at %d", at, groupRecords+groupRecords/2)
	}
	all := readAll(t, addrs, p.to, kgo.ReadUncommitted())
	if !slices.Contains(all[2], first.poison) {
		t.Errorf("read_uncommitted gives %d records of partition 2 and none of what was aborted", len(all[2]))
	}

	two := w.pipe(t, b, p)
	in.awaitAll(t, b, "the next pipe commits the rest", one, two)
	b.awaitLeft(t, two)
	in.checkCommitted(t, p.group)
	checkPiped(t, in, p)
	checkReadCommitted(t, in, w, p)
}

// checkPiped checks that what is committed of the output is what the committed offsets of
// the input say, each value once and in order.
func checkPiped(t *testing.T, in *input, p piping) {
	t.Helper()
	offsets := committed(t, p.addrs, p.group, p.topic)
	got := readAll(t, p.addrs, p.to, kgo.ReadCommitted())
	for i := range int32(groupPartitions) {
		if want := in.values[i][:max(0, offsets[i])]; !slices.Equal(got[i], want) {
			t.Errorf("partition %d: offset %d of the input is committed, and the output holds\n%q, want\n%q", i, offsets[i], got[i], want)
		}
	}
}

// checkReadCommitted has the client itself read what was committed of the output.
func checkReadCommitted(t *testing.T, in *input, w worker, p piping) {
	t.Helper()
	b := newBoard()
	m := p.membership
	m.group, m.topic, m.committed = p.to, p.to, true
	reader := w.join(t, b, m)
	b.await(t, "the client reads what is committed", func() bool { return len(reader.records) >= groupPartitions*len(in.values[0]) })
	b.awaitLeft(t, reader)
	byPartition := map[int32][]string{}
	for _, r := range reader.records {
		byPartition[r.partition] = append(byPartition[r.partition], string(r.value))
	}
	for i, want := range in.values {
		if got := byPartition[int32(i)]; !slices.Equal(got, want) {
			t.Errorf("partition %d: the client read\n%q, want\n%q", i, got, want)
		}
	}
}

// testFence checks that of two producers with one transactional id only the later one
// can commit.
func testFence(t *testing.T, addrs []string, w transactor) {
	topic := topicName(t)
	createTopic(t, addrs, topic, 1)
	told := w.fence(t, addrs, topic, topic)
	if said := strings.ToLower(told); !strings.Contains(said, "fence") && !strings.Contains(said, "epoch") {
		t.Errorf("the producer that was replaced is told %q, want that it is fenced or that its epoch is invalid", told)
	}
	if got := readAll(t, addrs, topic, kgo.ReadCommitted())[0]; !slices.Equal(got, []string{"alive"}) {
		t.Errorf("committed is %q, want what the second producer wrote", got)
	}
	if got := readAll(t, addrs, topic, kgo.ReadUncommitted())[0]; !slices.Equal(got, []string{"zombie", "alive"}) {
		t.Errorf("written is %q, want what both producers wrote", got)
	}
}

// readAll returns the values of a topic, by partition.
func readAll(t *testing.T, addrs []string, topic string, level kgo.IsolationLevel) map[int32][]string {
	t.Helper()
	out := map[int32][]string{}
	readRecords(t, addrs, topic, level, func(k *kgo.Record) {
		out[k.Partition] = append(out[k.Partition], string(k.Value))
	})
	return out
}

// readRecords reads a topic up to its ends, which it returns, when they are stable.
func readRecords(t *testing.T, addrs []string, topic string, level kgo.IsolationLevel, got func(*kgo.Record)) map[int32]int64 {
	t.Helper()
	ends := awaitStable(t, addrs, topic)
	assigned, left := map[int32]kgo.Offset{}, 0
	for p, end := range ends {
		if end > 0 {
			assigned[p] = kgo.NewOffset().AtStart()
			left++
		}
	}
	// A log of transactions ends with a control record, so all of it has been read with it.
	c := dial(t, addrs, kgo.FetchIsolationLevel(level), kgo.KeepControlRecords(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: assigned}))
	ctx := deadline(t)
	for left > 0 {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("%s: %v; %d partitions are not read up to %v", topic, err, left, ends)
		}
		fetches.EachRecord(func(k *kgo.Record) {
			if !k.Attrs.IsControl() {
				got(k)
			}
			if k.Offset == ends[k.Partition]-1 {
				left--
			}
		})
	}
	return ends
}

// awaitStable waits until every log of a topic is stable up to its end, which it returns:
// its transactions are all over. A producer hears that one has ended before its markers
// are written.
func awaitStable(t *testing.T, addrs []string, topic string) map[int32]int64 {
	t.Helper()
	a, ctx := admin(t, addrs), deadline(t)
	all := map[int32]int64{}
	eventually(t, topic+" is stable", func() (bool, string) {
		ends, err := a.ListEndOffsets(ctx, topic)
		if err == nil {
			err = ends.Error()
		}
		if err != nil {
			return false, err.Error()
		}
		stable, err := a.ListCommittedOffsets(ctx, topic)
		if err == nil {
			err = stable.Error()
		}
		if err != nil {
			return false, err.Error()
		}
		ok := len(ends[topic]) > 0
		for p, end := range ends[topic] {
			all[p] = end.Offset
			ok = ok && stable[topic][p].Offset == end.Offset
		}
		return ok, fmt.Sprintf("it ends at %v and is stable up to %v", ends, stable)
	})
	return all
}
