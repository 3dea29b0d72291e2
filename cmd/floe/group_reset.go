package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
)

// resetShape is what floe group reset prints as JSON.
type resetShape struct {
	Group    string     `json:"group"`
	Executed bool       `json:"executed"` // false: a dry run
	Offsets  []resetRow `json:"offsets"`
}

// reset is what floe group reset was asked to do.
type reset struct {
	group     string
	selected  []selection // nil: all topics with committed offsets
	target    resetTarget
	execute   bool
	committed kadm.OffsetResponses
}

func groupResetCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reset GROUP",
		Short: "Set the committed offsets of a group without members; a dry run unless --execute is given",
		Long: "Set the committed offsets of a group without members. Old and new offsets are printed;\n" +
			"nothing is changed unless --execute is given. New offsets are kept within the log.",
		Example: "  floe group reset orders --all-topics --to-earliest\n" +
			"  floe group reset orders --topic events:0,1 --to-time 90m --execute",
		Args: exactArgs("GROUP"),
	}
	topics := cmd.Flags().StringArray("topic", nil, "a topic, or some of its partitions, as `TOPIC[:P,P...]`; may be repeated")
	allTopics := cmd.Flags().Bool("all-topics", false, "all partitions that the group has committed offsets for")
	to := addResetFlags(cmd.Flags())
	var work reset
	cmd.Flags().BoolVar(&work.execute, "execute", false, "do it; without this, only print what would be done")
	cmd.PreRunE = func(_ *cobra.Command, args []string) (err error) {
		work.group = args[0]
		switch {
		case *allTopics && len(*topics) > 0:
			return usageError{errors.New("--all-topics: does not go with --topic (give one of them)")}
		case !*allTopics && len(*topics) == 0:
			return usageError{errors.New("--topic: nothing says what to reset (give --topic TOPIC[:P,P...] or --all-topics)")}
		}
		if work.selected, err = parseSelections("--topic", *topics); err != nil {
			return err
		}
		work.target, err = to.target(time.Now())
		return err
	}
	return remoteCommand(p, cmd, func(ctx context.Context, r *remote, _ []string) error {
		return work.run(ctx, r)
	})
}

func (x *reset) run(ctx context.Context, r *remote) error {
	if err := r.withoutMembers(ctx, x.group); err != nil {
		return err
	}
	var err error
	if x.committed, err = r.committed(ctx, x.group); err != nil {
		return err
	}
	partitions, err := x.partitions(ctx, r)
	if err != nil {
		return err
	}
	logs, err := x.logs(ctx, r, partitions)
	if err != nil {
		return err
	}
	rows, err := planReset(x.target, logs)
	if err != nil {
		return err
	}
	if x.execute {
		if err := x.commit(ctx, r, rows); err != nil {
			return err
		}
	}
	return r.print(resetShape{x.group, x.execute, rows}, func(w io.Writer) error { return printReset(w, x.execute, rows) })
}

// withoutMembers refuses a group whose members would overwrite what is set here.
func (r *remote) withoutMembers(ctx context.Context, name string) error {
	described, err := r.describeGroups(ctx, []string{name})
	if err != nil {
		return err
	}
	// A group that there is not may be given offsets before its first member comes.
	if n := len(described[name].Members); n > 0 {
		return fmt.Errorf("group %s: it has %s, whose next commit would undo a reset (stop all members and wait until their sessions end; floe group describe --members lists them)", name, count(n, "member"))
	}
	return nil
}

// partitions are those to reset, in order.
func (x *reset) partitions(ctx context.Context, r *remote) ([]partition, error) {
	if x.selected == nil {
		var out []partition
		for _, o := range x.committed.Sorted() {
			out = append(out, partition{o.Topic, o.Partition})
		}
		if len(out) == 0 {
			return nil, fmt.Errorf("--all-topics: group %s has no committed offsets (name topics with --topic)", x.group)
		}
		return out, nil
	}
	there, err := r.topics(ctx, topicNames(x.selected)...)
	if err != nil {
		return nil, err
	}
	return among(x.selected, there)
}

func topicNames(selected []selection) []string {
	names := make([]string, len(selected))
	for i, s := range selected {
		names[i] = s.topic
	}
	return names
}

// logs asks for the range of each partition's log, and what is at the time in question.
func (x *reset) logs(ctx context.Context, r *remote, partitions []partition) ([]logRange, error) {
	topics := map[string]bool{}
	for _, p := range partitions {
		topics[p.topic] = true
	}
	names := slices.Collect(maps.Keys(topics))
	starts, err := r.admin.ListStartOffsets(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("asking for the starts of logs: %w", told(err))
	}
	ends, err := r.admin.ListEndOffsets(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("asking for the ends of logs: %w", told(err))
	}
	at := ends
	if x.target.flag == "--to-time" {
		if at, err = r.admin.ListOffsetsAfterMilli(ctx, x.target.number, names...); err != nil {
			return nil, fmt.Errorf("asking for the offsets of a time: %w", told(err))
		}
	}
	logs := make([]logRange, 0, len(partitions))
	for _, p := range partitions {
		l := logRange{partition: p, atTime: -1}
		for _, ask := range []struct {
			from kadm.ListedOffsets
			to   func(kadm.ListedOffset)
		}{
			{starts, func(o kadm.ListedOffset) { l.start = o.Offset }},
			{ends, func(o kadm.ListedOffset) { l.end = o.Offset }},
			{at, func(o kadm.ListedOffset) {
				if o.Timestamp >= 0 { // else it is the log's end
					l.atTime = o.Offset
				}
			}},
		} {
			o, ok := ask.from.Lookup(p.topic, p.id)
			if !ok || o.Err != nil {
				return nil, fmt.Errorf("asking for the log of %s: %w", p, noAnswer(o.Err))
			}
			ask.to(o)
		}
		if o, ok := x.committed.Lookup(p.topic, p.id); ok {
			l.old = &o.At
		}
		logs = append(logs, l)
	}
	return logs, nil
}

// noAnswer is err, or what to say where there is none.
func noAnswer(err error) error {
	if err == nil {
		return errors.New("the cluster left it out of its answer")
	}
	return err
}

// commit sets the offsets.
func (x *reset) commit(ctx context.Context, r *remote, rows []resetRow) error {
	offsets := kadm.Offsets{}
	for _, row := range rows {
		// The epoch of the record before is not known; -1 says so.
		offsets.AddOffset(row.Topic, row.Partition, row.New, -1)
	}
	done, err := r.admin.CommitOffsets(ctx, x.group, offsets)
	if err != nil {
		return groupRefusal(x.group, err)
	}
	for _, o := range done.Sorted() {
		if o.Err != nil {
			return fmt.Errorf("committing %s:%d: %w", o.Topic, o.Partition, groupRefusal(x.group, o.Err))
		}
	}
	return nil
}

const dryRun = "Dry run: nothing was changed (--execute does it)."

func printReset(w io.Writer, executed bool, rows []resetRow) error {
	t := newTable("TOPIC", "PARTITION", "OLD", "NEW", "LOG START", "LOG END", "NOTE")
	for _, row := range rows {
		t.add(row.Topic, row.Partition, row.Old, row.New, row.LogStart, row.LogEnd, row.Note)
	}
	if err := t.print(w, "no partitions"); err != nil {
		return err
	}
	last := dryRun
	if executed {
		last = "Committed for " + count(len(rows), "partition") + "."
	}
	_, err := fmt.Fprintln(w, last)
	return err
}
