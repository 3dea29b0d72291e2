package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// WriteTxnMarkers: v1-2
//
// Ends whatever transaction a producer has open in the partitions named, without its
// coordinator: the way out of a transaction that hangs (KIP-664). Kafka's coordinators send
// it to their brokers; here they have a way of their own.
//
//   - v1: flexible; v2: the transaction's version (KIP-1228), which is of no account here:
//     a marker of an older epoch than the partition knows is refused, whatever it is

// maxMarkings bounds the partitions of one request; those beyond have INVALID_REQUEST. Fewer
// would part what an operator does at once; each is a record in a journal.
const maxMarkings = 10_000

func (h *Handler) writeTxnMarkers(ctx context.Context, req *kmsg.WriteTxnMarkersRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.WriteTxnMarkersResponse)
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r := h.resolve()
	var markings []Marking
	var all [][]int16 // codes of each marker's partitions; 0: it is among the markings
	for i := range req.Markers {
		m := &req.Markers[i]
		names := make([]namedPartitions, len(m.Topics))
		for j, t := range m.Topics {
			names[j] = namedPartitions{t.Topic, t.Partitions}
		}
		where, codes, _ := h.locate(ctx, &r, names, kerr.NotLeaderForPartition)
		all = append(all, codes)
		if over := len(markings) + len(where) - maxMarkings; over > 0 {
			where = where[:len(where)-over]
			refuseLast(codes, over)
		}
		for _, p := range where {
			markings = append(markings, Marking{Partition: p, ProducerID: m.ProducerID, Epoch: m.ProducerEpoch,
				Commit: m.Committed, Coordinator: m.CoordinatorEpoch})
		}
	}
	var marked []int16
	if len(markings) > 0 {
		marked = h.Transactions.Mark(ctx, markings)
	}
	for i := range req.Markers {
		out := kmsg.NewWriteTxnMarkersResponseMarker()
		out.ProducerID = req.Markers[i].ProducerID
		codes := all[i]
		for _, t := range req.Markers[i].Topics {
			topic := kmsg.NewWriteTxnMarkersResponseMarkerTopic()
			topic.Topic = t.Topic
			for _, p := range t.Partitions {
				o := kmsg.NewWriteTxnMarkersResponseMarkerTopicPartition()
				o.Partition, o.ErrorCode = p, codes[0]
				if codes[0] == 0 {
					o.ErrorCode, marked = marked[0], marked[1:]
				}
				codes = codes[1:]
				topic.Partitions = append(topic.Partitions, o)
			}
			out.Topics = append(out.Topics, topic)
		}
		resp.Markers = append(resp.Markers, out)
	}
	return resp
}

// refuseLast refuses the last n of the partitions that have no code yet.
func refuseLast(codes []int16, n int) {
	for i := len(codes) - 1; n > 0; i-- {
		if codes[i] == 0 {
			codes[i] = kerr.InvalidRequest.Code
			n--
		}
	}
}
