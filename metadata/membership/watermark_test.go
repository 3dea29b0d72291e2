package membership_test

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/memory"
)

// A publication whose answer is lost may be applied late: never after a greater watermark, or what
// was appended under the condition of a session's value could be named when it is gone.
func TestPublishedWatermarksNeverGoBack(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			srv := memory.New()
			defer srv.Close()
			clean, faulty := srv.Client("clean"), srv.Client("agent")
			s := mustStart(t, faulty, 3)
			faulty.Inject(memory.Faults{Latency: 50 * time.Millisecond, FailBefore: 0.1, FailAfter: 0.2, ApplyLate: 0.3, LateBy: 5 * time.Second}, rand.New(rand.NewPCG(seed, 1)))
			last, moved := uint64(0), 0
			for i := range uint64(3000) {
				s.SetLowWatermark(i)
				time.Sleep(20 * time.Millisecond)
				got, err := membership.Sessions(t.Context(), clean, keys)
				if err != nil {
					t.Fatal(err)
				}
				now, ok := got[s.ID()]
				if !ok {
					break // the session did not live through it
				}
				if now.LowWatermark < last {
					t.Fatalf("seed %d: the watermark went from %d back to %d", seed, last, now.LowWatermark)
				}
				if now.LowWatermark > last {
					moved++
				}
				last = now.LowWatermark
			}
			faulty.Inject(memory.Faults{}, nil)
			if moved < 3 {
				t.Errorf("seed %d: the watermark moved %d times", seed, moved)
			}
			_ = s.Close(t.Context())
		})
	}
}
