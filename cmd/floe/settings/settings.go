// Package settings is the one table of everything that can be set: its name, meaning,
// unit, default, limits and the reason for them. From it come the flags, the environment
// variables, the keys of the YAML file, the validation, `floe settings` and
// docs/configuration.md, so that none of them can say something else.
//
// Invariants:
//  1. A flag wins over an environment variable, that over the file, that over the default.
//  2. A value that is wrong anywhere is refused, even where another source overrides it.
//  3. What is not in the table is refused by name, with what is close to it.
//
// Settings are plain data. Nothing here opens, listens or starts anything, and nothing is
// safe for concurrent change.
package settings

import (
	"fmt"
	"time"
)

// Command is a set of commands of floe that settings apply to.
type Command uint8

// The commands that read settings.
const (
	Dev     Command = 1 << iota // floe dev
	Agent                       // floe agent
	Inspect                     // floe inspect
)

// String names a single command as it is typed.
func (c Command) String() string {
	switch c {
	case Dev:
		return "floe dev"
	case Agent:
		return "floe agent"
	case Inspect:
		return "floe inspect"
	}
	return fmt.Sprintf("commands %#x", uint8(c))
}

// Settings are the values that Floe runs with, validated. The table says what each means.
type Settings struct {
	Addr          string
	Advertise     string // never empty after Load
	RPCAddr       string // never empty after Load
	RPCAdvertise  string // empty: the host of Advertise, the port of RPCAddr
	AdminAddr     string // empty: no admin server
	AdminInsecure bool
	ClientZone    string     // of the listener of Addr
	Listener      []string   // as given
	Listeners     []Listener // what Listener says, after Load

	Cluster                    string
	NodeID                     int
	Zone                       string
	Roles                      []string
	Etcd                       []string
	EtcdCA, EtcdCert, EtcdKey  string
	EtcdUser, EtcdPasswordFile string
	Store                      string
	Shards                     int
	LeaseTTL                   time.Duration
	EtcdQuota                  Bytes
	FormatLevel                int // 0: the newest that all agents read
	FormatLevelAfter           time.Duration
	RPCCert, RPCKey, RPCCA     string // all or none
	RPCName                    string // empty: the host of the address
	EtcdKeep                   time.Duration

	Data   string
	Agents int

	FlushSize         Bytes
	FlushAge          time.Duration
	FlushIdle         bool
	UploadsInFlight   int
	InlineMax         Bytes
	InlineRate        Bytes // per second
	InlineAcrossZones bool
	RollupAge         time.Duration
	RollupSize        Bytes
	CarryAge          time.Duration
	SnapshotAge       time.Duration
	SnapshotRecords   int
	ManifestExtents   int
	MergeTarget       Bytes
	MergeAge          time.Duration
	JobsRate          Bytes
	CleanMemory       Bytes
	CleanMinBytes     Bytes
	CleanInterval     time.Duration
	GCInterval        time.Duration
	GCGrace           time.Duration
	RetentionInterval time.Duration

	AutoCreateTopics         bool
	NumPartitions            int
	MaxPartitions            int
	Retention                time.Duration // 0: for ever
	DefaultReplicationFactor int
	MessageMaxBytes          Bytes
	ProducerIDExpiration     time.Duration

	GroupInitialRebalanceDelay time.Duration
	GroupMinSessionTimeout     time.Duration
	GroupMaxSessionTimeout     time.Duration
	GroupMaxSize               int
	MaxGroups                  int
	OffsetsRetention           time.Duration
	OffsetMetadataMaxBytes     Bytes
	ConsumerSessionTimeout     time.Duration
	ConsumerHeartbeatInterval  time.Duration

	TransactionMaxTimeout     time.Duration
	TransactionalIDExpiration time.Duration

	MemoryBudget    Bytes
	CacheSize       Bytes
	CacheDiskDir    string // empty: none
	CacheDiskBytes  Bytes
	MaxRequestBytes Bytes
	FetchMaxBytes   Bytes
	FetchLagging    Bytes // 0: half of FetchMemory
	MaxConnections  int
	IdleTimeout     time.Duration

	Config       string
	LogLevel     string
	LogFormat    string
	NetworkRate  Bytes
	DrainTimeout time.Duration

	sources map[string]string // setting -> where its value came from, unless the default
}

// MemoryLimit derives the Go runtime's soft memory limit from the budget: an eighth is left
// for code and mapped files. The bytes that Floe holds on purpose are rarely all of the
// budget; the garbage that a collection has not reached yet takes what is left.
func (s *Settings) MemoryLimit() int64 { return int64(s.MemoryBudget) / 8 * 7 }

// FetchMemory derives from the budget what records on their way to consumers may take: a
// quarter. Smaller: answers to consumers that catch up are cut down sooner. Larger: less is
// left for requests in flight.
func (s *Settings) FetchMemory() Bytes { return s.MemoryBudget / 4 }

// RequestMemory is what cache and answers leave of the budget for requests in flight.
func (s *Settings) RequestMemory() Bytes { return s.MemoryBudget - s.CacheSize - s.FetchMemory() }

// Value is a setting that differs from its default.
type Value struct{ Name, Value, Source string }

// Changed returns the settings that were given, in the order of the table. The store's
// URL may carry credentials and is left out.
func (s *Settings) Changed() []Value {
	var out []Value
	for _, row := range table {
		if source, ok := s.sources[row.Name]; ok && row.Name != "store" {
			out = append(out, Value{row.Name, format(row.field(s)), source})
		}
	}
	return out
}

// Error says that a setting is wrong: which one, where it was given, why, and what to
// write instead. It is always one line.
type Error struct {
	Name   string // as it was given: a flag, a variable or a key
	Why    string
	Remedy string
}

func (e *Error) Error() string {
	if e.Remedy == "" {
		return e.Name + ": " + e.Why
	}
	return fmt.Sprintf("%s: %s (%s)", e.Name, e.Why, e.Remedy)
}
