//go:build linux

package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// startTimeout bounds a start while faults are on: more than any of them lasts.
	startTimeout = 90 * time.Second
	// restartPause is between the end of a process that failed to start and its next start.
	restartPause = 200 * time.Millisecond
	// stopTimeout bounds the end after SIGTERM: more than an agent takes to drain.
	stopTimeout = 40 * time.Second
)

// ErrKilled says that a process was killed, or told to end, while it started: by another fault.
var ErrKilled = errors.New("it was ended meanwhile")

// Process is a server over all its starts. Faults overlap, so its methods may be called concurrently, and
// those that find nothing to do do nothing.
type Process struct {
	name string
	log  string // file that standard error of all starts goes to
	env  []string
	// ready waits until a start serves, or ctx ends.
	ready func(ctx context.Context, out *output) error
	died  func(p *Process, state string) // told of an end that nobody wanted

	mu      sync.Mutex // guards the following
	path    string
	args    []string
	running *run // nil: none
	starts  int
}

// run is one start of a process.
type run struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it is gone
	out    *output

	mu     sync.Mutex // guards the following
	wanted bool       // that it ends
	served bool
	paused bool
}

func (r *run) over() bool {
	select {
	case <-r.exited:
		return true
	default:
		return false
	}
}

func (r *run) is(flag *bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return *flag
}

func (r *run) set(flag *bool, v bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*flag = v
}

// current returns the run that has not ended, or nil.
func (p *Process) current() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil || p.running.over() {
		return nil
	}
	return p.running
}

// Name returns what the process is called in reports.
func (p *Process) Name() string { return p.name }

// PID returns the process id; 0 if it does not run.
func (p *Process) PID() int {
	if r := p.current(); r != nil {
		return r.cmd.Process.Pid
	}
	return 0
}

// Serves reports whether the process runs, has become ready, and is not stopped.
func (p *Process) Serves() bool {
	r := p.current()
	return r != nil && r.is(&r.served) && !r.is(&r.paused)
}

// Starts returns how often the process was started: what differs between two looks was restarted.
func (p *Process) Starts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.starts
}

// Start starts the process unless it runs, and returns when it serves. As a supervisor does, it starts one that
// ends before again.
func (p *Process) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not ready after %v", startTimeout))
	defer cancel()
	for {
		r, err := p.spawn()
		if err != nil {
			return fmt.Errorf("start %s: %w", p.name, err)
		}
		starting, stop := context.WithCancel(ctx)
		over := make(chan struct{})
		go func() { // ends with stop, which is called before it is waited for
			defer close(over)
			select {
			case <-r.exited:
				stop()
			case <-starting.Done():
			}
		}()
		err = p.ready(starting, r.out)
		stop()
		<-over
		switch {
		case err == nil:
			r.set(&r.served, true)
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("start %s: %w\n%s", p.name, context.Cause(ctx), p.LogTail())
		case r.over() && r.is(&r.wanted):
			return fmt.Errorf("start %s: %w", p.name, ErrKilled)
		}
		if !pause(ctx, restartPause) {
			return fmt.Errorf("start %s: %w\n%s", p.name, context.Cause(ctx), p.LogTail())
		}
	}
}

// spawn returns the run that lives, or a new one.
func (p *Process) spawn() (*run, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running != nil && !p.running.over() {
		return p.running, nil
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	r := &run{cmd: exec.Command(p.path, p.args...), exited: make(chan struct{}), out: &output{whole: make(chan struct{})}}
	r.cmd.Env = append(os.Environ(), p.env...)
	r.cmd.Stdout, r.cmd.Stderr = r.out, log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // nothing outlives the rig
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	p.starts++
	p.running = r
	go func() { // ends with the process, which Kill waits for
		defer close(r.exited)
		err := r.cmd.Wait()
		if r.is(&r.served) && !r.is(&r.wanted) {
			p.died(p, fmt.Sprintf("%v, %v", r.cmd.ProcessState, err))
		}
	}()
	return r, nil
}

// Kill ends the process as SIGKILL does; false if it did not run.
func (p *Process) Kill() bool {
	r := p.current()
	if r == nil {
		return false
	}
	r.set(&r.wanted, true)
	_ = r.cmd.Process.Kill() // fails if it is gone, which is what is wanted
	<-r.exited
	return true
}

// Terminate ends the process as SIGTERM does, and kills it if it does not end; an error says that it did
// not, or how it ended.
func (p *Process) Terminate() error {
	r := p.current()
	if r == nil {
		return nil
	}
	r.set(&r.wanted, true)
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("terminate %s: %w", p.name, err)
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-r.exited:
	case <-timer.C:
		p.Kill()
		return fmt.Errorf("terminate %s: it had not ended after %v", p.name, stopTimeout)
	}
	if code := r.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("terminate %s: %v", p.name, r.cmd.ProcessState)
	}
	return nil
}

// Pause stops the process as SIGSTOP does: its connections stay open and nothing answers. It returns when the
// process has stopped; false if it did not run.
func (p *Process) Pause(ctx context.Context) bool {
	r := p.current()
	if r == nil || r.cmd.Process.Signal(syscall.SIGSTOP) != nil {
		return false
	}
	r.set(&r.paused, true)
	for !stopped(r.cmd.Process.Pid) {
		if r.over() || !pause(ctx, time.Millisecond) {
			return false
		}
	}
	return true
}

// stopped reads the state of a process, which comes after its name in brackets.
func stopped(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	end := bytes.LastIndexByte(stat, ')')
	return err == nil && len(stat) > end+2 && stat[end+2] == 'T'
}

// Resume lets a paused process go on.
func (p *Process) Resume() {
	if r := p.current(); r != nil {
		_ = r.cmd.Process.Signal(syscall.SIGCONT) // fails if it has just ended
		r.set(&r.paused, false)
	}
}

// Use gives the next starts another program and other arguments.
func (p *Process) Use(path string, args []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.path, p.args = path, args
}

// Program returns what the next start runs.
func (p *Process) Program() (path string, args []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.path, p.args
}

// LogTail returns the end of the log, which tells most.
func (p *Process) LogTail() string {
	const most = 3 << 10
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return filepath.Base(p.log) + ":\n" + string(b[max(0, len(b)-most):])
}

// pause waits for d, and reports whether ctx lives.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// output is standard output, of which the first line says that an agent is ready.
type output struct {
	whole chan struct{} // closed when there is a line

	mu   sync.Mutex
	text bytes.Buffer
	done bool
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.done {
		o.text.Write(b)
		if line, _, whole := strings.Cut(o.text.String(), "\n"); whole && strings.Contains(line, ": ready on ") {
			o.done = true
			close(o.whole)
		}
	}
	return len(b), nil
}
