package group_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// client is one that consumes in a group, as the model knows it.
type client struct {
	name       string
	instance   *string
	id         string
	generation int32
	leader     bool
	members    []string // of its generation, if it leads
	joining    coordinator.RequestID
	syncing    coordinator.RequestID
	assigned   bool // it has its assignment of this generation
}

// model checks a group against what must be true of it whatever happens (RELIABILITY.md, I20
// and I21, as far as they concern the coordinator).
type model struct {
	*world
	rng       *rand.Rand
	clients   []*client
	highest   int32              // generation that anybody was told
	members   map[int32][]string // of each generation, as its leader was told
	current   int32              // of the last assignment
	committed map[int32]tiering.Offset
}

func TestModel(t *testing.T) {
	for seed := range uint64(150) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := &model{
				world:   newWorld(t, func(s *group.Settings) { s.InitialRebalanceDelay, s.MaxSize = time.Second, 4 }),
				rng:     rand.New(rand.NewPCG(seed, 1)),
				members: map[int32][]string{}, committed: map[int32]tiering.Offset{},
			}
			for i := range 5 {
				c := &client{name: fmt.Sprintf("c%d", i)}
				if i < 2 {
					c.instance = &c.name
				}
				m.clients = append(m.clients, c)
			}
			for range 400 {
				m.act()
			}
			m.settle()
		})
	}
}

// act does one thing at random, and looks at what came of it.
func (m *model) act() {
	m.t.Helper()
	c := m.clients[m.rng.IntN(len(m.clients))]
	switch m.rng.IntN(12) {
	case 0, 1, 2:
		m.join(c)
	case 3, 4:
		m.sync(c)
	case 5, 6:
		m.beat(c)
	case 7:
		m.tryCommit(c)
	case 8:
		m.wait(time.Duration(m.rng.IntN(5000)) * time.Millisecond)
	case 9:
		if m.rng.IntN(8) == 0 {
			m.leave(c)
		}
	case 10:
		if m.rng.IntN(8) == 0 {
			m.lose()
		}
	case 11:
		m.hangUp(c)
	}
	m.listen()
}

func (m *model) join(c *client) {
	if c.joining != 0 || c.syncing != 0 {
		return
	}
	r := joinRequest("g", c.id, "t1")
	r.Version, r.InstanceID = 9, c.instance
	if m.rng.IntN(4) == 0 {
		r.Version = 5
	}
	c.joining, c.assigned = m.send(c.name, r), false
}

func (m *model) sync(c *client) {
	if c.generation == 0 || c.assigned || c.joining != 0 || c.syncing != 0 {
		return
	}
	assign := map[string]string{}
	if c.leader {
		for _, id := range c.members {
			assign[id] = fmt.Sprintf("%d/%s", c.generation, id)
		}
	}
	r := syncRequest("g", c.id, c.generation, assign)
	r.InstanceID = c.instance
	c.syncing = m.send(c.name, r)
}

func (m *model) beat(c *client) {
	if c.generation == 0 || c.joining != 0 || c.syncing != 0 {
		return
	}
	r := kmsg.NewPtrHeartbeatRequest()
	r.Version, r.Group, r.MemberID, r.Generation, r.InstanceID = 4, "g", c.id, c.generation, c.instance
	m.lost(c, ask[*kmsg.HeartbeatResponse](m.world, r).ErrorCode)
}

// lost takes a code that may say that the client is no member any more.
func (m *model) lost(c *client, code int16) {
	switch code {
	case 0, kerr.RebalanceInProgress.Code, kerr.InconsistentGroupProtocol.Code:
	case kerr.IllegalGeneration.Code:
		c.generation, c.assigned = 0, false
	case kerr.UnknownMemberID.Code, kerr.FencedInstanceID.Code, kerr.GroupMaxSizeReached.Code:
		c.id, c.generation, c.assigned = "", 0, false
	default:
		m.t.Fatalf("%s: code %d", c.name, code)
	}
}

// tryCommit commits as a client, now and then with a generation that is not its own.
func (m *model) tryCommit(c *client) {
	generation := c.generation - int32(m.rng.IntN(2))
	if generation < 1 {
		return
	}
	o := m.committed[0] + 1
	code := m.commit("g", group.Member{ID: c.id, Instance: c.instance, Epoch: generation, Version: 8}, offset(tp(1, 0), o))
	if code != 0 {
		if got := m.fetch("g", 0)[0]; got != m.committed[0]-b2o(m.committed[0] == 0) {
			m.t.Fatalf("a commit was refused with %d, and yet %d is committed", code, got)
		}
		return
	}
	if generation < m.current {
		m.t.Fatalf("generation %d committed, the members have %d", generation, m.current)
	}
	m.committed[0] = o
}

// b2o is 1 where nothing was committed: then -1 is fetched.
func b2o(b bool) tiering.Offset {
	if b {
		return 1
	}
	return 0
}

func (m *model) leave(c *client) {
	if c.id == "" || c.joining != 0 || c.syncing != 0 {
		return
	}
	r := kmsg.NewPtrLeaveGroupRequest()
	r.Version, r.Group = 5, "g"
	e := kmsg.NewLeaveGroupRequestMember()
	e.MemberID, e.InstanceID = c.id, c.instance
	r.Members = append(r.Members, e)
	ask[*kmsg.LeaveGroupResponse](m.world, r)
	c.id, c.generation, c.assigned = "", 0, false
}

// lose moves the coordinator.
func (m *model) lose() {
	before := map[string]bool{}
	if m.describe().State == "Stable" {
		for _, c := range m.clients {
			before[c.name] = c.assigned
		}
	}
	m.failover()
	for _, c := range m.clients {
		c.joining, c.syncing = 0, 0
	}
	if state := m.describe().State; len(before) > 0 && state != "Stable" {
		m.t.Fatalf("a stable group is %s after its coordinator moved", state)
	}
}

func (m *model) hangUp(c *client) {
	id := c.joining + c.syncing
	if id == 0 || !m.waiting[id] {
		return
	}
	m.step(coordinator.Cancelled{ID: id})
	delete(m.waiting, id)
	c.joining, c.syncing = 0, 0
}

func (m *model) describe() kmsg.DescribeGroupsResponseGroup {
	r := kmsg.NewPtrDescribeGroupsRequest()
	r.Version, r.Groups = 5, []string{"g"}
	return ask[*kmsg.DescribeGroupsResponse](m.world, r).Groups[0]
}

// listen takes the answers that came.
func (m *model) listen() {
	m.t.Helper()
	for _, c := range m.clients {
		if a, ok := m.answers[c.joining]; ok && c.joining != 0 {
			delete(m.answers, c.joining)
			c.joining = 0
			m.joined(c, a.(*kmsg.JoinGroupResponse))
		}
		if a, ok := m.answers[c.syncing]; ok && c.syncing != 0 {
			delete(m.answers, c.syncing)
			c.syncing = 0
			m.synced(c, a.(*kmsg.SyncGroupResponse))
		}
	}
	ids := map[string]bool{}
	for _, d := range m.describe().Members {
		if ids[d.MemberID] {
			m.t.Fatalf("two members have the id %s", d.MemberID)
		}
		ids[d.MemberID] = true
	}
}

func (m *model) joined(c *client, r *kmsg.JoinGroupResponse) {
	if r.ErrorCode == kerr.MemberIDRequired.Code {
		c.id = r.MemberID
		return
	}
	if r.ErrorCode != 0 {
		m.lost(c, r.ErrorCode)
		return
	}
	if r.Generation < m.current {
		m.t.Fatalf("generation %d after %d", r.Generation, m.current)
	}
	m.highest = max(m.highest, r.Generation)
	c.id, c.generation, c.leader = r.MemberID, r.Generation, r.LeaderID == r.MemberID && !r.SkipAssignment && len(r.Members) > 0
	c.members = nil
	if c.leader {
		for _, e := range r.Members {
			c.members = append(c.members, e.MemberID)
		}
		// A generation is handed out once: its members are always the same.
		if was, ok := m.members[r.Generation]; ok && !reflect.DeepEqual(was, c.members) {
			m.t.Fatalf("generation %d has members %v, and had %v", r.Generation, c.members, was)
		}
		m.members[r.Generation] = c.members
	}
}

func (m *model) synced(c *client, r *kmsg.SyncGroupResponse) {
	if r.ErrorCode != 0 {
		m.lost(c, r.ErrorCode)
		return
	}
	if c.generation < m.current {
		m.t.Fatalf("assigned in generation %d after %d", c.generation, m.current)
	}
	m.current, c.assigned = c.generation, true
}

// settle lets all clients behave: the group must become stable with all that fit.
func (m *model) settle() {
	m.t.Helper()
	for range 400 {
		for _, c := range m.clients[:4] {
			switch {
			case c.assigned:
				r := kmsg.NewPtrHeartbeatRequest()
				r.Group, r.MemberID, r.Generation = "g", c.id, c.generation
				if code := ask[*kmsg.HeartbeatResponse](m.world, r).ErrorCode; code != 0 {
					m.lost(c, code)
					m.join(c)
				}
			case c.generation != 0 && c.joining == 0:
				m.sync(c)
			default:
				m.join(c)
			}
			m.listen()
		}
		if c := m.clients[4]; c.id != "" {
			m.leave(c)
		}
		m.wait(500 * time.Millisecond)
		m.listen()
		if d := m.describe(); d.State == "Stable" && len(d.Members) == 4 {
			return
		}
	}
	m.t.Fatalf("not stable: %+v, %d rows", m.describe(), len(m.state.Names(shard.Groups)))
}

// TestReloaded plays the same requests to a machine that lives on, and to one that is built
// anew from the state before each request, as long as nobody waits: they must answer the same.
func TestReloaded(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 2))
		settings := func(s *group.Settings) { s.InitialRebalanceDelay = 0 }
		a, b := newWorld(t, settings), newWorld(t, settings)
		pending := 0
		for n := range 300 {
			body := randomRequest(rng)
			x, y := a.send("c", body), b.send("c", body)
			a.wait(10 * time.Millisecond)
			b.wait(10 * time.Millisecond)
			if got, want := b.answers[y], a.answers[x]; !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d, request %d %T: reloaded %+v, lived on %+v", seed, n, body, got, want)
			}
			if j, ok := a.answers[x].(*kmsg.JoinGroupResponse); ok && j.ErrorCode == kerr.MemberIDRequired.Code {
				pending++ // ids that were given out are not journaled
			}
			if len(a.waiting) == 0 && pending == 0 && quiet(b) {
				b.failover()
			}
		}
	}
}

// quiet says that no group of the world is in the middle of a rebalance.
func quiet(w *world) bool {
	for _, g := range ask[*kmsg.ListGroupsResponse](w, kmsg.NewPtrListGroupsRequest()).Groups {
		if g.GroupState != "Stable" && g.GroupState != "Empty" {
			return false
		}
	}
	return true
}

func randomRequest(rng *rand.Rand) any {
	name := fmt.Sprintf("g%d", rng.IntN(2))
	id := fmt.Sprintf("i%d-%d", rng.IntN(3), rng.IntN(30))
	generation := int32(rng.IntN(6))
	instance := fmt.Sprintf("i%d", rng.IntN(3))
	tx := shard.Transaction{ProducerID: int64(rng.IntN(2)), Epoch: int16(rng.IntN(2)), Number: int64(rng.IntN(6)) + 1}
	switch rng.IntN(10) {
	case 0, 1, 2:
		r := joinRequest(name, "", "t1")
		r.Version, r.InstanceID = 9, &instance
		return r
	case 3, 4:
		return syncRequest(name, id, generation, map[string]string{id: "x"})
	case 5:
		r := kmsg.NewPtrDescribeGroupsRequest()
		r.Version, r.Groups = 6, []string{name}
		return r
	case 6:
		return group.Commit{Group: name, Member: group.Member{ID: id, Epoch: generation - 1}, Offsets: []shard.GroupOffset{offset(tp(1, 0), 1)}}
	case 7:
		return group.Commit{Group: name, Member: anybody, Transaction: tx, Offsets: []shard.GroupOffset{offset(tp(1, 1), 2)}}
	case 8:
		return group.Conclude{Group: name, Transaction: tx, Commit: rng.IntN(2) == 0}
	}
	r := kmsg.NewPtrLeaveGroupRequest()
	r.Version, r.Group = 5, name
	e := kmsg.NewLeaveGroupRequestMember()
	e.MemberID, e.InstanceID = "", &instance
	r.Members = append(r.Members, e)
	return r
}
