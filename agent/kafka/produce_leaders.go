package kafka

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// tellLeaders adds to the partitions that were refused because their shards have moved on
// whom the client should send to instead (KIP-951), so that it need not ask for metadata
// first, which clients do every few seconds only. They go by a hint if its epoch is higher
// than the one that they know; franz-go, told one that is not, comes back here without asking
// anybody. Hence nothing is said of shards that this agent has not led.
func (p *production) tellLeaders(resp *kmsg.ProduceResponse) {
	v := p.h.view(p.who)
	next := 0
	for t := range resp.Topics {
		parts := resp.Topics[t].Partitions
		for i := range parts {
			if b := p.parts[next+i].batch; b != nil && b.Code != 0 && b.Moved {
				v.hint(b, &parts[i], resp)
			}
		}
		next += len(parts)
	}
}

// hint names the leader of a batch's shard.
func (v *view) hint(b *AppendBatch, out *kmsg.ProduceResponseTopicPartition, resp *kmsg.ProduceResponse) {
	node, epoch := v.leader(b.Shard)
	i := v.index(node)
	if i < 0 || node == v.h.Cluster.Self() {
		return
	}
	out.CurrentLeader.LeaderID, out.CurrentLeader.LeaderEpoch = node, int32(epoch)
	if slices.ContainsFunc(resp.Brokers, func(b kmsg.ProduceResponseBroker) bool { return b.NodeID == node }) {
		return
	}
	a := v.agents[i]
	broker := kmsg.NewProduceResponseBroker()
	broker.NodeID, broker.Host, broker.Port = a.NodeID, a.Host, a.Port
	if a.Rack != "" {
		broker.Rack = &a.Rack
	}
	resp.Brokers = append(resp.Brokers, broker)
}
