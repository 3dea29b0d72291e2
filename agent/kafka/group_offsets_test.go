package kafka_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// commitOf builds an OffsetCommit of one topic.
func commitOf(v int16, group string, topic *catalogue.Topic, partitions ...kmsg.OffsetCommitRequestTopicPartition) *kmsg.OffsetCommitRequest {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.Group, req.Generation, req.MemberID = v, group, 7, "m"
	addCommit(req, topic.Name, topic.ID, partitions...)
	return req
}

func addCommit(req *kmsg.OffsetCommitRequest, name string, id tiering.TopicID, partitions ...kmsg.OffsetCommitRequestTopicPartition) {
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic, t.TopicID, t.Partitions = name, id, partitions
	req.Topics = append(req.Topics, t)
}

func commitAt(partition int32, offset int64, metadata string) kmsg.OffsetCommitRequestTopicPartition {
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset, p.LeaderEpoch, p.Metadata = partition, offset, 3, kmsg.StringPtr(metadata)
	return p
}

// codesOf lists the codes of an answer as topic/partition:code.
func codesOf(resp *kmsg.OffsetCommitResponse) (out []string) {
	for _, t := range resp.Topics {
		name := t.Topic
		if resp.Version >= 10 {
			name = fmt.Sprintf("%x", t.TopicID[:1])
		}
		for _, p := range t.Partitions {
			out = append(out, fmt.Sprintf("%s/%d:%d", name, p.Partition, p.ErrorCode))
		}
	}
	return out
}

func TestOffsetCommit(t *testing.T) { synctest.Test(t, testOffsetCommit) } // unknown ids are asked for once a second

func testOffsetCommit(t *testing.T) {
	w := newWorld(t)
	topic := w.create("t", 2)
	versions(w, 8, func(v int16) {
		w.groups.commits = nil
		req := commitOf(v, "g", topic, commitAt(0, 42, "here"), commitAt(2, 1, ""), commitAt(-1, 1, ""), commitAt(1, 0, strings.Repeat("x", 4097)))
		req.InstanceID = kmsg.StringPtr("static")
		addCommit(req, "none", tiering.TopicID{0xee}, commitAt(0, 5, ""))
		addCommit(req, "bad name", tiering.TopicID{}, commitAt(0, 5, ""))
		addCommit(req, "t", topic.ID, commitAt(1, -2, strings.Repeat("\U0001F300", 2048)))
		resp := call[*kmsg.OffsetCommitResponse](w, req)
		name, none, bad, missing := "t", "none", "bad name", kerr.UnknownTopicOrPartition.Code
		if v >= 10 {
			name, none, bad, missing = fmt.Sprintf("%x", topic.ID[:1]), "ee", "00", kerr.UnknownTopicID.Code
		}
		want := []string{name + "/0:0", name + "/2:3", name + "/-1:3", name + "/1:12", fmt.Sprintf("%s/0:%d", none, missing), fmt.Sprintf("%s/0:%d", bad, missing), name + "/1:0"}
		if got := codesOf(resp); !slices.Equal(got, want) {
			t.Errorf("v%d: %v, want %v", v, got, want)
		}
		if len(w.groups.commits) != 1 {
			t.Fatalf("v%d: %d commits, want one of all partitions", v, len(w.groups.commits))
		}
		c := w.groups.commits[0]
		epoch := tiering.LeaderEpoch(-1)
		if v >= 6 {
			epoch = 3
		}
		offsets := []shard.GroupOffset{
			{Partition: tiering.TopicPartition{Topic: topic.ID}, Offset: 42, Epoch: epoch, Metadata: "here", Expires: -1},
			{Partition: tiering.TopicPartition{Topic: topic.ID, Partition: 1}, Offset: -2, Epoch: epoch, Metadata: strings.Repeat("\U0001F300", 2048), Expires: -1}}
		if c.group != "g" || c.tx != (shard.Transaction{}) || !slices.Equal(c.offsets, offsets) {
			t.Errorf("v%d: committed %+v", v, c)
		}
		if m := c.member; m.ID != "m" || m.Epoch != 7 || m.Version != v || (v >= 7) != (text(m.Instance) == "static") {
			t.Errorf("v%d: committed by %+v", v, m)
		}
	})
}

func TestOffsetCommitIsRefused(t *testing.T) {
	w := newWorld(t)
	topic := w.create("t", 2)
	versions(w, 8, func(v int16) {
		req := commitOf(v, "g", topic, commitAt(0, 42, ""), commitAt(9, 42, ""), commitAt(1, 42, ""))
		check := func(what string, want int16) {
			t.Helper()
			var got []int16
			for _, p := range call[*kmsg.OffsetCommitResponse](w, req).Topics[0].Partitions {
				got = append(got, p.ErrorCode)
			}
			if !slices.Equal(got, []int16{want, kerr.UnknownTopicOrPartition.Code, want}) {
				t.Errorf("v%d: %s is answered %v, want %d", v, what, got, want)
			}
		}
		for _, r := range refusals {
			w.groups.err = r.err
			check(r.err.Error(), r.code)
		}
		w.groups.err, w.groups.code = nil, kerr.IllegalGeneration.Code
		check("an old generation", kerr.IllegalGeneration.Code)
		w.groups.code = 0

		w.groups.commits = nil
		req.Topics[0].Partitions = req.Topics[0].Partitions[1:2]
		call[*kmsg.OffsetCommitResponse](w, req)
		req.Topics = nil
		if resp := call[*kmsg.OffsetCommitResponse](w, req); len(resp.Topics) != 0 || len(w.groups.commits) != 0 {
			t.Errorf("v%d: nothing to commit: %+v, %d commits", v, resp, len(w.groups.commits))
		}
	})
}

func TestOffsetCommitRetention(t *testing.T) {
	w := newWorld(t)
	topic := w.create("t", 1)
	now := w.clock.UnixMilli()
	versions(w, 8, func(v int16) {
		for retention, want := range map[int64]int64{-1: -1, 0: now, 1000: now + 1000, math.MaxInt64: math.MaxInt64, -5: -1} {
			if v > 4 {
				want = -1
			}
			w.groups.commits = nil
			req := commitOf(v, "", topic, commitAt(0, 1, "")) // the group may have no name
			req.RetentionTimeMillis = retention
			if code := topCode(w, req); code != 0 {
				t.Fatalf("v%d: code %d", v, code)
			}
			if got := w.groups.commits[0].offsets[0].Expires; got != want {
				t.Errorf("v%d: kept for %d, expires at %d, want %d", v, retention, got, want)
			}
		}
	})
}

func TestOffsetMetadataLimit(t *testing.T) {
	w := newWorld(t, func(s *kafka.Settings) { s.OffsetMetadataMax = 3 })
	topic := w.create("t", 1)
	for metadata, want := range map[string]int16{
		"": 0, "abc": 0, "äöü": 0, "語語語": 0, "\U0001F300x": 0, // as Java counts
		"abcd": kerr.OffsetMetadataTooLarge.Code, "\U0001F300\U0001F300": kerr.OffsetMetadataTooLarge.Code,
	} {
		if code := topCode(w, commitOf(10, "g", topic, commitAt(0, 1, metadata))); code != want {
			t.Errorf("%q: code %d, want %d", metadata, code, want)
		}
	}
	req := commitOf(10, "g", topic, commitAt(0, 1, ""))
	req.Topics[0].Partitions[0].Metadata = nil
	if code := topCode(w, req); code != 0 {
		t.Errorf("no metadata: code %d", code)
	}
}

// fetchedGroup is a group's answer, in the form of all versions.
type fetchedGroup struct {
	code    int16
	offsets []string // topic/partition:offset@epoch metadata!code
}

// fetchOf asks for offsets of topics, all where that is nil.
func fetchOf(w *world, v int16, stable bool, group string, topics []kmsg.OffsetFetchRequestGroupTopic) fetchedGroup {
	w.t.Helper()
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version, req.RequireStable = v, stable
	show := func(topic string, partition int32, offset int64, epoch int32, metadata *string, code int16) string {
		return fmt.Sprintf("%s/%d:%d@%d %s!%d", topic, partition, offset, epoch, text(metadata), code)
	}
	var out fetchedGroup
	if v < 8 {
		req.Group = group
		if topics != nil {
			req.Topics = []kmsg.OffsetFetchRequestTopic{}
		}
		for _, t := range topics {
			req.Topics = append(req.Topics, kmsg.OffsetFetchRequestTopic{Topic: t.Topic, Partitions: t.Partitions})
		}
		resp := call[*kmsg.OffsetFetchResponse](w, req)
		out.code = resp.ErrorCode
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				out.offsets = append(out.offsets, show(t.Topic, p.Partition, p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode))
			}
		}
		return out
	}
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group, g.Topics, g.MemberID, g.MemberEpoch = group, topics, kmsg.StringPtr("m"), 9
	req.Groups = append(req.Groups, g)
	resp := call[*kmsg.OffsetFetchResponse](w, req)
	if len(resp.Groups) != 1 || resp.Groups[0].Group != group {
		w.t.Fatalf("v%d: answered for %+v", v, resp.Groups)
	}
	out.code = resp.Groups[0].ErrorCode
	for _, t := range resp.Groups[0].Topics {
		if v >= 10 {
			t.Topic = fmt.Sprintf("%x", t.TopicID[:2])
		}
		for _, p := range t.Partitions {
			out.offsets = append(out.offsets, show(t.Topic, p.Partition, p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode))
		}
	}
	return out
}

func fetchTopic(name string, id tiering.TopicID, partitions ...int32) kmsg.OffsetFetchRequestGroupTopic {
	return kmsg.OffsetFetchRequestGroupTopic{Topic: name, TopicID: id, Partitions: partitions}
}

func TestOffsetFetch(t *testing.T) { synctest.Test(t, testOffsetFetch) } // unknown ids are asked for once a second

func testOffsetFetch(t *testing.T) {
	w := newWorld(t)
	topic, other := w.create("t", 4), w.create("a", 1)
	gone := w.create("gone", 1)
	w.drop("gone")
	for _, o := range []kafka.FetchedOffset{
		{Partition: tiering.TopicPartition{Topic: topic.ID, Partition: 2}, Offset: 0, Epoch: 4},
		{Partition: tiering.TopicPartition{Topic: topic.ID, Partition: 1}, Offset: 5, Epoch: -1, Metadata: "meta"},
		{Partition: tiering.TopicPartition{Topic: topic.ID, Partition: 3}, Offset: -1, Epoch: -1, Code: kerr.UnstableOffsetCommit.Code},
		{Partition: tiering.TopicPartition{Topic: other.ID}, Offset: 77, Epoch: 1},
		{Partition: tiering.TopicPartition{Topic: gone.ID}, Offset: 88, Epoch: 1},
	} {
		w.groups.put("g", o)
	}
	versions(w, 9, func(v int16) {
		name := func(n string, id tiering.TopicID) string {
			if v >= 10 {
				return fmt.Sprintf("%x", id[:2])
			}
			return n
		}
		epoch := func(e int) int {
			if v < 5 {
				return -1
			}
			return e
		}
		ts, as := name("t", topic.ID), name("a", other.ID)
		missing := 0
		if v >= 10 {
			missing = int(kerr.UnknownTopicID.Code)
		}
		w.groups.fetches = nil
		got := fetchOf(w, v, true, "g", []kmsg.OffsetFetchRequestGroupTopic{
			fetchTopic("t", topic.ID, 1, 2, 0, 9, -1, 3), fetchTopic("none", tiering.TopicID{0xee}, 0), fetchTopic("a", other.ID, 0)})
		want := []string{ts + "/1:5@-1 meta!0", fmt.Sprintf("%s/2:0@%d !0", ts, epoch(4)), ts + "/0:-1@-1 !0", ts + "/9:-1@-1 !0", ts + "/-1:-1@-1 !0",
			fmt.Sprintf("%s/3:-1@-1 !%d", ts, kerr.UnstableOffsetCommit.Code), fmt.Sprintf("%s/0:-1@-1 !%d", name("none", tiering.TopicID{0xee}), missing),
			fmt.Sprintf("%s/0:77@%d !0", as, epoch(1))}
		if got.code != 0 || !slices.Equal(got.offsets, want) {
			t.Errorf("v%d: %+v\nwant %v", v, got, want)
		}
		f := w.groups.fetches[0]
		if f.group != "g" || f.all || f.stable != (v >= 7) || len(f.partitions) != 6 || f.member.Version != v {
			t.Errorf("v%d: asked %+v", v, f)
		}
		if v >= 9 != (f.member.ID == "m" && f.member.Epoch == 9) || v < 9 && f.member.Epoch != -1 {
			t.Errorf("v%d: asked by %+v", v, f.member)
		}
		if v < 2 {
			return
		}
		all := []string{fmt.Sprintf("%s/0:77@%d !0", as, epoch(1)), ts + "/1:5@-1 meta!0", fmt.Sprintf("%s/2:0@%d !0", ts, epoch(4)), fmt.Sprintf("%s/3:-1@-1 !%d", ts, kerr.UnstableOffsetCommit.Code)}
		if got := fetchOf(w, v, false, "g", nil); got.code != 0 || !slices.Equal(got.offsets, all) {
			t.Errorf("v%d: all offsets: %+v\nwant %v", v, got, all)
		}
		if got := fetchOf(w, v, false, "g", []kmsg.OffsetFetchRequestGroupTopic{}); got.code != 0 || len(got.offsets) != 0 {
			t.Errorf("v%d: no topics: %+v", v, got)
		}
		if got := fetchOf(w, v, false, "new", nil); got.code != 0 || len(got.offsets) != 0 {
			t.Errorf("v%d: a group without offsets: %+v", v, got)
		}
	})
}

// What is not known for certain is never answered as an offset, or as none.
func TestOffsetFetchIsRefused(t *testing.T) {
	w := newWorld(t)
	topic := w.create("t", 1)
	versions(w, 9, func(v int16) {
		check := func(what string, want int16, topics []kmsg.OffsetFetchRequestGroupTopic) {
			t.Helper()
			got := fetchOf(w, v, false, "g", topics)
			if v < 2 { // has no other place for it
				if got.code != 0 || len(got.offsets) != 1 || got.offsets[0] != fmt.Sprintf("t/0:-1@-1 !%d", want) {
					t.Errorf("v%d: %s: %+v, want %d", v, what, got, want)
				}
			} else if got.code != want || len(got.offsets) != 0 {
				t.Errorf("v%d: %s: %+v, want %d", v, what, got, want)
			}
		}
		one := []kmsg.OffsetFetchRequestGroupTopic{fetchTopic("t", topic.ID, 0)}
		for _, r := range refusals {
			w.groups.err = r.err
			want := r.code
			if want == kerr.CoordinatorNotAvailable.Code {
				want = kerr.CoordinatorLoadInProgress.Code
			}
			check(r.err.Error(), want, one)
			if v >= 2 {
				check(r.err.Error()+" for all", want, nil)
			}
		}
		w.groups.err, w.groups.code = nil, kerr.StaleMemberEpoch.Code
		check("a stale member", kerr.StaleMemberEpoch.Code, one)
		w.groups.code = 0
	})
	groups := kmsg.NewPtrOffsetFetchRequest()
	groups.Version = 8
	for i := range 40 {
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group = fmt.Sprint(i)
		w.groups.put(g.Group, kafka.FetchedOffset{Partition: tiering.TopicPartition{Topic: topic.ID}, Offset: tiering.Offset(i)})
		groups.Groups = append(groups.Groups, g)
	}
	for i, g := range call[*kmsg.OffsetFetchResponse](w, groups).Groups {
		if g.Group != fmt.Sprint(i) || len(g.Topics) != 1 || g.Topics[0].Partitions[0].Offset != int64(i) {
			t.Errorf("group %d of 40: %+v", i, g)
		}
	}
}

func TestOffsetDelete(t *testing.T) { synctest.Test(t, testOffsetDelete) } // unknown ids are asked for once a second

func testOffsetDelete(t *testing.T) {
	w := newWorld(t)
	topic := w.create("t", 2)
	request := func(group string) *kmsg.OffsetDeleteRequest {
		req := kmsg.NewPtrOffsetDeleteRequest()
		req.Group = group
		for _, name := range []string{"t", "none"} {
			req.Topics = append(req.Topics, kmsg.OffsetDeleteRequestTopic{Topic: name, Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 1}, {Partition: 7}, {Partition: 0}}})
		}
		return req
	}
	for p := range int32(2) {
		w.groups.put("g", kafka.FetchedOffset{Partition: tiering.TopicPartition{Topic: topic.ID, Partition: p}, Offset: 1})
	}
	w.groups.codes = map[int32]int16{0: kerr.GroupSubscribedToTopic.Code}
	resp := call[*kmsg.OffsetDeleteResponse](w, request("g"))
	var got []int16
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			got = append(got, p.ErrorCode)
		}
	}
	if want := []int16{0, 3, kerr.GroupSubscribedToTopic.Code, 3, 3, 3}; resp.ErrorCode != 0 || !slices.Equal(got, want) {
		t.Errorf("code %d, %v, want %v", resp.ErrorCode, got, want)
	}
	if left := w.groups.offsets["g"]; len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	if code := topCode(w, request("")); code != kerr.InvalidGroupID.Code {
		t.Errorf("no group: %d", code)
	}
	for _, r := range refusals {
		w.groups.err = r.err
		if resp := call[*kmsg.OffsetDeleteResponse](w, request("g")); resp.ErrorCode != r.code || len(resp.Topics) != 0 {
			t.Errorf("%v: %+v, want %d", r.err, resp, r.code)
		}
	}
	w.groups.err, w.groups.code = nil, kerr.NonEmptyGroup.Code
	if resp := call[*kmsg.OffsetDeleteResponse](w, request("g")); resp.ErrorCode != kerr.NonEmptyGroup.Code || len(resp.Topics) != 0 {
		t.Errorf("a group with members: %+v", resp)
	}
}

// lagging is a copy of the topics that does not show what became of some.
type lagging struct {
	*catalogue.Catalogue
	old map[string]*catalogue.Topic
}

func (l lagging) Topic(name string) (*catalogue.Topic, bool) {
	if t, ok := l.old[name]; ok {
		return t, true
	}
	return l.Catalogue.Topic(name)
}

// A copy that lags makes no coordinator say that an offset is not there, or a partition.
func TestOffsetsUnderALaggingCopy(t *testing.T) {
	w := newWorld(t)
	old := map[string]*catalogue.Topic{"anew": w.create("anew", 1), "grown": w.create("grown", 1), "gone": w.create("gone", 1)}
	w.drop("anew")
	w.drop("gone")
	anew := w.create("anew", 1)
	c, err := w.topics.SetPartitions(w.ctx, "grown", 3)
	if err == nil {
		err = w.topics.WaitRevision(w.ctx, c.Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.groups.put("g", kafka.FetchedOffset{Partition: tiering.TopicPartition{Topic: anew.ID}, Offset: 5, Epoch: 1})
	w.groups.put("g", kafka.FetchedOffset{Partition: tiering.TopicPartition{Topic: old["grown"].ID, Partition: 2}, Offset: 6, Epoch: 1})
	w.h.Topics = lagging{w.topics, old}
	versions(w, 9, func(v int16) {
		if v >= 10 || v < 5 {
			return
		}
		got := fetchOf(w, v, false, "g", []kmsg.OffsetFetchRequestGroupTopic{
			fetchTopic("anew", tiering.TopicID{}, 0), fetchTopic("grown", tiering.TopicID{}, 0, 2), fetchTopic("gone", tiering.TopicID{}, 0)})
		want := []string{"anew/0:5@1 !0", "grown/0:-1@-1 !0", "grown/2:6@1 !0", "gone/0:-1@-1 !0"}
		if got.code != 0 || !slices.Equal(got.offsets, want) {
			t.Errorf("v%d: %+v\nwant %v", v, got, want)
		}
	})
	req := commitOf(8, "g", old["grown"], commitAt(2, 7, ""), commitAt(3, 7, ""), commitAt(1, 7, ""))
	if got, want := codesOf(call[*kmsg.OffsetCommitResponse](w, req)), []string{"grown/2:0", "grown/3:3", "grown/1:0"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
