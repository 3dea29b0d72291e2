package classic

import (
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Describe answers DescribeGroups. What members say, and the protocol, are told of a stable
// group only.
func (g *Group) Describe(req kmsg.Request) kmsg.Response {
	e := kmsg.NewDescribeGroupsResponseGroup()
	e.Group, e.State, e.ProtocolType = g.name, g.State(), g.protocolType
	if g.state == stable {
		e.Protocol = g.protocol
	}
	for _, m := range g.members {
		d := kmsg.NewDescribeGroupsResponseGroupMember()
		d.MemberID, d.InstanceID, d.ClientID, d.ClientHost = m.ID, m.Instance, m.ClientID, m.Host
		d.MemberAssignment = m.Assignment
		if g.state == stable {
			d.ProtocolMetadata = m.metadata(g.protocol)
		}
		e.Members = append(e.Members, d)
	}
	r := req.ResponseKind().(*kmsg.DescribeGroupsResponse)
	r.Groups = append(r.Groups, e)
	return r
}
