package job_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/compaction/job"
)

func TestJobsKeepTheirPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := false
		p := job.NewPace(1<<20, func() bool { return busy }, time.Now)
		spend := func(n int) time.Duration {
			start := time.Now()
			for range n {
				if err := p.Spend(t.Context(), 1<<18); err != nil {
					t.Fatal(err)
				}
			}
			return time.Since(start)
		}
		if took := spend(41); took != 9*time.Second { // the last one is paid for by the next
			t.Errorf("10 MiB and a quarter at 1 MiB/s took %v", took)
		}
		time.Sleep(time.Hour)
		busy = true
		if took := spend(9); took != 15*time.Second {
			t.Errorf("2 MiB and a quarter while clients are busy took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := p.Spend(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a job that was told to end: %v", err)
		}
		if err := job.NewPace(0, nil, time.Now).Spend(t.Context(), 1<<40); err != nil {
			t.Error(err)
		}
	})
}
