package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/metadata/catalogue"
)

// DescribeLogDirs: v1-5 (KIP-113)
//
// One log dir, the object store, with the stored bytes of the partitions that this agent
// leads: so the answers of all agents add up to what is stored, once. The store has no
// size (-1, KIP-827). Topics and partitions that do not exist are left out, as in Kafka.
//
//   - v2: flexible; v3: top-level error; v4: sizes of the dir; v5: cordoned (KIP-1066)

func (h *Handler) describeLogDirs(ctx context.Context, req *kmsg.DescribeLogDirsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.DescribeLogDirsResponse)
	dir := kmsg.NewDescribeLogDirsResponseDir()
	dir.Dir, dir.TotalBytes, dir.UsableBytes = h.settings.StoreName, -1, -1

	var refs []Partition
	v := h.view(asker{listener: DefaultListener})
	add := func(t *catalogue.Topic, partitions []int32) {
		out := kmsg.NewDescribeLogDirsResponseDirTopic()
		out.Topic = t.Name
		for _, i := range partitions {
			ref, ok := h.partition(t, i)
			if !ok {
				continue
			}
			if leader, _ := v.leader(ref.Shard); leader != h.Cluster.Self() {
				continue
			}
			p := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
			p.Partition = i
			out.Partitions = append(out.Partitions, p)
			refs = append(refs, ref)
		}
		if len(out.Partitions) > 0 {
			dir.Topics = append(dir.Topics, out)
		}
	}
	if req.Topics == nil {
		for t := range h.Topics.View().Topics() {
			add(t, everyPartition(t))
		}
	}
	r := h.resolve()
	for i := range req.Topics {
		if t, err := r.byName(ctx, req.Topics[i].Topic); err == nil {
			add(t, req.Topics[i].Partitions)
		}
	}
	if len(refs) > 0 {
		sizes, k := h.Offsets.Sizes(ctx, refs), 0
		for i := range dir.Topics {
			for j := range dir.Topics[i].Partitions {
				dir.Topics[i].Partitions[j].Size = sizes[k]
				k++
			}
		}
	}
	resp.Dirs = append(resp.Dirs, dir)
	return resp
}

func everyPartition(t *catalogue.Topic) []int32 {
	all := make([]int32, t.Partitions)
	for i := range all {
		all[i] = int32(i)
	}
	return all
}
