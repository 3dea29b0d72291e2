package catalogue_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/memory"
)

func TestProducerIDsShareBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		h := &hook{Store: srv.Client("agent"), latency: time.Millisecond}
		p := catalogue.NewProducerIDs(h, keys)
		var mu sync.Mutex
		seen := map[int64]bool{}
		var wg sync.WaitGroup
		for range 2500 {
			wg.Go(func() {
				id, err := p.Next(t.Context())
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if seen[id] || id < 0 || id >= 3000 {
					t.Errorf("id %d was handed out already, or is out of the three blocks", id)
				}
				seen[id] = true
			})
		}
		wg.Wait()
		if n := h.txns.Load(); n != 3 {
			t.Errorf("2,500 ids took %d transactions, want 3", n)
		}
	})
}

func TestProducerIDsAreUniqueUnderFaults(t *testing.T) {
	late := 0
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			srv := memory.New()
			defer srv.Close()
			var mu sync.Mutex
			seen := map[int64]string{}
			var wg sync.WaitGroup
			for i := range 4 {
				name := fmt.Sprint("agent", i)
				s := srv.Client(name)
				s.Inject(memory.Faults{Latency: 2 * time.Millisecond, FailBefore: 0.15, FailAfter: 0.2, ApplyLate: 0.3, LateBy: time.Second}, rand.New(rand.NewPCG(seed, uint64(i))))
				rnd := rand.New(rand.NewPCG(seed, 100+uint64(i)))
				wg.Go(func() {
					for range 30 { // lives of the agent, each with a few ids
						p := catalogue.NewProducerIDs(s, keys)
						for range 1 + rnd.IntN(20) {
							ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rnd.IntN(500))*time.Millisecond)
							id, err := p.Next(ctx)
							cancel()
							if err != nil {
								continue
							}
							mu.Lock()
							if other, ok := seen[id]; ok {
								t.Errorf("seed %d: id %d was handed out by %s and %s", seed, id, other, name)
							}
							seen[id] = name
							mu.Unlock()
						}
					}
				})
			}
			wg.Wait()
			if len(seen) < 500 {
				t.Errorf("seed %d: only %d ids were handed out", seed, len(seen))
			}
			late += srv.Fired()[memory.ApplyLate]
		})
	}
	if late == 0 {
		t.Error("no request was ever late")
	}
}

// TestProducerIDsOutliveACanceledCaller cancels the caller that refills for all.
func TestProducerIDsOutliveACanceledCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		s := srv.Client("agent")
		p := catalogue.NewProducerIDs(s, keys)
		s.Partition()
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error)
		go func() {
			_, err := p.Next(ctx)
			first <- err
		}()
		synctest.Wait()
		second := make(chan error)
		go func() {
			_, err := p.Next(t.Context())
			second <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-first; err == nil {
			t.Error("the canceled caller got an id through a partition")
		}
		s.Heal()
		if err := <-second; err != nil {
			t.Errorf("the other caller: %v", err)
		}
	})
}

func TestProducerIDsRefuseGarbage(t *testing.T) {
	for _, value := range []string{"", "x", "-1", "9223372036854775807"} {
		srv := memory.New()
		s := srv.Client("agent")
		put(t, s, keys.ProducerIDs(), value)
		if id, err := catalogue.NewProducerIDs(s, keys).Next(t.Context()); err == nil || !strings.Contains(err.Error(), "want a number") {
			t.Errorf("from %q: id %d, %v", value, id, err)
		}
		srv.Close()
	}
}
