package sim

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ask asks the group's coordinator; the outcome is unknown where that is an error.
func ask[R kmsg.Response](ctx context.Context, m *member, req kmsg.Request, patient bool) (R, error) {
	var none R
	to := m.w.coordinator(m.rnd, m.g.name)
	if to == nil {
		return none, errUnreachable
	}
	got, err := call(ctx, to, m.rnd, patient, func(ctx context.Context) (answered[R], error) {
		return askGroup[R](ctx, to, m.g.name, req)
	})
	return got.resp, err
}

// classic is one round of the classic protocol: a heartbeat, or all it takes to be in the group.
func (m *member) classic(ctx context.Context) {
	if m.epoch < 0 {
		m.join(ctx)
		return
	}
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 4, m.g.name, m.id, m.epoch
	began := time.Now()
	resp, err := ask[*kmsg.HeartbeatResponse](ctx, m, req, false)
	if err != nil {
		return
	}
	m.w.history.add(m.name, "heartbeat", nil, "generation %d code %d", m.epoch, resp.ErrorCode)
	switch code := resp.ErrorCode; {
	case code == 0:
		m.signed(began)
		m.well()
	case code == kerr.RebalanceInProgress.Code, code == kerr.IllegalGeneration.Code:
		m.rebalance(code)
	case code == kerr.UnknownMemberID.Code:
		m.dropped(code)
		m.lost()
	case !again(code):
		m.w.fail("answers", nil, "%s: Heartbeat was answered %v", m.name, kerr.ErrorForCode(code))
	}
}

// rebalance is called when the coordinator wants the member to join again.
func (m *member) rebalance(code int16) {
	m.g.mu.Lock()
	gen := m.g.generation(m.epoch)
	settled := m.epoch == m.g.newest && gen.size > 0 && len(gen.synced) == gen.size
	m.g.mu.Unlock()
	if settled && m.g.needless(gen.at) {
		m.w.fail("needless rebalance", nil, "%s was told %v in generation %d, although nobody came, went or was silent", m.name, kerr.ErrorForCode(code), m.epoch)
	}
	m.disturb()
	m.epoch = -1
}

// join joins the group and syncs.
func (m *member) join(ctx context.Context) {
	m.disturb()
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.MemberID, req.ProtocolType = 5, m.g.name, m.id, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = int32(sessionTimeout.Milliseconds()), int32(rebalanceTimeout.Milliseconds())
	meta := kmsg.NewConsumerMemberMetadata()
	meta.Topics = []string{"t0"}
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name, p.Metadata = "range", meta.AppendTo(nil)
	req.Protocols = append(req.Protocols, p)
	m.restless(1)
	resp, err := ask[*kmsg.JoinGroupResponse](ctx, m, req, true)
	m.restless(-1)
	m.disturb()
	if err != nil {
		return
	}
	m.w.history.add(m.name, "joined", nil, "member %q generation %d code %d", resp.MemberID, resp.Generation, resp.ErrorCode)
	switch code := resp.ErrorCode; {
	case code == 0:
		m.id = resp.MemberID
		m.joined(ctx, resp)
	case code == kerr.MemberIDRequired.Code:
		m.id = resp.MemberID
	case code == kerr.UnknownMemberID.Code:
		m.id = ""
	case code == kerr.RebalanceInProgress.Code, again(code):
	default:
		m.w.fail("answers", nil, "%s: JoinGroup was answered %v", m.name, kerr.ErrorForCode(code))
	}
}

// joined learns who owns what in a new generation, or decides that.
func (m *member) joined(ctx context.Context, resp *kmsg.JoinGroupResponse) {
	m.w.knows(m.g.name, "", resp.Generation)
	m.g.mu.Lock()
	m.g.newest = max(m.g.newest, resp.Generation)
	if len(resp.Members) > 0 {
		m.g.generation(resp.Generation).size = len(resp.Members)
	}
	m.g.mu.Unlock()
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 3, m.g.name, resp.MemberID, resp.Generation
	if resp.LeaderID == resp.MemberID {
		assignments := make([][]string, len(resp.Members))
		for i, part := range m.candidates() {
			assignments[i%len(assignments)] = append(assignments[i%len(assignments)], part.name)
		}
		for i, who := range resp.Members {
			a := kmsg.NewSyncGroupRequestGroupAssignment()
			a.MemberID, a.MemberAssignment = who.MemberID, []byte(strings.Join(assignments[i], ","))
			req.GroupAssignment = append(req.GroupAssignment, a)
		}
	}
	began := time.Now()
	sync, err := ask[*kmsg.SyncGroupResponse](ctx, m, req, true)
	if err != nil {
		m.disturb()
		return
	}
	m.w.history.add(m.name, "synced", nil, "generation %d code %d: %s", resp.Generation, sync.ErrorCode, sync.MemberAssignment)
	switch code := sync.ErrorCode; {
	case code == 0:
		m.epoch = resp.Generation
		m.assigned(string(sync.MemberAssignment))
		m.signed(began)
	case code == kerr.UnknownMemberID.Code:
		m.id = ""
	case code == kerr.RebalanceInProgress.Code, code == kerr.IllegalGeneration.Code, again(code):
	default:
		m.w.fail("answers", nil, "%s: SyncGroup was answered %v", m.name, kerr.ErrorForCode(code))
	}
}

// candidates are the partitions that members share.
func (m *member) candidates() (out []*partition) {
	for _, part := range m.w.known() {
		if part.topic == "t0" {
			out = append(out, part)
		}
	}
	return out
}

// assigned takes what a generation's leader has given to the member. A partition must not have
// been given to another one in the same generation.
func (m *member) assigned(list string) {
	m.owned = nil
	for _, part := range m.candidates() {
		if slices.Contains(strings.Split(list, ","), part.name) {
			m.owned = append(m.owned, part)
		}
	}
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	gen := m.g.generation(m.epoch)
	gen.at, gen.synced[m] = time.Now(), true
	for _, part := range m.owned {
		if other := gen.owners[part.name]; other != nil && other != m {
			m.w.fail("two owners", part, "%s and %s both own it in generation %d", m.name, other.name, m.epoch)
		}
		gen.owners[part.name] = m
	}
}

// leave takes the member out of the group.
func (m *member) leave(ctx context.Context) {
	m.restless(1)
	defer m.restless(-1)
	m.disturb()
	var err error
	left := false
	if m.consumer {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Version, req.Group, req.MemberID, req.MemberEpoch, req.RebalanceTimeoutMillis = 1, m.g.name, m.id, -1, -1
		var resp *kmsg.ConsumerGroupHeartbeatResponse
		resp, err = ask[*kmsg.ConsumerGroupHeartbeatResponse](ctx, m, req, false)
		left = err == nil && resp.ErrorCode == 0
	} else {
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Version, req.Group = 3, m.g.name
		one := kmsg.NewLeaveGroupRequestMember()
		one.MemberID = m.id
		req.Members = append(req.Members, one)
		var resp *kmsg.LeaveGroupResponse
		resp, err = ask[*kmsg.LeaveGroupResponse](ctx, m, req, false)
		left = err == nil && resp.ErrorCode == 0
	}
	m.w.history.add(m.name, "left", nil, "member %q (%v)", m.id, err)
	if err == nil && left {
		m.w.knows(m.g.name, m.id, math.MaxInt32)
	}
	if m.rnd.IntN(2) == 0 {
		m.work(ctx) // a member that has left must not commit any more
	}
	m.lost()
	sleep(ctx, time.Duration(m.rnd.Int64N(int64(5*time.Second))))
	m.disturb()
}

// heartbeat is one round of the new protocol.
func (m *member) heartbeat(ctx context.Context) {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.MemberEpoch, req.RebalanceTimeoutMillis = 1, m.g.name, m.id, m.epoch, int32(rebalanceTimeout.Milliseconds())
	req.SubscribedTopicNames = []string{"t0"}
	req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	if m.epoch < 0 {
		if m.id == "" {
			m.joins++
			m.id = fmt.Sprintf("%s-%d", m.name, m.joins)
		}
		m.disturb()
		req.MemberID, req.MemberEpoch = m.id, 0
	} else if len(m.owned) > 0 {
		topic := kmsg.NewConsumerGroupHeartbeatRequestTopic()
		topic.TopicID = m.owned[0].Topic
		for _, part := range m.owned {
			topic.Partitions = append(topic.Partitions, part.Partition)
		}
		req.Topics = append(req.Topics, topic)
	}
	// A copy of a join that arrives late is one more join, of a member that owns nothing: the
	// protocol cannot tell it from a return (KIP-848), so members wait until none can come.
	joins := req.MemberEpoch == 0
	began := time.Now()
	resp, err := ask[*kmsg.ConsumerGroupHeartbeatResponse](ctx, m, req, joins)
	if err != nil {
		return
	}
	m.w.history.add(m.name, "heartbeat", nil, "member %q epoch %d of %v code %d: epoch %d %+v", m.id, req.MemberEpoch, len(m.owned), resp.ErrorCode, resp.MemberEpoch, resp.Assignment)
	switch code := resp.ErrorCode; {
	case code == 0:
		m.told(resp, began)
	case code == kerr.UnknownMemberID.Code, code == kerr.FencedMemberEpoch.Code:
		if m.epoch >= 0 && code == kerr.UnknownMemberID.Code {
			m.dropped(code)
		}
		m.lost()
	case !again(code):
		m.w.fail("answers", nil, "%s: ConsumerGroupHeartbeat was answered %v", m.name, kerr.ErrorForCode(code))
	}
}

// told takes epoch and assignment. What the member does not give back at once may not be
// another's.
func (m *member) told(resp *kmsg.ConsumerGroupHeartbeatResponse, began time.Time) {
	if resp.MemberEpoch < m.epoch {
		m.w.fail("epochs", nil, "%s was told member epoch %d after %d", m.name, resp.MemberEpoch, m.epoch)
	}
	if resp.MemberEpoch > m.epoch {
		m.w.knows(m.g.name, m.id, resp.MemberEpoch)
	}
	m.epoch = resp.MemberEpoch
	m.signed(began)
	m.well()
	if resp.Assignment == nil {
		return
	}
	m.owned = nil
	for _, topic := range resp.Assignment.Topics {
		for _, part := range m.candidates() {
			if part.Topic == topic.TopicID && slices.Contains(topic.Partitions, part.Partition) {
				m.owned = append(m.owned, part)
			}
		}
	}
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	for part, owner := range m.g.owners {
		if owner == m && !slices.Contains(m.owned, part) {
			delete(m.g.owners, part)
		}
	}
	for _, part := range m.owned {
		other := m.g.owners[part]
		if s, alive := m.g.alive[other]; other != nil && other != m && alive && time.Now().Before(s.until) {
			m.w.fail("two owners", part, "%s was given it in epoch %d while %s has it", m.name, m.epoch, other.name)
		}
		m.g.owners[part] = m
	}
}
