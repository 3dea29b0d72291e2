// Package membership says which agents live and which shards each of them should lead.
//
// An agent lives as long as its session: a lease in the metadata store, with two keys
// bound to it, the registration under the agent's node id and the session itself. All
// that an agent owns hangs on these keys, by conditions of the transactions that change
// anything. The clock only decides when to stop trying.
//
// Invariants:
//  1. At most one live session holds a node id, at any time.
//  2. A session id that has been alive and is not any more never is again.
//  3. Session.Alive is false from the moment at which the store may have ended the lease,
//     by the time since the last renewal that was answered began; and it never becomes
//     true again.
//  4. Every agent computes the same placement from the same agents, leaders and pins.
//
// All functions and methods may be called concurrently.
package membership

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/floelog/floe/metadata/level"
	"github.com/floelog/floe/tiering"
)

// NodeID is an agent's Kafka broker id, from 1 up: some clients take 0 for none.
type NodeID int32

// Agent is a live agent, as it registered.
type Agent struct {
	NodeID     NodeID
	Session    tiering.SessionID
	Address    string // host:port that Kafka clients are told
	RPCAddress string // host:port for other agents
	Zone       string
	Version    string // of floe
	Roles      []string
	Listeners  map[string]string // host:port that clients of further listeners are told, by name
	TTL        time.Duration     // of its lease
	Leaving    bool              // it drains: it gets no shards, and clients are not sent to it
	Levels     level.Range       // what it reads and writes; of releases before there were levels: First alone
}

// recordVersion is the version of both values below. A value of another version is not
// read.
const recordVersion = 1

// agentValue is the value of an agent's registration, in JSON.
type agentValue struct {
	Version    int      `json:"version"`
	Session    string   `json:"session"`
	Address    string   `json:"address"`
	RPCAddress string   `json:"rpc_address,omitempty"`
	Zone       string   `json:"zone,omitempty"`
	Release    string   `json:"release,omitempty"`
	Roles      []string `json:"roles,omitempty"`
	TTLMs      int64    `json:"ttl_ms"`
	Leaving    bool     `json:"leaving,omitempty"`

	// Levels are the least and the greatest level that the agent reads and writes.
	Levels []level.Level `json:"levels,omitempty"`

	Listeners map[string]string `json:"listeners,omitempty"`
}

// sessionValue is the value of a session's key, in JSON.
type sessionValue struct {
	Version      int    `json:"version"`
	NodeID       NodeID `json:"node_id"`
	LowWatermark uint64 `json:"low_watermark"`
}

func (a Agent) encode() ([]byte, error) {
	v, err := json.Marshal(agentValue{recordVersion, a.Session.String(), a.Address, a.RPCAddress, a.Zone,
		a.Version, a.Roles, a.TTL.Milliseconds(), a.Leaving, []level.Level{a.Levels.Min, a.Levels.Max}, a.Listeners})
	if err != nil {
		return nil, fmt.Errorf("encoding the registration of agent %d: %w", a.NodeID, err)
	}
	return v, nil
}

// decodeAgent reads a registration; key is the node id as in the key.
func decodeAgent(key string, value []byte) (Agent, error) {
	node, err := strconv.ParseInt(key, 10, 32)
	if err != nil || node < 1 {
		return Agent{}, fmt.Errorf("agent %q: want a node id of 1 or more", key)
	}
	var v agentValue
	if err := decodeRecord(value, &v, &v.Version); err != nil {
		return Agent{}, fmt.Errorf("registration of agent %d: %w", node, err)
	}
	session, err := tiering.ParseSessionID(v.Session)
	if err != nil {
		return Agent{}, fmt.Errorf("registration of agent %d: %w", node, err)
	}
	levels := level.Range{Min: level.First, Max: level.First}
	if len(v.Levels) == 2 {
		levels = level.Range{Min: v.Levels[0], Max: v.Levels[1]}
	}
	return Agent{NodeID(node), session, v.Address, v.RPCAddress, v.Zone, v.Release, v.Roles, v.Listeners,
		time.Duration(min(max(v.TTLMs, 0), int64(maxTTL/time.Millisecond))) * time.Millisecond, v.Leaving, levels}, nil
}

// decodeRecord reads a value of this version. Fields that it does not know are passed
// over: nobody but the session that wrote a value writes it again.
func decodeRecord(value []byte, v any, version *int) error {
	if err := json.Unmarshal(value, v); err != nil {
		return fmt.Errorf("decoding: %w", err)
	}
	if *version != recordVersion {
		return fmt.Errorf("format version is %d, but this release of floe reads version %d", *version, recordVersion)
	}
	return nil
}

// SessionState is what a live session tells about its uploads.
type SessionState struct {
	NodeID NodeID

	// LowWatermark is the running number below which every segment of the session has
	// been committed or never will be.
	LowWatermark uint64
}

func (s SessionState) encode() ([]byte, error) {
	v, err := json.Marshal(sessionValue{recordVersion, s.NodeID, s.LowWatermark})
	if err != nil {
		return nil, fmt.Errorf("encoding a session: %w", err)
	}
	return v, nil
}

func decodeSession(value []byte) (SessionState, error) {
	var v sessionValue
	if err := decodeRecord(value, &v, &v.Version); err != nil {
		return SessionState{}, err
	}
	return SessionState{v.NodeID, v.LowWatermark}, nil
}

var (
	// ErrNodeIDTaken says that another live agent has the node id.
	ErrNodeIDTaken = errors.New("node id is taken")

	// ErrLevel says that the cluster writes what this release cannot read.
	ErrLevel = errors.New("the cluster's format level is not known to this release")

	// ErrClosed is what Session.Err says after Close.
	ErrClosed = errors.New("agent session closed")
)
