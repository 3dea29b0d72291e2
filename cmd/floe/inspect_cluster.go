package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/floelog/floe/metadata/level"
	"github.com/floelog/floe/metadata/membership"
)

func inspectClusterCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Print the cluster's identity, its format level, and the live agents",
		Long: "Print the cluster's identity, its format level, and the live agents with the levels that each reads.\n" +
			"The level rises to the greatest that all agents read, see docs/upgrade.md.",
		Example: "  floe inspect cluster --etcd etcd-1:2379 --cluster events",
		Args:    noArgs,
	}
	return inspection(p, cmd, func(ctx context.Context, v *view, _ []string) error { return v.printCluster(ctx) })
}

// printCluster prints what etcd says of the cluster.
func (v *view) printCluster(ctx context.Context) error {
	if err := v.needs(true, false); err != nil {
		return err
	}
	keys, c, err := v.cluster(ctx)
	if err != nil {
		return err
	}
	agents, err := membership.List(ctx, v.meta, keys)
	if err != nil {
		return err
	}
	at := level.Level(c.FormatVersion)
	next := level.Newest
	list := make([]any, len(agents))
	for i, a := range agents {
		next = min(next, a.Levels.Max)
		list[i] = fields{
			{"node", int32(a.NodeID)}, {"address", a.Address}, {"release", a.Version}, {"zone", a.Zone},
			{"roles", strings.Join(a.Roles, ",")}, {"leaving", a.Leaving}, {"levels", a.Levels.String()},
		}
	}
	tree := fields{{"id", c.ID}, {"shards", c.Shards}, {"level", int(at)}, {"writes", plain(at.Formats())}}
	if len(agents) > 0 && next > at {
		tree = append(tree, field{"next level", fmt.Sprintf("%d: all live agents read it", next)})
	}
	return v.print(append(tree, field{"agents", list}))
}
