package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group/step"
)

// damaged stands for a group whose rows cannot be read: they are damaged, or of a newer
// version. It keeps its rows and offsets as they are until a coordinator can read them, or
// somebody deletes the group; its members are told to try again, and those who only ask what
// is committed get it. So one row does not take the shard's other groups with it.
type damaged struct{ err error }

func (e *entry) damaged() *damaged {
	if e == nil {
		return nil
	}
	d, _ := e.group.(*damaged)
	return d
}

// Damaged implements coordinator.Damaged.
func (m *machine) Damaged() []error { return m.damaged }

func (d *damaged) Step(req coordinator.Request, _ time.Time) step.Effects {
	refused := kerr.CoordinatorNotAvailable // all clients try again
	var body kmsg.Response
	switch r := req.Body.(type) {
	case *kmsg.JoinGroupRequest:
		a := r.ResponseKind().(*kmsg.JoinGroupResponse)
		a.Generation, a.MemberID, a.ErrorCode = -1, r.MemberID, refused.Code
		body = a
	case *kmsg.ConsumerGroupHeartbeatRequest:
		a := r.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
		a.ErrorCode, a.ErrorMessage = refused.Code, d.text()
		body = a
	default:
		body = refuseMember(req.Body, refused)
	}
	return step.Effects{Replies: []coordinator.Reply{{ID: req.ID, Body: body}}}
}

func (d *damaged) text() *string {
	return kmsg.StringPtr("The group cannot be served: " + d.err.Error())
}

// Describe tells operators why.
func (d *damaged) Describe(req kmsg.Request) kmsg.Response {
	switch r := req.(type) {
	case *kmsg.DescribeGroupsRequest:
		a := r.ResponseKind().(*kmsg.DescribeGroupsResponse)
		g := kmsg.NewDescribeGroupsResponseGroup()
		g.Group, g.ErrorCode, g.ErrorMessage = r.Groups[0], kerr.UnknownServerError.Code, d.text()
		a.Groups = append(a.Groups, g)
		return a
	case *kmsg.ConsumerGroupDescribeRequest:
		a := r.ResponseKind().(*kmsg.ConsumerGroupDescribeResponse)
		g := kmsg.NewConsumerGroupDescribeResponseGroup()
		g.Group, g.ErrorCode, g.ErrorMessage = r.Groups[0], kerr.UnknownServerError.Code, d.text()
		a.Groups = append(a.Groups, g)
		return a
	}
	return nil
}

func (d *damaged) Tick(time.Time) step.Effects                              { return step.Effects{} }
func (d *damaged) Wake() time.Time                                          { return time.Time{} }
func (d *damaged) Cancelled(coordinator.RequestID)                          {}
func (d *damaged) State() string                                            { return stateDead }
func (d *damaged) Members() int                                             { return 0 }
func (d *damaged) CheckCommit(step.MemberRef) int16                         { return kerr.CoordinatorNotAvailable.Code }
func (d *damaged) CheckFetch(step.MemberRef) int16                          { return 0 }
func (d *damaged) Subscribed(string) bool                                   { return true }
func (d *damaged) TopicsChanged(coordinator.Topics, time.Time) step.Effects { return step.Effects{} }
