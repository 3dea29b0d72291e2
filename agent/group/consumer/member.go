package consumer

import (
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/agent/group/assignor"
	"github.com/floelog/floe/agent/group/step"
	"github.com/floelog/floe/tiering"
)

// leftForAWhile is the epoch of a static member that has left and may come back under the
// same instance id within its session time-out.
const leftForAWhile = -2

// state says where a member stands. The numbers are part of the format of rows.
type state uint8

const (
	stable     state = 1 // it has all of the target of its epoch
	unrevoked  state = 2 // it is to let go of partitions, and has not said that it did
	unreleased state = 3 // partitions of its target are still with others
)

// member is one member. What is persistent of it lies in three rows; see rows.go.
type member struct {
	id string

	// Subscription and so on: the member's own words.
	instance, rack *string
	clientID, host string
	rebalance      time.Duration // how long it may take to let partitions go, or to join
	assignor       string        // that it prefers; empty: no matter
	sub            *subscription
	classic        *classic // nil: it speaks the new protocol

	target assignor.Assignment // what it shall own by the target assignment

	// Where it stands. assigned and revoking are disjoint.
	epoch, previous int32 // previous: the epoch before; a client may not have heard of epoch yet
	state           state
	assigned        assignor.Assignment // the member has them, or is told so with the next reply
	revoking        assignor.Assignment // the member had them and is to let them go

	// Time-outs run from here; they are not persistent.
	heard    time.Time // of its last sign of life
	revokeBy time.Time // zero, or when it must have let revoking go
	joinBy   time.Time // zero, or when a classic member must have joined
	syncBy   time.Time // zero, or when a classic member must have fetched its assignment

	timer  int // its place in the group's timers, from 1; 0: none
	wakeAt time.Time
}

// classic is what is known of a member that speaks the classic protocol.
type classic struct {
	session   time.Duration
	protocols []step.Protocol // at least one
}

// reached reports whether the member is where the target of an epoch wants it.
func (m *member) reached(epoch int32) bool { return m.state == stable && m.epoch == epoch }

// checkEpoch compares an epoch that came with a commit or fetch of offsets.
func (m *member) checkEpoch(epoch int32) int16 {
	switch {
	case epoch == m.epoch:
		return 0
	case m.classic != nil:
		return kerr.IllegalGeneration.Code
	}
	return kerr.StaleMemberEpoch.Code
}

// deadline returns when a member is fenced if nothing is heard of it.
func (g *Group) deadline(m *member) time.Time {
	session := g.cfg.Session
	if m.classic != nil {
		session = m.classic.session
	}
	at := m.heard.Add(session)
	for _, by := range []time.Time{m.revokeBy, m.joinBy, m.syncBy} {
		if !by.IsZero() && by.Before(at) {
			at = by
		}
	}
	return at
}

// touch notes a sign of life.
func (g *Group) touch(m *member) {
	m.heard = g.now
	g.timers.update(m, g.deadline(m))
}

// subscription is what one or more members subscribe to. Members with the same words share
// one, so that topics are resolved once for all of them.
type subscription struct {
	key     string
	members int      // that have it
	names   []string // ascending, without repetition; nil: none
	regex   string   // empty: none
	pattern *regexp.Regexp

	named   []tiering.TopicID // existing topics of names
	matched []tiering.TopicID // existing topics that pattern matched when it was resolved
	topics  []tiering.TopicID // both, ascending, without repetition
}

// maxRegex bounds a regular expression. Why not smaller: alternatives of some hundred names
// are in use. Why not larger: its compiled form takes some hundred times its length in
// memory, on behalf of anyone who may join. Kafka has no limit.
const maxRegex = 16 << 10

// compile makes a pattern that matches whole names, as Kafka's RE2/J matches them.
func compile(regex string) (*regexp.Regexp, *refusal) {
	if regex == "" {
		return nil, nil
	}
	if len(regex) > maxRegex {
		return nil, refuse(kerr.InvalidRegularExpression, "SubscribedTopicRegex is longer than 16384 bytes.")
	}
	// First as it is: "a)(b" must not become valid by the parentheses around it.
	if _, err := regexp.Compile(regex); err != nil {
		return nil, refuse(kerr.InvalidRegularExpression, "SubscribedTopicRegex `"+regex+"` is not a valid regular expression: "+err.Error()+".")
	}
	re, err := regexp.Compile(`\A(?:` + regex + `)\z`)
	if err != nil {
		return nil, refuse(kerr.InvalidRegularExpression, "SubscribedTopicRegex `"+regex+"` is not a valid regular expression: "+err.Error()+".")
	}
	return re, nil
}

// subscribe gives a member a subscription, and reports whether that is another than it had.
// pattern is regex compiled.
func (g *Group) subscribe(m *member, names []string, regex string, pattern *regexp.Regexp) bool {
	if m.sub != nil && m.sub.regex == regex && slices.Equal(m.sub.names, names) {
		return false // the way of nearly every full heartbeat
	}
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)
	key := strconv.Quote(regex)
	for _, name := range names {
		key += " " + strconv.Quote(name)
	}
	if m.sub != nil && m.sub.key == key {
		return false
	}
	g.unsubscribe(m)
	s := g.subs[key]
	if s == nil {
		s = &subscription{key: key, names: names, regex: regex, pattern: pattern}
		g.subs[key] = s
		g.resolve(s, true)
		g.stale = true
	}
	s.members++
	m.sub = s
	return true
}

// unsubscribe takes a member's subscription away.
func (g *Group) unsubscribe(m *member) {
	if m.sub == nil {
		return
	}
	if m.sub.members--; m.sub.members == 0 {
		delete(g.subs, m.sub.key)
		g.stale = true
	}
	m.sub = nil
}

// resolve finds the topics of a subscription; those of its regular expression only if
// regex, and otherwise only forgets the ones that are gone.
func (g *Group) resolve(s *subscription, regex bool) {
	s.named = s.named[:0:0]
	for _, name := range s.names {
		if t, ok := g.topics.Topic(name); ok {
			s.named = append(s.named, t.ID)
		}
	}
	if s.pattern != nil && regex {
		g.regexAt = g.now
		s.matched = nil
		for t := range g.topics.Topics() {
			if s.pattern.MatchString(t.Name) {
				s.matched = append(s.matched, t.ID)
			}
		}
	} else {
		s.matched = slices.DeleteFunc(slices.Clone(s.matched), func(id tiering.TopicID) bool {
			_, ok := g.topics.TopicByID(id)
			return !ok
		})
	}
	s.topics = slices.Concat(s.named, s.matched)
	slices.SortFunc(s.topics, compareTopics)
	s.topics = slices.Compact(s.topics)
	g.stale = true
}

// resolveRegexes resolves all regular expressions again.
func (g *Group) resolveRegexes() {
	g.refresh = time.Time{}
	for _, s := range g.subs {
		if s.pattern != nil {
			g.resolve(s, true)
		}
	}
}

// has reports whether a topic is subscribed to. One that does not exist can be by name.
func (s *subscription) has(topic string) bool {
	_, ok := slices.BinarySearch(s.names, topic)
	return ok || s.pattern != nil && s.pattern.MatchString(topic)
}
