package group_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group"
	"github.com/floelog/floe/metadata/shard"
)

// BenchmarkCommit is one member's commit of four partitions, in a shard of 1,000 groups,
// without the journal.
func BenchmarkCommit(b *testing.B) {
	w := newWorld(b, nil)
	for i := range 1000 {
		w.commit(fmt.Sprint("g", i), anybody, offset(tp(1, 0), 1))
	}
	id, generation := w.stable("g", "t1")
	c := group.Commit{Group: "g", Member: group.Member{ID: id, Epoch: generation, Version: 8}}
	for p := range int32(4) {
		c.Offsets = append(c.Offsets, offset(tp(1, p), 1))
	}
	var body any = c
	b.ReportAllocs()
	for b.Loop() {
		eff := w.m.Step(coordinator.Request{ID: 1 << 40, Body: body}, w.now)
		if len(eff.Changes) != 1 || eff.Replies[0].Body.(int16) != 0 {
			b.Fatalf("%+v", eff)
		}
	}
}

// BenchmarkHeartbeat is one heartbeat in a group of 500.
func BenchmarkHeartbeat(b *testing.B) {
	w := newWorld(b, nil)
	joins := join500(b, w)
	r := kmsg.NewPtrHeartbeatRequest()
	r.Group, r.MemberID, r.Generation = "g", joins[0].MemberID, joins[0].Generation
	b.ReportAllocs()
	for b.Loop() {
		if eff := w.m.Step(coordinator.Request{ID: 1 << 40, Body: r}, w.now); len(eff.Replies) != 1 {
			b.Fatalf("%+v", eff)
		}
	}
}

// BenchmarkJoin500 takes 500 members from nothing to a stable group, with every record
// applied to the state.
func BenchmarkJoin500(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		w := newWorld(b, nil)
		if got := len(join500(b, w)); got != 500 {
			b.Fatalf("%d joined", got)
		}
	}
}

// BenchmarkLoad500 is what a failover costs for a group of 500.
func BenchmarkLoad500(b *testing.B) {
	w := newWorld(b, nil)
	join500(b, w)
	for b.Loop() {
		w.failover()
	}
	if n := len(w.state.Names(shard.Groups)); n != 1 {
		b.Fatalf("%d groups", n)
	}
}

func join500(b *testing.B, w *world) []*kmsg.JoinGroupResponse {
	for i := range 500 {
		w.send(fmt.Sprint("c", i), joinRequest("g", "", "t1"))
	}
	w.wait(3 * time.Second)
	w.wait(3 * time.Second)
	var joins []*kmsg.JoinGroupResponse
	assign := map[string]string{}
	for id := range w.answers {
		j := answer[*kmsg.JoinGroupResponse](w, id)
		joins = append(joins, j)
		assign[j.MemberID] = "0123456789012345678901234567890123456789"
	}
	for _, j := range joins {
		if j.MemberID != j.LeaderID {
			w.send("c", syncRequest("g", j.MemberID, j.Generation, nil))
		}
	}
	leader := joins[0].LeaderID
	w.send("c", syncRequest("g", leader, joins[0].Generation, assign))
	clear(w.answers)
	if len(w.waiting) != 0 {
		b.Fatalf("%d still wait", len(w.waiting))
	}
	return joins
}
