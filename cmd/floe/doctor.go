package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/floelog/floe/cmd/floe/settings"
	"github.com/floelog/floe/diagnosis"
)

// The exit codes of floe doctor.
const (
	exitWarnings = 1 // warnings are the worst
	exitCritical = 2 // something critical was found
	exitUnknown  = 3 // nothing could be found out
)

const (
	// doctorPatience bounds the question to one agent, which asks all others meanwhile.
	doctorPatience = 15 * time.Second
	// maxReport bounds what is read of one agent: some hundred agents with findings are a megabyte.
	maxReport = 64 << 20
)

// doctorFlags are what floe doctor takes besides where the cluster is.
type doctorFlags struct {
	admins           []string
	asJSON, markdown bool
}

func doctorCommand(p process) *cobra.Command {
	var f doctorFlags
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what is wrong with a cluster, or soon will be, and which setting to change",
		Long: "Say what is wrong with a cluster, or soon will be, and which setting to change.\n" +
			"One agent is asked at its --admin-addr, which asks all others; more addresses are tried until one answers. Or,\n" +
			"with --etcd and --cluster, all agents that are registered there are asked, and etcd's members themselves: quota,\n" +
			"alarms, clocks. With --store the object store is tried out from here, too. Both work when no agent answers.\n" +
			"Nothing is changed, but for a test object that goes again.\n\n" +
			"Exit code 0: nothing worse than information; 1: warnings; 2: something critical; 3: nothing could be found out.\n" +
			"docs/doctor.md lists what can be found; agents export all of it as the metric floe_finding.",
		Example: "  floe doctor\n  floe doctor --admin-addr 10.0.0.1:9644 --json\n  floe doctor --etcd etcd-1:2379,etcd-2:2379 --cluster events --store 's3://events/floe?region=eu-west-1'",
		Args:    noArgs,
	}
	cmd.Flags().StringSliceVar(&f.admins, "admin-addr", nil, "admin addresses of agents, one of which is asked, as `HOST:PORT[,...]` (default "+defaultAdmin+", unless etcd or store is named)")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "as JSON")
	cmd.Flags().BoolVar(&f.markdown, "markdown", false, "list everything that can be found, as the page docs/doctor.md")
	settings.AddFlags(cmd.Flags(), settings.Inspect)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if f.markdown {
			return doctorPage(p.stdout)
		}
		s, err := settings.Load(cmd.Flags(), p.environ, settings.Inspect)
		if err == nil {
			err = f.check()
		}
		if err != nil {
			return exitError{exitUnknown, err}
		}
		ctx, stop := untilSignal(p)
		defer stop()
		return f.run(ctx, p, s)
	}
	return cmd
}

func (f *doctorFlags) check() error {
	for _, addr := range f.admins {
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			return usageError{fmt.Errorf("--admin-addr: %q is not HOST:PORT (write %s)", addr, defaultAdmin)}
		}
	}
	return nil
}

// run asks, looks and prints.
func (f *doctorFlags) run(ctx context.Context, p process, s *settings.Settings) error {
	outside := len(s.Etcd) > 0 || s.Store != ""
	admins := f.admins
	if len(admins) == 0 && !outside {
		admins = []string{defaultAdmin}
	}
	report, err := askAgents(ctx, admins)
	if err != nil && !outside {
		return exitError{exitUnknown, fmt.Errorf("doctor: no agent answers: %w (give --admin-addr of one that runs, or --etcd and --store to look at the stores)", err)}
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "floe doctor: no agent answers: %s\n", oneLine(err))
	}
	if outside {
		report = lookOutside(ctx, p, s, report)
	}
	if f.asJSON {
		enc := json.NewEncoder(p.stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(report)
	} else {
		err = printReport(p.stdout, report)
	}
	if err != nil {
		return exitError{exitUnknown, err}
	}
	switch report.Severity {
	case diagnosis.Critical:
		return exitError{exitCritical, errors.New("doctor: something critical was found")}
	case diagnosis.Warning:
		return exitError{exitWarnings, errors.New("doctor: there are warnings")}
	}
	return nil
}

// askAgents returns the report of the first agent that gives one; nil without addresses.
func askAgents(ctx context.Context, admins []string) (*diagnosis.Report, error) {
	var errs []error
	for _, addr := range admins {
		report, err := askAgent(ctx, addr)
		if err == nil {
			return report, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", addr, err))
	}
	return nil, errors.Join(errs...)
}

func askAgent(ctx context.Context, addr string) (*diagnosis.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, doctorPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/doctor", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReport))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusNotFound:
		return nil, errors.New("whoever answers there has no /doctor: is it an agent of an older version?")
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("status %d: %.200s", resp.StatusCode, strings.TrimSpace(string(body)))
	}
	report := new(diagnosis.Report)
	if err := json.Unmarshal(body, report); err != nil {
		return nil, fmt.Errorf("its answer is no report: %w", err)
	}
	return report, nil
}

// lookOutside tries out the stores, and adds what it finds to what agents say.
func lookOutside(ctx context.Context, p process, s *settings.Settings, said *diagnosis.Report) *diagnosis.Report {
	log := slog.New(slog.DiscardHandler)
	look := &outsideLook{p: p, settings: s, log: log, ask: said == nil}
	found := diagnosis.Of(look.run(ctx)).Findings
	if said == nil {
		said = &diagnosis.Report{Cluster: s.Cluster, Agents: look.agents}
	}
	return diagnosis.NewReport(said.Cluster, time.Now(), said.Agents, found...)
}
