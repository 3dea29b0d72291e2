//go:build integration

package workload

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/floelog/floe/integration/history"
)

// Settle ends the producers when every record has its answer, and waits until the
// followers have read everything. The cluster must be whole, and settle has to be enough for
// each of these steps: the test fails if it is not.
func (l *Load) Settle(settle time.Duration) {
	l.t.Helper()
	l.settled = true
	l.stopSending()
	l.senders.Wait()
	l.flush(settle)
	ends := l.ends(settle)
	for _, f := range l.followers {
		l.within(settle, func(ctx context.Context) error { return f.await(ctx, maps.Clone(ends)) })
	}
}

// Finish settles the load unless that was done, reads everything once more, from each of
// the racks, and returns what the history adds up to.
func (l *Load) Finish(settle time.Duration) history.Report {
	l.t.Helper()
	if !l.settled {
		l.Settle(settle)
	}
	for i, rack := range l.cfg.Racks {
		l.readWhole(fmt.Sprintf("reader-%d", i), rack, settle)
	}
	l.stopReading()
	l.readers.Wait()
	return l.h.Check()
}

// within fails the test, and goes on, if step does not succeed in time.
func (l *Load) within(settle time.Duration, step func(ctx context.Context) error) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), settle)
	defer cancel()
	if err := step(ctx); err != nil {
		l.h.Note("%v", err)
		if l.cfg.Stuck != nil {
			l.cfg.Stuck()
		}
		l.t.Errorf("after %v of peace: %v", settle, err)
	}
}

// flush waits until every record has its answer. What has none then stays without.
func (l *Load) flush(settle time.Duration) {
	l.t.Helper()
	for _, p := range l.producers {
		l.within(settle, func(ctx context.Context) error {
			if err := p.Flush(ctx); err != nil {
				return fmt.Errorf("%d records of a producer have no answer: %w", p.BufferedProduceRecords(), err)
			}
			return nil
		})
	}
}

// ends asks where the partitions end until all of them are told.
func (l *Load) ends(settle time.Duration) map[int32]int64 {
	l.t.Helper()
	ends := map[int32]int64{}
	for p, m := range l.watermarks(settle) {
		ends[p] = m.High
	}
	return ends
}

// watermarks asks where the partitions begin and end until all of them are told.
func (l *Load) watermarks(settle time.Duration) (marks map[int32]history.Watermarks) {
	l.t.Helper()
	client := l.client("ends")
	defer client.Close()
	l.within(settle, func(ctx context.Context) error {
		again := time.NewTicker(backoff)
		defer again.Stop()
		for {
			told, err := l.look(ctx, client, "ends")
			if len(told) == int(l.cfg.Partitions) {
				marks = told
				return nil
			}
			select {
			case <-again.C:
			case <-ctx.Done():
				return fmt.Errorf("asking for the ends, %d of %d told: %w (last: %w)", len(told), l.cfg.Partitions, ctx.Err(), err)
			}
		}
	})
	return marks
}

// readWhole reads all partitions from their start to their end with a new client.
func (l *Load) readWhole(name, rack string, settle time.Duration) {
	l.t.Helper()
	ends := l.ends(settle)
	f := l.follow(name, rack)
	ctx, stop := context.WithCancel(l.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.run(ctx)
	}()
	defer func() {
		stop()
		<-done
	}()
	ok := false
	l.within(settle, func(ctx context.Context) error {
		err := f.await(ctx, maps.Clone(ends))
		ok = err == nil
		return err
	})
	if !ok {
		return
	}
	starts := map[int32]history.Watermarks{} // of a log that is not trimmed: 0
	if l.cfg.Trims {
		starts = l.watermarks(settle)
	}
	for p, end := range ends {
		if start := max(0, starts[p].LogStart); start < end {
			l.h.ReadWhole(name, l.partition(p), start, end)
		}
	}
}

var _ kgo.HookBrokerE2E = (*torn)(nil)
