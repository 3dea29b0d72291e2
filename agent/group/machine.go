package group

import (
	"container/heap"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group/classic"
	"github.com/floelog/floe/agent/group/step"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// machine is the groups of one shard.
type machine struct {
	settings Settings
	newID    func() string
	topics   coordinator.Topics
	groups   map[string]*entry
	due      queue
	waiting  map[coordinator.RequestID]*entry // of requests that are answered later
	damaged  []error                          // groups that could not be loaded
	out      coordinator.Effects              // of the step under way
}

// Step implements coordinator.Machine.
func (m *machine) Step(ev coordinator.Event, now time.Time) coordinator.Effects {
	switch ev := ev.(type) {
	case coordinator.Request:
		m.request(ev, now)
	case coordinator.Tick:
		m.tick(now)
	case coordinator.Changed:
		m.topicsChanged(ev.Topics, now)
	case coordinator.Cancelled:
		if e := m.waiting[ev.ID]; e != nil {
			delete(m.waiting, ev.ID)
			e.group.Cancelled(ev.ID)
			m.due.settle(e)
		}
	}
	out := m.out
	m.out = coordinator.Effects{}
	return out
}

// Wake implements coordinator.Machine.
func (m *machine) Wake() time.Time {
	if len(m.due) == 0 {
		return time.Time{}
	}
	return m.due[0].wake
}

func (m *machine) tick(now time.Time) {
	for len(m.due) > 0 && !m.due[0].wake.After(now) {
		e := m.due[0]
		if e.group != nil {
			if w := e.group.Wake(); !w.IsZero() && !w.After(now) {
				m.apply(e, 0, e.group.Tick(now))
				m.afterStep(e, now)
			}
		}
		if !e.check.After(now) {
			e.check = now.Add(m.settings.OffsetsRetentionCheck)
			m.expire(e, now)
		}
		m.keep(e)
	}
}

// topicsChanged tells the consumer groups; those of the classic protocol watch themselves.
func (m *machine) topicsChanged(t coordinator.Topics, now time.Time) {
	m.topics = t
	var names []string
	for name, e := range m.groups {
		if e.consumer() != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		e := m.groups[name]
		m.apply(e, 0, e.group.TopicsChanged(t, now))
		m.keep(e)
	}
}

// entry returns the entry of a name, a new one if there is none; keep must follow.
func (m *machine) entry(name string, now time.Time) *entry {
	e := m.groups[name]
	if e == nil {
		e = newEntry(name)
		e.check = now.Add(m.settings.OffsetsRetentionCheck)
		m.groups[name] = e
	}
	return e
}

// full reports whether a group would be one too many. It is refused with POLICY_VIOLATION: clients do not try
// that again, and show its text, where COORDINATOR_NOT_AVAILABLE would have them try for ever, and
// INVALID_GROUP_ID would blame the name. Groups that are there go on.
func (m *machine) full(name string) bool {
	return m.groups[name] == nil && len(m.groups) >= m.settings.MaxGroups
}

// keep takes note of what a step did to an entry: it forgets one that is empty.
func (m *machine) keep(e *entry) {
	if g := e.classic(); g != nil && g.Blank() {
		e.group = nil
	}
	if e.group == nil && len(e.offsets) == 0 && len(e.producers) == 0 && len(e.rows) == 0 {
		delete(m.groups, e.name)
		if e.index >= 0 {
			heap.Remove(&m.due, e.index)
		}
		return
	}
	m.due.settle(e)
}

// reply answers a request at once.
func (m *machine) reply(id coordinator.RequestID, body any) {
	m.out.Replies = append(m.out.Replies, coordinator.Reply{ID: id, Body: body})
}

func (m *machine) change(c shard.Change) { m.out.Changes = append(m.out.Changes, c) }

// apply takes over what a group wants done. A request that it did not answer waits.
func (m *machine) apply(e *entry, id coordinator.RequestID, eff step.Effects) {
	m.put(e, eff.Rows)
	if id != 0 {
		m.waiting[id] = e
	}
	for _, r := range eff.Replies {
		delete(m.waiting, r.ID)
	}
	m.out.Replies = append(m.out.Replies, eff.Replies...)
}

// put writes rows of a name, in as many changes as their size demands, in order.
func (m *machine) put(e *entry, rows []shard.Row) {
	size, from := 0, 0
	for i, r := range rows {
		if len(r.Value) > 0 {
			e.rows[r.Key] = struct{}{}
		} else {
			delete(e.rows, r.Key)
		}
		n := len(r.Key) + len(r.Value) + rowOverhead
		if size+n > changeBytes && i > from {
			m.change(shard.PutRows{Space: shard.Groups, Name: e.name, Rows: rows[from:i]})
			size, from = 0, i
		}
		size += n
	}
	if from < len(rows) {
		m.change(shard.PutRows{Space: shard.Groups, Name: e.name, Rows: rows[from:]})
	}
}

const (
	// rowOverhead is more than a row's, or an offset's, lengths and numbers take in a record.
	rowOverhead = 64
	// changeBytes leaves room in a record for what is not counted: names, and the changes' own
	// heads.
	changeBytes = coordinator.MaxChangeBytes - 64<<10
)

// erase deletes all rows of a name that begin with a prefix, in the order of their keys.
func (m *machine) erase(e *entry, prefix string) {
	var rows []shard.Row
	for _, key := range slices.Sorted(maps.Keys(e.rows)) {
		if strings.HasPrefix(key, prefix) {
			rows = append(rows, shard.Row{Key: key})
		}
	}
	m.put(e, rows)
}

// request finds who is to answer.
func (m *machine) request(req coordinator.Request, now time.Time) {
	switch b := req.Body.(type) {
	case *kmsg.JoinGroupRequest:
		m.join(req, b, now)
	case *kmsg.SyncGroupRequest:
		m.member(req, b.Group, now)
	case *kmsg.HeartbeatRequest:
		m.member(req, b.Group, now)
	case *kmsg.LeaveGroupRequest:
		m.member(req, b.Group, now)
	case *kmsg.ConsumerGroupHeartbeatRequest:
		m.consumerHeartbeat(req, b, now)
	case *kmsg.DescribeGroupsRequest:
		m.reply(req.ID, m.describe(b))
	case *kmsg.ConsumerGroupDescribeRequest:
		m.reply(req.ID, m.describeConsumer(b))
	case *kmsg.ListGroupsRequest:
		m.reply(req.ID, m.list(b))
	case *kmsg.DeleteGroupsRequest:
		m.reply(req.ID, m.deleteGroup(b, now))
	case Commit:
		m.reply(req.ID, m.commit(b, now))
	case Fetch:
		m.fetch(req.ID, b)
	case Delete:
		m.reply(req.ID, m.delete(b))
	case Conclude:
		m.reply(req.ID, Concluded{m.conclude(b, now)})
	case Configs:
		m.reply(req.ID, m.configs(b.Group))
	case AlterConfigs:
		m.reply(req.ID, m.alterConfigs(b, now))
	}
}

// join brings a JoinGroup to its group, and makes one if there is none.
func (m *machine) join(req coordinator.Request, r *kmsg.JoinGroupRequest, now time.Time) {
	e := m.groups[r.Group]
	vacant := e == nil || e.group == nil || e.consumer() != nil && e.group.Members() == 0
	var refused *kerr.Error
	switch {
	case r.Group == "":
		refused = kerr.InvalidGroupID
	case vacant && r.MemberID != "":
		refused = kerr.UnknownMemberID
	case m.full(r.Group):
		refused = kerr.PolicyViolation
	}
	if refused != nil {
		a := r.ResponseKind().(*kmsg.JoinGroupResponse)
		a.MemberID, a.ErrorCode = r.MemberID, refused.Code
		m.reply(req.ID, a)
		return
	}
	e = m.entry(r.Group, now)
	if vacant {
		m.erase(e, consumerRows)
		e.group = classic.New(e.name, m.classicConfig())
	}
	m.step(e, req, now)
}

// step brings a request to its group.
func (m *machine) step(e *entry, req coordinator.Request, now time.Time) {
	m.apply(e, req.ID, e.group.Step(req, now))
	m.afterStep(e, now)
	m.keep(e)
}

// member brings a request of a classic protocol's member to its group.
func (m *machine) member(req coordinator.Request, group string, now time.Time) {
	e := m.groups[group]
	switch {
	case group == "":
		m.reply(req.ID, refuseMember(req.Body, kerr.InvalidGroupID))
	case e == nil || e.group == nil:
		m.reply(req.ID, refuseMember(req.Body, kerr.UnknownMemberID))
	default:
		m.step(e, req, now)
	}
}

// refuseMember answers for a group that is not there. LeaveGroup tells each member so.
func refuseMember(body any, refused *kerr.Error) kmsg.Response {
	switch r := body.(type) {
	case *kmsg.SyncGroupRequest:
		a := r.ResponseKind().(*kmsg.SyncGroupResponse)
		a.ErrorCode = refused.Code
		return a
	case *kmsg.HeartbeatRequest:
		a := r.ResponseKind().(*kmsg.HeartbeatResponse)
		a.ErrorCode = refused.Code
		return a
	}
	r := body.(*kmsg.LeaveGroupRequest)
	a := r.ResponseKind().(*kmsg.LeaveGroupResponse)
	if r.Version < 3 || refused != kerr.UnknownMemberID {
		a.ErrorCode = refused.Code
		return a
	}
	for _, one := range r.Members {
		e := kmsg.NewLeaveGroupResponseMember()
		e.MemberID, e.InstanceID, e.ErrorCode = one.MemberID, one.InstanceID, refused.Code
		a.Members = append(a.Members, e)
	}
	return a
}

func (m *machine) topicName(id tiering.TopicID) (string, bool) {
	t, ok := m.topics.TopicByID(id)
	if !ok {
		return "", false
	}
	return t.Name, true
}
