package load

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/integration/torture/check"
)

// lateCommit commits as a member that has left its group: nobody may take that.
func (l *Load) lateCommit(g *group, id string, gen int32) {
	ctx, cancel := context.WithTimeout(l.read, produceTimeout)
	defer cancel()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.MemberID, req.Generation = g.name, id, gen
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic = g.topics[0]
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Offset = 1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, l.adminKgo)
	if err != nil || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return // it was not answered
	}
	if code := resp.Topics[0].Partitions[0].ErrorCode; code == 0 {
		l.rec.Anomaly(check.StaleCommit, id, "a commit in group %s was taken with generation %d after the member had left", g.name, gen)
	}
}
