package consumer

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/group/assignor"
)

// Describe answers ConsumerGroupDescribe and DescribeGroups for this group alone; nil for
// any other request. To DescribeGroups, a consumer group is no group that it knows: dead, and
// from version 6 on with a code (KIP-1043).
func (g *Group) Describe(req kmsg.Request) kmsg.Response {
	switch req := req.(type) {
	case *kmsg.DescribeGroupsRequest:
		resp := req.ResponseKind().(*kmsg.DescribeGroupsResponse)
		d := kmsg.NewDescribeGroupsResponseGroup()
		d.Group, d.State = g.name, "Dead"
		if req.Version >= 6 {
			d.ErrorCode = kerr.GroupIDNotFound.Code
			d.ErrorMessage = kmsg.StringPtr("Group " + g.name + " is not a classic group.")
		}
		resp.Groups = append(resp.Groups, d)
		return resp
	case *kmsg.ConsumerGroupDescribeRequest:
		resp := req.ResponseKind().(*kmsg.ConsumerGroupDescribeResponse)
		d := kmsg.NewConsumerGroupDescribeResponseGroup()
		d.Group, d.State, d.AssignorName = g.name, g.State(), g.assignor()
		d.Epoch, d.AssignmentEpoch = g.epoch, g.assigned
		for _, m := range g.sortedMembers() {
			d.Members = append(d.Members, g.describe(m))
		}
		resp.Groups = append(resp.Groups, d)
		return resp
	}
	return nil
}

func (g *Group) describe(m *member) kmsg.ConsumerGroupDescribeResponseGroupMember {
	d := kmsg.NewConsumerGroupDescribeResponseGroupMember()
	d.MemberID, d.InstanceID, d.RackID = m.id, m.instance, m.rack
	d.MemberEpoch = m.epoch
	d.ClientID, d.ClientHost = m.clientID, m.host
	d.SubscribedTopics = m.sub.names
	if m.sub.regex != "" {
		d.SubscribedTopicRegex = kmsg.StringPtr(m.sub.regex)
	}
	d.Assignment.TopicPartitions = g.describeAssignment(m.assigned)
	d.TargetAssignment.TopicPartitions = g.describeAssignment(m.target)
	d.MemberType = 1
	if m.classic != nil {
		d.MemberType = 0
	}
	return d
}

// describeAssignment leaves out topics that are gone.
func (g *Group) describeAssignment(a assignor.Assignment) []kmsg.AssignmentTopicPartition {
	var out []kmsg.AssignmentTopicPartition
	for _, s := range a {
		if t, ok := g.topics.TopicByID(s.Topic); ok {
			out = append(out, kmsg.AssignmentTopicPartition{TopicID: s.Topic, Topic: t.Name, Partitions: s.Partitions})
		}
	}
	return out
}
