package txn_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/txn"
	"github.com/floelog/floe/metadata/shard"
)

// A script is what happens to one transactional id and what comes of it, line by line:
//
//	init [id/epoch] [v5] [timeout]     InitProducerId -> id/epoch
//	add id/epoch 1|2 a0 b1 g:name      Enlist with Add, by protocol version 1 or 2 -> #number
//	verify id/epoch a0 b1              Enlist without
//	commit|abort id/epoch v4           EndTxn
//	describe | list [state]            as DescribeTransactions and ListTransactions answer
//	calls                              what others are asked to do
//	done [n]                           the conclusions succeed, or the first n do -> who waited hears
//	id                                 the producer id comes that the machine waits for (after hold)
//	after 1s                           time passes
//	raise id/epoch to epoch            by aborting nothing, again and again
//	failover                           another coordinator; clients that wait ask it again
//
// What a line returns stands after =>; "waits" if a request has no answer yet.
type script struct {
	name  string
	lines string
}

func runScripts(t *testing.T, scripts []script) {
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) { s.run(t, false) })
		// Everything that matters is in the row: another coordinator after every line makes
		// no difference to what clients hear.
		if !strings.Contains(s.lines, "hold") {
			t.Run(s.name+", failover after every step", func(t *testing.T) { s.run(t, true) })
		}
	}
}

func (s script) run(t *testing.T, failovers bool) {
	w := newWorld(t, txn.DefaultSettings())
	for i, line := range strings.Split(strings.TrimSpace(s.lines), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "//") {
			continue
		}
		do, want, _ := strings.Cut(line, "=>")
		got := w.do(strings.Fields(do))
		if want = strings.TrimSpace(want); got != want {
			t.Fatalf("line %d: %s\n got %q\nwant %q", i+1, line, got, want)
		}
		if failovers {
			w.failover()
		}
	}
}

func who(s string) (id int64, epoch int16) {
	if _, err := fmt.Sscanf(s, "%d/%d", &id, &epoch); err != nil {
		panic(s)
	}
	return id, epoch
}

func (w *world) do(args []string) string {
	w.t.Helper()
	seen := len(w.order)
	news := func() string {
		var out []string
		for _, id := range w.order[seen:] {
			out = append(out, show(w.answers[id]))
		}
		return strings.Join(out, "; ")
	}
	switch args[0] {
	case "init":
		return show(w.ask(initRequest(args[1:])))
	case "add", "verify":
		return show(w.ask(enlistRequest(args)))
	case "commit", "abort":
		return show(w.ask(endRequest(args)))
	case "describe":
		req := kmsg.NewPtrDescribeTransactionsRequest()
		req.TransactionalIDs = []string{"x"}
		return show(w.ask(req))
	case "calls":
		var out []string
		for _, c := range w.calls {
			out = append(out, showCall(c))
		}
		return strings.Join(out, "; ")
	case "done":
		w.done(args[1:])
		return news()
	case "hold":
		w.hold = true
	case "id":
		w.hold = false
		w.giveIDs()
		return news()
	case "after":
		d, err := time.ParseDuration(args[1])
		if err != nil {
			w.t.Fatal(err)
		}
		w.pass(d)
		return news()
	case "failover":
		w.failover()
		return news()
	case "raise":
		return w.raise(args[1], args[3])
	default:
		w.t.Fatalf("unknown line %q", args)
	}
	return ""
}

func (w *world) done(args []string) {
	if len(args) == 0 {
		w.finish()
		return
	}
	var n int
	if _, err := fmt.Sscan(args[0], &n); err != nil {
		w.t.Fatal(err)
	}
	for range n {
		c := w.calls[0]
		w.calls = slices.Delete(w.calls, 0, 1)
		w.step(coordinator.Result{Call: c})
	}
}

// raised has rows by what they were raised from, since raising takes tens of thousands of steps.
var raised = map[string]raisedRow{}

type raisedRow struct {
	value  []byte
	answer string
}

// raise brings an epoch up by aborting nothing.
func (w *world) raise(from, to string) string {
	id, epoch := who(from)
	var last int16
	if _, err := fmt.Sscan(to, &last); err != nil {
		w.t.Fatal(err)
	}
	key := to + string(w.state.Row(shard.Transactions, "x", "t"))
	if r, ok := raised[key]; ok {
		w.commit([]shard.Change{shard.PutRows{Space: shard.Transactions, Name: "x", Rows: []shard.Row{{Key: "t", Value: r.value}}}})
		w.load()
		return r.answer
	}
	var answer any
	for ; epoch < last; epoch++ {
		answer = w.ask(endRequest([]string{"abort", fmt.Sprintf("%d/%d", id, epoch), "v5"}))
		clear(w.answers)
		w.order = nil
	}
	raised[key] = raisedRow{w.state.Row(shard.Transactions, "x", "t"), show(answer)}
	return show(answer)
}

func initRequest(args []string) *kmsg.InitProducerIDRequest {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID = kmsg.StringPtr("x")
	req.Version = 5
	req.TransactionTimeoutMillis = 60_000
	for _, a := range args {
		if d, err := time.ParseDuration(a); err == nil {
			req.TransactionTimeoutMillis = int32(d.Milliseconds())
		} else if a[0] == 'v' {
			fmt.Sscan(a[1:], &req.Version)
		} else {
			req.ProducerID, req.ProducerEpoch = who(a)
		}
	}
	return req
}

func enlistRequest(args []string) txn.Enlist {
	req := txn.Enlist{ID: "x", Add: args[0] == "add", Version: 1}
	req.ProducerID, req.Epoch = who(args[1])
	rest := args[2:]
	if req.Add {
		fmt.Sscan(args[2], &req.Version)
		rest = args[3:]
	}
	for _, s := range rest {
		if p, g := target(s); g.Name != "" {
			req.Groups = append(req.Groups, g)
		} else {
			req.Partitions = append(req.Partitions, p)
		}
	}
	return req
}

func endRequest(args []string) *kmsg.EndTxnRequest {
	req := kmsg.NewPtrEndTxnRequest()
	req.TransactionalID = "x"
	req.Commit = args[0] == "commit"
	req.ProducerID, req.ProducerEpoch = who(args[1])
	fmt.Sscan(args[2][1:], &req.Version)
	return req
}
