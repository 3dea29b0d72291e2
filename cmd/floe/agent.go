package main

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/floelog/floe/cmd/floe/settings"
	"github.com/floelog/floe/metadata"
)

func agentCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "agent",
		Short:   "Run one agent of a cluster",
		Long:    "Run one agent of a cluster, over an etcd and an object store that exist already.\nAgents own nothing: start as many as you like, and end any of them.",
		Example: "  floe agent --addr 0.0.0.0:9092 --advertise kafka-1.example:9092 --etcd etcd-1:2379,etcd-2:2379 \\\n    --cluster events --store 's3://events/floe?region=eu-west-1'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := settings.Load(cmd.Flags(), p.environ, settings.Agent)
			if err != nil {
				return err
			}
			return runAgent(p, s)
		},
	}
	settings.AddFlags(cmd.Flags(), settings.Agent)
	return cmd
}

func runAgent(p process, s *settings.Settings) (err error) {
	log, err := newLog(p, s)
	if err != nil {
		return err
	}
	ctx, stop := untilSignal(p)
	defer stop()
	logStart(log, "agent", s)
	driver, err := openStore(ctx, s.Store)
	if err != nil {
		return err
	}
	client, err := openEtcd(ctx, s, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	return serve(ctx, p, s, log, func(int) metadata.Store { return client }, driver, func(members []*member) {
		fmt.Fprintf(p.stdout, "floe agent: ready on %s (cluster %s, store %s%s)\n", members[0].addr, s.Cluster, driver, members[0].doorHint())
	})
}

// doorHint names the side door in the line that says ready.
func (m *member) doorHint() string {
	if m.admin == nil {
		return ""
	}
	return ", metrics http://" + m.admin.Addr().String() + "/metrics"
}

// logStart logs version and settings that are not the defaults.
func logStart(log *slog.Logger, command string, s *settings.Settings) {
	args := []any{"command", command, "version", version()}
	for _, v := range s.Changed() {
		args = append(args, v.Name, v.Value)
	}
	log.Info("starting", args...)
	for _, d := range s.Doubts() {
		log.Warn("a setting is doubtful", "setting", d.Setting, "why", d.Text)
	}
}
