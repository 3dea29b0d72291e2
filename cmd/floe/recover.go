package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	transactions "github.com/floelog/floe/agent/txn"
	"github.com/floelog/floe/cmd/floe/settings"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/repair/fsck"
	"github.com/floelog/floe/repair/recovery"
)

// recoverFlags are the flags of floe recover.
type recoverFlags struct {
	execute, over, finish, accept bool
	parallel                      int
}

func recoverCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Rebuild a cluster's keys in etcd from the bucket",
		Long: "Rebuild what a cluster has in etcd from its bucket: after etcd was lost, into an empty one, or after an older\n" +
			"backup of it was restored, with --force-over-restored. All agents must be stopped.\n\n" +
			"Without --execute nothing is written: the report says what would be, and what could not be known. With it the\n" +
			"keys are written and deletion from the bucket is stopped, until floe recover --finish has checked the cluster.",
		Example: "  floe recover --etcd etcd:2379 --store s3://bucket/prefix               see what would be done\n" +
			"  floe recover --etcd etcd:2379 --store s3://bucket/prefix --execute     do it, then start the agents\n" +
			"  floe recover --etcd etcd:2379 --store s3://bucket/prefix --finish      check it, and let objects be deleted again",
		Args: noArgs,
	}
	var f recoverFlags
	cmd.Flags().BoolVar(&f.execute, "execute", false, "write what was found")
	cmd.Flags().BoolVar(&f.over, "force-over-restored", false, "etcd holds an older backup of this cluster: take it in, and write over it")
	cmd.Flags().BoolVar(&f.finish, "finish", false, "check the recovered cluster, and let objects be deleted again if it is whole")
	cmd.Flags().BoolVar(&f.accept, "accept-damage", false, "with --finish: let objects be deleted again although something is damaged")
	cmd.Flags().IntVar(&f.parallel, "parallel", 16, "requests to the object store at a time")
	inspection(p, cmd, func(ctx context.Context, v *view, _ []string) error {
		if err := v.needs(true, true); err != nil {
			return err
		}
		if f.finish {
			return v.finishRecovery(ctx, p, f)
		}
		return v.recover(ctx, p, f)
	})
	inner := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case f.finish && (f.execute || f.over), f.accept && !f.finish, f.parallel < 1:
			return usageError{errors.New("recover: --finish goes with --accept-damage only, and --parallel is 1 or more")}
		}
		if err := makeEtcdDir(cmd, p); err != nil {
			return err
		}
		return inner(cmd, args)
	}
	return cmd
}

// makeEtcdDir makes room for the etcd of a floe dev that has lost it.
func makeEtcdDir(cmd *cobra.Command, p process) error {
	s, err := settings.Load(cmd.Flags(), p.environ, settings.Inspect)
	if err != nil || len(s.Etcd) > 0 || s.Store != "" {
		return err
	}
	if _, err := os.Stat(filepath.Join(s.Data, storeDir)); err != nil {
		return fmt.Errorf("data %s: %w (give --data, or --store, --etcd and --cluster)", s.Data, err)
	}
	return os.MkdirAll(filepath.Join(s.Data, etcdDir), 0o700)
}

// recover prepares a recovery, and executes it if that is wanted.
func (v *view) recover(ctx context.Context, p process, f recoverFlags) error {
	bar := newProgress(p.stderr)
	defer bar.end()
	plan, err := recovery.Prepare(ctx, recovery.Config{
		Name: v.settings.Cluster, Meta: v.meta, Objects: v.objects, Over: f.over, Parallel: f.parallel,
		Coordinators: func(states []*shard.State) recovery.Transactions { return transactions.Open(states) },
		Now:          time.Now, Random: rand.Reader, Progress: bar.show,
	})
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	if f.execute {
		if err := plan.Execute(ctx); err != nil {
			return fmt.Errorf("recover: %w", err)
		}
	}
	bar.end()
	if v.asJSON {
		return v.print(plan.Report)
	}
	return v.printRecovery(&plan.Report)
}

// finishRecovery checks the cluster and lets objects be deleted again.
func (v *view) finishRecovery(ctx context.Context, p process, f recoverFlags) error {
	r, err := v.check(ctx, p, fsck.Config{Parallel: f.parallel, Now: time.Now, Coordinators: damagedRows})
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	if err := v.printCheck(r); err != nil {
		return err
	}
	if !r.Clean && !f.accept {
		return exitError{exitDamaged, errors.New("recover: deletion stays stopped, since something is damaged (--accept-damage lets it go on all the same)")}
	}
	if err := v.unfreeze(ctx); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	if !v.asJSON {
		_, err = fmt.Fprintln(v.out, "objects that nothing names are deleted again")
	}
	return err
}

// unfreeze lets deletion go on.
func (v *view) unfreeze(ctx context.Context) error {
	keys := metadata.NewKeys(v.settings.Cluster)
	kvs, _, err := v.meta.Get(ctx, keys.Cluster())
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	cluster, err := catalogue.StoredCluster(kvs[0])
	if err != nil {
		return err
	}
	return resumeSweeping(ctx, v.meta, v.objects, keys, cluster)
}

// when writes milliseconds since 1970 for people.
func when(ms int64) string {
	if ms == 0 {
		return "-"
	}
	return instant(ms)
}

// printRecovery writes the report for people.
func (v *view) printRecovery(r *recovery.Report) error {
	w := &lines{w: v.out}
	w.line("cluster %s (%s): %d topics as of %s, from %s; %d segments in the bucket", r.Cluster, r.ClusterID, r.Topics, when(r.CatalogueTime), r.Catalogue, r.Objects)
	w.line("newest journal record that is known: %s; open transactions: %d; next producer id: %d", when(r.LastTime), r.Open, r.ProducerID)
	w.line("\n%5s %9s %8s %9s %9s %6s %6s  %-24s %s", "shard", "snapshot", "records", "up to", "becomes", "parts", "groups", "newest record", "adopted batches and doubts")
	for i := range r.Shards {
		s := &r.Shards[i]
		w.line("%5d %9d %8d %9d %9d %6d %6d  %-24s %s", s.Shard, s.BaseSeq, s.Records, s.Seq, s.NewSeq, s.Partitions, s.Groups, when(s.LastTime), doubts(s))
	}
	for i := range r.Shards {
		s := &r.Shards[i]
		for _, a := range s.Adopted {
			w.line("adopted without proof: topic %s, partition %d, offsets %d to %d, %s", legible(a.Topic), a.Partition, a.From, a.To-1, a.Object)
		}
		for _, text := range s.Problems {
			w.line("problem: shard %d: %s", s.Shard, text)
		}
	}
	for _, text := range r.Problems {
		w.line("problem: %s", text)
	}
	for _, id := range r.Deleted {
		w.line("topic id %s was deleted, its records are forgotten", id)
	}
	w.line("\nwhat could not be known:")
	for _, text := range r.Unknown {
		w.line("  - %s", text)
	}
	if r.Executed {
		w.line("\nwritten. Start the agents, then: floe recover --finish")
	} else {
		w.line("\nnothing was written (--execute does)")
	}
	return w.err
}

// doubts puts into few words what a shard's row has no columns for.
func doubts(s *recovery.ShardReport) string {
	out := ""
	add := func(n int, what string) {
		if n > 0 {
			out += fmt.Sprintf("%d %s; ", n, what)
		}
	}
	add(len(s.Proven), "runs proved by merged segments")
	add(len(s.Adopted), "runs adopted")
	add(s.InTransactions, "of open transactions")
	add(s.OfNoTransaction, "of no known transaction left out")
	add(s.OutOfOrder, "out of order left out")
	add(s.Refused, "refused")
	add(s.Duplicates, "were there")
	add(s.OfNoTopic, "of deleted topics left out")
	add(int(s.Missing), "records missing")
	add(len(s.Holes), "holes")
	add(len(s.Filled), "gaps filled by flushes")
	add(s.Forks, "forks")
	return out
}
