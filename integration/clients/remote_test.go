//go:build integration && unix

package clients

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/floelog/floe/integration/fixture"
)

// remote is a worker in a language of its own: a program that is given orders, a line of
// JSON each, and tells of events likewise. It runs many at a time. It ends with its
// standard input. An order's work ends with the event done or failed; leave asks for it.
type remote struct {
	title string

	in     io.Writer
	writes sync.Mutex

	mu   sync.Mutex
	last int
	tell map[string]func(event) // by the order's id
	err  error                  // of the program, when it has ended
}

// order is what a program is asked. Do is write, join, pipe, fence, streams or leave.
type order struct {
	Do          string            `json:"do"`
	ID          string            `json:"id"`
	Bootstrap   string            `json:"bootstrap,omitempty"`
	Topic       string            `json:"topic,omitempty"`
	Partition   int32             `json:"partition"`
	Codec       string            `json:"codec,omitempty"`
	Values      []string          `json:"values,omitempty"`
	Group       string            `json:"group,omitempty"`
	Instance    string            `json:"instance,omitempty"`
	Pattern     string            `json:"pattern,omitempty"`
	Committed   bool              `json:"committed"`
	To          string            `json:"to,omitempty"`
	Transaction string            `json:"transaction,omitempty"` // transactional id
	Poison      string            `json:"poison,omitempty"`
	Settings    map[string]string `json:"settings,omitempty"`
}

// event is what a program tells of an order: assigned, records, done or failed.
type event struct {
	ID         string  `json:"id"`
	Event      string  `json:"event"`
	Partitions []int32 `json:"partitions"`
	Records    []struct {
		Partition int32  `json:"partition"`
		Offset    int64  `json:"offset"`
		Value     string `json:"value"`
	} `json:"records"`
	Text string `json:"text"` // what fence was told, or why the order failed
}

// startRemote runs a program until the test ends.
func startRemote(t *testing.T, title string, command ...string) *remote {
	t.Helper()
	r := &remote{title: title, tell: map[string]func(event){}}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.WaitDelay = time.Second
	var said fixture.Tail
	cmd.Stderr = &said
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.in = in
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.listen(out)
	}()
	t.Cleanup(func() {
		in.Close()
		kill := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		<-ended
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", title, err)
		}
		if t.Failed() {
			t.Logf("%s: %s", title, said.String())
		}
	})
	return r
}

// listen hands events to those who wait for them until the program ends.
func (r *remote) listen(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20) // a line holds all records of a poll
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			e = event{Event: "failed", Text: fmt.Sprintf("line %q: %v", lines.Text(), err)}
		}
		r.mu.Lock()
		tell := r.tell[e.ID]
		if e.Event == "done" || e.Event == "failed" {
			delete(r.tell, e.ID)
		}
		r.mu.Unlock()
		if tell != nil {
			tell(e)
		}
	}
	r.mu.Lock()
	r.err = errors.Join(fmt.Errorf("%s has ended", r.title), lines.Err())
	waiting := r.tell
	r.tell = map[string]func(event){}
	r.mu.Unlock()
	for id, tell := range waiting {
		tell(event{ID: id, Event: "failed", Text: r.err.Error()})
	}
}

// send gives an order, and returns its id; tell is called with its events.
func (r *remote) send(t *testing.T, o order, tell func(event)) string {
	t.Helper()
	r.mu.Lock()
	err := r.err
	if tell != nil {
		r.last++
		o.ID = fmt.Sprint(r.last)
		r.tell[o.ID] = tell
	}
	r.mu.Unlock()
	if err == nil {
		r.writes.Lock()
		defer r.writes.Unlock()
		err = json.NewEncoder(r.in).Encode(o)
	}
	if err != nil {
		t.Fatalf("%s: %v", r.title, err)
	}
	return o.ID
}

// ask gives an order and waits until it is done.
func (r *remote) ask(t *testing.T, o order) event {
	t.Helper()
	answers := make(chan event, 1)
	r.send(t, o, func(e event) { answers <- e })
	select {
	case e := <-answers:
		if e.Event != "done" {
			t.Fatalf("%s: %s: %s", r.title, o.Do, e.Text)
		}
		return e
	case <-deadline(t).Done():
		t.Fatalf("%s: %s is not done in %v", r.title, o.Do, patience)
	}
	return event{}
}

// start gives an order whose work is a member of a group.
func (r *remote) start(t *testing.T, b *board, o order) *member {
	t.Helper()
	m := b.add(fmt.Sprintf("%s of %s", o.Do, r.title), nil)
	id := r.send(t, o, func(e event) {
		switch e.Event {
		case "assigned":
			m.assign(e.Partitions)
		case "records":
			var records []record
			for _, got := range e.Records {
				records = append(records, record{partition: got.Partition, offset: got.Offset, value: []byte(got.Value)})
			}
			m.got(records...)
		case "done":
			m.end(nil)
		default:
			m.end(fmt.Errorf("%s: %s", m.name, e.Text))
		}
	})
	m.leave = func() { r.send(t, order{Do: "leave", ID: id}, nil) }
	t.Cleanup(func() { // of a test that failed, before the next one is disturbed
		b.mu.Lock()
		left := m.left
		b.mu.Unlock()
		if !left {
			r.send(t, order{Do: "leave", ID: id}, nil)
		}
	})
	return m
}

func (r *remote) write(t *testing.T, addrs []string, topic, codec string, partition int32, values []string) {
	t.Helper()
	r.ask(t, order{Do: "write", Bootstrap: strings.Join(addrs, ","), Topic: topic, Codec: codec, Partition: partition, Values: values})
}

// orderOf is a membership as an order. Settings of consumers are Java's; the others have
// no choice of protocol.
func orderOf(do string, m membership) order {
	o := order{Do: do, Bootstrap: strings.Join(m.addrs, ","), Topic: m.topic, Group: m.group, Instance: m.instance, Committed: m.committed,
		Pattern: m.pattern, Settings: map[string]string{}}
	if m.protocol != "" {
		o.Settings["group.protocol"] = m.protocol
	}
	if m.assignor != "" {
		o.Settings["group.remote.assignor"] = m.assignor
	}
	return o
}

func (r *remote) join(t *testing.T, b *board, m membership) *member {
	t.Helper()
	return r.start(t, b, orderOf("join", m))
}

func (r *remote) pipe(t *testing.T, b *board, p piping) *member {
	t.Helper()
	o := orderOf("pipe", p.membership)
	o.To, o.Transaction, o.Poison = p.to, p.id, p.poison
	return r.start(t, b, o)
}

func (r *remote) fence(t *testing.T, addrs []string, topic, id string) string {
	t.Helper()
	return r.ask(t, order{Do: "fence", Bootstrap: strings.Join(addrs, ","), Topic: topic, Transaction: id}).Text
}
