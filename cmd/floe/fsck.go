package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/spf13/cobra"

	grouping "github.com/floelog/floe/agent/group"
	transactions "github.com/floelog/floe/agent/txn"
	"github.com/floelog/floe/cmd/floe/settings"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/repair/fsck"
	"github.com/floelog/floe/tiering"
)

// The exit codes of floe fsck.
const (
	exitDamaged   = 1 // something is damaged
	exitUnchecked = 2 // the check could not be made
)

func fsckCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Check that every record is there: states, offsets, segments, and with --deep every byte",
		Long: "Check that a cluster is whole. Every extent must point to bytes that exist, offsets must be dense, and nothing\n" +
			"may be without a name for longer than --bound. --deep reads and verifies every byte that is named.\n" +
			"Nothing is changed, and a cluster may run meanwhile: what looks wrong is looked at again before it is reported.\n" +
			"Look at a cluster with --store, --etcd and --cluster, or at a stopped floe dev with --data.\n\n" +
			"Exit code 0: nothing is damaged; 1: damage was found; 2: the check could not be made.",
		Example: "  floe fsck --etcd etcd:2379 --store s3://bucket/prefix\n  floe fsck --data floe-data --deep --json",
		Args:    noArgs,
	}
	cfg := fsck.Config{Now: time.Now, Coordinators: damagedRows}
	cmd.Flags().BoolVar(&cfg.Deep, "deep", false, "read every byte that is named, and verify it")
	cmd.Flags().DurationVar(&cfg.Bound, "bound", fsck.DefaultBound, "how long an object may be without a name before that is reported")
	cmd.Flags().IntVar(&cfg.Parallel, "parallel", 8, "segments that are checked at a time")
	inspection(p, cmd, func(ctx context.Context, v *view, _ []string) error {
		if err := v.needs(true, true); err != nil {
			return err
		}
		r, err := v.check(ctx, p, cfg)
		if err != nil {
			return err
		}
		if err := v.printCheck(r); err != nil {
			return err
		}
		if !r.Clean {
			return exitError{exitDamaged, fmt.Errorf("fsck: %d findings of damage", r.Damage)}
		}
		return nil
	})
	inner := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := inner(cmd, args)
		var exit exitError
		if err == nil || errors.As(err, &exit) {
			return err
		}
		return exitError{exitUnchecked, fmt.Errorf("fsck: the check could not be made: %w", err)}
	}
	return cmd
}

// check runs a check of what the view looks at.
func (v *view) check(ctx context.Context, p process, cfg fsck.Config) (*fsck.Report, error) {
	if cfg.Parallel < 1 || cfg.Bound < 0 {
		return nil, &settings.Error{Name: "parallel", Why: "out of range", Remedy: "give --parallel 1 or more, and --bound 0s or more"}
	}
	bar := newProgress(p.stderr)
	defer bar.end()
	cfg.Name, cfg.Meta, cfg.Objects, cfg.Progress = v.settings.Cluster, v.meta, v.objects, bar.show
	return fsck.Run(ctx, cfg)
}

// damagedRows has the coordinators' own code read their rows.
func damagedRows(id tiering.ShardID, s *shard.State) (errs []error) {
	load := grouping.NewLoad(grouping.DefaultSettings(), func() string { return "" })
	m, err := load(id, s.Epoch, s, noTopics{}, time.Now())
	if err != nil {
		errs = append(errs, err)
	}
	if d, ok := m.(interface{ Damaged() []error }); ok {
		errs = append(errs, d.Damaged()...)
	}
	for _, name := range s.Names(shard.Transactions) {
		for key, value := range s.Rows(shard.Transactions, name) {
			if err := transactions.CheckRow(key, value); err != nil {
				errs = append(errs, fmt.Errorf("transactional id %q: %w", name, err))
			}
		}
	}
	return errs
}

// noTopics knows no topic: rows are read without.
type noTopics struct{}

func (noTopics) Topic(string) (*catalogue.Topic, bool)              { return nil, false }
func (noTopics) TopicByID(tiering.TopicID) (*catalogue.Topic, bool) { return nil, false }
func (noTopics) Topics() iter.Seq[*catalogue.Topic]                 { return func(func(*catalogue.Topic) bool) {} }

// printCheck writes the report for people, or as JSON.
func (v *view) printCheck(r *fsck.Report) error {
	if v.asJSON {
		return v.print(r)
	}
	w := &lines{w: v.out}
	t := r.Checked
	depth := "by the segments' indexes"
	if r.Deep {
		depth = "deep"
	}
	w.line("cluster %s (%s), checked %s", r.Cluster, r.ClusterID, depth)
	w.line("  %d shards, %d topics, %d partitions, %d groups, %d rows of coordinators", t.Shards, t.Topics, t.Partitions, t.Groups, t.Rows)
	w.line("  %d extents (%d inline, %d holes), %d manifests, %d segments, %d batches, %s read", t.Extents, t.Inline, t.Holes, t.Manifests, t.Segments, t.Batches, settings.Bytes(t.Bytes))
	w.line("  %d objects, %s; %.2f %% of the bytes are garbage", r.Bucket.Objects, settings.Bytes(r.Bucket.Bytes), 100*r.Unreferred)
	for _, c := range r.Unnamed {
		w.line("    %-9s %6d objects, %10s: %s", c.Name, c.Objects, settings.Bytes(c.Bytes), c.Meaning)
	}
	if r.Frozen {
		w.line("  deletion is stopped by the key gc-freeze (floe recover --finish lifts it)")
	}
	for _, f := range r.Findings {
		w.line("")
		w.line("%s: %s%s", f.Severity, f.Kind, where(f))
		w.line("  %s", f.Detail)
		w.line("  what to do: %s", f.Remedy)
	}
	if r.Unlisted > 0 {
		w.line("\n%d more findings are not listed", r.Unlisted)
	}
	verdict := "clean: every record that is named is there"
	if !r.Clean {
		verdict = "DAMAGED"
	}
	w.line("\n%s (%d findings of damage, %d warnings)", verdict, r.Damage, r.Warnings)
	return w.err
}

// where puts a finding's place into words.
func where(f fsck.Finding) string {
	out := ""
	if f.Topic != "" {
		out = ", topic " + legible(f.Topic).String()
	}
	if f.Partition >= 0 {
		out += fmt.Sprintf(", partition %d, offsets %d to %d, shard %d", f.Partition, f.From, f.To-1, f.Shard)
	}
	if f.Object != "" {
		out += ", " + f.Object
	}
	return out
}

// lines writes lines until a write fails.
type lines struct {
	w   io.Writer
	err error
}

func (l *lines) line(format string, args ...any) {
	if l.err == nil {
		_, l.err = fmt.Fprintf(l.w, format+"\n", args...)
	}
}
