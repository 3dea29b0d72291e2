package group_test

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// eachWay runs a test as it is, and once more with a failover before every request.
func eachWay(t *testing.T, test func(t *testing.T, w *world, moved func())) {
	t.Run("one coordinator", func(t *testing.T) { test(t, newWorld(t, nil), func() {}) })
	t.Run("failovers", func(t *testing.T) {
		w := newWorld(t, nil)
		test(t, w, w.failover)
	})
}

func TestWhoMayCommit(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world, moved func()) {
		id, generation := w.stable("classic", "t1")
		w.commit("simple", anybody, offset(tp(1, 0), 1))
		fenced := "i"
		for _, c := range []struct {
			name, group string
			member      group.Member
			tx          int64
			want        *kerr.Error
		}{
			{"a member", "classic", group.Member{ID: id, Epoch: generation}, 0, nil},
			{"an old generation", "classic", group.Member{ID: id, Epoch: generation - 1}, 0, kerr.IllegalGeneration},
			{"a generation to come", "classic", group.Member{ID: id, Epoch: generation + 1}, 0, kerr.IllegalGeneration},
			{"a stranger", "classic", group.Member{ID: "x", Epoch: generation}, 0, kerr.UnknownMemberID},
			{"an unknown instance", "classic", group.Member{ID: id, Instance: &fenced, Epoch: generation}, 0, kerr.UnknownMemberID},
			{"anybody while there are members", "classic", anybody, 0, kerr.UnknownMemberID},
			{"anybody in a transaction", "classic", anybody, 1, nil},
			{"an old generation in a transaction", "classic", group.Member{ID: id, Epoch: generation - 1}, 1, kerr.IllegalGeneration},
			{"anybody", "simple", anybody, 0, nil},
			{"a member of a group without members", "simple", group.Member{ID: id, Epoch: 1}, 0, kerr.UnknownMemberID},
			{"anybody, no such group", "new", anybody, 0, nil},
			{"a member, no such group", "none", group.Member{ID: id, Epoch: 1, Version: 8}, 0, kerr.IllegalGeneration},
			{"a member, no such group, version 9", "none", group.Member{ID: id, Epoch: 1, Version: 9}, 0, kerr.GroupIDNotFound},
			{"a member, no such group, in a transaction", "none", group.Member{ID: id, Epoch: 1, Version: 9}, 1, kerr.IllegalGeneration},
		} {
			moved()
			before := w.changes
			req := group.Commit{Group: c.group, Member: c.member, Offsets: []shard.GroupOffset{offset(tp(1, 1), 5)}}
			if c.tx != 0 {
				req.Transaction = shard.Transaction{ProducerID: 7, Epoch: 0, Number: c.tx}
			}
			code := ask[int16](w, req)
			if c.want == nil && code != 0 || c.want != nil && code != c.want.Code {
				t.Errorf("%s: code %d, want %v", c.name, code, c.want)
			}
			if code != 0 && w.changes != before {
				t.Errorf("%s: refused, and yet something was written", c.name)
			}
		}
	})
}

func TestCommitLimits(t *testing.T) {
	w := newWorld(t, nil)
	long := offset(tp(1, 0), 1)
	long.Metadata = strings.Repeat("x", 4097)
	if code := w.commit("g", anybody, long); code != kerr.OffsetMetadataTooLarge.Code {
		t.Errorf("metadata of 4097 characters: code %d", code)
	}
	long.Metadata = strings.Repeat("é", 4096)
	var many []shard.GroupOffset
	for p := range int32(1000) { // more than a change takes
		long.Partition = tp(1, p)
		many = append(many, long)
	}
	if code := w.commit("g", anybody, many...); code != 0 {
		t.Errorf("metadata of 4096 characters: code %d", code)
	}
	if n := len(w.state.Group("g").Offsets); n != len(many) || w.changes < 2 {
		t.Errorf("%d offsets in %d changes", n, w.changes)
	}
	if code := w.commit("h", anybody); code != 0 || len(w.state.GroupNames()) != 1 {
		t.Errorf("no offsets: code %d, groups %v", code, w.state.GroupNames())
	}
}

// TestTransactions has late and repeated requests of transactions (KAFKA-17754, KIP-890).
func TestTransactions(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world, moved func()) {
		commit := func(number int64, epoch int16, o tiering.Offset, want *kerr.Error) {
			t.Helper()
			moved()
			code := ask[int16](w, group.Commit{Group: "g", Member: anybody, Transaction: shard.Transaction{ProducerID: 7, Epoch: epoch, Number: number}, Offsets: []shard.GroupOffset{offset(tp(1, 0), o)}})
			if want == nil && code != 0 || want != nil && code != want.Code {
				t.Errorf("commit %d in transaction %d: code %d, want %v", o, number, code, want)
			}
		}
		conclude := func(number int64, epoch int16, ok bool, records int, want *kerr.Error) {
			t.Helper()
			moved()
			before := w.changes
			got := ask[group.Concluded](w, group.Conclude{Group: "g", Transaction: shard.Transaction{ProducerID: 7, Epoch: epoch, Number: number}, Commit: ok})
			if want == nil && got.Code != 0 || want != nil && got.Code != want.Code || w.changes-before != records {
				t.Errorf("concluding %d: code %d, %d changes; want %v, %d", number, got.Code, w.changes-before, want, records)
			}
		}
		stable := func(want int16) {
			t.Helper()
			f := ask[group.Fetched](w, group.Fetch{Group: "g", Member: anybody, Partitions: []tiering.TopicPartition{tp(1, 0)}, Stable: true})
			if f.Offsets[0].Code != want {
				t.Errorf("stable fetch: code %d, want %d", f.Offsets[0].Code, want)
			}
		}
		committed := func(want tiering.Offset) {
			t.Helper()
			if got := w.fetch("g", 0); got[0] != want {
				t.Errorf("committed %d, want %d", got[0], want)
			}
		}
		commit(1, 0, 10, nil)
		committed(-1)
		stable(kerr.UnstableOffsetCommit.Code)
		commit(2, 0, 20, kerr.ConcurrentTransactions)
		conclude(1, 0, true, 1, nil)
		committed(10)
		stable(0)
		conclude(1, 0, true, 0, nil)                // repeated
		conclude(1, 0, false, 0, nil)               // and late
		commit(1, 0, 11, kerr.InvalidTxnState)      // late, of the same epoch: KAFKA-17754
		commit(2, 0, 20, nil)                       //
		conclude(2, 1, false, 1, nil)               // aborted with a bumped epoch
		committed(10)                               //
		commit(2, 0, 21, kerr.InvalidProducerEpoch) // fenced
		conclude(3, 0, true, 0, kerr.InvalidProducerEpoch)
		conclude(5, 1, true, 1, nil) // nothing of it is known here: it is recorded all the same
		commit(5, 1, 50, kerr.InvalidTxnState)
		commit(6, 1, 60, nil)
		if code := w.commit("g", anybody, offset(tp(1, 0), 61)); code != 0 {
			t.Errorf("commit outside: %d", code)
		}
		conclude(6, 1, true, 1, nil)
		committed(61) // which was written later
	})
}

func TestFetchAll(t *testing.T) {
	w := newWorld(t, nil)
	w.commit("g", anybody, offset(tp(2, 1), 5), offset(tp(1, 3), 4))
	ask[int16](w, group.Commit{Group: "g", Member: anybody, Transaction: shard.Transaction{ProducerID: 7, Number: 1}, Offsets: []shard.GroupOffset{offset(tp(1, 3), 8), offset(tp(1, 2), 8)}})
	unstable := kerr.UnstableOffsetCommit.Code
	for _, c := range []struct {
		name string
		f    group.Fetch
		want []group.Offset
	}{
		{"all", group.Fetch{All: true}, []group.Offset{{tp(1, 3), 4, 3, "m", 0}, {tp(2, 1), 5, 3, "m", 0}}},
		{"all, stable", group.Fetch{All: true, Stable: true}, []group.Offset{{tp(1, 2), -1, -1, "", unstable}, {tp(1, 3), -1, -1, "", unstable}, {tp(2, 1), 5, 3, "m", 0}}},
		{"some", group.Fetch{Partitions: []tiering.TopicPartition{tp(2, 1), tp(3, 0)}}, []group.Offset{{tp(2, 1), 5, 3, "m", 0}, {tp(3, 0), -1, -1, "", 0}}},
	} {
		c.f.Group, c.f.Member = "g", anybody
		if got := ask[group.Fetched](w, c.f); got.Code != 0 || !reflect.DeepEqual(got.Offsets, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestDelete(t *testing.T) {
	w := newWorld(t, nil)
	ask1 := func(name string, tps ...tiering.TopicPartition) group.Deleted {
		return ask[group.Deleted](w, group.Delete{Group: name, Partitions: tps})
	}
	if got := ask1("none", tp(1, 0)); got.Code != kerr.GroupIDNotFound.Code {
		t.Errorf("no such group: %+v", got)
	}
	id, generation := w.stable("g", "t1")
	w.commit("g", group.Member{ID: id, Epoch: generation}, offset(tp(1, 0), 1), offset(tp(2, 0), 2))
	if got := ask1("g", tp(1, 0), tp(2, 0), tp(3, 0)); got.Code != 0 || !slices.Equal(got.Codes, []int16{kerr.GroupSubscribedToTopic.Code, 0, 0}) {
		t.Errorf("consumers: %+v", got)
	}
	if o := w.state.Group("g").Offsets; len(o) != 1 {
		t.Errorf("left: %v", o)
	}
	r := joinRequest("connect", "")
	r.ProtocolType = "connect"
	w.send("c", r)
	if got := ask1("connect", tp(1, 0)); got.Code != kerr.NonEmptyGroup.Code {
		t.Errorf("another protocol: %+v", got)
	}
}

// TestExpiry has the rules of KIP-211.
func TestExpiry(t *testing.T) {
	day := 24 * time.Hour
	w := newWorld(t, nil)
	explicit := offset(tp(1, 3), 9)
	explicit.Expires = w.now.Add(time.Hour).UnixMilli()
	w.commit("simple", anybody, offset(tp(1, 0), 1), explicit)
	w.commit("pending", anybody, offset(tp(1, 0), 1))
	ask[int16](w, group.Commit{Group: "pending", Member: anybody, Transaction: shard.Transaction{ProducerID: 7, Number: 1}, Offsets: []shard.GroupOffset{offset(tp(1, 0), 8)}})
	id, generation := w.stable("consumers", "t1")
	w.commit("consumers", group.Member{ID: id, Epoch: generation}, offset(tp(1, 0), 1), offset(tp(2, 0), 1))
	gone, last := w.stable("left", "t1")
	w.commit("left", group.Member{ID: gone, Epoch: last}, offset(tp(1, 0), 1))
	alive := func(d time.Duration) {
		t.Helper()
		for end := w.now.Add(d); w.now.Before(end); {
			w.wait(20 * time.Second)
			if code := w.heartbeat("consumers", id, generation); code != 0 {
				t.Fatalf("heartbeat: %d", code)
			}
			if w.now.Add(day).Before(end) {
				w.failover() // must not matter
				w.now = w.now.Add(day - time.Hour)
				w.failover()
			}
		}
	}
	count := func(want map[string]int) {
		t.Helper()
		for name, n := range want {
			if got := len(w.state.Group(name).Offsets); got != n {
				t.Errorf("%s has %d offsets, want %d", name, got, n)
			}
		}
	}
	alive(2 * time.Hour)
	count(map[string]int{"simple": 1, "pending": 1, "consumers": 2, "left": 1})
	alive(7*day + time.Hour)
	// What is not subscribed to ages from its commit; what is, and where a transaction is
	// open, stays; a group's offsets age from when its last member left.
	count(map[string]int{"simple": 0, "pending": 1, "consumers": 1, "left": 0})
	if names := w.state.Names(shard.Groups); !slices.Equal(names, []string{"consumers"}) {
		t.Errorf("rows are left of %v", names)
	}
	ask[group.Concluded](w, group.Conclude{Group: "pending", Transaction: shard.Transaction{ProducerID: 7, Number: 1}})
	alive(time.Hour)
	count(map[string]int{"pending": 0})
}

// TestExpirySinceEmpty has a group whose offsets are old when its last member leaves.
func TestExpirySinceEmpty(t *testing.T) {
	w := newWorld(t, func(s *group.Settings) { s.OffsetsRetention = time.Hour })
	id, generation := w.stable("g", "t1")
	w.commit("g", group.Member{ID: id, Epoch: generation}, offset(tp(1, 0), 1))
	for range 300 {
		w.wait(20 * time.Second)
		if code := w.heartbeat("g", id, generation); code != 0 {
			t.Fatalf("heartbeat: %d", code)
		}
	}
	w.wait(time.Minute) // its session ends
	w.failover()
	w.wait(50 * time.Minute)
	if got := w.fetch("g", 0); got[0] != 1 {
		t.Errorf("expired too early: %v", got)
	}
	w.wait(25 * time.Minute)
	if got := w.fetch("g", 0); got[0] != -1 || len(w.state.Names(shard.Groups)) != 0 {
		t.Errorf("not expired: %v, rows of %v", got, w.state.Names(shard.Groups))
	}
}

// TestExpirySinceTransaction has an offset that a transaction committed anew: it ages from
// when the transaction sent it.
func TestExpirySinceTransaction(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world, moved func()) {
		tx := shard.Transaction{ProducerID: 7, Number: 1}
		w.commit("g", anybody, offset(tp(1, 0), 1))
		w.wait(6 * 24 * time.Hour)
		ask[int16](w, group.Commit{Group: "g", Member: anybody, Transaction: tx, Offsets: []shard.GroupOffset{offset(tp(1, 0), 2)}})
		moved()
		ask[group.Concluded](w, group.Conclude{Group: "g", Transaction: tx, Commit: true})
		w.wait(6 * 24 * time.Hour)
		moved()
		w.wait(time.Hour)
		if got := w.fetch("g", 0); got[0] != 2 {
			t.Errorf("six days later %v is committed", got)
		}
		w.wait(2 * 24 * time.Hour)
		if got := w.fetch("g", 0); got[0] != -1 {
			t.Errorf("eight days later %v is committed", got)
		}
	})
}

func TestDeletedTopics(t *testing.T) {
	w := newWorld(t, nil)
	w.commit("g", anybody, offset(tp(1, 0), 1), offset(tp(2, 0), 2), offset(tp(9, 0), 9))
	w.topics = w.topics[1:]
	w.step(coordinator.Changed{Topics: w.topics})
	w.wait(time.Hour)
	// Topic 9 was never seen: it may be so new that this agent has not heard of it.
	want := []tiering.TopicPartition{tp(2, 0), tp(9, 0)}
	if got := slices.SortedFunc(maps.Keys(w.state.Group("g").Offsets), tiering.TopicPartition.Compare); !slices.Equal(got, want) {
		t.Errorf("left: %v, want %v", got, want)
	}
}

func TestConfigs(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world, moved func()) {
		set := func(name, value string) error {
			moved()
			err, _ := w.answers[w.send("c", group.AlterConfigs{Group: "g", Alter: map[string]*string{name: &value}})].(error)
			return err
		}
		for _, c := range []struct {
			name, value, text string
		}{
			{"consumer.session.timeout.ms", "50000", ""},
			{"consumer.session.timeout.ms", "61000", "from 45000 to 60000"},
			{"consumer.heartbeat.interval.ms", "x", "from 5000 to 15000"},
			{"consumer.assignor", "range", ""},
			{"consumer.assignor", "sticky", "uniform, range"},
			{"retention.ms", "1", "not known"},
		} {
			err := set(c.name, c.value)
			if c.text == "" && err != nil || c.text != "" && (!errors.Is(err, group.ErrInvalidConfig) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), c.name)) {
				t.Errorf("%s=%s: %v, want %q", c.name, c.value, err, c.text)
			}
		}
		moved()
		want := map[string]string{"consumer.session.timeout.ms": "50000", "consumer.assignor": "range"}
		if got := ask[map[string]string](w, group.Configs{Group: "g"}); !maps.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		// A group that has nothing else is none, and a deleted group keeps them.
		if l := ask[*kmsg.ListGroupsResponse](w, kmsg.NewPtrListGroupsRequest()); len(l.Groups) != 0 {
			t.Errorf("listed: %+v", l.Groups)
		}
		w.commit("g", anybody, offset(tp(1, 0), 1))
		d := kmsg.NewPtrDeleteGroupsRequest()
		d.Groups = []string{"g"}
		if got := ask[*kmsg.DeleteGroupsResponse](w, d); got.Groups[0].ErrorCode != 0 {
			t.Errorf("deleting: %+v", got)
		}
		moved()
		if got := ask[map[string]string](w, group.Configs{Group: "g"}); !maps.Equal(got, want) || len(w.state.GroupNames()) != 0 {
			t.Errorf("after the deletion: %v, groups %v", got, w.state.GroupNames())
		}
		w.send("c", group.AlterConfigs{Group: "g", Alter: map[string]*string{"consumer.session.timeout.ms": nil, "consumer.assignor": nil}})
		if names := w.state.Names(shard.Groups); len(names) != 0 {
			t.Errorf("reset, and yet rows of %v are left", names)
		}
	})
}

// Whoever may commit offsets can make groups: there is a limit, which those that are there do not feel.
func TestTheNumberOfGroupsIsBounded(t *testing.T) {
	w := newWorld(t, func(s *group.Settings) { s.MaxGroups = 2 })
	for _, name := range []string{"a", "b", "a"} {
		if code := w.commit(name, anybody, offset(tp(1, 0), 1)); code != 0 {
			t.Errorf("%s: code %d", name, code)
		}
	}
	before := w.changes
	if code := w.commit("c", anybody, offset(tp(1, 0), 1)); code != kerr.PolicyViolation.Code {
		t.Errorf("a third group by an offset: code %d", code)
	}
	join := kmsg.NewPtrJoinGroupRequest()
	join.Group, join.SessionTimeoutMillis, join.ProtocolType = "c", 10_000, "consumer"
	if r := ask[*kmsg.JoinGroupResponse](w, join); r.ErrorCode != kerr.PolicyViolation.Code {
		t.Errorf("by a member: code %d", r.ErrorCode)
	}
	if r := ask[*kmsg.ConsumerGroupHeartbeatResponse](w, beatRequest("c", "m", 0, "t1")); r.ErrorCode != kerr.PolicyViolation.Code || r.ErrorMessage == nil {
		t.Errorf("by a heartbeat: code %d", r.ErrorCode)
	}
	text := "10000"
	if err := ask[any](w, group.AlterConfigs{Group: "c", Alter: map[string]*string{"consumer.heartbeat.interval.ms": &text}}); err == nil {
		t.Error("by a config it is made")
	}
	if w.changes != before {
		t.Error("refused, and yet something was written")
	}
	w.failover()
	if code := w.commit("b", anybody, offset(tp(1, 1), 2)); code != 0 {
		t.Errorf("a group that is there: code %d", code)
	}
	id, generation := w.stable("a", "t1")
	if code := w.heartbeat("a", id, generation); code != 0 {
		t.Errorf("a member of it: code %d", code)
	}
}
