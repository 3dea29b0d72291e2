package classic_test

import (
	"flag"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group/classic"
	"github.com/floelog/floe/agent/group/step"
)

var update = flag.Bool("update", false, "write what the transcripts' commands answer")

// TestTranscripts plays the files of testdata: commands, "----", and what they answer. Each
// file is one group; "reload" builds it anew from its rows, as a new coordinator does.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p := newPlay(t)
			var out strings.Builder
			for block := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n\n") {
				commands, _, _ := strings.Cut(block, "\n----")
				out.WriteString(commands + "\n----\n")
				for line := range strings.Lines(commands) {
					if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
						out.WriteString(p.do(line))
					}
				}
				out.WriteString("\n")
			}
			got := strings.TrimRight(out.String(), "\n") + "\n"
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := string(b); got != want && !*update {
				t.Errorf("got:\n%s", diff(got, want))
			}
		})
	}
}

// diff marks the lines that differ.
func diff(got, want string) string {
	w := strings.Split(want, "\n")
	var b strings.Builder
	for i, line := range strings.Split(got, "\n") {
		if i >= len(w) || w[i] != line {
			b.WriteString("> ")
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// play is one group on a stage.
type play struct {
	t     *testing.T
	cfg   classic.Config
	g     *classic.Group
	now   time.Time
	rows  map[string][]byte
	tags  map[coordinator.RequestID]string
	last  coordinator.RequestID
	newID int
}

func newPlay(t *testing.T) *play {
	p := &play{t: t, now: time.Unix(1_700_000_000, 0), rows: map[string][]byte{}, tags: map[coordinator.RequestID]string{}}
	p.cfg = classic.Config{
		InitialDelay: 3 * time.Second, MinSession: 6 * time.Second, MaxSession: 30 * time.Minute, MaxSize: 4,
		NewID: func() string { p.newID++; return strconv.Itoa(p.newID) },
	}
	p.g = classic.New("g", p.cfg)
	return p
}

func sorted(rows map[string][]byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for _, k := range slices.Sorted(maps.Keys(rows)) {
			if !yield(k, rows[k]) {
				return
			}
		}
	}
}

// words are the parts of a command: a verb, and names with values.
type words map[string]string

func (w words) millis(name string, unset int32) int32 {
	if w[name] == "" {
		return unset
	}
	d, _ := time.ParseDuration(w[name])
	return int32(d.Milliseconds())
}

func (w words) number(name string, unset int) int {
	if n, err := strconv.Atoi(w[name]); err == nil {
		return n
	}
	return unset
}

func (w words) pointer(name string) *string {
	if v, ok := w[name]; ok {
		return &v
	}
	return nil
}

func (p *play) do(line string) string {
	fields := strings.Fields(line)
	w := words{}
	for _, f := range fields[1:] {
		k, v, _ := strings.Cut(f, "=")
		w[k] = v
	}
	p.last++
	p.tags[p.last] = w["as"]
	if w["as"] == "" {
		p.tags[p.last] = fields[0]
	}
	req := coordinator.Request{ID: p.last, Client: coordinator.Client{ID: w["client"], Host: "h"}}
	switch fields[0] {
	case "join":
		req.Body = joinOf(w)
	case "sync":
		req.Body = syncOf(w)
	case "heartbeat":
		r := kmsg.NewPtrHeartbeatRequest()
		r.Version, r.MemberID, r.Generation, r.InstanceID = 4, w["me"], int32(w.number("gen", -1)), w.pointer("instance")
		req.Body = r
	case "leave":
		req.Body = leaveOf(w)
	case "wait":
		return p.wait(w)
	case "reload":
		return p.reload()
	case "cancel":
		for id, tag := range p.tags {
			if tag == w["as"] && id != p.last {
				p.g.Cancelled(id)
				delete(p.tags, id)
			}
		}
		return ""
	case "state":
		return p.state()
	case "commit":
		code := p.g.CheckCommit(step.MemberRef{ID: w["me"], Instance: w.pointer("instance"), Epoch: int32(w.number("gen", -1)), Transactional: w["tx"] != ""})
		return name(code) + "\n"
	default:
		p.t.Fatalf("unknown command %q", line)
	}
	return p.show(p.g.Step(req, p.now))
}

func joinOf(w words) *kmsg.JoinGroupRequest {
	r := kmsg.NewPtrJoinGroupRequest()
	r.Version = int16(w.number("v", 9))
	r.MemberID, r.InstanceID, r.ProtocolType = w["me"], w.pointer("instance"), "connect"
	if v, ok := w["type"]; ok {
		r.ProtocolType = v
	}
	r.SessionTimeoutMillis, r.RebalanceTimeoutMillis = w.millis("session", 10_000), w.millis("rebalance", 60_000)
	protocols := "range"
	if v, ok := w["protocols"]; ok {
		protocols = v
	}
	for part := range strings.SplitSeq(protocols, ",") {
		if part == "" {
			continue
		}
		name, metadata, _ := strings.Cut(part, ":")
		e := kmsg.NewJoinGroupRequestProtocol()
		e.Name, e.Metadata = name, []byte(metadata)
		r.Protocols = append(r.Protocols, e)
	}
	return r
}

func syncOf(w words) *kmsg.SyncGroupRequest {
	r := kmsg.NewPtrSyncGroupRequest()
	r.Version, r.MemberID, r.Generation = 5, w["me"], int32(w.number("gen", -1))
	r.InstanceID, r.ProtocolType, r.Protocol = w.pointer("instance"), w.pointer("type"), w.pointer("protocol")
	for part := range strings.SplitSeq(w["assign"], ",") {
		if member, to, ok := strings.Cut(part, ":"); ok {
			e := kmsg.NewSyncGroupRequestGroupAssignment()
			e.MemberID, e.MemberAssignment = member, []byte(to)
			r.GroupAssignment = append(r.GroupAssignment, e)
		}
	}
	return r
}

func leaveOf(w words) *kmsg.LeaveGroupRequest {
	r := kmsg.NewPtrLeaveGroupRequest()
	r.Version, r.MemberID = int16(w.number("v", 5)), w["me"]
	for part := range strings.SplitSeq(w["members"], ",") {
		e := kmsg.NewLeaveGroupRequestMember()
		id, instance, static := strings.Cut(part, "/")
		if e.MemberID = id; static {
			e.InstanceID = &instance
		}
		r.Members = append(r.Members, e)
	}
	return r
}

// wait lets time pass, with a Tick whenever the group wants one.
func (p *play) wait(w words) string {
	end := p.now.Add(time.Duration(w.millis("for", 0)) * time.Millisecond)
	var out string
	for wake := p.g.Wake(); !wake.IsZero() && !wake.After(end); wake = p.g.Wake() {
		if wake.After(p.now) {
			p.now = wake
		}
		out += p.show(p.g.Tick(p.now))
		if next := p.g.Wake(); !next.IsZero() && !next.After(p.now) {
			p.t.Fatalf("woken at %v, it wants to be woken at %v", p.now, next)
		}
	}
	p.now = end
	return out
}

func (p *play) reload() string {
	g, err := classic.Load("g", sorted(p.rows), p.cfg, p.now)
	if err != nil {
		p.t.Fatalf("loading: %v", err)
	}
	p.g = g
	return ""
}

func (p *play) state() string {
	r := kmsg.NewPtrDescribeGroupsRequest()
	r.Version = 5
	d := p.g.Describe(r).(*kmsg.DescribeGroupsResponse).Groups[0]
	out := fmt.Sprintf("%s %d members, type %q protocol %q:", d.State, p.g.Members(), d.ProtocolType, d.Protocol)
	for _, m := range d.Members {
		out += fmt.Sprintf(" %s=%q", m.MemberID, m.MemberAssignment)
	}
	return out + fmt.Sprintf("; rows %s\n", strings.Join(slices.Sorted(maps.Keys(p.rows)), " "))
}

// show applies what a step wants and tells its replies.
func (p *play) show(eff step.Effects) string {
	for _, r := range eff.Rows {
		if p.rows[r.Key] = r.Value; len(r.Value) == 0 {
			delete(p.rows, r.Key)
		}
	}
	var out string
	for _, r := range eff.Replies {
		tag, ok := p.tags[r.ID]
		if !ok {
			p.t.Errorf("request %d was answered twice", r.ID)
		}
		delete(p.tags, r.ID)
		out += tag + ": " + tell(r.Body) + "\n"
	}
	return out
}

func tell(body any) string {
	switch r := body.(type) {
	case *kmsg.JoinGroupResponse:
		if r.ErrorCode != 0 {
			return fmt.Sprintf("%s me=%q", name(r.ErrorCode), r.MemberID)
		}
		out := fmt.Sprintf("generation %d me=%s leader=%s protocol=%s", r.Generation, r.MemberID, r.LeaderID, *r.Protocol)
		for _, m := range r.Members {
			out += fmt.Sprintf(" %s:%s", m.MemberID, m.ProtocolMetadata)
		}
		if r.SkipAssignment {
			out += " skip"
		}
		return out
	case *kmsg.SyncGroupResponse:
		return fmt.Sprintf("%s %q", name(r.ErrorCode), r.MemberAssignment)
	case *kmsg.HeartbeatResponse:
		return name(r.ErrorCode)
	case *kmsg.LeaveGroupResponse:
		out := name(r.ErrorCode)
		for _, m := range r.Members {
			out += fmt.Sprintf(" %s:%s", m.MemberID, name(m.ErrorCode))
		}
		return out
	}
	return fmt.Sprintf("%T", body)
}

func name(code int16) string {
	if e := kerr.TypedErrorForCode(code); e != nil {
		return e.Message
	}
	return "ok"
}
