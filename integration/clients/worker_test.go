//go:build integration && unix

package clients

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// The protocols of groups, for clients that have a choice.
const (
	classic  = "classic"
	consumer = "consumer"
)

// A worker is a client that shares work with others of its kind.
type worker interface {
	// write writes values to a partition, in their order.
	write(t *testing.T, addrs []string, topic, codec string, partition int32, values []string)

	// join starts a member of a group. It commits what it was given before it asks for
	// more, and starts from the beginning where nothing is committed.
	join(t *testing.T, b *board, m membership) *member
}

// A transactor is a worker that can process exactly once.
type transactor interface {
	worker

	// pipe starts a member of a group that copies what it reads, value by value and into
	// partitions of the same number, in transactions that hold its offsets too. Only
	// what is committed counts as its records.
	pipe(t *testing.T, b *board, p piping) *member

	// fence has two producers of one transactional id: the first begins and writes
	// "zombie", the second begins, the first tries to commit, and the second commits
	// "alive". It returns what the first was told.
	fence(t *testing.T, addrs []string, topic, id string) string
}

// A membership says which group to join, and how.
type membership struct {
	addrs        []string
	group, topic string
	protocol     string // classic, consumer, or empty for a client without a choice
	instance     string // of a static member, else empty
	committed    bool   // read committed records only
	pattern      string // Java: a regular expression of the server's, in place of the topic's name
	assignor     string // Java: the server's assignor, else its default
}

// A piping says what to copy. The transaction that holds the value poison, if that is not
// empty, is aborted when all is sent, and the pipe ends.
type piping struct {
	membership
	to, id, poison string
}

// A board shows what the members of a scenario do, as their clients tell it.
type board struct {
	mu      sync.Mutex
	changed chan struct{} // closed with the next change
	members []*member
}

func newBoard() *board { return &board{changed: make(chan struct{})} }

// A member is a consumer on a board. Its fields are guarded by the board's lock.
type member struct {
	name     string
	b        *board
	leave    func() // starts the member's end, which left tells
	assigned []int32
	times    int // that assigned has changed
	records  []record
	left     bool
	err      error
}

// add puts a member on the board; leave asks it to end.
func (b *board) add(name string, leave func()) *member {
	m := &member{name: name, b: b, leave: leave}
	b.update(func() { b.members = append(b.members, m) })
	return m
}

// run puts a member on the board that is the function work, which ends with its context.
func (b *board) run(t *testing.T, name string, work func(ctx context.Context, m *member) error) *member {
	ctx, cancel := context.WithCancel(t.Context())
	m := b.add(name, cancel)
	ended := make(chan struct{})
	t.Cleanup(func() { cancel(); <-ended })
	go func() {
		defer close(ended)
		err := work(ctx, m)
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			err = nil
		}
		m.end(err)
	}()
	return m
}

func (b *board) update(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
	close(b.changed)
	b.changed = make(chan struct{})
}

// assign tells the whole assignment of a member.
func (m *member) assign(partitions []int32) {
	m.b.update(func() { m.assigned = partitions; m.times++ })
}

// got tells of records that a member has worked off.
func (m *member) got(records ...record) {
	m.b.update(func() { m.records = append(m.records, records...) })
}

// end tells that a member has left, or failed.
func (m *member) end(err error) {
	m.b.update(func() { m.left, m.err, m.assigned = true, err, nil })
}

// await waits until a condition holds, which is called with the lock held.
func (b *board) await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx := deadline(t)
	for {
		b.mu.Lock()
		ok, changed, state := holds(), b.changed, b.String()
		var failed error
		for _, m := range b.members {
			failed = errors.Join(failed, m.err)
		}
		b.mu.Unlock()
		if failed != nil {
			t.Fatalf("%s: %v\n%s", what, failed, state)
		}
		if ok {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("not in %v: %s\n%s", patience, what, state)
		}
	}
}

// awaitLeft asks a member to leave and waits until it has.
func (b *board) awaitLeft(t *testing.T, m *member) {
	t.Helper()
	m.leave()
	b.await(t, m.name+" leaves", func() bool { return m.left })
}

// String is for messages, with the lock held.
func (b *board) String() string {
	var s strings.Builder
	for _, m := range b.members {
		fmt.Fprintf(&s, "%s: partitions %v after %d changes, %d records, left %v\n", m.name, m.assigned, m.times, len(m.records), m.left)
	}
	return s.String()
}

// values are what all members got, by partition and offset; a record may have been given
// twice, but not two records at one offset.
func (b *board) values(t *testing.T, members ...*member) map[int32]map[int64]string {
	t.Helper()
	all := map[int32]map[int64]string{}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range members {
		for _, r := range m.records {
			p := all[r.partition]
			if p == nil {
				p = map[int64]string{}
				all[r.partition] = p
			}
			if was, ok := p[r.offset]; ok && was != string(r.value) {
				t.Errorf("%s: partition %d offset %d holds %q, and held %q", m.name, r.partition, r.offset, r.value, was)
			}
			p[r.offset] = string(r.value)
		}
	}
	return all
}

// moduleVersion returns the version of a module in go.mod: a test binary carries none.
func moduleVersion(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module).CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}
