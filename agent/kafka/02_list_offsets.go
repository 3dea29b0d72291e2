package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListOffsets: v1-11
//
// One offset for each partition, never from a copy that may lag. A timestamp stands for
// the first record that is as new or newer; none: offset -1. Negative ones are Kafka's:
//
//   - -1 latest: the high watermark, or with read_committed the last stable offset
//   - -2 earliest: the log start
//   - v7: -3 the record with the greatest timestamp (KIP-734)
//   - v8: -4 earliest local: the log start, as Kafka answers for topics that are not tiered
//   - v9: -5 latest tiered, v11: -6 earliest pending upload (KIP-1005, KIP-1023): -1,
//     likewise
//
// v2: isolation level; v4: leader epochs (KIP-320); v6: flexible; v10: the client's timeout
// (KIP-1075).

const (
	listLatest          = -1
	listEarliest        = -2
	listMaxTimestamp    = -3
	listEarliestLocal   = -4
	listLatestTiered    = -5
	listEarliestPending = -6
)

// listSince says from which version on a negative timestamp has its meaning.
var listSince = map[int64]int16{
	listLatest: 1, listEarliest: 1, listMaxTimestamp: 7, listEarliestLocal: 8, listLatestTiered: 9, listEarliestPending: 11,
}

func (h *Handler) listOffsets(ctx context.Context, req *kmsg.ListOffsetsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
	if req.Version >= 10 && req.TimeoutMillis > 0 {
		var cancel context.CancelFunc
		ctx, cancel = withTimeout(ctx, req.TimeoutMillis)
		defer cancel()
	}
	var queries []OffsetQuery
	var at [][2]int // where the answers of queries belong
	named := map[sessionKey]int{}
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			named[sessionKey{name: req.Topics[i].Topic, partition: req.Topics[i].Partitions[j].Partition}]++
		}
	}
	r := h.resolve()
	for i := range req.Topics {
		in := &req.Topics[i]
		t, err := r.byName(ctx, in.Topic)
		out := kmsg.NewListOffsetsResponseTopic()
		out.Topic = in.Topic
		for j := range in.Partitions {
			p := &in.Partitions[j]
			o := kmsg.NewListOffsetsResponseTopicPartition()
			o.Partition, o.Offset, o.Timestamp, o.LeaderEpoch = p.Partition, -1, -1, -1
			var q OffsetQuery
			switch {
			case err != nil:
				o.ErrorCode = dataCode(err)
			case named[sessionKey{name: in.Topic, partition: p.Partition}] > 1:
				o.ErrorCode = kerr.InvalidRequest.Code
			default:
				var ok bool
				if q.Partition, ok = h.partition(t, p.Partition); !ok {
					o.ErrorCode = kerr.UnknownTopicOrPartition.Code
				} else {
					o.ErrorCode, ok = h.offsetQuery(&q, req, p)
				}
				if ok && o.ErrorCode == 0 {
					queries = append(queries, q)
					at = append(at, [2]int{i, j})
				}
			}
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	if len(queries) == 0 {
		return resp
	}
	for k, a := range h.Offsets.List(ctx, queries) {
		o := &resp.Topics[at[k][0]].Partitions[at[k][1]]
		if o.ErrorCode = a.Code; a.Code == 0 {
			o.Offset, o.Timestamp, o.LeaderEpoch = int64(a.Offset), a.Timestamp, int32(a.Epoch)
		}
	}
	return resp
}

// offsetQuery translates a timestamp. False: the answer is known to be that there is no
// such offset.
func (h *Handler) offsetQuery(q *OffsetQuery, req *kmsg.ListOffsetsRequest, p *kmsg.ListOffsetsRequestTopicPartition) (code int16, ask bool) {
	q.ReadCommitted = req.Version >= 2 && req.IsolationLevel == readCommitted
	if req.Version >= 4 {
		if code := h.checkEpoch(q.Partition, p.CurrentLeaderEpoch); code != 0 {
			return code, false
		}
	}
	if since, ok := listSince[p.Timestamp]; p.Timestamp < 0 && (!ok || req.Version < since) {
		return kerr.UnsupportedVersion.Code, false
	}
	switch p.Timestamp {
	case listLatest:
		q.Kind = LatestOffset
	case listEarliest, listEarliestLocal:
		q.Kind = EarliestOffset
	case listMaxTimestamp:
		q.Kind = MaxTimestamp
	case listLatestTiered, listEarliestPending:
		return 0, false
	default:
		q.Kind, q.Timestamp = TimestampOffset, p.Timestamp
	}
	return 0, true
}

// readCommitted is the isolation level of a transactional consumer (KIP-98).
const readCommitted = 1
