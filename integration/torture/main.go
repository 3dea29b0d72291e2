//go:build linux

// Command torture runs real agents, etcd and MinIO, each behind a proxy, under the faults of the project's
// catalogue, mixed from a seed, while clients write, read and remember; and judges what they remember. A
// violation, or a fault that had no effect, fails the run. docs/torture.md tells how to read its report.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/floelog/floe/integration/torture/fault"
	"github.com/floelog/floe/integration/torture/rig"
)

type options struct {
	seed    uint64
	length  time.Duration
	window  time.Duration
	atLeast int
	faults  string
	logs    string
	out     string
	tags    string
	floe    string
	args    string
	light   bool
	plan    bool

	check       string
	scenario    string
	outage      time.Duration
	repeat      int
	untilCaught bool
	slow        bool
	planted     string
	verbose     bool
}

func parse() options {
	var o options
	flag.Uint64Var(&o.seed, "seed", 0, "seed of the plan, the faults and the load; 0: by the clock")
	flag.DurationVar(&o.length, "for", 10*time.Minute, "how long faults are fired")
	flag.DurationVar(&o.window, "mix", fault.MixLength, "how long one mix of faults lasts")
	flag.IntVar(&o.atLeast, "at-least", 1, "mixes that every fault must be part of")
	flag.StringVar(&o.faults, "faults", "", "faults that are fired, such as F1,F7; empty: all")
	flag.StringVar(&o.logs, "logs", "", "folder in which the processes' logs stay; empty: none")
	flag.StringVar(&o.out, "out", "", "folder in which the history stays; empty: none")
	flag.StringVar(&o.floe, "floe", "", "binary of the agents; empty: it is built")
	flag.StringVar(&o.tags, "tags", "", "build tags of the agents")
	flag.StringVar(&o.args, "args", "", "more flags for the agents, separated by spaces")
	flag.BoolVar(&o.light, "light", false, "a small load that judges little, to try faults out")
	flag.BoolVar(&o.plan, "plan", false, "print the plan only")
	flag.StringVar(&o.check, "check", "", "judge the history in this file, which -out has kept, and do nothing else")
	flag.StringVar(&o.scenario, "scenario", "", "recovery: lose one thing after the other and measure how long it is felt")
	flag.DurationVar(&o.outage, "outage", 30*time.Second, "how long the scenario's store and etcd are down")
	flag.IntVar(&o.repeat, "repeat", 5, "how often the scenario loses each of the others")
	flag.BoolVar(&o.untilCaught, "until-caught", false, "stop at the first violation; exit code 3")
	flag.BoolVar(&o.slow, "slow", false, "do not ask for a minimal load, and give clients three times as long to come to the ends")
	flag.StringVar(&o.planted, "planted", "", "catch these planted bugs, with -for a minute each; all: each of them (cmd/floe/planted)")
	flag.BoolVar(&o.verbose, "v", false, "with -planted: show the faults")
	flag.Parse()
	if o.planted != "" && !given("for") {
		o.length = time.Minute
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	return o
}

// given reports whether a flag is on the command line.
func given(name string) (is bool) {
	flag.Visit(func(f *flag.Flag) { is = is || f.Name == name })
	return is
}

func main() {
	if err := run(parse()); err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
		if errors.Is(err, errFound) {
			os.Exit(3)
		}
		os.Exit(1)
	}
}

func run(o options) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if o.check != "" {
		return again(o.check)
	}
	if o.planted != "" {
		return plantBugs(ctx, o)
	}
	if o.scenario != "" && o.scenario != "recovery" {
		return fmt.Errorf("no scenario %q: the only one is recovery", o.scenario)
	}
	var ids []string
	if o.faults != "" {
		ids = strings.Split(o.faults, ",")
	}
	faults, err := fault.Find(ids...)
	if err != nil {
		return err
	}
	ids = ids[:0]
	for _, f := range faults {
		ids = append(ids, f.ID())
	}
	plan, err := fault.Plan(o.seed, ids, fault.Times{For: o.length, Window: o.window, AtLeast: o.atLeast})
	if err != nil {
		return err
	}
	if o.scenario == "" {
		fmt.Printf("seed %d: %d mixes of %v, %d faults\n", o.seed, len(plan), o.window, len(faults))
	}
	if o.plan {
		show(plan)
		return nil
	}
	c, err := rig.Start(ctx, rig.Config{Seed: o.seed, Logs: o.logs, Tags: o.tags, Floe: o.floe, Args: strings.Fields(o.args)})
	if err != nil {
		return err
	}
	a := &attempt{options: o, cluster: c, faults: faults, plan: plan, begun: time.Now()}
	if o.light {
		err = a.lightly(ctx)
	} else {
		err = a.underLoad(ctx)
	}
	if err != nil {
		err = fmt.Errorf("seed %d: %w", o.seed, err)
	}
	return errors.Join(err, c.Stop())
}

func show(plan []fault.Window) {
	for i, w := range plan {
		fmt.Printf("mix %d:", i)
		for _, s := range w.Shots {
			fmt.Printf(" %s(%v)", s.Fault, s.Target)
		}
		fmt.Println()
	}
}
