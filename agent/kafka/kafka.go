// Package kafka serves the Kafka APIs: one file per API key, named by its number, each
// opening with the versions served, what is promised and the KIPs it follows. api.go
// has the table of all of them, from which ApiVersions is derived; errors.go is where Go
// errors become Kafka's codes; ports.go declares what the agent hands in.
//
//  1. What the table does not list is not advertised and not served.
//  2. Every request gets Kafka's own answer, whatever is in it: no body makes a handler
//     panic, and what it costs is bounded by the frame and by Settings.
//  3. Answers that change a client's state (an unknown topic, an offset) are never given
//     from a copy that may lag: a miss asks the metadata store first.
//  4. A batch's bytes are those of the request's frame, which stays charged to its budget
//     until the batch is done with and the response is written; or, where most of the frame
//     was refused, a copy that is charged in its stead.
//
// A Handler serves any number of connections concurrently. It starts no goroutine of its
// own that outlives the call it serves, but for the timer of a produce request.
package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/floelog/floe/agent/kafka/topicconfig"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/protocol"
)

// Settings are the plain values that the handlers go by.
type Settings struct {
	AutoCreateTopics  bool  // auto.create.topics.enable: a Metadata request may create topics
	NumPartitions     int32 // num.partitions: of topics that are created without a number
	ReplicationFactor int16 // default.replication.factor: reported, without effect on durability

	// MaxPartitions bounds one topic. Each partition costs every agent memory.
	MaxPartitions int32

	// TopicDefaults override the defaults of topic configs, by topic config name.
	TopicDefaults map[string]string

	// FetchMaxBytes bounds one fetch response. Smaller: consumers that catch up make more
	// round trips. Larger: few consumers hold much memory. Kafka has 55 MiB.
	FetchMaxBytes int

	// FetchMaxWait bounds how long a fetch may wait; after it, the answer has no records, and
	// the client asks again. Consumers ask for half a second (Java, librdkafka) to five
	// seconds, and give up after 30 unless told otherwise; longer waits only keep memory for
	// clients that may be gone.
	FetchMaxWait time.Duration

	// FetchMemory bounds the records of all answers that are read and not yet taken by
	// their clients, in bytes; 0 stands for 128 MiB. When it is in use, answers get smaller,
	// down to one batch, and then wait. It should be more than a few FetchMaxBytes.
	FetchMemory int64
	// FetchLaggingMemory is the part of it that answers with records of partitions that lag may
	// have, and only they; 0 stands for half. Smaller: replays are slower. Larger: consumers
	// that keep up, while many of them wait, get smaller answers.
	FetchLaggingMemory int64

	// MaxFetchSessions and MaxFetchSessionPartitions bound the cache of fetch sessions. A
	// client without a session still works, with larger requests; a partition costs some
	// 250 bytes. Kafka has 1000 sessions and no bound on partitions.
	MaxFetchSessions, MaxFetchSessionPartitions int

	// OffsetMetadataMax bounds what a client may say beside an offset that it commits, in
	// characters (offset.metadata.max.bytes). It is kept in the coordinator's memory.
	OffsetMetadataMax int

	// ConsumerSession and ConsumerHeartbeat are what the configs of a consumer group may be
	// (KIP-848), and are where they are not set: the time after which a silent member is
	// removed, and how often members are told to speak. The zero values stand for Kafka's.
	ConsumerSession, ConsumerHeartbeat Between

	// ConsumerAssignors are the names of the assignors of consumer groups, the first for those
	// that ask for none (group.consumer.assignors). None stand for Kafka's.
	ConsumerAssignors []string

	// Zone is this agent's own zone; empty: none.
	Zone string
	// ClientZones says by listener how the zone of its clients is found; those that are not
	// named have ZoneOfClient.
	ClientZones map[string]ClientZone

	// StoreName is what DescribeLogDirs calls the object store. No credentials.
	StoreName string

	// BrokerConfigs are further read-only settings of the agent that DescribeConfigs
	// shows, by Kafka's name of each. No credentials.
	BrokerConfigs map[string]string
}

// Between is a default and the least and the most that may stand in its place.
type Between struct{ Default, Least, Most time.Duration }

// Kafka's defaults and bounds of a consumer group's configs.
var (
	consumerAssignors = []string{"uniform", "range"}
	consumerSession   = Between{45 * time.Second, 45 * time.Second, time.Minute}
	consumerHeartbeat = Between{5 * time.Second, 5 * time.Second, 15 * time.Second}
)

func (b Between) sound() bool {
	return b.Least > 0 && b.Least <= b.Default && b.Default <= b.Most && b.Most <= math.MaxInt32*time.Millisecond
}

// DefaultSettings returns Kafka's defaults where it has one.
func DefaultSettings() Settings {
	return Settings{
		AutoCreateTopics: true, NumPartitions: 1, ReplicationFactor: 1, MaxPartitions: 10_000,
		FetchMaxBytes: 55 << 20, FetchMaxWait: 30 * time.Second, FetchMemory: defaultFetchMemory,
		MaxFetchSessions: 1000, MaxFetchSessionPartitions: 200_000,
		OffsetMetadataMax: 4096,
		ConsumerSession:   consumerSession, ConsumerHeartbeat: consumerHeartbeat,
		StoreName: "object-store",
	}
}

// Validate reports the first setting that makes no sense, and what would.
func (s Settings) Validate() error {
	session, heartbeat := s.consumerSession(), s.consumerHeartbeat()
	switch {
	case s.NumPartitions < 1 || s.NumPartitions > s.MaxPartitions:
		return fmt.Errorf("num.partitions is %d: want 1 to %d", s.NumPartitions, s.MaxPartitions)
	case s.ReplicationFactor < 1:
		return fmt.Errorf("default.replication.factor is %d: want 1 or more", s.ReplicationFactor)
	case s.MaxPartitions < 1 || s.MaxPartitions > catalogue.MaxPartitions:
		return fmt.Errorf("max partitions of a topic is %d: want 1 to %d", s.MaxPartitions, catalogue.MaxPartitions)
	case s.FetchMaxBytes < 1<<10 || s.FetchMaxBytes > 1<<30:
		return fmt.Errorf("fetch.max.bytes is %d: want 1024 to %d", s.FetchMaxBytes, 1<<30)
	case s.FetchMaxWait <= 0:
		return fmt.Errorf("longest fetch wait is %v: want more than 0", s.FetchMaxWait)
	case s.FetchMemory < 0:
		return fmt.Errorf("fetch memory is %d bytes: want more than 0", s.FetchMemory)
	case s.FetchLaggingMemory < 0 || s.FetchLaggingMemory > 0 && s.FetchLaggingMemory >= cmp.Or(s.FetchMemory, defaultFetchMemory):
		return fmt.Errorf("fetch memory for partitions that lag is %d bytes: want less than that for all, %d", s.FetchLaggingMemory, s.FetchMemory)
	case s.MaxFetchSessions < 0 || s.MaxFetchSessionPartitions < 0:
		return errors.New("fetch session limits are negative: want 0 for no sessions, or more")
	case s.OffsetMetadataMax < 0:
		return fmt.Errorf("offset.metadata.max.bytes is %d: want 0 or more", s.OffsetMetadataMax)
	case !session.sound() || !heartbeat.sound() || session.Default <= heartbeat.Default:
		return fmt.Errorf("group.consumer session timeout %v and heartbeat interval %v: want each default between its least and most, and the session longer",
			session, heartbeat)
	}
	for listener, mode := range s.ClientZones {
		if !slices.Contains(ClientZones(), mode) {
			return fmt.Errorf("zone of clients of listener %s is found by %q: want one of %v", listener, mode, ClientZones())
		}
	}
	if err := topicconfig.Validate(s.TopicDefaults, nil); err != nil {
		return fmt.Errorf("default topic configs: %w", err)
	}
	return nil
}

// Config holds the settings and what else a Handler needs besides its parts.
type Config struct {
	Settings Settings
	Now      func() time.Time // wall clock
	Random   io.Reader        // for session ids; safe for concurrent use
}

// Handler serves the Kafka APIs.
type Handler struct {
	Parts
	settings Settings
	apis     []api
	now      func() time.Time
	sessions *sessionCache
	topics   settingsCache
	entries  *protocol.Budget // of the topics and partitions of produce requests
	waiting  *protocol.Budget // of fetches, but their records
	fetched  fetchBudgets     // of the records in answers

	directory directory
}

// New returns a Handler, or says what is missing or wrong.
func New(parts Parts, cfg Config) (*Handler, error) {
	if err := cfg.Settings.Validate(); err != nil {
		return nil, err
	}
	if parts.Topics == nil || parts.Changes == nil || parts.Cluster == nil || parts.Producer == nil || parts.Reader == nil ||
		parts.Offsets == nil || parts.Records == nil || parts.ProducerIDs == nil ||
		parts.Groups == nil || parts.Transactions == nil || cfg.Now == nil || cfg.Random == nil {
		return nil, errors.New("kafka handler: a part, the clock or the source of randomness is missing")
	}
	if err := checkTable(apis); err != nil {
		return nil, err
	}
	if parts.Traffic == nil {
		parts.Traffic = noTraffic{}
	}
	if parts.Zones == nil {
		parts.Zones = noZones{}
	}
	if parts.Pressure == nil {
		parts.Pressure = noPressure{}
	}
	h := &Handler{Parts: parts, settings: cfg.Settings, apis: apis, now: cfg.Now, entries: protocol.NewBudget(entriesMemory)}
	h.waiting = protocol.NewBudget(waitingMemory)
	h.fetched = newFetchBudgets(cmp.Or(cfg.Settings.FetchMemory, defaultFetchMemory), cfg.Settings.FetchLaggingMemory)
	h.sessions = newSessionCache(cfg.Settings, cfg.Random, cfg.Now)
	h.topics.defaults = cfg.Settings.TopicDefaults
	return h, nil
}

// minTimeout: cutting a change short leaves its outcome unknown, which helps nobody.
// maxTimeout: nobody waits longer for an answer, but a client can ask for 24 days.
const (
	minTimeout = time.Second
	maxTimeout = 2 * time.Minute
)

// withTimeout bounds ctx by a timeout that a client asked for.
func withTimeout(ctx context.Context, millis int32) (context.Context, context.CancelFunc) {
	d := time.Duration(millis) * time.Millisecond
	return context.WithTimeout(ctx, min(max(d, minTimeout), maxTimeout))
}

// parallel bounds the changes that one request has under way. Fewer would make a client
// wait for each in turn; more would push the journals' appends aside.
const parallel = 8

// each calls f for 0 to n-1, several at a time, and returns when all are done.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f(i)
		})
	}
	wg.Wait()
}
