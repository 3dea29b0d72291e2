package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata"
)

// forwarded are the APIs about one group that a coordinator answers whole.
var forwarded = map[int16]func(group string) kmsg.Request{
	11: func(group string) kmsg.Request {
		r := kmsg.NewPtrJoinGroupRequest()
		r.Group, r.MemberID, r.SessionTimeoutMillis, r.ProtocolType = group, "m", 30_000, "consumer"
		return r
	},
	12: func(group string) kmsg.Request {
		r := kmsg.NewPtrHeartbeatRequest()
		r.Group = group
		return r
	},
	13: func(group string) kmsg.Request {
		r := kmsg.NewPtrLeaveGroupRequest()
		r.Group, r.MemberID = group, "m"
		m := kmsg.NewLeaveGroupRequestMember()
		m.MemberID = "m"
		r.Members = append(r.Members, m)
		return r
	},
	14: func(group string) kmsg.Request {
		r := kmsg.NewPtrSyncGroupRequest()
		r.Group = group
		return r
	},
	68: func(group string) kmsg.Request {
		r := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		r.Group, r.MemberID = group, "m"
		return r
	},
}

// refusals are what a coordinator's silence becomes.
var refusals = []struct {
	err  error
	code int16
}{
	{kafka.ErrNotCoordinator, kerr.NotCoordinator.Code},
	{metadata.ErrFenced, kerr.NotCoordinator.Code},
	{context.Canceled, kerr.CoordinatorNotAvailable.Code},
	{context.DeadlineExceeded, kerr.CoordinatorNotAvailable.Code},
	{errors.New("of its own"), kerr.CoordinatorNotAvailable.Code},
}

// topCode returns an answer's first error code, which is on top in these APIs.
func topCode(w *world, req kmsg.Request) int16 {
	w.t.Helper()
	p := w.start(req)
	answered[kmsg.Response](w, req, p)
	return p.Response().ErrorCode
}

func TestGroupRequestsAreForwarded(t *testing.T) {
	for key, newRequest := range forwarded {
		w := newWorld(t)
		versions(w, key, func(v int16) {
			req := newRequest("g")
			req.SetVersion(v)
			w.groups.asked, w.groups.err, w.groups.answer = nil, nil, nil
			if code := topCode(w, req); code != 0 {
				t.Errorf("%T v%d: code %d", req, v, code)
			}
			q := w.groups.asked
			if len(q) != 1 || q[0].group != "g" || q[0].req.Key() != key || q[0].req.GetVersion() != v {
				t.Fatalf("%T v%d: the coordinator was asked %+v", req, v, q)
			}
			for _, r := range refusals {
				w.groups.err = r.err
				if code := topCode(w, req); code != r.code {
					t.Errorf("%T v%d: %v is answered %d, want %d", req, v, r.err, code, r.code)
				}
			}
			w.groups.err = nil
			w.groups.answer = func(string, kmsg.Request) (kmsg.Response, error) {
				return kmsg.NewPtrApiVersionsResponse(), nil
			}
			if code := topCode(w, req); code != kerr.CoordinatorNotAvailable.Code {
				t.Errorf("%T v%d: an answer of another kind is answered %d", req, v, code)
			}
			req = newRequest("")
			req.SetVersion(v)
			want := kerr.InvalidGroupID.Code
			if key == 68 {
				want = kerr.InvalidRequest.Code
			}
			n := len(w.groups.asked)
			if code := topCode(w, req); code != want || len(w.groups.asked) != n {
				t.Errorf("%T v%d without a group: %d, want %d, after %d questions", req, v, code, want, len(w.groups.asked)-n)
			}
		})
	}
}

func TestJoinGroup(t *testing.T) {
	w := newWorld(t)
	versions(w, 11, func(v int16) {
		w.groups.err = nil
		w.groups.answer = func(_ string, req kmsg.Request) (kmsg.Response, error) {
			join := req.(*kmsg.JoinGroupRequest)
			if v == 0 && join.RebalanceTimeoutMillis != join.SessionTimeoutMillis {
				t.Errorf("v%d: the time for rebalances is %d", v, join.RebalanceTimeoutMillis)
			}
			resp := kmsg.NewPtrJoinGroupResponse() // without the request's version
			resp.Generation, resp.MemberID, resp.LeaderID, resp.Protocol = 4, "m-1", "m-1", kmsg.StringPtr("range")
			return resp, nil
		}
		req := forwarded[11]("g").(*kmsg.JoinGroupRequest)
		req.Version, req.RebalanceTimeoutMillis = v, 60_000
		if resp := call[*kmsg.JoinGroupResponse](w, req); resp.Generation != 4 || resp.MemberID != "m-1" || text(resp.Protocol) != "range" {
			t.Errorf("v%d: %+v", v, resp)
		}
		w.groups.err = kafka.ErrNotCoordinator
		if resp := call[*kmsg.JoinGroupResponse](w, req); resp.Generation != -1 || resp.MemberID != "m" {
			t.Errorf("v%d: refused with %+v", v, resp)
		}
	})
}

// Names that no journal record takes do not reach the coordinator.
func TestLongNames(t *testing.T) {
	long := strings.Repeat("x", 1<<15)
	w := newWorld(t)
	for key, newRequest := range forwarded {
		req := newRequest(long)
		req.SetVersion(req.MaxVersion()) // flexible: short strings have no length for it
		if code := topCode(w, req); code != kerr.InvalidGroupID.Code {
			t.Errorf("API %d with a long group is answered %d", key, code)
		}
	}
	for i, change := range []func(*kmsg.JoinGroupRequest){
		func(r *kmsg.JoinGroupRequest) { r.MemberID = long },
		func(r *kmsg.JoinGroupRequest) { r.InstanceID = &long },
		func(r *kmsg.JoinGroupRequest) { r.ProtocolType = long },
		func(r *kmsg.JoinGroupRequest) {
			r.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range"}, {Name: long}}
		},
	} {
		join := forwarded[11]("g").(*kmsg.JoinGroupRequest)
		join.Version = 9
		change(join)
		if code := topCode(w, join); code != kerr.InvalidRequest.Code {
			t.Errorf("JoinGroup %d with a long name is answered %d", i, code)
		}
	}
	if len(w.groups.asked) > 0 {
		t.Errorf("the coordinator was asked %d times", len(w.groups.asked))
	}
}

// Before version 3, a member that cannot leave is the answer's own code.
func TestLeaveGroup(t *testing.T) {
	w := newWorld(t)
	w.groups.answer = func(_ string, req kmsg.Request) (kmsg.Response, error) {
		resp := req.ResponseKind().(*kmsg.LeaveGroupResponse)
		for _, m := range req.(*kmsg.LeaveGroupRequest).Members {
			out := kmsg.NewLeaveGroupResponseMember()
			if out.MemberID = m.MemberID; m.MemberID != "known" {
				out.ErrorCode = kerr.UnknownMemberID.Code
			}
			resp.Members = append(resp.Members, out)
		}
		return resp, nil
	}
	versions(w, 13, func(v int16) {
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Version, req.Group, req.MemberID = v, "g", "stranger"
		req.Members = []kmsg.LeaveGroupRequestMember{{MemberID: "known"}, {MemberID: "stranger"}}
		resp := call[*kmsg.LeaveGroupResponse](w, req)
		if v < 3 {
			if resp.ErrorCode != kerr.UnknownMemberID.Code || len(resp.Members) > 0 {
				t.Errorf("v%d: %+v", v, resp)
			}
			return
		}
		if resp.ErrorCode != 0 || len(resp.Members) != 2 || resp.Members[0].ErrorCode != 0 || resp.Members[1].ErrorCode != kerr.UnknownMemberID.Code {
			t.Errorf("v%d: %+v", v, resp)
		}
	})
}

// described is what the APIs that describe groups have in common.
type described struct {
	group      string
	code       int16
	message    *string
	operations int32
}

func describeAll(w *world, key, v int16, operations bool, names ...string) (out []described) {
	w.t.Helper()
	if key == 69 {
		req := kmsg.NewPtrConsumerGroupDescribeRequest()
		req.Version, req.Groups, req.IncludeAuthorizedOperations = v, names, operations
		for _, g := range call[*kmsg.ConsumerGroupDescribeResponse](w, req).Groups {
			out = append(out, described{g.Group, g.ErrorCode, g.ErrorMessage, g.AuthorizedOperations})
		}
		return out
	}
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Version, req.Groups, req.IncludeAuthorizedOperations = v, names, operations
	for _, g := range call[*kmsg.DescribeGroupsResponse](w, req).Groups {
		out = append(out, described{g.Group, g.ErrorCode, g.ErrorMessage, g.AuthorizedOperations})
	}
	return out
}

func TestDescribeGroups(t *testing.T) {
	const none, all = int32(-1 << 31), int32(1<<3 | 1<<6 | 1<<8 | 1<<10 | 1<<11)
	for _, key := range []int16{15, 69} {
		w := newWorld(t)
		w.groups.answer = func(group string, req kmsg.Request) (kmsg.Response, error) {
			if group == "elsewhere" {
				return nil, kafka.ErrNotCoordinator
			}
			resp := req.ResponseKind()
			switch resp := resp.(type) {
			case *kmsg.DescribeGroupsResponse:
				if got := req.(*kmsg.DescribeGroupsRequest).Groups; len(got) != 1 || got[0] != group {
					t.Errorf("the coordinator of %q is asked about %q", group, got)
				}
				resp.Groups = []kmsg.DescribeGroupsResponseGroup{{Group: group}}
				if group == "two" {
					resp.Groups = append(resp.Groups, resp.Groups[0])
				}
			case *kmsg.ConsumerGroupDescribeResponse:
				resp.Groups = []kmsg.ConsumerGroupDescribeResponseGroup{{Group: group}}
				if group == "two" {
					resp.Groups = nil
				}
			}
			return resp, nil
		}
		versions(w, key, func(v int16) {
			for _, operations := range []bool{false, true} {
				got := describeAll(w, key, v, operations, "a", "elsewhere", "", "two", "a")
				want := []described{{"a", 0, nil, none}, {"elsewhere", kerr.NotCoordinator.Code, nil, none}, {"", 0, nil, none},
					{"two", kerr.CoordinatorNotAvailable.Code, nil, none}, {"a", 0, nil, none}}
				if key == 69 {
					want[2].code = kerr.InvalidGroupID.Code
				}
				for i := range want {
					if operations && want[i].code == 0 && (key == 69 || v >= 3) {
						want[i].operations = all
					}
					hasMessage := key == 69 || v >= 6
					if (got[i].message != nil) != (hasMessage && want[i].code != 0) {
						t.Errorf("key %d v%d: %q has the message %s", key, v, want[i].group, text(got[i].message))
					}
					if got[i].message = nil; got[i] != want[i] {
						t.Errorf("key %d v%d: %+v, want %+v", key, v, got[i], want[i])
					}
				}
			}
			if got := describeAll(w, key, v, false); len(got) != 0 {
				t.Errorf("key %d v%d: nothing asked, answered %+v", key, v, got)
			}
		})
	}
}

// A request about many groups makes no answer of any size.
func TestDescribedGroupsAreBounded(t *testing.T) {
	w := newWorld(t)
	big := bytes.Repeat([]byte{1}, 1<<20)
	w.groups.answer = func(group string, req kmsg.Request) (kmsg.Response, error) {
		resp := req.ResponseKind().(*kmsg.DescribeGroupsResponse)
		resp.Groups = []kmsg.DescribeGroupsResponseGroup{{Group: group, Members: []kmsg.DescribeGroupsResponseGroupMember{{MemberAssignment: big}}}}
		return resp, nil
	}
	var names []string
	for i := range 100 {
		names = append(names, strconv.Itoa(i))
	}
	rounds := 0
	for ; len(names) > 0; rounds++ {
		var left []string
		for i, g := range describeAll(w, 15, 5, false, names...) {
			switch {
			case g.group != names[i]:
				t.Fatalf("%q is answered with %q", names[i], g.group)
			case g.code == kerr.CoordinatorLoadInProgress.Code:
				left = append(left, g.group)
			case g.code != 0:
				t.Fatalf("%q: code %d", g.group, g.code)
			}
		}
		if len(names)-len(left) > 30 || len(left) == len(names) {
			t.Fatalf("%d of %d groups of 1 MiB in one answer", len(names)-len(left), len(names))
		}
		names = left
	}
	if rounds < 4 {
		t.Errorf("%d rounds", rounds)
	}
}

func TestListGroups(t *testing.T) {
	w := newWorld(t)
	versions(w, 16, func(v int16) {
		w.groups.err = nil
		w.groups.put("a", kafka.FetchedOffset{})
		req := kmsg.NewPtrListGroupsRequest()
		req.Version, req.StatesFilter, req.TypesFilter = v, []string{"Empty"}, []string{"classic"}
		resp := call[*kmsg.ListGroupsResponse](w, req)
		if resp.ErrorCode != 0 || len(resp.Groups) != 1 || resp.Groups[0].Group != "a" || resp.Groups[0].ProtocolType != "consumer" ||
			(v >= 4) != (resp.Groups[0].GroupState == "Empty") || (v >= 5) != (resp.Groups[0].GroupType == "Classic") {
			t.Errorf("v%d: %+v", v, resp)
		}
		got := w.groups.asked[len(w.groups.asked)-1].req.(*kmsg.ListGroupsRequest)
		if (v >= 4) != (len(got.StatesFilter) == 1) || (v >= 5) != (len(got.TypesFilter) == 1) {
			t.Errorf("v%d: filters %v and %v", v, got.StatesFilter, got.TypesFilter)
		}
		for _, r := range refusals {
			w.groups.err = r.err
			if code := topCode(w, req); code != r.code {
				t.Errorf("v%d: %v is answered %d, want %d", v, r.err, code, r.code)
			}
		}
	})
}

func TestDeleteGroups(t *testing.T) {
	w := newWorld(t)
	versions(w, 42, func(v int16) {
		w.groups.asked = nil
		w.groups.answer = func(group string, req kmsg.Request) (kmsg.Response, error) {
			if group == "elsewhere" {
				return nil, kafka.ErrNotCoordinator
			}
			resp := req.ResponseKind().(*kmsg.DeleteGroupsResponse)
			g := kmsg.NewDeleteGroupsResponseGroup()
			if g.Group = group; group == "busy" {
				g.ErrorCode = kerr.NonEmptyGroup.Code
			}
			resp.Groups = append(resp.Groups, g)
			return resp, nil
		}
		req := kmsg.NewPtrDeleteGroupsRequest()
		req.Version, req.Groups = v, []string{"a", "busy", "elsewhere", "a", ""}
		resp := call[*kmsg.DeleteGroupsResponse](w, req)
		want := []kmsg.DeleteGroupsResponseGroup{{Group: "a"}, {Group: "busy", ErrorCode: kerr.NonEmptyGroup.Code}, {Group: "elsewhere", ErrorCode: kerr.NotCoordinator.Code}, {Group: ""}}
		if len(resp.Groups) != len(want) || len(w.groups.asked) != len(want) {
			t.Fatalf("v%d: %+v after %d questions", v, resp.Groups, len(w.groups.asked))
		}
		for i, g := range resp.Groups {
			if g.Group != want[i].Group || g.ErrorCode != want[i].ErrorCode || (v >= 3 && g.Group == "elsewhere") != (g.ErrorMessage != nil) {
				t.Errorf("v%d: %+v, want %+v", v, g, want[i])
			}
		}
	})
}

// The coordinator is told who asks, over a real connection.
func TestCoordinatorIsToldTheClient(t *testing.T) {
	w := newWorld(t)
	addr := w.listen()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ClientID("it's me"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kmsg.NewPtrListGroupsRequest().RequestWith(w.ctx, cl); err != nil {
		t.Fatal(err)
	}
	w.groups.mu.Lock()
	defer w.groups.mu.Unlock()
	want := kafka.From{ClientID: "it's me", Host: "/127.0.0.1"}
	if len(w.groups.asked) != 1 || w.groups.asked[0].from != want {
		t.Errorf("asked by %+v, want %+v", w.groups.asked, want)
	}
}
