package group_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group"
	"github.com/floelog/floe/metadata/shard"
)

// TestDamagedGroup: a row that cannot be read takes its own group out of service, until it is
// deleted, and no other; committed offsets are there all the same.
func TestDamagedGroup(t *testing.T) {
	for _, row := range []string{"g/h", "c/epoch", "config"} {
		w := newWorld(t, nil)
		good, goodGeneration := w.stable("good", "t1")
		id, generation := w.stable("bad", "t1")
		w.commit("bad", group.Member{ID: id, Epoch: generation}, offset(tp(1, 0), 5))
		if row == "c/epoch" {
			w.apply(shard.PutRows{Space: shard.Groups, Name: "bad", Rows: []shard.Row{{Key: "g/h"}}})
		}
		w.apply(shard.PutRows{Space: shard.Groups, Name: "bad", Rows: []shard.Row{{Key: row, Value: []byte{99}}}})
		w.failover()
		if errs := w.m.(coordinator.Damaged).Damaged(); len(errs) != 1 || !strings.Contains(errs[0].Error(), `"bad"`) {
			t.Errorf("%s: damaged: %v", row, errs)
		}
		before := w.changes
		again := kerr.CoordinatorNotAvailable.Code
		codes := []int16{
			ask[*kmsg.JoinGroupResponse](w, joinRequest("bad", "", "t1")).ErrorCode,
			ask[*kmsg.SyncGroupResponse](w, syncRequest("bad", id, generation, nil)).ErrorCode,
			w.heartbeat("bad", id, generation),
			ask[*kmsg.ConsumerGroupHeartbeatResponse](w, beatRequest("bad", memberUUID, 0, "t1")).ErrorCode,
			ask[*kmsg.ConsumerGroupHeartbeatResponse](w, beatRequest("bad", memberUUID, 3)).ErrorCode,
			w.commit("bad", group.Member{ID: id, Epoch: generation}, offset(tp(1, 0), 6)),
			w.commit("bad", group.Member{Epoch: -1}, offset(tp(1, 0), 7)),
		}
		if i := slices.IndexFunc(codes, func(c int16) bool { return c != again }); i >= 0 {
			t.Errorf("%s: codes %v", row, codes)
		}
		if code := w.heartbeat("good", good, goodGeneration); code != 0 {
			t.Errorf("%s: a member of another group hears %d", row, code)
		}
		if err, ok := ask[any](w, group.AlterConfigs{Group: "bad"}).(error); !ok || !strings.Contains(err.Error(), "cannot be read") {
			t.Errorf("%s: configs can be altered: %v", row, err)
		}
		d := kmsg.NewPtrDescribeGroupsRequest()
		d.Groups = []string{"bad"}
		c := kmsg.NewPtrConsumerGroupDescribeRequest()
		c.Groups = d.Groups
		if g, h := ask[*kmsg.DescribeGroupsResponse](w, d).Groups[0], ask[*kmsg.ConsumerGroupDescribeResponse](w, c).Groups[0]; g.ErrorMessage == nil || h.ErrorMessage == nil ||
			!strings.Contains(*g.ErrorMessage, `"bad"`) || g.ErrorCode == 0 || h.ErrorCode == 0 {
			t.Errorf("%s: described as %+v and %+v", row, g, h)
		}
		if w.changes != before {
			t.Errorf("%s: something was written", row)
		}
		w.wait(2 * w.settings.OffsetsRetention)
		if got := w.fetch("bad", 0); got[0] != 5 {
			t.Errorf("%s: committed: %v", row, got)
		}
		if w.state.Row(shard.Groups, "bad", row) == nil {
			t.Errorf("%s: the row is gone", row)
		}
		del := kmsg.NewPtrDeleteGroupsRequest()
		del.Groups = []string{"bad"}
		if g := ask[*kmsg.DeleteGroupsResponse](w, del).Groups[0]; g.ErrorCode != 0 {
			t.Errorf("%s: deleting it: code %d", row, g.ErrorCode)
		}
		w.stable("bad", "t1")
	}
}
