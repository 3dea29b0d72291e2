//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 40 * time.Second // more than an agent takes to drain
)

// process is a server that this program started.
type process struct {
	name   string
	cmd    *exec.Cmd
	log    string        // file of its standard error
	line   string        // first line of its standard output
	exited chan struct{} // closed when it is gone
}

// start runs a command and returns when it has printed a line, or, if it prints none,
// when it serves url.
func start(ctx context.Context, dir, name string, env []string, url string, path string, args ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(dir, name+".log"), exited: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own
	out := &firstLine{whole: make(chan struct{})}
	p.cmd = exec.Command(path, args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = out, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // nothing outlives a benchmark that was killed
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	go func() { // ends with the process, which stop waits for
		defer close(p.exited)
		_ = p.cmd.Wait() // how it ended is of no interest: it was told to
		cancel()         // one that ends while it starts is not waited for
	}()
	if url != "" {
		err = await(ctx, name, func() error { return healthy(ctx, url) })
	} else {
		select {
		case <-out.whole:
			p.line = out.line()
		case <-p.exited:
			err = fmt.Errorf("%s ended", name)
		case <-ctx.Done():
			err = fmt.Errorf("%s: not ready after %v", name, startTimeout)
		}
	}
	if err != nil {
		p.kill()
		return nil, fmt.Errorf("start %w:\n%s", err, p.logTail())
	}
	return p, nil
}

// stop ends the process, first with SIGTERM.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails if it is gone, which is what is wanted
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.exited:
	case <-timer.C:
		p.kill()
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // as above
	<-p.exited
}

// find returns the part of the ready line that the expression's group matches.
func (p *process) find(expr string) (string, error) {
	m := regexp.MustCompile(expr).FindStringSubmatch(p.line)
	if m == nil {
		return "", fmt.Errorf("%s: no %s in its ready line %q", p.name, expr, p.line)
	}
	return m[1], nil
}

// logTail returns the end of the log, which tells most.
func (p *process) logTail() string {
	const most = 2 << 10
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-most):])
}

// firstLine is standard output, of which the first line says that a server is ready.
type firstLine struct {
	whole chan struct{} // closed when there is a line

	mu   sync.Mutex
	text bytes.Buffer
	done bool
}

func (o *firstLine) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.done {
		o.text.Write(b)
		if bytes.IndexByte(b, '\n') >= 0 {
			o.done = true
			close(o.whole)
		}
	}
	return len(b), nil
}

func (o *firstLine) line() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	line, _, _ := strings.Cut(o.text.String(), "\n")
	return line
}
