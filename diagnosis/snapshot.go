package diagnosis

import "time"

// Snapshot is what one agent has measured. What is zero was not measured, or is not there.
type Snapshot struct {
	Node    int32
	Zone    string
	Version string

	Window time.Duration // that Recent and the lists are of, about a minute
	Recent Counts        // what happened within it
	Lately Counts        // what happened within about ten minutes
	Levels Levels        // as it is now

	Clients    []Client    // that sent most batches; within Window
	Partitions []Partition // that got most bytes; within Window
	Groups     []Group     // that rebalanced most often; within about ten minutes
	Open       []Transaction
	Agents     []Agent   // that are registered, this one too
	Troubles   []Trouble // of the stores
	Members    []Member  // of the metadata store
	Certs      []Certificate
	Doubts     []Doubt // of settings that fit together badly

	Outside *Outside // what floe doctor has tried itself; nil for agents
}

// Outside is what was tried from outside of any agent.
type Outside struct {
	Metadata    bool   // etcd was asked
	MetadataErr string // why it could not be reached; empty: it was
	Store       bool   // the object store was tried out
	StoreErr    string
	StoreTook   time.Duration // for all of its self-test, some ten requests
	Agents      bool          // the registered agents were counted
	Registered  float64
}

// Counts is what happened within a time.
type Counts struct {
	Flushes, FlushedBytes      float64
	Appends, AppendP99         float64 // journal records; seconds
	Uploads, UploadP99         float64 // of flushes that were stored; seconds
	UploadsFailed              float64
	StoreRequests              float64 // attempts
	StoreThrottled             float64 // that were told to come less often
	StoreDenied, StoreFailed   float64 // refused by credentials; errors, time-outs, damaged
	BatchesRefused             float64 // because nothing could be stored and memory was half full
	ServerErrors               float64 // UNKNOWN_SERVER_ERROR
	ConnectionsRefused         float64
	UnknownOutcomes            float64
	Takeovers                  float64
	SessionsLost               float64
	CorruptReads               float64
	JobFailures                float64
	TailBytes, LaggingBytes    float64 // read for consumers
	StoreFetchBytes            float64 // got from the store for them
	CacheHits, CacheMisses     float64
	CacheEvicted               float64 // bytes
	LaggingReads, LaggingTired float64 // reads far behind: all, and those that waited in vain
}

// Levels is how things stand.
type Levels struct {
	ThrottleSeconds             float64 // what producers were told to wait, mean over Window
	MemoryShare                 float64 // of the budget for requests, mean over Window
	Connections, MaxConnections float64
	Files, MaxFiles             float64
	DiskCacheGivenUp            bool
	Frozen, ClockInDoubt        bool // deletion; retention by time
	LostObjects                 float64
	LiveBytes, StoredBytes      float64 // of segments, as of the last sweep; 0: this agent does not sweep
	ExtentsMax                  float64 // of a partition
	JournalMax, SnapshotRecords float64 // records of the longest journal; the setting
	SnapshotWait, SnapshotAge   time.Duration
	CarryWait, CarryAge         time.Duration
	Shards, Led, Leading        float64       // of the cluster; by this agent, at least; agents that share them
	Leaderless                  float64       // shards without a leader, over all of Window at least
	LeaseTTL, LeaseMargin       time.Duration // the least that was left of the lease when it was renewed, within ten minutes
	LeaseMeasured               bool
	Partitions                  float64       // of all topics
	StoreSkew                   time.Duration // this agent's clock against the object store's
	StoreSkewMeasured           bool
	FlushBytes                  float64 // the setting flush-size
}

// Client is a producer, by the client id that it gives.
type Client struct {
	ID             string
	Batches, Bytes float64
}

// Partition is one that clients produce to.
type Partition struct {
	Topic string
	Index int32
	Bytes float64
	Of    int32   // partitions of the topic
	Total float64 // bytes that the topic got
}

// Group is a consumer group.
type Group struct {
	Name       string
	Rebalances float64
}

// Transaction is one that is open in a partition that this agent leads.
type Transaction struct {
	Partition  string
	ProducerID int64
	Age        time.Duration
}

// Agent is a registered agent.
type Agent struct {
	Node    int32
	Zone    string
	Version string
	Asked   bool          // by this agent, lately
	Silent  bool          // and it did not answer
	Skew    time.Duration // its clock against this agent's, where it is certain
}

// Member is a member of the metadata store.
type Member struct {
	Name    string // its address
	Failed  string // why it does not answer; empty: it does
	Latency time.Duration
	Bytes   float64 // of its database
	Quota   float64 // 0: not known
	Alarms  []string
	Skew    time.Duration // its clock against ours, where it is certain
}

// Trouble is how long requests of a kind to a store have not gone as they should.
type Trouble struct {
	Name string // such as "object store: puts"
	For  time.Duration
}

// Certificate is one that something else checks.
type Certificate struct {
	Setting string
	Left    time.Duration
}

// Doubt is a setting that is allowed and seldom meant.
type Doubt struct {
	Setting string `json:"setting"`
	Text    string `json:"text"`
}
