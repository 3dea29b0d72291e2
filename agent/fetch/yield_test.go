package fetch

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// plant is an agent whose commits take longer the more lagging readers read: what is read within
// a tenth of a second beyond what it bears makes them wait.
type plant struct {
	y     *yield
	bears float64       // bytes a second that do not make commits slower
	base  time.Duration // of a commit beside nothing
}

// run commits every two milliseconds, as four lagging readers read as much as they may, or none,
// for so long. It returns how long commits took on average in the second half, and what was read
// then, in bytes a second.
func (p *plant) run(t *testing.T, readers int, length time.Duration) (took time.Duration, rate float64) {
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	const one = 1 << 20
	var mu sync.Mutex
	var window [10]int // bytes read in each of the last hundredths
	var total, commits int
	var sum time.Duration
	start := time.Now()
	slot := func() int { return int(time.Since(start)/(10*time.Millisecond)) % len(window) }
	done := make(chan struct{})
	for range readers {
		go func() {
			defer func() { done <- struct{}{} }()
			for ctx.Err() == nil && p.y.turn(ctx, one) {
				mu.Lock()
				window[slot()] += one
				if time.Since(start) > length/2 {
					total += one
				}
				mu.Unlock()
				p.y.got(one, one)
				time.Sleep(10 * time.Millisecond) // 400 MiB/s, four of them
			}
		}()
	}
	last := -1
	for ctx.Err() == nil {
		read := 0
		mu.Lock()
		if i := slot(); i != last {
			window[i], last = 0, i
		}
		for _, n := range window {
			read += n
		}
		mu.Unlock()
		d := p.base
		if over := float64(read)*10/p.bears - 1; over > 0 {
			d += time.Duration(over * float64(p.base))
		}
		p.y.committed(d)
		if time.Since(start) > length/2 {
			sum += d
			commits++
		}
		time.Sleep(2 * time.Millisecond)
	}
	for range readers {
		<-done
	}
	return sum / time.Duration(commits), float64(total) / (length / 2).Seconds()
}

func TestLaggingReadersGiveWayToCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &plant{y: &yield{now: time.Now}, bears: 100 << 20, base: time.Millisecond}
		if took, _ := p.run(t, 0, 2*time.Second); took != p.base {
			t.Fatalf("commits beside nothing take %v", took)
		}
		took, rate := p.run(t, 4, 20*time.Second)
		if took > 3*p.base/2 {
			t.Errorf("commits take %v beside a replay, %v without", took, p.base)
		}
		if rate < p.bears*3/4 || rate > p.bears*3/2 {
			t.Errorf("the replay has %.0f MiB/s, want about %.0f", rate/(1<<20), p.bears/(1<<20))
		}
	})
}

func TestLaggingReadersAreNotLimited(t *testing.T) {
	const all = 390 << 20
	t.Run("where commits are as fast as ever", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := &plant{y: &yield{now: time.Now}, bears: 1 << 30, base: time.Millisecond}
			p.run(t, 0, 2*time.Second)
			if _, rate := p.run(t, 4, 10*time.Second); rate < all {
				t.Errorf("the replay has %.0f MiB/s", rate/(1<<20))
			}
		})
	})
	t.Run("without commits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := &plant{y: &yield{now: time.Now}, bears: 50 << 20, base: time.Millisecond}
			p.run(t, 0, 2*time.Second)
			p.run(t, 4, 10*time.Second) // slows them down
			start, n := time.Now(), 0
			time.Sleep(quietAfter + time.Millisecond)
			for ; n < 1000; n++ {
				if !p.y.turn(t.Context(), 1<<20) {
					t.Fatal("no turn")
				}
			}
			if waited := time.Since(start); waited > 2*quietAfter {
				t.Errorf("%d reads waited for %v", n, waited)
			}
		})
	})
	t.Run("below the least rate", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := &plant{y: &yield{now: time.Now}, bears: 1 << 20, base: time.Millisecond}
			p.run(t, 0, 2*time.Second)
			if _, rate := p.run(t, 4, 10*time.Second); rate < leastRate*9/10 {
				t.Errorf("the replay has %.0f MiB/s", rate/(1<<20))
			}
		})
	})
}

// What slows commits down for good is not the replay's fault, and it gets its rate back.
func TestLaggingReadersDoNotPayForASlowStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &plant{y: &yield{now: time.Now}, bears: 1 << 30, base: time.Millisecond}
		p.run(t, 0, 2*time.Second)
		p.base = 5 * time.Millisecond
		if _, rate := p.run(t, 4, 10*time.Second); rate > 2*leastRate {
			t.Fatalf("the replay has %.0f MiB/s", rate/(1<<20))
		}
		p.run(t, 1, 2*baseAge)
		if _, rate := p.run(t, 4, 20*time.Second); rate < 300<<20 {
			t.Errorf("the replay has %.0f MiB/s after the least delay was forgotten", rate/(1<<20))
		}
	})
}

func TestATurnEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yield{now: time.Now}
		y.rate, y.last = 1<<20, time.Now()
		if !y.turn(t.Context(), 10<<20) {
			t.Fatal("no first turn")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		start := time.Now()
		if y.turn(ctx, 10<<20) {
			t.Error("a turn before those ahead have had theirs")
		}
		if waited := time.Since(start); waited != time.Millisecond {
			t.Errorf("waited %v", waited)
		}
		if left := time.Until(y.next); left > 10*time.Second {
			t.Errorf("a turn that was given up costs the next one %v", left)
		}
	})
}

// Turns that were given up after the limit had ended are no debt when there is one again.
func TestNoDebtOutlivesTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yield{now: time.Now, rate: noRate / 1.01, last: time.Now(), least: time.Millisecond, leastFrom: time.Now()}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		var readers sync.WaitGroup
		for range 64 {
			readers.Go(func() { y.turn(ctx, 1<<30) })
		}
		synctest.Wait()
		for range yieldSamples { // commits are as fast as ever: the limit ends
			y.since = y.since.Add(-yieldEvery)
			y.committed(time.Millisecond)
		}
		readers.Wait()
		y.mu.Lock()
		ended := y.rate == 0
		y.rate = leastRate
		y.mu.Unlock()
		start := time.Now()
		if !y.turn(t.Context(), 1) || !ended || time.Since(start) > 0 {
			t.Errorf("the limit ended: %v; the next reader waited for %v", ended, time.Since(start))
		}
	})
}
