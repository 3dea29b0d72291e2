package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/floelog/floe/cmd/floe/settings"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/etcd"
	"github.com/floelog/floe/tiering"
)

func devCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "dev",
		Short:   "Run everything in one process: agents, etcd, a directory as the store",
		Long:    "Run everything in one process: one or more agents, an embedded etcd, and a directory as the object store.\nWhat is acknowledged is on disk; data survives restarts.",
		Example: "  floe dev\n  floe dev --agents 3 --data /tmp/floe",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := settings.Load(cmd.Flags(), p.environ, settings.Dev)
			if err != nil {
				return err
			}
			return runDev(p, s)
		},
	}
	settings.AddFlags(cmd.Flags(), settings.Dev)
	return cmd
}

// The parts of a data directory.
const (
	etcdDir  = "etcd"
	storeDir = "store"
)

func runDev(p process, s *settings.Settings) (err error) {
	log, err := newLog(p, s)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.Data, 0o755); err != nil {
		return fmt.Errorf("data: %w (give a --data directory that can be written)", err)
	}
	lock, err := lockData(s.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	if err := lock.hold("floe dev on " + s.Addr); err != nil {
		return err
	}
	ctx, stop := untilSignal(p)
	defer stop()
	logStart(log, "dev", s)
	storeURL, err := devStore(s.Data)
	if err != nil {
		return err
	}
	driver, err := openStore(ctx, storeURL)
	if err != nil {
		return err
	}
	log.Debug("the store can be relied on", "store", driver.String())
	server, err := etcd.StartEmbedded(ctx, etcd.EmbeddedConfig{
		Dir: filepath.Join(s.Data, etcdDir), Quota: int64(s.EtcdQuota), Logger: log,
	})
	if err != nil {
		return fmt.Errorf("data %s: %w", s.Data, err)
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	log.Debug("the embedded etcd serves")
	if err := bury(ctx, server.NewClient(), metadata.NewKeys(s.Cluster), s); err != nil {
		return err
	}
	if s.NodeID == 0 {
		s.NodeID = 1 // stable across restarts
	}
	return serve(ctx, p, s, log, func(int) metadata.Store { return server.NewClient() }, driver, func(members []*member) {
		fmt.Fprintln(p.stdout, devReady(s, members))
	})
}

// devStore returns the URL of the store in a data directory.
func devStore(data string) (string, error) {
	dir, err := filepath.Abs(filepath.Join(data, storeDir))
	if err != nil {
		return "", fmt.Errorf("data: %w", err)
	}
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(dir)}).String(), nil
}

func devReady(s *settings.Settings, members []*member) string {
	var addrs []string
	for _, m := range members {
		addrs = append(addrs, m.addr)
	}
	all := strings.Join(addrs, ",")
	return fmt.Sprintf("floe dev: ready on %s (try: kcat -b %s -L; data in %s%s)", all, addrs[0], s.Data, members[0].doorHint())
}

// bury removes what the agents of an earlier life left behind if they were killed, so that
// nobody waits for their leases to end. The lock of the data directory proves that they
// are dead. Heads stay, and with them the epochs.
func bury(ctx context.Context, store metadata.Store, keys metadata.Keys, s *settings.Settings) error {
	left, err := store.Range(ctx, keys.Agents(), metadata.PrefixEnd(keys.Agents()), 0, 1)
	if err != nil || len(left.KVs) == 0 {
		return wrapEtcd(err)
	}
	cluster, err := catalogue.EnsureCluster(ctx, store, keys, catalogue.Want{Shards: uint32(s.Shards)})
	if err != nil {
		return err
	}
	ops := []metadata.Op{
		metadata.DeleteRange(keys.Agents(), metadata.PrefixEnd(keys.Agents())),
		metadata.DeleteRange(keys.Sessions(), metadata.PrefixEnd(keys.Sessions())),
	}
	for n := range cluster.Shards {
		ops = append(ops, metadata.Delete(keys.Leader(tiering.ShardID(n))))
	}
	for len(ops) > 0 {
		n := min(len(ops), metadata.MaxTxnOps)
		if _, err := store.Txn(ctx, metadata.Txn{Then: ops[:n]}); err != nil {
			return wrapEtcd(err)
		}
		ops = ops[n:]
	}
	return nil
}

func wrapEtcd(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("embedded etcd: %w", err)
}
