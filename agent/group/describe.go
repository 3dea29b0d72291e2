package group

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/group/classic"
)

const consumerType = classic.ConsumerType

// describe answers DescribeGroups for one group. A group of the new protocol is none that
// it could describe.
func (m *machine) describe(req *kmsg.DescribeGroupsRequest) kmsg.Response {
	r := req.ResponseKind().(*kmsg.DescribeGroupsResponse)
	for _, name := range req.Groups {
		e := m.groups[name]
		if e.exists() && (e.classic() != nil || e.damaged() != nil) {
			return e.group.Describe(req)
		}
		d := kmsg.NewDescribeGroupsResponseGroup()
		d.Group, d.State = name, stateDead
		if e.exists() && e.consumer() == nil {
			d.State = stateEmpty
		} else if req.Version >= 6 { // KIP-1043
			d.ErrorCode, d.ErrorMessage = kerr.GroupIDNotFound.Code, notFound(e, name, "classic")
		}
		r.Groups = append(r.Groups, d)
	}
	return r
}

func notFound(e *entry, name, want string) *string {
	text := fmt.Sprintf("Group %s not found.", name)
	if e.exists() {
		text = fmt.Sprintf("Group %s is not a %s group.", name, want)
	}
	return &text
}

func (m *machine) describeConsumer(req *kmsg.ConsumerGroupDescribeRequest) kmsg.Response {
	r := req.ResponseKind().(*kmsg.ConsumerGroupDescribeResponse)
	for _, name := range req.Groups {
		e := m.groups[name]
		if e.exists() && (e.consumer() != nil || e.damaged() != nil) {
			return e.group.Describe(req)
		}
		d := kmsg.NewConsumerGroupDescribeResponseGroup()
		d.Group, d.ErrorCode, d.ErrorMessage = name, kerr.GroupIDNotFound.Code, notFound(e, name, "consumer")
		r.Groups = append(r.Groups, d)
	}
	return r
}

// list answers ListGroups; filters are case-insensitive (KIP-518, KIP-848).
func (m *machine) list(req *kmsg.ListGroupsRequest) kmsg.Response {
	r := req.ResponseKind().(*kmsg.ListGroupsResponse)
	passes := func(filter []string, value string) bool {
		return len(filter) == 0 || slices.ContainsFunc(filter, func(f string) bool { return strings.EqualFold(strings.TrimSpace(f), value) })
	}
	for _, name := range slices.Sorted(maps.Keys(m.groups)) {
		e := m.groups[name]
		if !e.exists() {
			continue
		}
		l := kmsg.NewListGroupsResponseGroup()
		l.Group, l.GroupState, l.GroupType = name, e.state(), "classic"
		if g := e.classic(); g != nil {
			l.ProtocolType = g.ProtocolType()
		} else if e.consumer() != nil {
			l.ProtocolType, l.GroupType = consumerType, "consumer"
		}
		if passes(req.StatesFilter, l.GroupState) && passes(req.TypesFilter, l.GroupType) {
			r.Groups = append(r.Groups, l)
		}
	}
	return r
}

// deleteGroup answers DeleteGroups for one group.
func (m *machine) deleteGroup(req *kmsg.DeleteGroupsRequest, now time.Time) kmsg.Response {
	r := req.ResponseKind().(*kmsg.DeleteGroupsResponse)
	for _, name := range req.Groups {
		d := kmsg.NewDeleteGroupsResponseGroup()
		d.Group = name
		switch e := m.groups[name]; {
		case !e.exists():
			d.ErrorCode = kerr.GroupIDNotFound.Code
		case !e.vacant() && e.damaged() == nil:
			d.ErrorCode = kerr.NonEmptyGroup.Code
		default:
			m.drop(e)
			m.keep(e)
		}
		r.Groups = append(r.Groups, d)
	}
	return r
}
