package coordinator

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// Journals are the shards' views and this agent's leaderships. A journal.Set is one.
type Journals interface {
	NumShards() uint32
	View(id tiering.ShardID) *journal.View
	Leader(id tiering.ShardID) *journal.Leader
	Changed() <-chan struct{} // closed when a leadership changes
	Sync(ctx context.Context, ids ...tiering.ShardID) error
}

// Parts are the components that a Shell works with.
type Parts struct {
	Journals Journals
	// Topics returns all topics, and a channel that is closed when they change.
	Topics func() (Topics, <-chan struct{})
	// Call tries a call once. An error other than ErrFencedMarker means that the outcome is
	// not known or not reached: it is called again. nil: the machines make no calls.
	Call    func(ctx context.Context, c Call) (value any, err error)
	Now     func() time.Time
	Log     *slog.Logger
	Observe Observer // nil: nobody
}

// Shell runs a machine for every shard that this agent leads. All exported methods may be
// called concurrently.
type Shell struct {
	load  Load
	parts Parts

	work sync.WaitGroup // of loops

	mu    sync.Mutex // guards the following
	loops map[tiering.ShardID]*loop
	ctx   context.Context // of the loops, while Run runs; else nil
}

// New returns a Shell that runs nothing until Run.
func New(load Load, parts Parts) *Shell {
	if parts.Observe == nil {
		parts.Observe = nobody{}
	}
	return &Shell{load: load, parts: parts, loops: map[tiering.ShardID]*loop{}}
}

// Run runs a machine for every leadership until ctx ends, and returns when all have ended.
func (s *Shell) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	s.ctx = ctx
	s.mu.Unlock()
	defer s.work.Wait()
	defer cancel()
	defer func() {
		s.mu.Lock()
		s.ctx = nil
		s.mu.Unlock()
	}()
	for {
		changed := s.parts.Journals.Changed()
		for i := range s.parts.Journals.NumShards() {
			s.loop(tiering.ShardID(i))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// loop returns the loop of the shard's present leadership; nil if this agent has none.
func (s *Shell) loop(id tiering.ShardID) *loop {
	leader := s.parts.Journals.Leader(id)
	if leader == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil {
		return nil
	}
	if l := s.loops[id]; l != nil && l.leader == leader {
		return l
	}
	l := newLoop(s, id, leader)
	s.loops[id] = l
	ctx := s.ctx
	s.work.Go(func() {
		l.run(ctx)
		s.mu.Lock()
		if s.loops[id] == l {
			delete(s.loops, id)
		}
		s.mu.Unlock()
	})
	return l
}

// Ask passes a request on to the shard's machine and waits for the reply. Errors:
// ErrNotCoordinator, ctx's, or what kept the shell from proving that a reply is new.
func (s *Shell) Ask(ctx context.Context, id tiering.ShardID, from Client, body any) (any, error) {
	began := s.parts.Now()
	out, err := s.ask(ctx, id, from, body)
	s.parts.Observe.Answered(body, s.parts.Now().Sub(began), err)
	return out, err
}

func (s *Shell) ask(ctx context.Context, id tiering.ShardID, from Client, body any) (any, error) {
	if uint32(id) >= s.parts.Journals.NumShards() {
		return nil, fmt.Errorf("shard %d of %d: %w", id, s.parts.Journals.NumShards(), ErrNotCoordinator)
	}
	// A session that is over may not have ended its leaderships yet, after a pause of the agent.
	// What its machines would say from memory could be long past.
	l := s.loop(id)
	if l == nil || !l.leader.Alive() {
		return nil, fmt.Errorf("shard %d: %w", id, ErrNotCoordinator)
	}
	r, err := l.ask(ctx, from, body)
	if err != nil || r.Read == nil {
		return r.Body, err
	}
	if err := s.parts.Journals.Sync(ctx, id); err != nil {
		return nil, fmt.Errorf("shard %d: reading what is committed: %w", id, err)
	}
	var out any
	replaced := false
	s.parts.Journals.View(id).Read(func(st *shard.State) {
		// The next coordinator may have written meanwhile what this one's machine knew nothing of.
		if replaced = st.Epoch > l.leader.Epoch(); !replaced {
			out = r.Read(st)
		}
	})
	if replaced {
		return nil, fmt.Errorf("shard %d: %w: another has written since", id, ErrNotCoordinator)
	}
	return out, nil
}

// AskAll passes a request on to every machine of this agent, and returns all of their replies
// or, with the errors of Ask, none: who takes some for all would take the rest for nothing.
func (s *Shell) AskAll(ctx context.Context, from Client, body any) ([]any, error) {
	var out []any
	for i := range s.parts.Journals.NumShards() {
		id := tiering.ShardID(i)
		if s.parts.Journals.Leader(id) == nil {
			continue
		}
		v, err := s.Ask(ctx, id, from, body)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}
