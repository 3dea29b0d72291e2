package kafka

import (
	"container/list"
	"context"
	"encoding/binary"
	"io"
	"math"
	"sync"
	"time"

	"github.com/floelog/floe/tiering"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Fetch sessions (KIP-227): a client that fetches many partitions names them once, and
// from then on only what changes; the response names only partitions with news. A
// session belongs to the agent that gave it out. Losing one costs a full request, so
// the cache is bounded and forgets.
const (
	// sessionEviction is how long an unused session is safe from eviction, and how long a
	// used one is safe from a larger one. Shorter: clients with long polls lose theirs while
	// they use them. Longer: those of dead clients keep out new ones. Kafka has the same.
	sessionEviction = 2 * time.Minute

	initialEpoch = 0  // a full request, which may open a session
	finalEpoch   = -1 // a full request that closes its session
)

// sessionKey names a partition within a session: by id where the session uses ids, else
// by name.
type sessionKey struct {
	id        tiering.TopicID
	name      string
	partition int32
}

// sessionPartition is what a session remembers of a partition: what the client asked
// for, and what it was told last.
type sessionPartition struct {
	key       sessionKey
	want      fetchWant
	highWater tiering.Offset // as last told; -1 before the first time
	logStart  tiering.Offset
	elem      *list.Element
}

// fetchWant is what a client asks of one partition.
type fetchWant struct {
	sessionKey
	offset      int64
	maxBytes    int32
	leaderEpoch int32 // -1: not known
}

// fetchSession is one client's session. mu guards everything below it, and is never
// held while reading records; the cache's mutex may be held when it is locked.
type fetchSession struct {
	id      int32
	useIDs  bool
	created time.Time

	mu         sync.Mutex
	epoch      int32 // that the next request must have
	partitions map[sessionKey]*sessionPartition
	order      *list.List // of *sessionPartition: the order in which to fetch
	ended      bool       // the cache has dropped the session
	stop       func()     // ends the wait of the request that was served last; may be nil

	// Guarded by the cache's mutex.
	used  time.Time
	size  int // partitions, as the cache counts them
	place *list.Element
}

// sessionCache holds the open sessions.
// Invariant: total is the sum of the sessions' sizes; recent holds each session once,
// the one that was used longest ago in front.
type sessionCache struct {
	maxSessions, maxPartitions int
	random                     io.Reader
	now                        func() time.Time

	mu       sync.Mutex // guards the following
	sessions map[int32]*fetchSession
	recent   *list.List
	total    int
}

func newSessionCache(s Settings, random io.Reader, now func() time.Time) *sessionCache {
	return &sessionCache{
		maxSessions: s.MaxFetchSessions, maxPartitions: s.MaxFetchSessionPartitions, random: random, now: now,
		sessions: map[int32]*fetchSession{}, recent: list.New(),
	}
}

// fetchScope is what one request fetches, and the session that it belongs to, if any.
type fetchScope struct {
	session *fetchSession // nil: none
	epoch   int32         // of the session after this request
	full    bool          // the response names every partition
	wants   []fetchWant
}

// open decides what a request is about: its own partitions, or a session's. A code
// other than 0 is the answer to the whole request.
func (c *sessionCache) open(req *kmsg.FetchRequest) (fetchScope, int16) {
	useIDs := req.Version >= 13
	if req.Version < 7 || req.SessionEpoch == finalEpoch || req.SessionEpoch == initialEpoch {
		if req.Version >= 7 && req.SessionID != 0 {
			c.remove(req.SessionID)
		}
		scope := fetchScope{full: true, wants: requestWants(req)}
		if req.Version >= 7 && req.SessionEpoch == initialEpoch {
			scope.session = c.create(scope.wants, useIDs)
			scope.epoch = 1
		}
		return scope, 0
	}
	s := c.touch(req.SessionID)
	switch {
	case s == nil:
		return fetchScope{}, kerr.FetchSessionIDNotFound.Code
	case s.useIDs != useIDs:
		return fetchScope{}, kerr.FetchSessionTopicIDError.Code
	}
	scope, size, code := s.update(req)
	if code != 0 {
		return scope, code
	}
	if size == 0 { // Kafka, too, ends a session that has nothing left
		c.remove(s.id)
		return fetchScope{full: true}, 0
	}
	if !c.resize(s, size) {
		c.remove(s.id)
		return fetchScope{}, kerr.FetchSessionIDNotFound.Code
	}
	return scope, 0
}

func requestWants(req *kmsg.FetchRequest) []fetchWant {
	n := 0
	for i := range req.Topics {
		n += len(req.Topics[i].Partitions)
	}
	wants := make([]fetchWant, 0, n)
	for i := range req.Topics {
		t := &req.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			w := fetchWant{offset: p.FetchOffset, maxBytes: p.PartitionMaxBytes, leaderEpoch: -1}
			w.sessionKey = keyOf(req.Version, t.Topic, t.TopicID, p.Partition)
			if req.Version >= 9 {
				w.leaderEpoch = p.CurrentLeaderEpoch
			}
			wants = append(wants, w)
		}
	}
	return wants
}

func keyOf(version int16, name string, id [16]byte, partition int32) sessionKey {
	if version >= 13 {
		return sessionKey{id: id, partition: partition}
	}
	return sessionKey{name: name, partition: partition}
}

// update takes an incremental request into the session.
func (s *fetchSession) update(req *kmsg.FetchRequest) (scope fetchScope, size int, code int16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.SessionEpoch != s.epoch {
		return fetchScope{}, 0, kerr.InvalidFetchSessionEpoch.Code
	}
	for _, w := range requestWants(req) {
		s.put(w)
	}
	for i := range req.ForgottenTopics {
		t := &req.ForgottenTopics[i]
		for _, p := range t.Partitions {
			s.forget(keyOf(req.Version, t.Topic, t.TopicID, p))
		}
	}
	s.stopLocked()               // its answer would be worth nothing any more
	if s.epoch++; s.epoch <= 0 { // 2^31-1 is followed by 1: 0 and -1 have a meaning
		s.epoch = 1
	}
	scope = fetchScope{session: s, epoch: s.epoch, wants: make([]fetchWant, 0, len(s.partitions))}
	for e := s.order.Front(); e != nil; e = e.Next() {
		scope.wants = append(scope.wants, e.Value.(*sessionPartition).want)
	}
	return scope, len(s.partitions), 0
}

func (s *fetchSession) stopLocked() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

// begin returns a context for the wait of the request. It ends early when the session
// does or another request uses it: so a session, whose partitions are bounded, has one
// request waiting, however many connections name it.
func (sc *fetchScope) begin(ctx context.Context) (context.Context, context.CancelFunc) {
	s := sc.session
	if s == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.epoch != sc.epoch {
		cancel()
		return ctx, cancel
	}
	s.stop = cancel
	return ctx, cancel
}

func (s *fetchSession) put(w fetchWant) {
	if p := s.partitions[w.sessionKey]; p != nil {
		p.want = w
		return
	}
	p := &sessionPartition{key: w.sessionKey, want: w, highWater: -1, logStart: -1}
	p.elem = s.order.PushBack(p)
	s.partitions[w.sessionKey] = p
}

func (s *fetchSession) forget(k sessionKey) {
	if p := s.partitions[k]; p != nil {
		s.order.Remove(p.elem)
		delete(s.partitions, k)
	}
}

// respond decides, after the read, which results the response names: all of a full
// request, else those with news. It remembers what the client is told. The code is other
// than 0 if the session has ended meanwhile, or another request used it.
func (sc *fetchScope) respond(results []fetchResponsePartition) (named []bool, code int16) {
	if sc.session == nil {
		return nil, 0
	}
	s := sc.session
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return nil, kerr.FetchSessionIDNotFound.Code
	case s.epoch != sc.epoch:
		return nil, kerr.InvalidFetchSessionEpoch.Code
	}
	named = make([]bool, len(results))
	for i := range results {
		p := s.partitions[sc.wants[i].sessionKey]
		named[i] = sc.full || p == nil || p.news(&results[i])
		if p == nil {
			continue
		}
		p.highWater, p.logStart = results[i].HighWatermark, results[i].LogStart
		if results[i].Code != 0 {
			p.highWater = -1 // so that the recovery is news
		}
		if len(results[i].Records) > 0 {
			s.order.MoveToBack(p.elem) // what had data now waits for the others: fair under max bytes
		}
	}
	return named, 0
}

func (p *sessionPartition) news(r *fetchResponsePartition) bool {
	return r.Code != 0 || len(r.Records) > 0 || r.PreferredNode >= 0 ||
		r.HighWatermark != p.highWater || r.LogStart != p.logStart
}

// id returns the session id that the response tells the client; 0 for none.
func (sc *fetchScope) id() int32 {
	if sc.session == nil {
		return 0
	}
	return sc.session.id
}

// create opens a session, or returns nil where there is no room for it.
func (c *sessionCache) create(wants []fetchWant, useIDs bool) *fetchSession {
	if len(wants) == 0 {
		return nil
	}
	now := c.now()
	s := &fetchSession{useIDs: useIDs, created: now, used: now, epoch: 1,
		partitions: make(map[sessionKey]*sessionPartition, len(wants)), order: list.New()}
	for _, w := range wants {
		s.put(w)
	}
	s.size = len(s.partitions)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.makeRoom(s, now) {
		return nil
	}
	for s.id == 0 || c.sessions[s.id] != nil {
		var b [4]byte
		if _, err := io.ReadFull(c.random, b[:]); err != nil {
			return nil // without randomness there are no sessions: full requests work all the same
		}
		s.id = int32(binary.LittleEndian.Uint32(b[:]) & math.MaxInt32)
	}
	c.sessions[s.id] = s
	s.place = c.recent.PushBack(s)
	c.total += s.size
	return s
}

// makeRoom evicts until s fits: first sessions that nobody used for sessionEviction, then
// those that are older than that and smaller than s, which saves more than they do.
func (c *sessionCache) makeRoom(s *fetchSession, now time.Time) bool {
	if s.size > c.maxPartitions || c.maxSessions < 1 {
		return false
	}
	for len(c.sessions)+1 > c.maxSessions || c.total+s.size > c.maxPartitions {
		oldest := c.recent.Front().Value.(*fetchSession)
		if now.Sub(oldest.used) > sessionEviction {
			c.drop(oldest)
			continue
		}
		var smallest *fetchSession
		for e := c.recent.Front(); e != nil; e = e.Next() {
			o := e.Value.(*fetchSession)
			if now.Sub(o.created) > sessionEviction && o.size < s.size && (smallest == nil || o.size < smallest.size) {
				smallest = o
			}
		}
		if smallest == nil {
			return false
		}
		c.drop(smallest)
	}
	return true
}

func (c *sessionCache) drop(s *fetchSession) {
	delete(c.sessions, s.id)
	c.recent.Remove(s.place)
	c.total -= s.size
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.stopLocked()
}

func (c *sessionCache) remove(id int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.sessions[id]; s != nil {
		c.drop(s)
	}
}

func (c *sessionCache) touch(id int32) *fetchSession {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sessions[id]
	if s != nil {
		s.used = now
		c.recent.MoveToBack(s.place)
	}
	return s
}

// resize tells the cache a session's new size. False: it has become too large for the
// bound, or is gone already.
func (c *sessionCache) resize(s *fetchSession, size int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sessions[s.id] != s {
		return false
	}
	c.total += size - s.size
	s.size = size
	return c.total <= c.maxPartitions
}
