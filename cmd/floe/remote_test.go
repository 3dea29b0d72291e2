package main

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/protocol"
)

// scripted is a node that answers as a test tells it to, over a real socket.
type scripted struct {
	addr *net.TCPAddr

	mu      sync.Mutex
	answers map[int16]func(kmsg.Request, kmsg.Response) // nil: it never answers
	asked   []kmsg.Request
}

// The topics of a scripted node, with their partitions; all logs are from 10 to 100.
var scriptedTopics = map[string]int32{"events": 3, "pay": 2}

// Versions that carry names where newer ones carry topic ids.
var scriptedMax = map[int16]int16{3: 9, 8: 8, 9: 8}

// startScripted starts a node that knows topics, offsets and coordinators. It ends with
// the test.
func startScripted(t *testing.T) *scripted {
	t.Helper()
	s := &scripted{answers: map[int16]func(kmsg.Request, kmsg.Response){}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().(*net.TCPAddr)
	answer(s, s.metadata)
	answer(s, s.apiVersions)
	answer(s, s.coordinators)
	answer(s, logs)
	srv, err := protocol.NewServer(ln, s, protocol.Config{Name: "test", Log: slog.New(slog.DiscardHandler),
		ProduceBudget: protocol.NewBudget(256 << 20), ControlBudget: protocol.NewBudget(256 << 20)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s
}

// answer makes the node serve an API.
func answer[Req kmsg.Request, Resp kmsg.Response](s *scripted, f func(Req, Resp)) {
	var req Req
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[req.Key()] = func(q kmsg.Request, r kmsg.Response) { f(q.(Req), r.(Resp)) }
}

func (s *scripted) Versions(key int16) (lowest, highest int16, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.answers[key]; !ok {
		return 0, 0, false
	}
	highest = kmsg.RequestForKey(key).MaxVersion()
	if limit, ok := scriptedMax[key]; ok {
		highest = limit
	}
	return 0, highest, true
}

func (s *scripted) Serve(ctx context.Context, _ *protocol.Conn, r *protocol.Request) *protocol.Pending {
	req, err := protocol.DecodeRequest(r)
	if err != nil {
		return protocol.Answer(protocol.Response{Close: true, None: true})
	}
	s.mu.Lock()
	s.asked = append(s.asked, req)
	f := s.answers[r.Key]
	s.mu.Unlock()
	if f == nil {
		p := protocol.NewPending()
		context.AfterFunc(ctx, func() { p.Resolve(protocol.Response{None: true}) })
		return p
	}
	resp := req.ResponseKind()
	f(req, resp)
	return protocol.Answer(protocol.Response{Buffers: net.Buffers{resp.AppendTo(nil)}})
}

// requests returns the requests of an API that came.
func requests[Req kmsg.Request](s *scripted) (out []Req) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.asked {
		if r, ok := r.(Req); ok {
			out = append(out, r)
		}
	}
	return out
}

func (s *scripted) apiVersions(_ *kmsg.ApiVersionsRequest, resp *kmsg.ApiVersionsResponse) {
	for key := int16(0); key <= kmsg.MaxKey; key++ {
		if _, highest, ok := s.Versions(key); ok {
			k := kmsg.NewApiVersionsResponseApiKey()
			k.ApiKey, k.MaxVersion = key, highest
			resp.ApiKeys = append(resp.ApiKeys, k)
		}
	}
}

func (s *scripted) metadata(req *kmsg.MetadataRequest, resp *kmsg.MetadataResponse) {
	b := kmsg.NewMetadataResponseBroker()
	b.NodeID, b.Host, b.Port = 1, s.addr.IP.String(), int32(s.addr.Port)
	resp.Brokers, resp.ControllerID = []kmsg.MetadataResponseBroker{b}, 1
	var names []string
	for _, t := range req.Topics {
		names = append(names, *t.Topic)
	}
	if req.Topics == nil {
		names = []string{"events", "pay"}
	}
	for _, name := range names {
		t := kmsg.NewMetadataResponseTopic()
		t.Topic = kmsg.StringPtr(name)
		if scriptedTopics[name] == 0 {
			t.ErrorCode = kerr.UnknownTopicOrPartition.Code
		}
		for id := range scriptedTopics[name] {
			p := kmsg.NewMetadataResponseTopicPartition()
			p.Partition, p.Leader, p.Replicas, p.ISR = id, 1, []int32{1}, []int32{1}
			t.Partitions = append(t.Partitions, p)
		}
		resp.Topics = append(resp.Topics, t)
	}
}

func (s *scripted) coordinators(req *kmsg.FindCoordinatorRequest, resp *kmsg.FindCoordinatorResponse) {
	resp.NodeID, resp.Host, resp.Port = 1, s.addr.IP.String(), int32(s.addr.Port)
	for _, key := range req.CoordinatorKeys {
		c := kmsg.NewFindCoordinatorResponseCoordinator()
		c.Key, c.NodeID, c.Host, c.Port = key, resp.NodeID, resp.Host, resp.Port
		resp.Coordinators = append(resp.Coordinators, c)
	}
}

// logs answers that all logs are from 10 to 100, and that offset 10+p is the first of
// whatever time is asked for, in partition p; partition 2 has nothing that late.
func logs(req *kmsg.ListOffsetsRequest, resp *kmsg.ListOffsetsResponse) {
	for _, t := range req.Topics {
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewListOffsetsResponseTopicPartition()
			rp.Partition = p.Partition
			switch {
			case p.Timestamp == -2:
				rp.Offset = 10
			case p.Timestamp == -1:
				rp.Offset = 100
			case p.Partition == 2:
				rp.Offset = -1
			default:
				rp.Offset, rp.Timestamp = 10+int64(p.Partition), p.Timestamp
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
}

// ask runs a command against the node.
func (s *scripted) ask(t *testing.T, line string) (code int, stdout, stderr string) {
	t.Helper()
	return invoke(t, nil, append(strings.Fields(line), "--bootstrap", s.addr.String())...)
}

// mustPrint wants a command to succeed and to print exactly this.
func (s *scripted) mustPrint(t *testing.T, line, want string) {
	t.Helper()
	code, stdout, stderr := s.ask(t, line)
	want = strings.TrimPrefix(want, "\n") // so that it may begin on a line of its own
	if code != exitOK || stderr != "" || stdout != want {
		t.Errorf("floe %s: exit code %d, standard error %q, it prints\n%s\nwant\n%s", line, code, stderr, stdout, want)
	}
}

// mustFail wants a command to fail with one line that says all this.
func (s *scripted) mustFail(t *testing.T, line string, wants ...string) (stdout string) {
	t.Helper()
	code, stdout, stderr := s.ask(t, line)
	if code != exitRuntime || !strings.HasPrefix(stderr, "floe: ") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("floe %s: exit code %d, standard error %q; want %d and one line", line, code, stderr, exitRuntime)
	}
	for _, want := range wants {
		if !strings.Contains(stderr, want) {
			t.Errorf("floe %s: %q does not say %q", line, stderr, want)
		}
	}
	return stdout
}

func TestRemoteUsage(t *testing.T) {
	tests := []struct {
		line string
		want string
	}{
		{"group list --bootstrap localhost", `--bootstrap: "localhost" is not HOST:PORT`},
		{"group list --bootstrap=", "--bootstrap: "},
		{"group list --timeout 0s", "--timeout: "},
		{"group list --state stabel", "--state: \"stabel\" is not known (one of Empty, Stable"},
		{"group list --type kafka", "--type: \"kafka\" is not known (one of classic, consumer"},
		{"group list now", "now: unexpected argument"},
		{"group lst", "lst: no such command"},
		{"group describe", "wants GROUP"},
		{"group describe g --members --state", "--state: does not go with --members"},
		{"group describe g --members --json", "--members: does not go with --json"},
		{"group reset --all-topics --to-latest", "wants GROUP"},
		{"group reset g --to-latest", "--topic: nothing says what"},
		{"group reset g --all-topics --topic x --to-latest", "--all-topics: does not go with --topic"},
		{"group reset g --all-topics", "--to-earliest: nothing says where"},
		{"group reset g --all-topics --to-latest --to-offset 3", "--to-offset: does not go with --to-latest"},
		{"group reset g --all-topics --to-offset -1", "--to-offset: -1 is below 0"},
		{"group reset g --all-topics --shift-by 0", "--shift-by: 0"},
		{"group reset g --all-topics --to-time noon", "--to-time: \"noon\" is no time"},
		{"group reset g --all-topics --to-time -1h", "--to-time: -1h lies in the future"},
		{"group reset g --all-topics --to-time 1960-01-01T00:00:00Z", "--to-time: 1960"},
		{"group reset g --topic :1 --to-latest", "--topic: \":1\" names no topic"},
		{"group reset g --topic a:x --to-latest", "--topic: \"x\""},
		{"group reset g --topic a:1,1 --to-latest", "names partition 1 twice"},
		{"group reset g --topic a:1 --topic a:2 --to-latest", "topic a is named twice"},
		{"group delete", "wants GROUP"},
		{"group delete a b --offsets t", "--offsets: goes with one group"},
		{"txn list --state on", "--state: "},
		{"txn list --running-longer-than 0s", "--running-longer-than: "},
		{"txn list --producer-id x", "--producer-id"},
		{"txn describe", "wants ID"},
		{"txn hanging --older-than -1s", "--older-than: "},
		{"txn abort", "--id: nothing says what"},
		{"txn abort --id=", "--id: it is empty"},
		{"txn abort --id a --topic b", "--topic: does not go with --id"},
		{"txn abort --partition 1", "--topic: it is missing"},
		{"txn abort --topic a --producer-id 1", "--partition: it is missing"},
		{"txn abort --topic a --partition 1", "--start-offset: exactly one"},
		{"txn abort --topic a --partition 1 --producer-id 1 --start-offset 1", "--start-offset: exactly one"},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			code, stdout, stderr := invoke(t, nil, strings.Fields(tt.line)...)
			if code != exitUsage || stdout != "" || !strings.HasPrefix(stderr, "floe: ") || strings.Count(stderr, "\n") != 1 {
				t.Errorf("exit code %d, standard output %q, standard error %q", code, stdout, stderr)
			}
			if !strings.Contains(stderr, tt.want) {
				t.Errorf("%q does not say %q", stderr, tt.want)
			}
		})
	}
}

func TestNobodyAnswers(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent := &scripted{addr: ln.Addr().(*net.TCPAddr)} // it is never accepted from
	silent.mustFail(t, "group list --timeout 200ms", "--bootstrap: no agent answers", "deadline exceeded")
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if stdout := silent.mustFail(t, "group list", "--bootstrap: no agent answers", silent.addr.String(), "refused"); stdout != "" {
		t.Errorf("it prints %q", stdout)
	}
	slow := startScripted(t)
	slow.answers[(&kmsg.ListGroupsRequest{}).Key()] = nil
	slow.mustFail(t, "group list --timeout 2s", "gave up after 2s", "(--timeout gives it more time)")
}

func TestTable(t *testing.T) {
	long, none := "a longer name", (*int64)(nil)
	n := int64(7)
	table := newTable("NAME", "COUNT", "AGE", "NOTHING", "WHEN")
	table.add("plain", 1234, 90*time.Second, none, time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600)))
	table.add("\x1b[31mred", &n, time.Duration(0), "", "")
	table.add(&long, none, nil, nil, "Zürich")
	var b strings.Builder
	if err := table.print(&b, "nothing"); err != nil {
		t.Fatal(err)
	}
	want := `NAME           COUNT  AGE    NOTHING  WHEN
plain           1234  1m30s  -        2026-01-02T02:04:05Z
"\x1b[31mred"      7  0s     -        -
a longer name      -  -      -        Zürich
`
	if b.String() != want {
		t.Errorf("it prints\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	if err := newTable("NAME").print(&b, "nothing"); err != nil || b.String() != "nothing\n" {
		t.Errorf("an empty table prints %q, %v", b.String(), err)
	}
}

func TestSelections(t *testing.T) {
	got, err := parseSelections("--topic", []string{"events:2,0", "pay"})
	want := []selection{{"events", []int32{2, 0}}, {"pay", nil}}
	if err != nil || !slices.EqualFunc(got, want, func(a, b selection) bool { return a.topic == b.topic && slices.Equal(a.partitions, b.partitions) }) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}
