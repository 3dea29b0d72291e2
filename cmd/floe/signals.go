package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// untilSignal returns a context that ends at the first SIGTERM or SIGINT, which asks for
// a drain. The second ends the process at once: whoever sends it does not want to wait.
// stop ends the listening and waits for it.
func untilSignal(p process) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	stopped, done := make(chan struct{}), make(chan struct{})
	go func() { // ends before stop returns
		defer close(done)
		for first := true; ; first = false {
			select {
			case s := <-signals:
				if !first {
					fmt.Fprintf(p.stderr, "floe: %s again: exiting without a drain\n", s)
					os.Exit(exitRuntime)
				}
				fmt.Fprintf(p.stderr, "floe: %s: draining (again: exit at once)\n", s)
				cancel()
			case <-stopped:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(stopped)
		<-done
		cancel()
	}
}
