package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/floelog/floe/cmd/floe/settings"
	"github.com/floelog/floe/compaction/sweep"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/manifests"
)

// gcFlags are what floe gc takes besides where the cluster is.
type gcFlags struct {
	dryRun, execute, unfreeze, keys bool
	grace                           time.Duration
}

func gcCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Say what is garbage in the object store and why the rest is kept; delete it with --execute",
		Long: "Look through the object store as the agents' sweeper does, and say what is garbage and why the rest is kept.\n" +
			"Nothing is deleted unless --execute is given: then the bucket is looked through twice, --grace apart, and what both\n" +
			"times was garbage goes. Agents may run meanwhile; they sweep by themselves, so that this is rarely needed.\n" +
			"Look at a cluster with --store, --etcd and --cluster, or at a stopped floe dev with --data.\n\n" +
			"--unfreeze lets deletion go on after it was stopped by hand, or because the bucket knew more than etcd. Make sure\n" +
			"before that nothing is missing in etcd (floe recover): what it does not name is deleted.",
		Example: "  floe gc --dry-run --etcd etcd:2379 --store s3://bucket/prefix\n  floe gc --data floe-data --execute --grace 1m --json",
		Args:    noArgs,
	}
	var f gcFlags
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "change nothing; so it is without --execute")
	cmd.Flags().BoolVar(&f.execute, "execute", false, "delete what is garbage")
	cmd.Flags().BoolVar(&f.unfreeze, "unfreeze", false, "let deletion go on after a freeze; deletes nothing itself")
	cmd.Flags().BoolVar(&f.keys, "keys", false, "list the key of each object that is garbage")
	cmd.Flags().DurationVar(&f.grace, "grace", 10*time.Minute, "time between the two looks of --execute")
	return inspection(p, cmd, func(ctx context.Context, v *view, _ []string) error {
		if err := f.check(); err != nil {
			return err
		}
		if err := v.needs(true, true); err != nil {
			return err
		}
		return v.gc(ctx, p, f)
	})
}

func (f *gcFlags) check() error {
	switch {
	case f.execute && f.dryRun || f.unfreeze && (f.execute || f.dryRun):
		return usageError{errors.New("only one of --dry-run, --execute and --unfreeze can be meant")}
	case f.grace < 0:
		return &settings.Error{Name: "grace", Why: "below 0", Remedy: "give a duration, such as 10m"}
	}
	return nil
}

// gc looks through the bucket, as often as the flags ask for.
func (v *view) gc(ctx context.Context, p process, f gcFlags) error {
	keys, cluster, err := v.cluster(ctx)
	if err != nil {
		return err
	}
	g := &collection{view: v, flags: f}
	if f.unfreeze {
		return resumeSweeping(ctx, v.meta, v.objects, keys, cluster)
	}
	set, stop := v.follow(ctx, keys, cluster)
	defer stop()
	select {
	case <-set.Loaded():
	case <-ctx.Done():
		return ctx.Err()
	}
	s := sweep.New(sweep.Config{Keys: keys, Cluster: cluster.ID, Grace: f.grace, DryRun: !f.execute}, sweep.Parts{
		Meta: v.meta, Objects: v.objects, Shards: set, Manifests: manifests.NewReader(v.objects, manifests.DefaultCapacity),
		Now: time.Now, Nonce: newRand().Uint64, Log: slog.New(slog.DiscardHandler), Garbage: g.garbage,
	})
	r := s.Sweep(ctx)
	if f.execute && r.Err == nil && r.Garbage().Objects > 0 {
		fmt.Fprintf(p.stderr, "%d objects are garbage; looking again in %v\n", r.Garbage().Objects, f.grace)
		if err := waitFor(ctx, f.grace); err != nil {
			return err
		}
		g.listed = nil
		r = s.Sweep(ctx)
	}
	if err := g.print(r); err != nil {
		return err
	}
	if r.Err != nil {
		return fmt.Errorf("gc: nothing is deleted: %w", r.Err)
	}
	return nil
}

// follow keeps the states of all shards until stop is called.
func (v *view) follow(ctx context.Context, keys metadata.Keys, cluster catalogue.Cluster) (set *journal.Set, stop func()) {
	set = journal.New(journal.Config{Keys: keys, Shards: cluster.Shards}, journal.Parts{
		Store: v.meta, Objects: v.objects,
		Log: slog.New(slog.DiscardHandler), Now: time.Now, Nonce: newRand().Uint64,
	})
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = set.Run(ctx) // what stops it is found by the sweep: a view that is behind
	}()
	return set, func() {
		cancel()
		<-ended
	}
}

func waitFor(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
