package main

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"

	"github.com/floelog/floe/agent"
	grouping "github.com/floelog/floe/agent/group"
	"github.com/floelog/floe/agent/kafka"
	transactions "github.com/floelog/floe/agent/txn"
	"github.com/floelog/floe/cmd/floe/settings"
)

// running makes an agent the node that this package runs.
type running struct{ *agent.Agent }

// Health returns the reasons why clients should not be sent here, a line each.
func (r running) Health() error {
	var errs []error
	for _, why := range r.Unready() {
		errs = append(errs, errors.New(why))
	}
	return errors.Join(errs...)
}

// Doctor implements examiner.
func (r running) Doctor(ctx context.Context) ([]byte, error) {
	report, err := r.Agent.Doctor(ctx)
	if err != nil {
		return nil, err
	}
	return json.Marshal(report)
}

// newNode builds an agent from settings and parts.
func newNode(s *settings.Settings, id identity, p parts) (node, error) {
	peerTLS, err := rpcTLS(s)
	if err != nil {
		return nil, err
	}
	made, err := p.plant.In(s.Cluster, agent.Parts{
		Meta: p.meta, Objects: p.objects, Log: p.log, Registry: p.registry, Gatherer: p.registry, Listener: p.kafka, Listeners: p.further, RPCListener: p.rpc, PeerTLS: peerTLS,
	})
	if err != nil {
		return nil, err
	}
	a, err := agent.New(agent.Config{
		Cluster:      s.Cluster,
		NodeID:       int32(id.nodeID),
		Advertise:    id.advertise,
		RPCAdvertise: id.rpc,
		Zone:         s.Zone,
		Roles:        s.Roles,
		NetworkRate:  float64(s.NetworkRate),
		Version:      version(),
		Shards:       uint32(s.Shards),
		LeaseTTL:     s.LeaseTTL,
		History:      s.EtcdKeep,

		FormatLevel: s.FormatLevel, FormatLevelAfter: s.FormatLevelAfter,

		FlushBytes:  int64(s.FlushSize),
		FlushAge:    s.FlushAge,
		FlushIdle:   s.FlushIdle,
		Uploads:     s.UploadsInFlight,
		InlineMax:   int(s.InlineMax),
		InlineRate:  float64(s.InlineRate),
		InlineHere:  !s.InlineAcrossZones,
		RollupAge:   s.RollupAge,
		RollupBytes: int64(s.RollupSize),
		CarryAge:    s.CarryAge,
		SnapshotAge: s.SnapshotAge, SnapshotRecords: uint64(s.SnapshotRecords), ManifestExtents: s.ManifestExtents,
		MergeTarget:   int64(s.MergeTarget),
		MergeAge:      s.MergeAge,
		JobsRate:      float64(s.JobsRate),
		CleanMemory:   int64(s.CleanMemory),
		CleanMinBytes: int64(s.CleanMinBytes),
		CleanEvery:    s.CleanInterval,

		GCInterval:        s.GCInterval,
		GCGrace:           s.GCGrace,
		RetentionInterval: s.RetentionInterval,

		Kafka:          kafkaSettings(s, p.objects.String()),
		Groups:         groupSettings(s),
		Transactions:   transactionSettings(s),
		ProducerExpiry: s.ProducerIDExpiration,

		RequestMemory:   int64(s.RequestMemory()),
		CacheBytes:      int64(s.CacheSize),
		CacheDiskDir:    s.CacheDiskDir,
		CacheDiskBytes:  int64(s.CacheDiskBytes),
		MaxRequestBytes: int32(s.MaxRequestBytes),
		MaxConnections:  s.MaxConnections,
		IdleTimeout:     s.IdleTimeout,
		DrainTimeout:    s.DrainTimeout,

		Doubts:       s.Doubts(),
		Certificates: certificates(s),
	}, made)
	if err != nil {
		return nil, err
	}
	return running{a}, nil
}

// kafkaSettings translates to Kafka's names where topics and clients see them.
func kafkaSettings(s *settings.Settings, store string) kafka.Settings {
	retention := "-1"
	if s.Retention > 0 {
		retention = strconv.FormatInt(s.Retention.Milliseconds(), 10)
	}
	k := kafka.DefaultSettings()
	k.AutoCreateTopics = s.AutoCreateTopics
	k.NumPartitions = int32(s.NumPartitions)
	k.MaxPartitions = int32(s.MaxPartitions)
	k.ReplicationFactor = int16(s.DefaultReplicationFactor)
	k.FetchMaxBytes = int(s.FetchMaxBytes)
	k.FetchMemory, k.FetchLaggingMemory = int64(s.FetchMemory()), int64(s.FetchLagging)
	g := groupSettings(s)
	k.OffsetMetadataMax = g.MaxOffsetMetadata
	k.ConsumerSession = kafka.Between{Default: g.ConsumerSessionTimeout, Least: g.MinConsumerSessionTimeout, Most: g.MaxConsumerSessionTimeout}
	k.ConsumerHeartbeat = kafka.Between{Default: g.ConsumerHeartbeatInterval, Least: g.MinConsumerHeartbeatInterval, Most: g.MaxConsumerHeartbeatInterval}
	k.ConsumerAssignors = g.ConsumerAssignors
	k.StoreName = store
	k.ClientZones = map[string]kafka.ClientZone{kafka.DefaultListener: kafka.ClientZone(s.ClientZone)}
	for _, l := range s.Listeners {
		k.ClientZones[l.Name] = kafka.ClientZone(l.ClientZone)
	}
	k.TopicDefaults = map[string]string{
		"max.message.bytes": strconv.FormatInt(int64(s.MessageMaxBytes), 10),
		"retention.ms":      retention,
	}
	k.BrokerConfigs = map[string]string{
		"socket.request.max.bytes":  strconv.FormatInt(int64(s.MaxRequestBytes), 10),
		"connections.max.idle.ms":   strconv.FormatInt(s.IdleTimeout.Milliseconds(), 10),
		"max.connections":           strconv.Itoa(s.MaxConnections),
		"producer.id.expiration.ms": strconv.FormatInt(s.ProducerIDExpiration.Milliseconds(), 10),
	}
	return k
}

func groupSettings(s *settings.Settings) grouping.Settings {
	g := grouping.DefaultSettings()
	g.InitialRebalanceDelay = s.GroupInitialRebalanceDelay
	g.MinSessionTimeout, g.MaxSessionTimeout = s.GroupMinSessionTimeout, s.GroupMaxSessionTimeout
	g.MaxSize, g.ConsumerMaxSize = s.GroupMaxSize, s.GroupMaxSize
	g.MaxGroups = s.MaxGroups
	g.MaxOffsetMetadata = int(s.OffsetMetadataMaxBytes)
	g.OffsetsRetention = s.OffsetsRetention
	g.ConsumerSessionTimeout, g.ConsumerHeartbeatInterval = s.ConsumerSessionTimeout, s.ConsumerHeartbeatInterval
	// What a group asks for itself must have room on both sides of the default.
	g.MinConsumerSessionTimeout = min(g.MinConsumerSessionTimeout, g.ConsumerSessionTimeout)
	g.MaxConsumerSessionTimeout = max(g.MaxConsumerSessionTimeout, g.ConsumerSessionTimeout)
	g.MinConsumerHeartbeatInterval = min(g.MinConsumerHeartbeatInterval, g.ConsumerHeartbeatInterval)
	g.MaxConsumerHeartbeatInterval = max(g.MaxConsumerHeartbeatInterval, g.ConsumerHeartbeatInterval)
	return g
}

func transactionSettings(s *settings.Settings) transactions.Settings {
	t := transactions.DefaultSettings()
	t.MaxTimeout, t.IDExpiration = s.TransactionMaxTimeout, s.TransactionalIDExpiration
	return t
}
