//go:build linux

// Command bench measures Floe from the outside and prints one table: what each scenario
// reached, what it cost, what this machine reaches by itself in the same run, and the
// target. docs/performance.md explains the rows.
//
// Servers are processes of their own; this one produces and consumes. Every record says
// who sent it, in which order and when, and every run is read back: a record that is lost,
// doubled or out of order fails the benchmark. A target that is missed does not.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/floelog/floe/integration/fixture/program"
)

// plan is how long things take.
type plan struct {
	runs    int
	warmup  time.Duration
	measure time.Duration // of each produced load
	ceiling time.Duration // of each step of a ceiling
	latency time.Duration
	idle    time.Duration
	settle  time.Duration // quiet before idleness is measured
	cached  int64         // bytes that fit in the cache
	passes  int           // over them
	large   int           // topics of a large cluster
	bill    time.Duration // at each rate
	catchup int64         // bytes, in each store
	replay  int64         // bytes
	limit   time.Duration // of the whole run, without those that have a flag

	replayFor time.Duration // beside which latency is measured
	etcdFor   time.Duration
}

var (
	fullPlan = plan{
		runs: 3, warmup: time.Second, measure: 5 * time.Second, ceiling: 1500 * time.Millisecond, latency: 10 * time.Second,
		idle: time.Minute, settle: 5 * time.Second, cached: 96 << 20, passes: 10,
		large: 100, bill: 25 * time.Second, catchup: 3 << 29, replay: 3 << 30, replayFor: 20 * time.Second, etcdFor: time.Minute, limit: 18 * time.Minute,
	}
	quickPlan = plan{
		runs: 1, warmup: 300 * time.Millisecond, measure: 1200 * time.Millisecond, ceiling: 400 * time.Millisecond, latency: 2 * time.Second,
		idle: 5 * time.Second, settle: 2 * time.Second, cached: 96 << 20, passes: 3,
		large: 10, bill: 6 * time.Second, catchup: 192 << 20, replay: 512 << 20, replayFor: 2 * time.Second, etcdFor: 8 * time.Second, limit: 8 * time.Minute,
	}
)

// most is how long a run may take.
func (p plan) most() time.Duration {
	return p.limit + p.idle + p.etcdFor + time.Duration(len(billRates))*p.bill
}

// change applies what the flags say.
func (p *plan) change(o options) {
	if o.runs > 0 {
		p.limit = p.limit / time.Duration(p.runs) * time.Duration(max(o.runs, p.runs))
		p.runs = o.runs
	}
	p.idle, p.bill, p.etcdFor = cmp.Or(o.idle, p.idle), cmp.Or(o.bill, p.bill), cmp.Or(o.etcdFor, p.etcdFor)
}

// env is what every scenario needs. It is for one goroutine.
type env struct {
	root   string // of the repository
	dir    string // scratch, on the disk that is measured
	floe   string // the binary
	driver string // of the store on MinIO
	plan   plan
	seed   uint64 // of the runs' marks
	runs   uint64
}

func (e *env) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

type options struct {
	quick, discard          bool
	runs                    int
	idle, bill, etcdFor     time.Duration
	only, floe, dir, driver string
	replay                  string
	jsonFile, markdownFile  string
}

func parse() (options, error) {
	var o options
	flag.BoolVar(&o.quick, "quick", false, "some four minutes: shows that everything works, the figures mean little")
	flag.IntVar(&o.runs, "runs", 0, "runs of each scenario, of which the median is shown (default 3, with -quick 1)")
	flag.DurationVar(&o.idle, "idle", 0, "how long the idle cluster is watched (default 1m, with -quick 5s)")
	flag.DurationVar(&o.bill, "bill-for", 0, "how long each rate of the bill is kept up (default 25s, with -quick 6s)")
	flag.DurationVar(&o.etcdFor, "etcd-for", 0, "how long etcd's size is watched under load (default 1m, with -quick 8s)")
	flag.StringVar(&o.only, "only", ".", "regexp of the groups to run: "+strings.Join(groupNames(), ", "))
	flag.StringVar(&o.floe, "floe", "", "floe binary to measure (default: built from this checkout)")
	flag.StringVar(&o.dir, "dir", "", "directory for all data, on the disk to measure (default: in .cache of the repository)")
	flag.StringVar(&o.driver, "driver", "minio", "driver of the store on MinIO: minio or s3")
	flag.StringVar(&o.jsonFile, "json", "", "write the report to this file, as JSON")
	flag.StringVar(&o.markdownFile, "markdown", "", "put the table between the marks of this page")
	flag.BoolVar(&o.discard, "discard", false, "serve as the client's ceiling (started by the benchmark itself)")
	flag.StringVar(&o.replay, "replay", "", "read the history of the agent at this address (started by the benchmark itself)")
	flag.Parse()
	switch {
	case flag.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case o.runs < 0 || o.idle < 0 || o.bill < 0 || o.etcdFor < 0:
		return o, errors.New("-runs, -idle, -bill-for and -etcd-for cannot be negative")
	case o.driver != "minio" && o.driver != "s3":
		return o, fmt.Errorf("-driver %q: want minio or s3", o.driver)
	}
	return o, nil
}

func groupNames() (names []string) {
	for _, g := range groups {
		names = append(names, g.name)
	}
	return names
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	o, err := parse()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if o.discard {
		return discardUntil(ctx)
	}
	if o.replay != "" {
		return replayUntil(ctx, o.replay)
	}
	only, err := regexp.Compile(o.only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	e, err := newEnv(ctx, o)
	if err != nil {
		return err
	}
	defer os.RemoveAll(e.dir)
	ctx, cancel := context.WithTimeoutCause(ctx, e.plan.most(), errors.New("the time of this run is over"))
	defer cancel()

	r := report{Started: time.Now(), Machine: machine(), Commit: commit(e.root), Quick: o.quick}
	ran := 0
	for _, g := range groups {
		if !only.MatchString(g.name) {
			continue
		}
		ran++
		rows, err := e.repeat(ctx, g)
		r.Rows = append(r.Rows, rows...)
		if err != nil {
			e.say("%s: %v", g.name, err)
			r.Errors = append(r.Errors, g.name+": "+err.Error())
		}
	}
	if ran == 0 {
		return fmt.Errorf("-only %q: no such group (%s)", o.only, strings.Join(groupNames(), ", "))
	}
	if m, ok := memoryRow(r.Rows); ok {
		r.Rows = append(r.Rows, m)
	}
	r.Took = time.Since(r.Started).Round(time.Second).String()
	return publish(r, o)
}

// repeat runs a group as often as planned and returns its median rows.
func (e *env) repeat(ctx context.Context, g group) ([]row, error) {
	times := e.plan.runs
	if g.once {
		times = 1
	}
	var all []row
	for i := range times {
		start := time.Now()
		if err := ctx.Err(); err != nil {
			return medians(all), context.Cause(ctx)
		}
		rows, err := g.run(ctx, e)
		all = append(all, rows...)
		if err != nil {
			return medians(all), err
		}
		e.say("%s, run %d of %d: %v, load %s", g.name, i+1, times, time.Since(start).Round(100*time.Millisecond), loadAverage())
		debug.FreeOSMemory() // what one run used is not the next one's garbage
	}
	return medians(all), nil
}

// publish writes the report everywhere it was asked for.
func publish(r report, o options) error {
	errs := []error{r.text(os.Stdout)}
	if o.jsonFile != "" {
		errs = append(errs, r.writeJSON(o.jsonFile))
	}
	if o.markdownFile != "" {
		errs = append(errs, r.writeMarkdown(o.markdownFile))
	}
	if len(r.Errors) > 0 {
		errs = append(errs, fmt.Errorf("%d of the groups failed:\n%s", len(r.Errors), strings.Join(r.Errors, "\n")))
	}
	return errors.Join(errs...)
}

// newEnv builds what is measured and makes room for it.
func newEnv(ctx context.Context, o options) (*env, error) {
	e := &env{driver: o.driver, plan: fullPlan, seed: rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0)).Uint64()}
	if o.quick {
		e.plan = quickPlan
	}
	e.plan.change(o)
	var err error
	if e.root, err = program.Root(); err != nil {
		return nil, err
	}
	// Before the clock starts: the first time, these take minutes.
	if _, err := program.MinIO(ctx, e.root); err != nil {
		return nil, err
	}
	if _, err := program.Etcd(ctx, e.root); err != nil {
		return nil, err
	}
	parent := o.dir
	if parent == "" {
		parent = filepath.Join(e.root, ".cache")
	}
	if e.dir, err = os.MkdirTemp(parent, "bench-"); err != nil {
		return nil, err
	}
	if e.floe, err = filepath.Abs(o.floe); o.floe == "" {
		e.floe = filepath.Join(e.dir, "floe")
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", e.floe, "./cmd/floe")
		cmd.Dir, cmd.Env = e.root, append(os.Environ(), "CGO_ENABLED=0")
		var out []byte
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("build floe: %w\n%s", err, out)
		}
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(e.dir))
	}
	e.say("%s; data in %s; %d cores", e.floe, e.dir, runtime.NumCPU())
	return e, nil
}

// discardUntil serves as a black hole until ctx ends.
func discardUntil(ctx context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // ends serveDiscard's loop
	defer stop()
	fmt.Println("discard: ready on", l.Addr())
	return serveDiscard(l)
}
