package kafka

import (
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/protocol"
)

// ClientZone says how the zone of a listener's clients is found.
type ClientZone string

// The ways to find a client's zone.
const (
	// ZoneOfClient asks the client: "zone=NAME" in its client id, or else the rack that a
	// Fetch or ConsumerGroupHeartbeat on the connection told (client.rack). It is the
	// default: a client that tells nothing is told of the agents that really lead, whichever
	// agent it asks, so all answers that it gets agree.
	ZoneOfClient ClientZone = "client"
	// ZoneOfAgent takes the zone of the agent that is asked, whatever the client tells.
	ZoneOfAgent ClientZone = "agent"
	// ZoneOfClientElseAgent takes the zone of the agent for clients that tell none.
	ZoneOfClientElseAgent ClientZone = "client-else-agent"
	// ZoneOfNobody knows no zones: clients are told who really leads, and consumers are sent
	// nowhere else.
	ZoneOfNobody ClientZone = "none"
)

// ClientZones returns all ways to find a client's zone, the default first.
func ClientZones() []ClientZone {
	return []ClientZone{ZoneOfClient, ZoneOfAgent, ZoneOfClientElseAgent, ZoneOfNobody}
}

// DefaultListener is the name of the listener that every agent has.
const DefaultListener = "kafka"

// asker is who sent a request, as far as answers depend on it.
type asker struct {
	listener string // that the request came in on
	zone     string // of the client; empty where it is not known
}

// told is what a connection has told of its client's zone. It is the connection's State,
// which only the goroutine that serves its requests looks at.
type told struct {
	clientID string // that named was found in
	named    string // zone in the client id
	rack     string // of the newest request that had one
}

// maxRack bounds the rack that is remembered of a connection: the longest that a topic's
// name may be, far more than zones are called. Requests bound it by a megabyte only.
const maxRack = 249

// asker returns who sent a request; rack is the client's, where the request tells it.
func (h *Handler) asker(c *protocol.Conn, clientID, rack string) asker {
	if c == nil {
		return h.askerOf(DefaultListener, zoneNamed(clientID), rack)
	}
	t, ok := c.State.(*told)
	if !ok {
		t = &told{}
		c.State = t
	}
	if t.clientID != clientID {
		t.clientID, t.named = clientID, zoneNamed(clientID)
	}
	if rack != "" && len(rack) <= maxRack {
		t.rack = rack
	}
	return h.askerOf(c.Listener(), t.named, t.rack)
}

// askerOf chooses between what is known of a client, as its listener is set.
func (h *Handler) askerOf(listener, named, rack string) asker {
	a := asker{listener: listener}
	mode := h.settings.clientZone(listener)
	if mode == ZoneOfClient || mode == ZoneOfClientElseAgent {
		if a.zone = named; a.zone == "" {
			a.zone = rack
		}
	}
	if mode == ZoneOfAgent || mode == ZoneOfClientElseAgent && a.zone == "" {
		a.zone = h.settings.Zone
	}
	return a
}

// clientZone returns how the zone of a listener's clients is found.
func (s *Settings) clientZone(listener string) ClientZone {
	if mode, ok := s.ClientZones[listener]; ok {
		return mode
	}
	return ZoneOfClient
}

// zoneNamed returns the zone that a client id names: what follows "zone=" in the first of
// its words that begins so. Words end at a comma, a semicolon or a space. So a client may be
// called "zone=eu-1a" or "billing,zone=eu-1a"; where a library adds to the client id (as
// Kafka Streams does, at its end), "zone=eu-1a;billing".
func zoneNamed(clientID string) string {
	for at := 0; at < len(clientID); {
		word := clientID[at:]
		if end := strings.IndexAny(word, ",; "); end >= 0 {
			word = word[:end]
		}
		if zone, ok := strings.CutPrefix(word, "zone="); ok {
			return zone
		}
		at += len(word) + 1
	}
	return ""
}

// rackTold returns the rack that a request tells.
func rackTold(req kmsg.Request) string {
	switch req := req.(type) {
	case *kmsg.FetchRequest:
		if req.Version >= 11 {
			return req.Rack
		}
	case *kmsg.ConsumerGroupHeartbeatRequest:
		if req.RackID != nil {
			return *req.RackID
		}
	}
	return ""
}
