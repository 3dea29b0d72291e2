package group_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/group"
	"github.com/floelog/floe/metadata/shard"
)

func beatRequest(name, id string, epoch int32, topics ...string) *kmsg.ConsumerGroupHeartbeatRequest {
	r := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	r.Version, r.Group, r.MemberID, r.MemberEpoch, r.RebalanceTimeoutMillis = 1, name, id, epoch, 60_000
	r.SubscribedTopicNames = topics
	if epoch == 0 {
		r.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	}
	return r
}

// consumers makes a consumer group of one member.
func (w *world) consumers(name, id string) int32 {
	w.t.Helper()
	a := ask[*kmsg.ConsumerGroupHeartbeatResponse](w, beatRequest(name, id, 0, "t1"))
	if a.ErrorCode != 0 {
		w.t.Fatalf("joining %s: %+v", name, a)
	}
	return a.MemberEpoch
}

const memberUUID = "AAAAAAAAAAAAAAAAAAAAAQ"

func TestListAndDescribe(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world, moved func()) {
		w.stable("a-classic", "t1")
		w.consumers("b-consumer", memberUUID)
		w.commit("c-simple", anybody, offset(tp(1, 0), 1))
		ask[group.Concluded](w, group.Conclude{Group: "d-fence", Transaction: shard.Transaction{ProducerID: 1, Number: 1}})
		for _, c := range []struct {
			states, types []string
			want          string
		}{
			{nil, nil, "a-classic/consumer/Stable/classic b-consumer/consumer/Stable/consumer c-simple//Empty/classic"},
			{[]string{" stable"}, nil, "a-classic/consumer/Stable/classic b-consumer/consumer/Stable/consumer"},
			{nil, []string{"Classic"}, "a-classic/consumer/Stable/classic c-simple//Empty/classic"},
			{[]string{"Empty", "Dead"}, []string{"consumer"}, ""},
			{nil, []string{"share"}, ""},
		} {
			moved()
			r := kmsg.NewPtrListGroupsRequest()
			r.Version, r.StatesFilter, r.TypesFilter = 5, c.states, c.types
			var got []string
			for _, g := range ask[*kmsg.ListGroupsResponse](w, r).Groups {
				got = append(got, strings.Join([]string{g.Group, g.ProtocolType, g.GroupState, g.GroupType}, "/"))
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("states %v types %v: %s, want %s", c.states, c.types, s, c.want)
			}
		}
		for _, c := range []struct {
			name          string
			version       int16
			state         string
			code          int16
			consumerState string
		}{
			{"a-classic", 6, "Stable", 0, ""},
			{"b-consumer", 6, "Dead", kerr.GroupIDNotFound.Code, "Stable"},
			{"b-consumer", 5, "Dead", 0, "Stable"},
			{"c-simple", 6, "Empty", 0, ""},
			{"d-fence", 6, "Dead", kerr.GroupIDNotFound.Code, ""},
			{"e", 6, "Dead", kerr.GroupIDNotFound.Code, ""},
		} {
			moved()
			r := kmsg.NewPtrDescribeGroupsRequest()
			r.Version, r.Groups = c.version, []string{c.name}
			d := ask[*kmsg.DescribeGroupsResponse](w, r).Groups[0]
			if d.Group != c.name || d.State != c.state || d.ErrorCode != c.code || (d.ErrorMessage != nil) != (c.code != 0) {
				t.Errorf("%s version %d: %+v", c.name, c.version, d)
			}
			q := kmsg.NewPtrConsumerGroupDescribeRequest()
			q.Version, q.Groups = 1, []string{c.name}
			e := ask[*kmsg.ConsumerGroupDescribeResponse](w, q).Groups[0]
			if e.Group != c.name || e.State != c.consumerState || (e.ErrorCode == kerr.GroupIDNotFound.Code) != (c.consumerState == "") {
				t.Errorf("%s as a consumer group: %+v", c.name, e)
			}
		}
	})
}

func TestDeleteGroups(t *testing.T) {
	w := newWorld(t, nil)
	del := func(name string) int16 {
		t.Helper()
		r := kmsg.NewPtrDeleteGroupsRequest()
		r.Version, r.Groups = 2, []string{name}
		return ask[*kmsg.DeleteGroupsResponse](w, r).Groups[0].ErrorCode
	}
	id, generation := w.stable("classic", "t1")
	w.commit("classic", group.Member{ID: id, Epoch: generation}, offset(tp(1, 0), 1))
	w.consumers("consumer", memberUUID)
	tx := shard.Transaction{ProducerID: 1, Number: 1}
	ask[int16](w, group.Commit{Group: "tx", Member: anybody, Transaction: tx, Offsets: []shard.GroupOffset{offset(tp(1, 0), 1)}})
	for name, want := range map[string]int16{"classic": kerr.NonEmptyGroup.Code, "consumer": kerr.NonEmptyGroup.Code, "none": kerr.GroupIDNotFound.Code, "tx": 0} {
		if got := del(name); got != want {
			t.Errorf("%s: code %d, want %d", name, got, want)
		}
	}
	w.wait(2 * time.Minute) // the sessions end
	for _, name := range []string{"classic", "consumer"} {
		if got := del(name); got != 0 {
			t.Errorf("empty %s: code %d", name, got)
		}
	}
	if names := w.state.Names(shard.Groups); len(names) != 0 || len(w.state.Group("classic").Offsets) != 0 {
		t.Errorf("left: %v", names)
	}
	// The transaction whose offsets were deleted ends, and no late commit of it brings them back.
	ask[group.Concluded](w, group.Conclude{Group: "tx", Transaction: tx, Commit: true})
	w.failover()
	if got := w.fetch("tx", 0); got[0] != -1 {
		t.Errorf("deleted, and yet %v is committed", got)
	}
	if code := ask[int16](w, group.Commit{Group: "tx", Member: anybody, Transaction: tx, Offsets: []shard.GroupOffset{offset(tp(1, 0), 1)}}); code != kerr.InvalidTxnState.Code {
		t.Errorf("late commit: code %d", code)
	}
}

func TestNoSuchGroup(t *testing.T) {
	w := newWorld(t, nil)
	leave := func(version int16) *kmsg.LeaveGroupRequest {
		r := kmsg.NewPtrLeaveGroupRequest()
		r.Version, r.Group, r.MemberID = version, "g", "m"
		e := kmsg.NewLeaveGroupRequestMember()
		e.MemberID = "m"
		r.Members = append(r.Members, e)
		return r
	}
	if a := ask[*kmsg.LeaveGroupResponse](w, leave(2)); a.ErrorCode != kerr.UnknownMemberID.Code || a.Version != 2 {
		t.Errorf("leave 2: %+v", a)
	}
	if a := ask[*kmsg.LeaveGroupResponse](w, leave(4)); a.ErrorCode != 0 || len(a.Members) != 1 || a.Members[0].ErrorCode != kerr.UnknownMemberID.Code {
		t.Errorf("leave 4: %+v", a)
	}
	if a := ask[*kmsg.SyncGroupResponse](w, syncRequest("g", "m", 1, nil)); a.ErrorCode != kerr.UnknownMemberID.Code {
		t.Errorf("sync: %+v", a)
	}
	if a := ask[*kmsg.JoinGroupResponse](w, joinRequest("", "", "t1")); a.ErrorCode != kerr.InvalidGroupID.Code {
		t.Errorf("join of no group: %+v", a)
	}
	if a := ask[*kmsg.JoinGroupResponse](w, joinRequest("g", "m", "t1")); a.ErrorCode != kerr.UnknownMemberID.Code || a.MemberID != "m" {
		t.Errorf("join: %+v", a)
	}
	for epoch, want := range map[int32]int16{0: kerr.InvalidRequest.Code, 1: kerr.GroupIDNotFound.Code} {
		r := beatRequest("g", memberUUID, epoch)
		r.RebalanceTimeoutMillis = -1
		if a := ask[*kmsg.ConsumerGroupHeartbeatResponse](w, r); a.ErrorCode != want {
			t.Errorf("heartbeat with epoch %d: %+v, want %d", epoch, a, want)
		}
	}
	if l := ask[*kmsg.ListGroupsResponse](w, kmsg.NewPtrListGroupsRequest()); len(l.Groups) != 0 || w.changes != 0 {
		t.Errorf("these made %v, %d changes", l.Groups, w.changes)
	}
}

// TestEmptyGroupsChangeSides has groups without members taken over by the other protocol;
// their offsets stay.
func TestEmptyGroupsChangeSides(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world, moved func()) {
		prefixes := func(want string) {
			t.Helper()
			for key := range w.state.Rows(shard.Groups, "g") {
				if !strings.HasPrefix(key, want) {
					t.Errorf("row %q is left", key)
				}
			}
		}
		id, generation := w.stable("g", "t1")
		w.commit("g", group.Member{ID: id, Epoch: generation}, offset(tp(1, 0), 5))
		moved()
		w.wait(time.Minute)
		moved()
		w.consumers("g", memberUUID)
		prefixes("c/")
		w.wait(2 * time.Minute)
		moved()
		w.stable("g", "t1")
		prefixes("g/")
		moved()
		if got := w.fetch("g", 0); got[0] != 5 {
			t.Errorf("committed: %v", got)
		}
	})
}

// assignTo is an assignment of the classic protocol.
func assignTo(topic string, partitions ...int32) string {
	a := kmsg.NewConsumerMemberAssignment()
	e := kmsg.NewConsumerMemberAssignmentTopic()
	e.Topic, e.Partitions = topic, partitions
	a.Topics = append(a.Topics, e)
	return string(a.AppendTo(nil))
}

// TestMigration has a classic member, one of the new protocol that comes and goes, and the
// group changing its protocol with them (KIP-848).
func TestMigration(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world, moved func()) {
		join := w.send("c", joinRequest("g", "", "t1"))
		w.wait(w.settings.InitialRebalanceDelay)
		j := answer[*kmsg.JoinGroupResponse](w, join)
		ask[*kmsg.SyncGroupResponse](w, syncRequest("g", j.MemberID, j.Generation, map[string]string{j.MemberID: assignTo("t1", 0, 1, 2, 3)}))
		w.commit("g", group.Member{ID: j.MemberID, Epoch: j.Generation}, offset(tp(1, 0), 5))
		moved()

		bad := beatRequest("g", memberUUID, 0, "t1")
		bad.RebalanceTimeoutMillis = -1
		if a := ask[*kmsg.ConsumerGroupHeartbeatResponse](w, bad); a.ErrorCode != kerr.InvalidRequest.Code {
			t.Fatalf("bad heartbeat: %+v", a)
		}
		if code := w.heartbeat("g", j.MemberID, j.Generation); code != 0 {
			t.Errorf("a heartbeat that was refused disturbed the group: code %d", code)
		}
		moved()

		a := ask[*kmsg.ConsumerGroupHeartbeatResponse](w, beatRequest("g", memberUUID, 0, "t1"))
		if a.ErrorCode != 0 || a.MemberEpoch <= j.Generation {
			t.Fatalf("upgrade: %+v", a)
		}
		moved()
		if code := w.heartbeat("g", j.MemberID, j.Generation); code != kerr.RebalanceInProgress.Code {
			t.Errorf("the classic member hears %d", code)
		}
		types(t, w, "g/consumer")
		w.commit("g", group.Member{ID: memberUUID, Epoch: a.MemberEpoch, Version: 9}, offset(tp(1, 1), 6))

		moved()
		if a := ask[*kmsg.ConsumerGroupHeartbeatResponse](w, beatRequest("g", memberUUID, -1)); a.ErrorCode != 0 {
			t.Fatalf("leaving: %+v", a)
		}
		types(t, w, "g/classic")
		moved()
		// What the one that left had is free: a rebalance is due, whoever coordinates.
		d := kmsg.NewPtrDescribeGroupsRequest()
		d.Groups = []string{"g"}
		if g := ask[*kmsg.DescribeGroupsResponse](w, d).Groups[0]; g.State != "PreparingRebalance" {
			t.Errorf("after the downgrade the group is %s", g.State)
		}
		for key := range w.state.Rows(shard.Groups, "g") {
			if strings.HasPrefix(key, "c/") {
				t.Errorf("row %q is left", key)
			}
		}
		// The member rejoins, and leads the group on; generations rise across both changes.
		again := joinRequest("g", j.MemberID, "t1")
		b := ask[*kmsg.JoinGroupResponse](w, again)
		if b.ErrorCode != 0 || b.Generation <= a.MemberEpoch || b.LeaderID != j.MemberID {
			t.Errorf("rejoining: %+v", b)
		}
		if got := w.fetch("g", 0, 1); got[0] != 5 || got[1] != 6 {
			t.Errorf("committed: %v", got)
		}
	})
}

// TestMigrationCutShort has a failover after the first of several records of a migration.
func TestMigrationCutShort(t *testing.T) {
	w := newWorld(t, nil)
	id, generation := w.stable("g", "t1")
	w.consumers("h", memberUUID)
	var rows []shard.Row
	for key, value := range w.state.Rows(shard.Groups, "h") {
		rows = append(rows, shard.Row{Key: key, Value: value})
	}
	w.apply(shard.PutRows{Space: shard.Groups, Name: "g", Rows: rows}, shard.DropGroup{Group: "h"})
	w.failover()
	types(t, w, "g/classic")
	if code := w.heartbeat("g", id, generation); code != 0 {
		t.Errorf("the member hears %d", code)
	}
	w.wait(w.settings.OffsetsRetentionCheck)
	for key := range w.state.Rows(shard.Groups, "g") {
		if strings.HasPrefix(key, "c/") {
			t.Errorf("row %q is left", key)
		}
	}
}

func types(t *testing.T, w *world, want string) {
	t.Helper()
	r := kmsg.NewPtrListGroupsRequest()
	r.Version = 5
	l := ask[*kmsg.ListGroupsResponse](w, r).Groups
	if len(l) != 1 || l[0].Group+"/"+l[0].GroupType != want {
		t.Errorf("groups %+v, want %s", l, want)
	}
}

func TestMigrationPolicy(t *testing.T) {
	w := newWorld(t, func(s *group.Settings) { s.ConsumerMigration = group.MigrateNever })
	id, generation := w.stable("g", "t1")
	a := ask[*kmsg.ConsumerGroupHeartbeatResponse](w, beatRequest("g", memberUUID, 0, "t1"))
	if a.ErrorCode != kerr.GroupIDNotFound.Code || a.ErrorMessage == nil {
		t.Errorf("upgrade: %+v", a)
	}
	if code := w.heartbeat("g", id, generation); code != 0 {
		t.Errorf("the member hears %d", code)
	}
}

// TestDowngradeKeepsMembers: when the last member of the new protocol leaves, the classic ones
// are told to rejoin, and may commit until then: they lose nothing.
func TestDowngradeKeepsMembers(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world, moved func()) {
		id, generation := w.stable("g", "t1")
		a := ask[*kmsg.ConsumerGroupHeartbeatResponse](w, beatRequest("g", memberUUID, 0, "t1"))
		if code := w.heartbeat("g", id, generation); a.ErrorCode != 0 || code != kerr.RebalanceInProgress.Code {
			t.Fatalf("upgrade: %+v; the classic member hears %d", a, code)
		}
		b := ask[*kmsg.JoinGroupResponse](w, joinRequest("g", id, "t1"))
		ask[*kmsg.SyncGroupResponse](w, syncRequest("g", id, b.Generation, nil))
		moved()
		if a := ask[*kmsg.ConsumerGroupHeartbeatResponse](w, beatRequest("g", memberUUID, -1)); a.ErrorCode != 0 {
			t.Fatalf("leaving: %+v", a)
		}
		types(t, w, "g/classic")
		moved()
		if code := w.heartbeat("g", id, b.Generation); code != kerr.RebalanceInProgress.Code {
			t.Errorf("the classic member hears %d", code)
		}
		if code := w.commit("g", group.Member{ID: id, Epoch: b.Generation}, offset(tp(1, 0), 9)); code != 0 {
			t.Errorf("its commit is refused with %d", code)
		}
		if c := ask[*kmsg.JoinGroupResponse](w, joinRequest("g", id, "t1")); c.ErrorCode != 0 || c.Generation <= b.Generation {
			t.Errorf("rejoining: %+v after generation %d", c, b.Generation)
		}
	})
}

// TestUserDataIsNotLost: an assignment that has user data, as Kafka Streams' have, would lose
// it in a consumer group, so the group stays classic.
func TestUserDataIsNotLost(t *testing.T) {
	w := newWorld(t, nil)
	join := w.send("c", joinRequest("g", "", "t1"))
	w.wait(w.settings.InitialRebalanceDelay)
	j := answer[*kmsg.JoinGroupResponse](w, join)
	streams := kmsg.ConsumerMemberAssignment{UserData: []byte("tasks")}
	ask[*kmsg.SyncGroupResponse](w, syncRequest("g", j.MemberID, j.Generation, map[string]string{j.MemberID: string(streams.AppendTo(nil))}))
	a := ask[*kmsg.ConsumerGroupHeartbeatResponse](w, beatRequest("g", memberUUID, 0, "t1"))
	if a.ErrorCode != kerr.GroupIDNotFound.Code {
		t.Errorf("upgrade: %+v", a)
	}
	types(t, w, "g/classic")
	if code := w.heartbeat("g", j.MemberID, j.Generation); code != 0 {
		t.Errorf("the member hears %d", code)
	}
}

// TestCutShortTwice: of a migration that a failover cut short nothing is left in the next one.
func TestCutShortTwice(t *testing.T) {
	w := newWorld(t, nil)
	w.stable("g", "t1")
	w.consumers("h", "ghost")
	var rows []shard.Row
	for key, value := range w.state.Rows(shard.Groups, "h") {
		rows = append(rows, shard.Row{Key: key, Value: value})
	}
	w.apply(shard.PutRows{Space: shard.Groups, Name: "g", Rows: rows}, shard.DropGroup{Group: "h"})
	w.failover()
	w.consumers("g", memberUUID)
	w.failover()
	d := kmsg.NewPtrConsumerGroupDescribeRequest()
	d.Groups = []string{"g"}
	if g := ask[*kmsg.ConsumerGroupDescribeResponse](w, d).Groups[0]; len(g.Members) != 2 {
		t.Errorf("members %+v, want the classic one and the one that joined", g.Members)
	}
}

// TestLargeGroup has a group whose rows need many changes, the largest of them in parts.
func TestLargeGroup(t *testing.T) {
	w := newWorld(t, nil)
	var joins []*kmsg.JoinGroupResponse
	for i := range 60 {
		r := joinRequest("g", "", "t1")
		r.Protocols[0].Metadata = append(r.Protocols[0].Metadata, make([]byte, 40_000)...)
		if i == 7 {
			r.Protocols[0].Metadata = append(r.Protocols[0].Metadata, make([]byte, 2<<20)...)
		}
		w.send(fmt.Sprint("c", i), r)
	}
	w.wait(3 * time.Second)
	w.wait(3 * time.Second)
	for id := range w.answers {
		joins = append(joins, answer[*kmsg.JoinGroupResponse](w, id))
	}
	assign := map[string]string{}
	for _, j := range joins {
		assign[j.MemberID] = strings.Repeat(j.MemberID, 100)
	}
	before := w.changes
	for _, j := range joins {
		if j.MemberID == j.LeaderID {
			ask[*kmsg.SyncGroupResponse](w, syncRequest("g", j.MemberID, j.Generation, assign))
		}
	}
	if n := w.changes - before; n < 4 {
		t.Errorf("%d changes for more than 4 MB", n)
	}
	w.failover()
	for _, j := range joins {
		a := ask[*kmsg.SyncGroupResponse](w, syncRequest("g", j.MemberID, j.Generation, nil))
		if a.ErrorCode != 0 || string(a.MemberAssignment) != assign[j.MemberID] {
			t.Fatalf("member %s: code %d, %d bytes", j.MemberID, a.ErrorCode, len(a.MemberAssignment))
		}
	}
}

func TestSettings(t *testing.T) {
	if err := group.DefaultSettings().Validate(); err != nil {
		t.Error(err)
	}
	for name, alter := range map[string]func(*group.Settings){
		"group.min.session.timeout.ms":         func(s *group.Settings) { s.MinSessionTimeout = time.Hour },
		"group.max.size":                       func(s *group.Settings) { s.MaxSize = 0 },
		"offset.metadata.max.bytes":            func(s *group.Settings) { s.MaxOffsetMetadata = 1 << 20 },
		"group.consumer.assignors":             func(s *group.Settings) { s.ConsumerAssignors = []string{"sticky"} },
		"group.consumer.migration.policy":      func(s *group.Settings) { s.ConsumerMigration = "x" },
		"group.consumer.session.timeout.ms":    func(s *group.Settings) { s.ConsumerSessionTimeout = time.Second },
		"group.consumer.heartbeat.interval.ms": func(s *group.Settings) { s.ConsumerHeartbeatInterval = time.Second },
	} {
		s := group.DefaultSettings()
		alter(&s)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if reflect.DeepEqual(s, group.DefaultSettings()) {
			t.Errorf("%s: nothing was altered", name)
		}
	}
}
