package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// startGroups starts a node with the groups classic (2 members), modern (1 member, of the
// consumer protocol), empty (with offsets) and a share group.
func startGroups(t *testing.T) *scripted {
	t.Helper()
	s := startScripted(t)
	answer(s, func(_ *kmsg.ListGroupsRequest, resp *kmsg.ListGroupsResponse) {
		for _, g := range [][4]string{{"modern", "consumer", "Stable", "Consumer"}, {"classic", "consumer", "PreparingRebalance", "Classic"},
			{"shared", "share", "Stable", "Share"}, {"empty", "consumer", "Empty", "Classic"}} {
			rg := kmsg.NewListGroupsResponseGroup()
			rg.Group, rg.ProtocolType, rg.GroupState, rg.GroupType = g[0], g[1], g[2], g[3]
			resp.Groups = append(resp.Groups, rg)
		}
	})
	answer(s, describeModern)
	answer(s, describeClassic)
	answer(s, func(req *kmsg.OffsetFetchRequest, resp *kmsg.OffsetFetchResponse) {
		for _, g := range req.Groups {
			rg := kmsg.NewOffsetFetchResponseGroup()
			rg.Group = g.Group
			if g.Group != "new" && g.Group != "nobody" {
				rg.Topics = committedEvents()
			}
			resp.Groups = append(resp.Groups, rg)
		}
	})
	return s
}

// committedEvents is 40 for events:0 and 10 for the topic gone, which is no more.
func committedEvents() (out []kmsg.OffsetFetchResponseGroupTopic) {
	for name, at := range map[string]int64{"events": 40, "gone": 10} {
		rt := kmsg.NewOffsetFetchResponseGroupTopic()
		rt.Topic = name
		for id, at := range []int64{at, -1} {
			rp := kmsg.NewOffsetFetchResponseGroupTopicPartition()
			rp.Partition, rp.Offset = int32(id), at
			rt.Partitions = append(rt.Partitions, rp)
		}
		out = append(out, rt)
	}
	return out
}

func describeModern(req *kmsg.ConsumerGroupDescribeRequest, resp *kmsg.ConsumerGroupDescribeResponse) {
	for _, name := range req.Groups {
		g := kmsg.NewConsumerGroupDescribeResponseGroup()
		if g.Group = name; name != "modern" {
			g.ErrorCode = kerr.GroupIDNotFound.Code
			resp.Groups = append(resp.Groups, g)
			continue
		}
		g.State, g.Epoch, g.AssignmentEpoch, g.AssignorName = "Stable", 7, 6, "uniform"
		m := kmsg.NewConsumerGroupDescribeResponseGroupMember()
		m.MemberID, m.InstanceID, m.MemberEpoch, m.ClientID, m.ClientHost = "m-1", kmsg.StringPtr("static"), 6, "app", "10.0.0.1"
		m.SubscribedTopicRegex = kmsg.StringPtr("ev.*")
		for _, a := range []struct {
			to  *kmsg.Assignment
			ids []int32
		}{{&m.Assignment, []int32{1, 0}}, {&m.TargetAssignment, []int32{0}}} {
			tp := kmsg.NewAssignmentTopicPartition()
			tp.Topic, tp.Partitions = "events", a.ids
			a.to.TopicPartitions = append(a.to.TopicPartitions, tp)
		}
		g.Members = append(g.Members, m)
		resp.Groups = append(resp.Groups, g)
	}
}

func describeClassic(req *kmsg.DescribeGroupsRequest, resp *kmsg.DescribeGroupsResponse) {
	for _, name := range req.Groups {
		g := kmsg.NewDescribeGroupsResponseGroup()
		g.Group, g.ProtocolType, g.State = name, "consumer", "Empty"
		switch name {
		case "classic":
			g.State, g.Protocol = "Stable", "range"
			for i, topic := range []string{"events", "pay"} {
				m := kmsg.NewDescribeGroupsResponseGroupMember()
				m.MemberID, m.ClientID, m.ClientHost = fmt.Sprintf("m-%d", i), "app", "10.0.0.2"
				a := kmsg.NewConsumerMemberAssignment()
				at := kmsg.NewConsumerMemberAssignmentTopic()
				at.Topic, at.Partitions = topic, []int32{int32(i)}
				a.Topics = append(a.Topics, at)
				m.MemberAssignment = a.AppendTo(nil)
				j := kmsg.NewConsumerMemberMetadata()
				j.Topics = []string{"events", "pay"}
				m.ProtocolMetadata = j.AppendTo(nil)
				g.Members = append(g.Members, m)
			}
		case "empty":
		default:
			g.State = "Dead" // as old brokers say of groups that there are not
		}
		resp.Groups = append(resp.Groups, g)
	}
}

func TestGroupList(t *testing.T) {
	s := startGroups(t)
	s.mustPrint(t, "group list", `
GROUP    TYPE      PROTOCOL  STATE               MEMBERS  COORDINATOR
classic  classic   consumer  PreparingRebalance        2            1
empty    classic   consumer  Empty                     0            1
modern   consumer  consumer  Stable                    1            1
shared   share     share     Stable                    -            1
`)
	s.mustPrint(t, "group list --state EMPTY,stable --type classic,share", `
GROUP   TYPE     PROTOCOL  STATE   MEMBERS  COORDINATOR
empty   classic  consumer  Empty         0            1
shared  share    share     Stable        -            1
`)
	s.mustPrint(t, "group list --state dead", "no groups\n")
	s.mustPrint(t, "group list --state dead --json", "{\n  \"groups\": []\n}\n")
	s.mustPrint(t, "group list --type share --json", `
{
  "groups": [
    {
      "group": "shared",
      "type": "share",
      "protocolType": "share",
      "state": "Stable",
      "coordinator": 1,
      "members": null
    }
  ]
}
`)
}

func TestGroupDescribe(t *testing.T) {
	s := startGroups(t)
	s.mustPrint(t, "group describe modern classic", `
GROUP    TOPIC   PARTITION  COMMITTED  LOG END  LAG  MEMBER  CLIENT ID  HOST
classic  events          0         40      100   60  m-0     app        10.0.0.2
classic  gone            0         10        -    -  -       -          -
classic  pay             1          -      100    -  m-1     app        10.0.0.2
modern   events          0         40      100   60  m-1     app        10.0.0.1
modern   events          1          -      100    -  m-1     app        10.0.0.1
modern   gone            0         10        -    -  -       -          -
`)
	s.mustPrint(t, "group describe modern classic --members", `
GROUP    MEMBER  INSTANCE  CLIENT ID  HOST      EPOCH  PARTITIONS  ASSIGNMENT  TARGET
classic  m-0     -         app        10.0.0.2      -           1  events:0    -
classic  m-1     -         app        10.0.0.2      -           1  pay:1       -
modern   m-1     static    app        10.0.0.1      6           2  events:0,1  events:0
`)
	s.mustPrint(t, "group describe empty modern --state", strings.ReplaceAll(`
GROUP   TYPE      PROTOCOL  STATE   ASSIGNOR  EPOCH  MEMBERS  COORDINATOR
empty   classic   consumer  Empty   -             -        0  1 (ADDR)
modern  consumer  consumer  Stable  uniform       7        1  1 (ADDR)
`, "ADDR", s.addr.String()))
	s.mustPrint(t, "group describe empty --members", "no members\n")
	if stdout := s.mustFail(t, "group describe nobody", "group nobody: there is no such group"); stdout != "" {
		t.Errorf("of a group that there is not, it prints %q", stdout)
	}
	if stdout := s.mustFail(t, "group describe nobody empty", "group nobody: there is no such group"); !strings.Contains(stdout, "empty") {
		t.Errorf("of the group that there is, it prints %q", stdout)
	}
	answer(s, func(req *kmsg.ConsumerGroupDescribeRequest, resp *kmsg.ConsumerGroupDescribeResponse) {
		for _, name := range req.Groups {
			g := kmsg.NewConsumerGroupDescribeResponseGroup()
			g.Group, g.ErrorCode = name, kerr.GroupAuthorizationFailed.Code
			resp.Groups = append(resp.Groups, g)
		}
	})
	s.mustFail(t, "group describe empty", "GROUP_AUTHORIZATION_FAILED")
}

func TestGroupDescribeJSON(t *testing.T) {
	s := startGroups(t)
	s.mustPrint(t, "group describe modern --json", fmt.Sprintf(`
{
  "groups": [
    {
      "group": "modern",
      "type": "consumer",
      "protocolType": "consumer",
      "state": "Stable",
      "assignor": "uniform",
      "epoch": 7,
      "assignmentEpoch": 6,
      "coordinator": {
        "id": 1,
        "host": "127.0.0.1",
        "port": %d
      },
      "members": [
        {
          "member": "m-1",
          "instance": "static",
          "clientId": "app",
          "host": "10.0.0.1",
          "epoch": 6,
          "topics": [],
          "regex": "ev.*",
          "assignment": [
            {
              "topic": "events",
              "partitions": [
                0,
                1
              ]
            }
          ],
          "target": [
            {
              "topic": "events",
              "partitions": [
                0
              ]
            }
          ]
        }
      ],
      "offsets": [
        {
          "topic": "events",
          "partition": 0,
          "committed": 40,
          "metadata": "",
          "logEnd": 100,
          "lag": 60,
          "member": "m-1",
          "clientId": "app",
          "host": "10.0.0.1"
        },
        {
          "topic": "events",
          "partition": 1,
          "committed": null,
          "metadata": "",
          "logEnd": 100,
          "lag": null,
          "member": "m-1",
          "clientId": "app",
          "host": "10.0.0.1"
        },
        {
          "topic": "gone",
          "partition": 0,
          "committed": 10,
          "metadata": "",
          "logEnd": null,
          "lag": null,
          "member": null,
          "clientId": null,
          "host": null
        }
      ]
    }
  ]
}
`, s.addr.Port))
}

func TestPlanReset(t *testing.T) {
	committed := func(n int64) *int64 { return &n }
	log := func(old *int64, start, end, atTime int64) logRange {
		return logRange{partition{"t", 3}, old, start, end, atTime}
	}
	tests := []struct {
		name   string
		target resetTarget
		log    logRange
		want   int64
		note   string
	}{
		{"earliest", resetTarget{"--to-earliest", 0}, log(committed(7), 5, 9, -1), 5, ""},
		{"latest", resetTarget{"--to-latest", 0}, log(nil, 5, 9, -1), 9, ""},
		{"latest of an empty log", resetTarget{"--to-latest", 0}, log(nil, 0, 0, -1), 0, ""},
		{"offset", resetTarget{"--to-offset", 6}, log(nil, 5, 9, -1), 6, ""},
		{"offset at the end", resetTarget{"--to-offset", 9}, log(nil, 5, 9, -1), 9, ""},
		{"offset too low", resetTarget{"--to-offset", 4}, log(nil, 5, 9, -1), 5, "4 is before the log's start"},
		{"offset too high", resetTarget{"--to-offset", 10}, log(nil, 5, 9, -1), 9, "10 is beyond the log's end"},
		{"time", resetTarget{"--to-time", 1}, log(nil, 5, 9, 8), 8, ""},
		{"time of no record", resetTarget{"--to-time", 1}, log(nil, 5, 9, -1), 9, "no record that late: the log's end"},
		{"time of a record since deleted", resetTarget{"--to-time", 1}, log(nil, 5, 9, 4), 5, "4 is before the log's start"},
		{"on", resetTarget{"--shift-by", 2}, log(committed(6), 5, 9, -1), 8, ""},
		{"back", resetTarget{"--shift-by", -1}, log(committed(6), 5, 9, -1), 5, ""},
		{"too far back", resetTarget{"--shift-by", -7}, log(committed(6), 5, 9, -1), 5, "-1 is before the log's start"},
		{"too far on", resetTarget{"--shift-by", 1<<63 - 1}, log(committed(6), 5, 9, -1), 9, "9223372036854775807 is beyond the log's end"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rows, err := planReset(tt.target, []logRange{tt.log})
			want := []resetRow{{"t", 3, tt.log.old, tt.want, tt.log.start, tt.log.end, tt.note}}
			if err != nil || !reflect.DeepEqual(rows, want) {
				t.Errorf("got %+v, %v; want %+v", rows, err, want)
			}
		})
	}
	if _, err := planReset(resetTarget{"--shift-by", 1}, []logRange{log(nil, 5, 9, -1)}); err == nil || !strings.Contains(err.Error(), "t:3") {
		t.Errorf("a shift of nothing: %v", err)
	}
}

func TestParseTime(t *testing.T) {
	now := time.UnixMilli(1_000_000_000_000)
	for text, want := range map[string]int64{"90m": now.Add(-90 * time.Minute).UnixMilli(), "0s": now.UnixMilli(),
		"2026-01-31T15:04:05Z": 1769871845000, "2026-01-31T15:04:05.25+01:00": 1769868245250} {
		if got, err := parseTime(text, now); err != nil || got != want {
			t.Errorf("%s: got %d, %v; want %d", text, got, err, want)
		}
	}
}

func TestGroupReset(t *testing.T) {
	s := startGroups(t)
	const table = `
TOPIC   PARTITION  OLD  NEW  LOG START  LOG END  NOTE
events          0   40   45         10      100  -
`
	s.mustFail(t, "group reset classic --topic events --to-latest", "group classic: it has 2 members", "stop all members")
	s.mustFail(t, "group reset modern --topic events --to-latest", "group modern: it has 1 member,")
	s.mustFail(t, "group reset empty --topic evnets --to-latest", "--topic: there is no topic evnets")
	s.mustFail(t, "group reset empty --topic pay:2 --to-latest", "--topic: topic pay has no partition 2, only 2 partitions")
	s.mustFail(t, "group reset empty --topic events --shift-by 1", "nothing is committed for events:1")
	s.mustFail(t, "group reset empty --all-topics --to-latest", "gone:0")
	s.mustFail(t, "group reset new --all-topics --to-latest", "--all-topics: group new has no committed offsets")
	s.mustPrint(t, "group reset empty --topic events:0 --shift-by 5", table+dryRun+"\n")
	s.mustPrint(t, "group reset new --topic events --to-time 1h", `
TOPIC   PARTITION  OLD  NEW  LOG START  LOG END  NOTE
events          0  -     10         10      100  -
events          1  -     11         10      100  -
events          2  -    100         10      100  no record that late: the log's end
`+dryRun+"\n")
	if n := len(requests[*kmsg.OffsetCommitRequest](s)); n != 0 {
		t.Fatalf("%d commits by dry runs", n)
	}

	var code atomic.Int32
	answer(s, func(req *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse) {
		for _, topic := range req.Topics {
			rt := kmsg.NewOffsetCommitResponseTopic()
			rt.Topic = topic.Topic
			for _, p := range topic.Partitions {
				rp := kmsg.NewOffsetCommitResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, int16(code.Load())
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
	})
	s.mustPrint(t, "group reset empty --topic events:0 --shift-by 5 --execute", table+"Committed for 1 partition.\n")
	commits := requests[*kmsg.OffsetCommitRequest](s)
	if len(commits) != 1 || commits[0].Group != "empty" || commits[0].Generation != -1 || commits[0].MemberID != "" ||
		len(commits[0].Topics) != 1 || commits[0].Topics[0].Partitions[0].Offset != 45 {
		t.Errorf("committed %+v", commits)
	}
	s.mustPrint(t, "group reset empty --topic events:0 --to-offset 500 --execute --json", `
{
  "group": "empty",
  "executed": true,
  "offsets": [
    {
      "topic": "events",
      "partition": 0,
      "old": 40,
      "new": 100,
      "logStart": 10,
      "logEnd": 100,
      "note": "500 is beyond the log's end"
    }
  ]
}
`)
	code.Store(int32(kerr.UnknownMemberID.Code)) // what a coordinator says when a member has come meanwhile
	s.mustFail(t, "group reset empty --topic events:0 --to-latest --execute", "committing events:0", "group empty: it has members")
}

func TestGroupDelete(t *testing.T) {
	s := startGroups(t)
	answer(s, func(req *kmsg.DeleteGroupsRequest, resp *kmsg.DeleteGroupsResponse) {
		for _, name := range req.Groups {
			g := kmsg.NewDeleteGroupsResponseGroup()
			g.Group, g.ErrorCode = name, map[string]int16{"classic": kerr.NonEmptyGroup.Code, "nobody": kerr.GroupIDNotFound.Code}[name]
			resp.Groups = append(resp.Groups, g)
		}
	})
	s.mustPrint(t, "group delete empty", "GROUP  RESULT\nempty  deleted\n")
	stdout := s.mustFail(t, "group delete empty classic nobody", "group classic: it has members", "group nobody: there is no such group")
	if want := "GROUP    RESULT\nclassic  not deleted\nempty    deleted\nnobody   not deleted\n"; stdout != want {
		t.Errorf("it prints\n%s\nwant\n%s", stdout, want)
	}
	s.mustPrint(t, "group delete empty --json", `
{
  "groups": [
    {
      "group": "empty",
      "deleted": true,
      "offsets": [],
      "error": ""
    }
  ]
}
`)
}

func TestGroupDeleteOffsets(t *testing.T) {
	s := startGroups(t)
	answer(s, func(req *kmsg.OffsetDeleteRequest, resp *kmsg.OffsetDeleteResponse) {
		for _, topic := range req.Topics {
			rt := kmsg.NewOffsetDeleteResponseTopic()
			rt.Topic = topic.Topic
			for _, p := range topic.Partitions {
				rp := kmsg.NewOffsetDeleteResponseTopicPartition()
				if rp.Partition = p.Partition; topic.Topic == "events" {
					rp.ErrorCode = kerr.GroupSubscribedToTopic.Code
				}
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
	})
	s.mustPrint(t, "group delete empty --offsets gone", "GROUP  TOPIC  PARTITION  RESULT\nempty  gone           0  deleted\n")
	s.mustFail(t, "group delete empty --offsets events:0", "offset of events:0", "members subscribe")
	s.mustFail(t, "group delete empty --offsets pay", "no committed offsets for topic pay")
	s.mustFail(t, "group delete empty --offsets gone:1", "no committed offset for gone:1")
	asked := requests[*kmsg.OffsetDeleteRequest](s)
	if len(asked) != 2 || !slices.EqualFunc(asked[0].Topics[0].Partitions, []int32{0}, func(p kmsg.OffsetDeleteRequestTopicPartition, id int32) bool { return p.Partition == id }) {
		t.Errorf("asked to delete %+v", asked)
	}
}
