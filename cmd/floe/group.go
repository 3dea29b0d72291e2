package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func groupCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "group",
		Short: "List, describe, reset and delete consumer groups of a running cluster",
		Long: "List, describe, reset and delete consumer groups of a running cluster.\n" +
			"The commands speak Kafka's protocol to the agents that --bootstrap names.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(groupListCommand(p), groupDescribeCommand(p), groupResetCommand(p), groupDeleteCommand(p))
	return cmd
}

// The kinds of groups, in small letters as they are given to --type.
const (
	classicType  = "classic"  // the members assign partitions among themselves
	consumerType = "consumer" // the coordinator does (KIP-848)
)

var (
	groupTypes  = []string{classicType, consumerType, "share", "streams"}
	groupStates = []string{"Empty", "Stable", "PreparingRebalance", "CompletingRebalance", "Assigning", "Reconciling", "Dead"}
)

// listedGroup is one group of floe group list.
type listedGroup struct {
	Group        string `json:"group"`
	Type         string `json:"type"`
	ProtocolType string `json:"protocolType"`
	State        string `json:"state"`
	Coordinator  int32  `json:"coordinator"`
	Members      *int   `json:"members"` // nil: of a type that cannot be described
}

func groupListCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List groups with type, state and number of members",
		Example: "  floe group list --state Empty",
		Args:    noArgs,
	}
	states := cmd.Flags().StringSlice("state", nil, "only groups in these `states`: "+strings.Join(groupStates, ", "))
	types := cmd.Flags().StringSlice("type", nil, "only groups of these `types`: "+strings.Join(groupTypes, ", "))
	cmd.PreRunE = func(*cobra.Command, []string) (err error) {
		if *states, err = oneOf("--state", *states, groupStates); err == nil {
			*types, err = oneOf("--type", *types, groupTypes)
		}
		return err
	}
	return remoteCommand(p, cmd, func(ctx context.Context, r *remote, _ []string) error {
		// Old clusters take no filters, so these are applied here.
		groups, failed := r.listGroups(ctx, func(g listedGroup) bool {
			return (len(*states) == 0 || slices.Contains(*states, g.State)) && (len(*types) == 0 || slices.Contains(*types, g.Type))
		})
		if failed != nil && len(groups) == 0 {
			return failed
		}
		if err := r.countMembers(ctx, groups); err != nil {
			failed = errors.Join(failed, err)
		}
		return errors.Join(r.printGroups(groups), failed)
	})
}

func (r *remote) printGroups(groups []listedGroup) error {
	shape := struct {
		Groups []listedGroup `json:"groups"`
	}{groups}
	return r.print(shape, func(w io.Writer) error {
		t := newTable("GROUP", "TYPE", "PROTOCOL", "STATE", "MEMBERS", "COORDINATOR")
		for _, g := range groups {
			t.add(g.Group, g.Type, g.ProtocolType, g.State, g.Members, g.Coordinator)
		}
		return t.print(w, "no groups")
	})
}

// listGroups asks every node for its groups and returns those that are wanted, by name.
// What some nodes said is returned even when others did not answer.
func (r *remote) listGroups(ctx context.Context, wanted func(listedGroup) bool) (groups []listedGroup, failed error) {
	groups = []listedGroup{}
	for _, shard := range r.client.RequestSharded(ctx, kmsg.NewPtrListGroupsRequest()) {
		err := shard.Err
		if err == nil {
			err = kerr.ErrorForCode(shard.Resp.(*kmsg.ListGroupsResponse).ErrorCode)
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("listing the groups of node %d: %w", shard.Meta.NodeID, err))
			continue
		}
		for _, g := range shard.Resp.(*kmsg.ListGroupsResponse).Groups {
			l := listedGroup{Group: g.Group, Type: strings.ToLower(g.GroupType), ProtocolType: g.ProtocolType, State: g.GroupState, Coordinator: shard.Meta.NodeID}
			if l.Type == "" {
				l.Type = classicType // a cluster that knows no other
			}
			if wanted(l) {
				groups = append(groups, l)
			}
		}
	}
	slices.SortFunc(groups, func(a, b listedGroup) int { return cmp.Compare(a.Group, b.Group) })
	// While a coordinator moves, two nodes may name the same group.
	groups = slices.CompactFunc(groups, func(a, b listedGroup) bool { return a.Group == b.Group })
	return groups, failed
}

// countMembers fills in how many members the groups have.
func (r *remote) countMembers(ctx context.Context, groups []listedGroup) error {
	var names []string
	for _, g := range groups {
		if g.Type == classicType || g.Type == consumerType {
			names = append(names, g.Group)
		}
	}
	described, err := r.describeGroups(ctx, names)
	for i := range groups {
		if d, ok := described[groups[i].Group]; ok {
			n := len(d.Members)
			groups[i].Members = &n
		}
	}
	return err
}

// groupRefusal says in a line why a group did not allow something, and what to do.
func groupRefusal(group string, err error) error {
	var why string
	switch {
	case errors.Is(err, kerr.GroupIDNotFound):
		why = "there is no such group (floe group list lists those that there are)"
	case errors.Is(err, kerr.NonEmptyGroup), errors.Is(err, kerr.UnknownMemberID):
		why = "it has members (stop them and wait until their sessions end; floe group describe --members lists them)"
	case errors.Is(err, kerr.GroupSubscribedToTopic):
		why = "its members subscribe to the topic (stop them first)"
	case errors.Is(err, kerr.GroupAuthorizationFailed):
		why = "the cluster does not allow it to this client"
	default:
		return fmt.Errorf("group %s: %w", group, told(err))
	}
	return fmt.Errorf("group %s: %s", group, why)
}
