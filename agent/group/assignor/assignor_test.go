package assignor_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/floelog/floe/agent/group/assignor"
	"github.com/floelog/floe/tiering"
)

func topicID(n int) tiering.TopicID { return tiering.TopicID{byte(n >> 8), byte(n)} }

func topicsOf(partitions ...int32) []assignor.Topic {
	var out []assignor.Topic
	for i, n := range partitions {
		out = append(out, assignor.Topic{ID: topicID(i + 1), Partitions: n})
	}
	return out
}

// member subscribes to topics by their numbers, from 1.
func member(id string, topics ...int) assignor.Member {
	m := assignor.Member{ID: id}
	for _, t := range topics {
		m.Topics = append(m.Topics, topicID(t))
	}
	return m
}

func owners(members []assignor.Member, as []assignor.Assignment) map[tiering.TopicPartition]string {
	out := make(map[tiering.TopicPartition]string)
	for i, a := range as {
		for _, s := range a {
			for _, p := range s.Partitions {
				out[tiering.TopicPartition{Topic: s.Topic, Partition: p}] = members[i].ID
			}
		}
	}
	return out
}

// check verifies what every assignor promises.
func check(t *testing.T, members []assignor.Member, topics []assignor.Topic, as []assignor.Assignment) {
	t.Helper()
	if len(as) != len(members) {
		t.Fatalf("%d assignments for %d members", len(as), len(members))
	}
	seen := make(map[tiering.TopicPartition]int)
	for i, a := range as {
		if !slices.IsSortedFunc(a, func(x, y assignor.Share) int { return bytes.Compare(x.Topic[:], y.Topic[:]) }) {
			t.Fatalf("%s: shares out of order", members[i].ID)
		}
		for _, s := range a {
			if !slices.Contains(members[i].Topics, s.Topic) {
				t.Fatalf("%s has partitions of %s, to which it does not subscribe", members[i].ID, s.Topic)
			}
			if len(s.Partitions) == 0 || !slices.IsSorted(s.Partitions) {
				t.Fatalf("%s: partitions %v", members[i].ID, s.Partitions)
			}
			for _, p := range s.Partitions {
				seen[tiering.TopicPartition{Topic: s.Topic, Partition: p}]++
			}
		}
	}
	want := 0
	for _, topic := range topics {
		if !slices.ContainsFunc(members, func(m assignor.Member) bool { return slices.Contains(m.Topics, topic.ID) }) {
			continue
		}
		want += int(topic.Partitions)
		for p := range topic.Partitions {
			if n := seen[tiering.TopicPartition{Topic: topic.ID, Partition: p}]; n != 1 {
				t.Fatalf("%s-%d has %d owners", topic.ID, p, n)
			}
		}
	}
	if len(seen) != want {
		t.Fatalf("%d partitions assigned, %d exist", len(seen), want)
	}
}

func spread(as []assignor.Assignment) (low, high int) {
	low = as[0].Count()
	for _, a := range as {
		low, high = min(low, a.Count()), max(high, a.Count())
	}
	return low, high
}

func moved(before, after map[tiering.TopicPartition]string) int {
	n := 0
	for tp, m := range before {
		if o, ok := after[tp]; ok && o != m {
			n++
		}
	}
	return n
}

// TestUniformEqualSubscriptions: balance within one, and only what must move moves.
func TestUniformEqualSubscriptions(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		topics := topicsOf(int32(rnd.IntN(20)), int32(rnd.IntN(20)+1), int32(rnd.IntN(7)))
		total := 0
		for _, topic := range topics {
			total += int(topic.Partitions)
		}
		var members []assignor.Member
		for i := range 12 {
			before := owners(members, currents(members))
			loads := make(map[string]int)
			for _, m := range before {
				loads[m]++
			}
			leaves := len(members) > 1 && rnd.IntN(3) == 0
			must := 0
			if leaves {
				gone := rnd.IntN(len(members))
				delete(loads, members[gone].ID)
				members = slices.Delete(members, gone, gone+1)
			} else {
				members = append(members, member(fmt.Sprintf("m%03d", rnd.IntN(900)*100+i), 1, 2, 3))
				// Whoever has more than its share gives, and nobody else.
				ceil, extra := (total+len(members)-1)/len(members), total%len(members)
				over := 0
				for _, n := range loads {
					if n >= ceil && extra > 0 {
						over++
					}
					must += max(n-ceil, 0)
				}
				if extra > 0 {
					must += max(over-extra, 0)
				}
			}
			as := assignor.Uniform(members, topics)
			check(t, members, topics, as)
			if low, high := spread(as); high-low > 1 {
				t.Fatalf("seed %d: members have between %d and %d partitions", seed, low, high)
			}
			for i := range members {
				members[i].Current = as[i]
			}
			if leaves {
				// Of the members that stayed, nobody lost a partition.
				after := owners(members, as)
				for tp, m := range before {
					if _, stayed := loads[m]; stayed && after[tp] != m {
						t.Fatalf("seed %d: %v moved from %s to %s when another left", seed, tp, m, after[tp])
					}
				}
			} else if n := moved(before, owners(members, as)); n != must {
				t.Fatalf("seed %d: %d partitions moved, %d had to", seed, n, must)
			}
		}
	}
}

func currents(members []assignor.Member) []assignor.Assignment {
	var out []assignor.Assignment
	for _, m := range members {
		out = append(out, m.Current)
	}
	return out
}

// TestUniformDifferentSubscriptions: the subscribers of each topic are level where they can be,
// and what is level does not move.
func TestUniformDifferentSubscriptions(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		topics := topicsOf(int32(rnd.IntN(30)), int32(rnd.IntN(10)+1), int32(rnd.IntN(20)), int32(rnd.IntN(5)))
		var members []assignor.Member
		for i := range rnd.IntN(10) + 2 {
			var subs []int
			for n := 1; n <= 5; n++ { // topic 5 does not exist
				if rnd.IntN(2) == 0 {
					subs = append(subs, n)
				}
			}
			members = append(members, member(fmt.Sprintf("m%d", i), subs...))
		}
		as := assignor.Uniform(members, topics)
		check(t, members, topics, as)
		for i := range members {
			members[i].Current = as[i]
		}
		again := assignor.Uniform(members, topics)
		if n := moved(owners(members, as), owners(members, again)); n != 0 {
			t.Fatalf("seed %d: %d partitions moved though nothing changed", seed, n)
		}
		level(t, seed, members, as)
	}
}

// level: no partition could go to a subscriber with two or more less than its owner has.
func level(t *testing.T, seed uint64, members []assignor.Member, as []assignor.Assignment) {
	t.Helper()
	for i, a := range as {
		for _, s := range a {
			for j := range members {
				if slices.Contains(members[j].Topics, s.Topic) && a.Count()-as[j].Count() > 1 {
					t.Fatalf("seed %d: %s has %d partitions, one of %s, and %s has only %d", seed, members[i].ID, a.Count(), s.Topic, members[j].ID, as[j].Count())
				}
			}
		}
	}
}

// TestOrderHasNoInfluence: assignors are deterministic, whatever the order of their input.
func TestOrderHasNoInfluence(t *testing.T) {
	for name, assign := range assignors(t) {
		for seed := range uint64(50) {
			rnd := rand.New(rand.NewPCG(seed, 3))
			topics := topicsOf(7, 3, 12)
			members := []assignor.Member{member("b", 1, 2), member("a", 1, 2, 3), member("d", 2, 3), member("c", 3)}
			want := owners(members, assign(members, topics))
			rnd.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
			rnd.Shuffle(len(topics), func(i, j int) { topics[i], topics[j] = topics[j], topics[i] })
			got := owners(members, assign(members, topics))
			if n := moved(want, got); n != 0 || len(got) != len(want) {
				t.Fatalf("%s: %d partitions differ in another order of members and topics", name, n)
			}
		}
	}
}

func assignors(t testing.TB) map[string]assignor.Func {
	t.Helper()
	out := make(map[string]assignor.Func)
	for _, name := range []string{"uniform", "range"} {
		f, ok := assignor.ByName(name)
		if !ok {
			t.Fatalf("there is no assignor %q", name)
		}
		out[name] = f
	}
	if _, ok := assignor.ByName("sticky"); ok {
		t.Fatal("there is an assignor that nobody wrote")
	}
	return out
}

// TestStaleCurrent: what a member has of topics that shrank, vanished or that it left is not
// kept, nor a partition twice.
func TestStaleCurrent(t *testing.T) {
	a, b := member("a", 1, 2), member("b", 1, 2)
	a.Current = assignor.Assignment{{Topic: topicID(1), Partitions: []int32{0, 1, 9}}, {Topic: topicID(7), Partitions: []int32{0}}}
	b.Current = assignor.Assignment{{Topic: topicID(1), Partitions: []int32{0}}}
	for name, assign := range assignors(t) {
		members, topics := []assignor.Member{a, b}, topicsOf(2, 2)
		as := assign(members, topics)
		check(t, members, topics, as)
		if got := a.Current.Of(topicID(1)); !slices.Equal(got, []int32{0, 1, 9}) {
			t.Errorf("%s changed a current assignment to %v", name, got)
		}
	}
	for name, assign := range assignors(t) {
		if as := assign(nil, topicsOf(3)); len(as) != 0 {
			t.Errorf("%s: no members: %v", name, as)
		}
		if as := assign([]assignor.Member{a}, nil); len(as) != 1 || len(as[0]) != 0 {
			t.Errorf("%s: no topics: %v", name, as)
		}
	}
}

// TestRange: runs, co-partitioned, in the order of instances and member ids.
func TestRange(t *testing.T) {
	static := func(m assignor.Member, instance string) assignor.Member { m.Instance = &instance; return m }
	for name, c := range map[string]struct {
		members []assignor.Member
		topics  []assignor.Topic
		want    []string
	}{
		"co-partitioned":       {[]assignor.Member{member("a", 1, 2), member("b", 1, 2)}, topicsOf(3, 3), []string{"1:[0 1] 2:[0 1] ", "1:[2] 2:[2] "}},
		"more than partitions": {[]assignor.Member{member("a", 1), member("b", 1), member("c", 1)}, topicsOf(2), []string{"1:[0] ", "1:[1] ", ""}},
		"some subscribe":       {[]assignor.Member{member("a", 1), member("b", 1, 2), member("c", 2)}, topicsOf(3, 3), []string{"1:[0 1] ", "1:[2] 2:[0 1] ", "2:[2] "}},
		"static first":         {[]assignor.Member{member("a", 1), static(member("z", 1), "i2"), static(member("y", 1), "i1")}, topicsOf(4), []string{"1:[3] ", "1:[2] ", "1:[0 1] "}},
		"static came back":     {[]assignor.Member{static(member("m3", 1), "i0"), static(member("m2", 1), "i1")}, topicsOf(3), []string{"1:[0 1] ", "1:[2] "}},
	} {
		as := assignor.Range(c.members, c.topics)
		check(t, c.members, c.topics, as)
		for i, a := range as {
			got := ""
			for _, s := range a {
				got += fmt.Sprintf("%d:%v ", int(s.Topic[0])<<8|int(s.Topic[1]), s.Partitions)
			}
			if got != c.want[i] {
				t.Errorf("%s: %s has %q, want %q", name, c.members[i].ID, got, c.want[i])
			}
		}
	}
}

// BenchmarkAssign: one more member joins 499 others that own 10,000 partitions.
func BenchmarkAssign(b *testing.B) {
	topics := make([]assignor.Topic, 100)
	var all, half []int
	for i := range topics {
		topics[i] = assignor.Topic{ID: topicID(i + 1), Partitions: 100}
		all = append(all, i+1)
		if i%2 == 0 {
			half = append(half, i+1)
		}
	}
	for name, assign := range assignors(b) {
		for _, mixed := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/mixed=%v", name, mixed), func(b *testing.B) {
				members := make([]assignor.Member, 499)
				for i := range members {
					subs := all
					if mixed && i%2 == 0 {
						subs = half
					}
					members[i] = member(fmt.Sprintf("m%d", i), subs...)
				}
				for i, a := range assign(members, topics) {
					members[i].Current = a
				}
				members = append(members, member("z", all...))
				b.ReportAllocs()
				for b.Loop() {
					assign(members, topics)
				}
			})
		}
	}
}
