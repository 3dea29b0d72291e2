package txn_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/txn"
	"github.com/floelog/floe/metadata/shard"
)

// play sends the lines of a script and fails the test if one answers otherwise.
func (w *world) play(lines string) {
	w.t.Helper()
	for line := range strings.Lines(strings.TrimSpace(lines)) {
		do, want, _ := strings.Cut(line, "=>")
		if got := w.do(strings.Fields(do)); got != strings.TrimSpace(want) {
			w.t.Fatalf("%s: got %q", strings.TrimSpace(line), got)
		}
	}
}

// KAFKA-21181: a coordinator that does not know yet that it is none any more must not answer
// for good from memory. What is final has a record, or a read that proves it.
func TestKAFKA21181FinalAnswersAreWrittenOrProven(t *testing.T) {
	w := newWorld(t, txn.DefaultSettings())
	w.play(`
		init => 1000/0
		add 1000/0 2 a0 => #1
	`)
	ask := func(line string) (coordinator.Effects, coordinator.Reply) {
		args := strings.Fields(line)
		var body any
		switch args[0] {
		case "init":
			body = initRequest(args[1:])
		case "add", "verify":
			body = enlistRequest(args)
		case "commit", "abort":
			body = endRequest(args)
		case "describe":
			req := kmsg.NewPtrDescribeTransactionsRequest()
			req.TransactionalIDs = []string{"x"}
			body = req
		case "list":
			body = kmsg.NewPtrListTransactionsRequest()
		}
		effects := w.machine.Step(coordinator.Request{ID: 9999, Body: body}, w.now)
		if len(effects.Replies) != 1 {
			t.Fatalf("%s: %d replies", line, len(effects.Replies))
		}
		return effects, effects.Replies[0]
	}
	for _, line := range []string{
		"add 1000/1 2 a0", "add 77/0 2 a0", "verify 1000/0 b0", "verify 1000/9 a0", "verify 1000/0 g:q",
		"commit 1000/1 v5", "commit 1000/1 v4", "abort 77/0 v5", "init 1000/5", "describe", "list",
	} {
		if effects, r := ask(line); r.Read == nil || r.Body != nil || len(effects.Changes) > 0 {
			t.Errorf("%s is answered from memory: %+v", line, r.Body)
		}
	}
	for _, line := range []string{"add 1000/0 2 a0", "verify 1000/0 a0"} {
		if _, r := ask(line); r.Read != nil {
			t.Errorf("%s: what its partition's leader checks again costs a read", line)
		}
	}
	w.play(`commit 1000/0 v5 => ok, next 1000/1`)
	if _, r := ask("commit 1000/0 v5"); r.Read == nil {
		t.Error("a repeated EndTxn is answered from memory")
	}
	if _, r := ask("verify 1000/1 a0"); r.Read != nil {
		t.Error("CONCURRENT_TRANSACTIONS is final for nobody and costs a read")
	}
}

func TestExpiry(t *testing.T) {
	w := newWorld(t, txn.DefaultSettings())
	w.play(`
		init => 1000/0
		add 1000/0 1 a0 => #1
		commit 1000/0 v4 => ok
		after 240h =>
		describe => PrepareCommit 1000/0 a[0]
		done =>
		after 167h =>
		describe => CompleteCommit 1000/0
		failover =>
		after 1h =>
		describe => TRANSACTIONAL_ID_NOT_FOUND
		add 1000/0 1 a0 => INVALID_PRODUCER_ID_MAPPING
	`)
	if names := w.state.Names(shard.Transactions); len(names) != 0 {
		t.Errorf("rows are left of %v", names)
	}
	if at := w.machine.Wake(); !at.IsZero() {
		t.Errorf("a machine without anything wants to be woken at %v", at)
	}
	w.play(`
		init 1000/0 => 1001/0
		after 167h =>
		init 1001/0 => 1001/1
		after 167h =>
		describe => Empty 1001/1
		after 1h =>
		describe => TRANSACTIONAL_ID_NOT_FOUND
	`)
}

func TestNothingIsWrittenWithoutNeed(t *testing.T) {
	w := newWorld(t, txn.DefaultSettings())
	w.play(`
		init => 1000/0
		add 1000/0 2 a0 a1 g:q => #1
	`)
	before := w.records
	w.play(`
		add 1000/0 2 a0 => #1
		add 1000/0 2 a1 a0 g:q => #1
		verify 1000/0 a0 => #1
		add 1000/1 2 a0 => PRODUCER_FENCED
		init 7/7 => PRODUCER_FENCED
		describe => Ongoing 1000/0 a[0 1]
	`)
	if w.records != before {
		t.Errorf("%d records were written", w.records-before)
	}
	w.play(`
		commit 1000/0 v5 => ok, next 1000/1
		done =>
	`)
	if w.records != before+2 {
		t.Errorf("a transaction's end took %d records, want 2", w.records-before)
	}
}

func TestBounds(t *testing.T) {
	s := txn.DefaultSettings()
	s.MaxPartitions, s.MaxWaiting = 3, 2
	w := newWorld(t, s)
	w.play(`
		init => 1000/0
		add 1000/0 2 a0 a1 a2 a3 => POLICY_VIOLATION
		describe => Empty 1000/0
		add 1000/0 2 a1 g:q => #1
		add 1000/0 2 a0 a2 => POLICY_VIOLATION
		describe => Ongoing 1000/0 a[1]
		add 1000/0 2 a0 => #1
		add 1000/0 2 a0 a1 g:q => #1
		describe => Ongoing 1000/0 a[0 1]
		add 1000/0 2 a-1 => INVALID_REQUEST
	`)
	long := txn.Enlist{ID: "x", ProducerID: 1000, Add: true, Groups: []txn.Group{{Name: strings.Repeat("g", 97<<10)}}}
	if got := show(w.ask(long)); got != "POLICY_VIOLATION" {
		t.Errorf("a group's name of 97 KiB: %s", got)
	}
	w.play(`
		init => waits
		init => waits
		init => CONCURRENT_TRANSACTIONS
		done => 1000/2; 1000/3
	`)
	if got := show(w.ask(txn.Enlist{})); got != "INVALID_REQUEST" {
		t.Errorf("no transactional id: %s", got)
	}
}

func TestCancelled(t *testing.T) {
	w := newWorld(t, txn.DefaultSettings())
	w.play(`
		init => 1000/0
		add 1000/0 2 a0 => #1
		init => waits
		init => waits
	`)
	w.step(coordinator.Cancelled{ID: w.last - 1})
	w.step(coordinator.Cancelled{ID: 77})
	w.play(`done => 1000/2`)
	w.step(coordinator.Cancelled{ID: w.last})

	w = newWorld(t, txn.DefaultSettings())
	w.hold = true
	w.play(`init => waits`)
	w.step(coordinator.Cancelled{ID: w.last})
	w.play(`
		id =>
		describe => TRANSACTIONAL_ID_NOT_FOUND
	`)
	if at := w.machine.Wake(); !at.IsZero() {
		t.Errorf("a machine without anything wants to be woken at %v", at)
	}
}

func TestCallsThatFail(t *testing.T) {
	w := newWorld(t, txn.DefaultSettings())
	w.play(`
		init => 1000/0
		add 1000/0 2 a0 a1 a2 => #1
		commit 1000/0 v5 => ok, next 1000/1
	`)
	calls := w.calls
	w.calls = nil
	w.step(coordinator.Result{Call: calls[0], Err: fmt.Errorf("a0: %w", coordinator.ErrFencedMarker)})
	w.step(coordinator.Result{Call: calls[1], Err: errors.New("a fault")})
	w.step(coordinator.Result{Call: calls[2]})
	w.step(coordinator.Result{Call: calls[2]}) // an answer twice
	w.play(`
		calls =>
		describe => PrepareCommit 1000/1 a[0 1 2]
		after 1s =>
		calls => commit a1@1 1000/1 #1
		done =>
		describe => CompleteCommit 1000/1
	`)

	w = newWorld(t, txn.DefaultSettings())
	w.hold = true
	w.play(`init => waits`)
	w.step(coordinator.Result{Call: w.calls[0], Err: errors.New("a fault")})
	if got := show(w.answers[w.last]); got != "COORDINATOR_LOAD_IN_PROGRESS" {
		t.Errorf("without a producer id: %s", got)
	}
	w.calls = nil
	w.play(`
		id =>
		init => 1000/0
	`)
}

func TestResultsOfTransactionsBefore(t *testing.T) {
	w := newWorld(t, txn.DefaultSettings())
	w.play(`
		init => 1000/0
		add 1000/0 1 a0 => #1
		commit 1000/0 v4 => ok
	`)
	old := w.calls[0]
	w.play(`
		done =>
		add 1000/0 1 a0 => #2
		commit 1000/0 v4 => ok
	`)
	w.step(coordinator.Result{Call: old})
	w.play(`
		describe => PrepareCommit 1000/0 a[0]
		done =>
		describe => CompleteCommit 1000/0
	`)
}

func TestDescribeNamesTopicsThatExist(t *testing.T) {
	w := newWorld(t, txn.DefaultSettings())
	w.play(`
		init => 1000/0
		add 1000/0 2 a0 b1 b2 c3 => #1
		describe => Ongoing 1000/0 a[0] b[1 2] c[3]
	`)
	w.topics = catalog{topicOf("a"), topicOf("c")}
	w.step(coordinator.Changed{Topics: w.topics})
	w.play(`
		describe => Ongoing 1000/0 a[0] c[3]
		abort 1000/0 v5 => ok, next 1000/1
		calls => abort a0@0 1000/1 #1; abort b1@11 1000/1 #1; abort b2@12 1000/1 #1; abort c3@23 1000/1 #1
	`)
	req := kmsg.NewPtrDescribeTransactionsRequest()
	req.TransactionalIDs = []string{""}
	if got := show(w.ask(req)); got != "INVALID_REQUEST" {
		t.Errorf("an empty id: %s", got)
	}
}

func TestList(t *testing.T) {
	w := newWorld(t, txn.DefaultSettings())
	for i, id := range []string{"one", "two", "three"} {
		req := initRequest(nil)
		req.TransactionalID = &id
		w.ask(req)
		if i > 0 {
			e := enlistRequest([]string{"add", fmt.Sprintf("%d/0", 1000+i), "1", "a0"})
			e.ID = id
			w.ask(e)
			w.pass(10 * time.Second)
		}
	}
	const all = "ok, one 1000 Empty, three 1002 Ongoing, two 1001 Ongoing"
	for _, test := range []struct {
		name string
		req  kmsg.ListTransactionsRequest
		want string
	}{
		{"all", kmsg.ListTransactionsRequest{Version: 1, DurationFilterMillis: -1}, all},
		{"a version without the filter", kmsg.ListTransactionsRequest{Version: 0, DurationFilterMillis: 1e9}, all},
		{"by state", kmsg.ListTransactionsRequest{StateFilters: []string{"Ongoing", "Dead"}}, "ok, three 1002 Ongoing, two 1001 Ongoing"},
		{"by an unknown state", kmsg.ListTransactionsRequest{StateFilters: []string{"ongoing", "ongoing"}}, "ok, unknown [ongoing]"},
		{"by producer id", kmsg.ListTransactionsRequest{ProducerIDFilters: []int64{1000, 1002, 5}}, "ok, one 1000 Empty, three 1002 Ongoing"},
		{"by duration", kmsg.ListTransactionsRequest{Version: 1, DurationFilterMillis: 10_000}, "ok, two 1001 Ongoing"},
		{"by the longest duration", kmsg.ListTransactionsRequest{Version: 1, DurationFilterMillis: 1<<63 - 1}, "ok"},
		{"by pattern", kmsg.ListTransactionsRequest{Version: 2, DurationFilterMillis: -1, TransactionalIDPattern: kmsg.StringPtr("t.o|on")}, "ok, two 1001 Ongoing"},
		{"by an empty pattern", kmsg.ListTransactionsRequest{Version: 2, DurationFilterMillis: -1, TransactionalIDPattern: kmsg.StringPtr("")}, all},
		{"by what is no pattern", kmsg.ListTransactionsRequest{Version: 2, TransactionalIDPattern: kmsg.StringPtr("(")}, "INVALID_REGULAR_EXPRESSION"},
	} {
		if got := show(w.ask(&test.req)); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// Thousands of ids that run out of time together are served in many small steps.
func TestManyTimeouts(t *testing.T) {
	const n = 1000
	w := newWorld(t, txn.DefaultSettings())
	for i := range n {
		id := fmt.Sprint("id-", i)
		req := initRequest([]string{"10s"})
		req.TransactionalID = &id
		w.ask(req)
		e := enlistRequest([]string{"add", fmt.Sprintf("%d/0", 1000+i), "2", "a0"})
		e.ID = id
		w.ask(e)
	}
	w.wakeups = 0
	w.pass(10 * time.Second)
	if len(w.calls) != n {
		t.Errorf("%d of %d transactions were aborted", len(w.calls), n)
	}
	if w.wakeups < n/100 || w.wakeups > n {
		t.Errorf("in %d wake-ups", w.wakeups)
	}
	w.wakeups = 0
	w.finish()
	w.pass(time.Hour)
	if w.wakeups != 0 {
		t.Errorf("%d wake-ups without work", w.wakeups)
	}
}

func TestSettings(t *testing.T) {
	if err := txn.DefaultSettings().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	typ := reflect.TypeFor[txn.Settings]()
	for i := range typ.NumField() {
		for _, v := range []int64{0, -1} {
			s := txn.DefaultSettings()
			reflect.ValueOf(&s).Elem().Field(i).SetInt(v)
			if s.Validate() == nil {
				t.Errorf("%s = %d is taken", typ.Field(i).Name, v)
			}
			if _, err := txn.NewLoad(s)(1, 1, shard.New(), catalog{}, time.Now()); err == nil {
				t.Errorf("a machine runs with %s = %d", typ.Field(i).Name, v)
			}
		}
	}
	s := txn.DefaultSettings()
	s.MaxPartitions = 1 << 20
	if s.Validate() == nil {
		t.Error("a million partitions are taken")
	}
}

func TestLoadRefusesWhatItCannotRead(t *testing.T) {
	w := newWorld(t, txn.DefaultSettings())
	w.play(`init => 1000/0`)
	w.commit([]shard.Change{shard.PutRows{Space: shard.Transactions, Name: "y", Rows: []shard.Row{{Key: "t", Value: []byte{9}}}}})
	if _, err := txn.NewLoad(w.settings)(1, 2, w.state, w.topics, w.now); err == nil || !strings.Contains(err.Error(), `"y"`) {
		t.Errorf("load: %v", err)
	}
	if got := show(w.ask(kmsg.NewPtrListTransactionsRequest())); got != "UNKNOWN_SERVER_ERROR" {
		t.Errorf("list: %s", got)
	}
}
