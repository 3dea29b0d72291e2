package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
)

// deletedShape is what floe group delete prints as JSON.
type deletedShape struct {
	Groups []deletedGroup `json:"groups"`
}

// deletedGroup is what became of one group, or of its offsets.
type deletedGroup struct {
	Group   string          `json:"group"`
	Deleted bool            `json:"deleted"` // the group itself
	Offsets []deletedOffset `json:"offsets"` // what --offsets names
	Error   string          `json:"error"`   // why not; empty: done
}

// deletedOffset is what became of one committed offset.
type deletedOffset struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Deleted   bool   `json:"deleted"`
	Error     string `json:"error"`
}

func groupDeleteCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete GROUP...",
		Short: "Delete groups without members, or some of a group's committed offsets",
		Long: "Delete groups without members, with all that they committed; it is not asked again.\n" +
			"With --offsets, only the committed offsets of a topic, which no member may subscribe to.",
		Example: "  floe group delete orders\n  floe group delete orders --offsets events:3",
		Args:    someArgs("GROUP"),
	}
	offsets := cmd.Flags().StringArray("offsets", nil, "delete only the committed offsets of `TOPIC[:P,P...]`; may be repeated")
	var selected []selection
	cmd.PreRunE = func(_ *cobra.Command, args []string) (err error) {
		if len(*offsets) > 0 && len(args) > 1 {
			return usageError{fmt.Errorf("--offsets: goes with one group, not %d (give one)", len(args))}
		}
		selected, err = parseSelections("--offsets", *offsets)
		return err
	}
	return remoteCommand(p, cmd, func(ctx context.Context, r *remote, args []string) error {
		if len(selected) > 0 {
			return r.deleteOffsets(ctx, args[0], selected)
		}
		return r.deleteGroups(ctx, args)
	})
}

func (r *remote) deleteGroups(ctx context.Context, names []string) error {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	answers, err := r.admin.DeleteGroups(ctx, names...)
	if err != nil && len(answers) == 0 {
		return fmt.Errorf("deleting groups: %w", told(err))
	}
	shape := deletedShape{}
	var failed error
	for _, name := range names {
		g := deletedGroup{Group: name, Offsets: []deletedOffset{}}
		answer, ok := answers[name]
		if !ok {
			answer.Err = noAnswer(told(err))
		}
		if g.Deleted = answer.Err == nil; !g.Deleted {
			refusal := groupRefusal(name, answer.Err)
			g.Error = oneLine(refusal)
			failed = errors.Join(failed, refusal)
		}
		shape.Groups = append(shape.Groups, g)
	}
	return errors.Join(r.print(shape, func(w io.Writer) error {
		t := newTable("GROUP", "RESULT")
		for _, g := range shape.Groups {
			t.add(g.Group, result(g.Deleted))
		}
		return t.print(w, "no groups")
	}), failed)
}

func result(deleted bool) string {
	if deleted {
		return "deleted"
	}
	return "not deleted"
}

func (r *remote) deleteOffsets(ctx context.Context, group string, selected []selection) error {
	committed, err := r.committed(ctx, group)
	if err != nil {
		return err
	}
	set, err := committedAmong(group, committed, selected)
	if err != nil {
		return err
	}
	answers, err := r.admin.DeleteOffsets(ctx, group, set)
	if err != nil {
		return groupRefusal(group, err)
	}
	g := deletedGroup{Group: group, Offsets: []deletedOffset{}}
	var refusals []error
	for _, t := range set.Sorted() {
		for _, id := range t.Partitions {
			o := deletedOffset{Topic: t.Topic, Partition: id}
			answer, ok := answers.Lookup(t.Topic, id)
			if !ok {
				answer = noAnswer(nil)
			}
			if o.Deleted = answer == nil; !o.Deleted {
				refusal := fmt.Errorf("offset of %s:%d: %w", t.Topic, id, groupRefusal(group, answer))
				o.Error = oneLine(refusal)
				refusals = append(refusals, refusal)
			}
			g.Offsets = append(g.Offsets, o)
		}
	}
	failed := first(refusals)
	if failed != nil {
		g.Error = oneLine(failed)
	}
	return errors.Join(r.print(deletedShape{[]deletedGroup{g}}, func(w io.Writer) error {
		t := newTable("GROUP", "TOPIC", "PARTITION", "RESULT")
		for _, o := range g.Offsets {
			t.add(group, o.Topic, o.Partition, result(o.Deleted))
		}
		return t.print(w, "no offsets")
	}), failed)
}

// first is the first of several errors, mostly of one cause, and how many more there are.
func first(all []error) error {
	switch len(all) {
	case 0:
		return nil
	case 1:
		return all[0]
	}
	return fmt.Errorf("%w (and %d more)", all[0], len(all)-1)
}

// committedAmong finds the selected partitions among the committed ones.
func committedAmong(group string, committed kadm.OffsetResponses, selected []selection) (kadm.TopicsSet, error) {
	set := kadm.TopicsSet{}
	for _, s := range selected {
		if len(committed[s.topic]) == 0 {
			return nil, fmt.Errorf("--offsets: group %s has no committed offsets for topic %s (floe group describe lists those that it has)", group, s.topic)
		}
		for id := range committed[s.topic] {
			if s.partitions == nil {
				set.Add(s.topic, id)
			}
		}
		for _, id := range s.partitions {
			if _, ok := committed.Lookup(s.topic, id); !ok {
				return nil, fmt.Errorf("--offsets: group %s has no committed offset for %s:%d (floe group describe lists those that it has)", group, s.topic, id)
			}
			set.Add(s.topic, id)
		}
	}
	return set, nil
}
