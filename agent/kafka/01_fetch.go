package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/protocol"
	"github.com/floelog/floe/tiering"
)

// Fetch: v4-18
//
// Any agent serves any partition. The reader waits for records; an error of any partition
// is answered at once, as in Kafka. Records go out as the slices that the reader returns.
//
//   - v5: log start (KIP-107); v7: sessions (KIP-227), see fetch_session.go
//   - v9: leader epochs (KIP-320); v10: zstd (KIP-110), which all v4+ clients get here, too
//   - v11: racks (KIP-392): a consumer in a zone that has agents is sent there, and never
//     away from there (zones.go)
//   - v12: flexible. Diverging epochs are for followers alone, in Kafka as well (KIP-595)
//   - v13: topic ids (KIP-516). A name cannot stand for two ids here, so
//     INCONSISTENT_TOPIC_ID is never answered: a re-created topic has UNKNOWN_TOPIC_ID
//   - v15: replica state (KIP-903), v17: directory ids (KIP-853), v18: high watermark
//     (KIP-1166): followers' fields. There are none: CLUSTER_AUTHORIZATION_FAILED
//   - v16: where the leader is, when the epoch is wrong (KIP-951)

func (h *Handler) fetch(ctx context.Context, c *protocol.Conn, r *protocol.Request) *protocol.Pending {
	req, err := protocol.DecodeRequest(r)
	if err != nil {
		return malformed()
	}
	who := h.asker(c, r.ClientID, rackTold(req))
	r.Charge.Release() // the decoded request has its own memory: see fetch_memory.go
	g := &grant{budgets: &h.fetched}
	handed := false
	defer func() {
		if !handed {
			g.release()
		}
	}()
	resp := h.fetchRecords(ctx, who, req.(*kmsg.FetchRequest), g)
	out := protocol.Response{Buffers: resp.encode(), ErrorCode: resp.firstError(), Release: g.release}
	handed = true
	return protocol.Answer(out)
}

func (h *Handler) fetchRecords(ctx context.Context, who asker, req *kmsg.FetchRequest, g *grant) *fetchResponse {
	resp := &fetchResponse{Version: req.Version, ReadCommitted: req.IsolationLevel == readCommitted}
	if req.ReplicaID >= 0 && req.Version < 15 || req.ReplicaState.ID >= 0 && req.Version >= 15 {
		return resp.refuse(req, kerr.ClusterAuthorizationFailed.Code)
	}
	scope, code := h.sessions.open(req)
	if code != 0 {
		resp.Code = code
		return resp
	}
	f := h.newFetching(who, req, scope.wants, g)
	ctx, done := scope.begin(ctx)
	defer done()
	state, wait := h.waitCharge(ctx, len(scope.wants), f.maxWait)
	defer state.Release()
	f.maxWait = wait
	results := f.run(ctx, resp)
	named, code := scope.respond(results)
	if code != 0 {
		resp.Code, resp.Endpoints = code, nil
		g.release()
		return resp
	}
	g.settle(results)
	resp.SessionID = scope.id()
	resp.fill(scope.wants, results, named)
	return resp
}

// firstError returns the error of the whole response, or else the first of a partition.
func (r *fetchResponse) firstError() int16 {
	if r.Code != 0 {
		return r.Code
	}
	for i := range r.Topics {
		for j := range r.Topics[i].Partitions {
			if code := r.Topics[i].Partitions[j].Code; code != 0 {
				return code
			}
		}
	}
	return 0
}

// refuse answers every partition of a request with a code.
func (r *fetchResponse) refuse(req *kmsg.FetchRequest, code int16) *fetchResponse {
	if req.Version >= 7 {
		r.Code = code
	}
	wants := requestWants(req)
	results := make([]fetchResponsePartition, len(wants))
	for i, w := range wants {
		results[i] = failedFetch(w.partition, code)
	}
	r.fill(wants, results, nil)
	return r
}

func failedFetch(partition int32, code int16) fetchResponsePartition {
	return fetchResponsePartition{Partition: partition, PreferredNode: -1, LeaderNode: -1,
		FetchResult: FetchResult{Code: code, HighWatermark: -1, LastStable: -1, LogStart: -1}}
}

// fill groups the results, or those of them that are named, by topic; partitions of one
// topic that stand together share an entry.
func (r *fetchResponse) fill(wants []fetchWant, results []fetchResponsePartition, named []bool) {
	for i := range results {
		if named != nil && !named[i] {
			continue
		}
		w := &wants[i]
		n := len(r.Topics)
		if n == 0 || r.Topics[n-1].Name != w.name || r.Topics[n-1].ID != w.id {
			r.Topics = append(r.Topics, fetchResponseTopic{Name: w.name, ID: w.id})
			n++
		}
		r.Topics[n-1].Partitions = append(r.Topics[n-1].Partitions, results[i])
	}
}

// fetching is one fetch under way: what is asked of the reader, and for which result. It
// does not keep the decoded request, which may be much larger.
type fetching struct {
	h                  *Handler
	version            int16
	minBytes, maxBytes int
	maxWait            time.Duration
	readCommitted      bool
	grant              *grant

	wants   []fetchWant
	results []fetchResponsePartition
	read    []FetchPartition
	at      []int // the results that the parts of read are for
	news    bool  // some result is there already, so there is nothing to wait for

	view *view
	away bool // the client's zone has other agents, and this one is not of it
}

// newFetching prepares a fetch. Numbers that make no sense are taken for the nearest that
// do, as in Kafka.
func (h *Handler) newFetching(who asker, req *kmsg.FetchRequest, wants []fetchWant, g *grant) *fetching {
	most := h.settings.FetchMaxBytes
	f := &fetching{h: h, version: req.Version, grant: g, wants: wants, view: h.view(who),
		minBytes: min(max(int(req.MinBytes), 0), most), maxBytes: min(max(int(req.MaxBytes), 0), most),
		maxWait:       min(time.Duration(max(req.MaxWaitMillis, 0))*time.Millisecond, h.settings.FetchMaxWait),
		readCommitted: req.IsolationLevel == readCommitted,
		results:       make([]fetchResponsePartition, len(wants)),
		read:          make([]FetchPartition, 0, len(wants)), at: make([]int, 0, len(wants))}
	f.away = req.Version >= 11 && f.view.away()
	return f
}

// run resolves the partitions, reads, and returns one result for each want.
func (f *fetching) run(ctx context.Context, resp *fetchResponse) []fetchResponsePartition {
	r := f.h.resolve()
	var topic *catalogue.Topic
	var err error
	for i := range f.wants {
		w := &f.wants[i]
		if i == 0 || w.name != f.wants[i-1].name || w.id != f.wants[i-1].id {
			if f.version >= 13 {
				topic, err = r.byID(ctx, w.id)
			} else {
				topic, err = r.byName(ctx, w.name)
			}
		}
		f.results[i] = failedFetch(w.partition, 0)
		if err != nil {
			f.results[i].Code = dataCode(err)
		} else {
			f.partition(i, topic, resp)
		}
		f.news = f.news || f.results[i].Code != 0 || f.results[i].PreferredNode >= 0
	}
	if len(f.read) > 0 {
		fetched := 0
		for k, res := range f.h.Reader.Fetch(ctx, f.request()) {
			out := &f.results[f.at[k]]
			if out.FetchResult = res; res.Code == kerr.NotLeaderForPartition.Code {
				f.tellLeader(f.read[k].Partition, out, resp)
			}
			n := 0
			for _, b := range res.Records {
				n += len(b)
			}
			if n > 0 {
				f.h.Traffic.Fetched(f.read[k].Topic, n)
				fetched += n
			}
		}
		if fetched > 0 {
			f.h.Zones.Fetched(f.view.asker.zone, fetched)
		}
	}
	return f.results
}

// partition decides what to do about one partition of a topic that exists.
func (f *fetching) partition(i int, t *catalogue.Topic, resp *fetchResponse) {
	w, out := &f.wants[i], &f.results[i]
	p, ok := f.h.partition(t, w.partition)
	if !ok {
		out.Code = kerr.UnknownTopicOrPartition.Code
		return
	}
	if out.Code = f.h.checkEpoch(p, w.leaderEpoch); out.Code != 0 {
		f.tellLeader(p, out, resp)
		return
	}
	if f.away {
		if out.PreferredNode = f.view.preferred(p.Shard); out.PreferredNode >= 0 {
			return
		}
	}
	f.grant.batch = max(f.grant.batch, int64(f.h.settingsOf(t).MaxMessageBytes))
	f.read = append(f.read, FetchPartition{Partition: p, Offset: tiering.Offset(w.offset),
		MaxBytes: min(max(int(w.maxBytes), 0), f.h.settings.FetchMaxBytes)})
	f.at = append(f.at, i)
}

// tellLeader adds who leads the partition now, where the client's epoch is too old or this
// agent is about to leave.
func (f *fetching) tellLeader(p Partition, out *fetchResponsePartition, resp *fetchResponse) {
	if f.version < 16 || out.Code != kerr.FencedLeaderEpoch.Code && out.Code != kerr.NotLeaderForPartition.Code {
		return
	}
	node, epoch := f.view.leader(p.Shard)
	i := f.view.index(node)
	if i < 0 || out.Code == kerr.NotLeaderForPartition.Code && node == f.h.Cluster.Self() {
		return // a client that is sent here from here comes back at once, again and again
	}
	out.LeaderNode, out.LeaderEpoch = node, int32(epoch)
	for _, a := range resp.Endpoints {
		if a.NodeID == node {
			return
		}
	}
	resp.Endpoints = append(resp.Endpoints, f.view.agents[i])
}

// request is what the reader is asked.
func (f *fetching) request() FetchRequest {
	q := FetchRequest{
		MinBytes: min(f.minBytes, f.maxBytes), MaxBytes: f.maxBytes, MaxWait: f.maxWait,
		ReadCommitted: f.readCommitted, Partitions: f.read,
		Admit: f.grant.admit,
	}
	if f.news {
		q.MinBytes, q.MaxWait = 0, 0
	}
	return q
}
