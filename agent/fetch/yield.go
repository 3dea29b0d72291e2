package fetch

import (
	"context"
	"sync"
	"time"
)

const (
	// yieldEvery is how long commits are watched between two decisions, and yieldSamples how many
	// of them there are at least. Not fewer: one slow fsync would decide. Not more: the tail waits
	// for the decision.
	yieldEvery   = 100 * time.Millisecond
	yieldSamples = 10
	// quietAfter is how long no commit means that there is no tail to give way to.
	quietAfter = time.Second
	// baseAge is how old the least delay may be that others are compared with, twice that at most:
	// a store that has become slower is not a replay's fault. Not shorter: a replay that takes as
	// long would be what it is compared with.
	baseAge = 5 * time.Minute
	// A commit may take strainedBy times as long as the least one and strainedMore before that counts
	// as strain. Not less: it varies as much by itself.
	strainedBy   = 1.3
	strainedMore = 150 * time.Microsecond
	// slowDown and speedUp are what a decision makes of the rate: down in a few steps, and up again in
	// some ten times as many, so that it stays near what the tail bears.
	slowDown, speedUp = 0.7, 1.07
	// leastRate is what lagging readers have in any case, in bytes a second. Not less: a consumer
	// that catches up has to get on, even where commits are slow for another reason. Not more: it is
	// a tenth of what two cores can do.
	leastRate = 32 << 20
	// noRate is a rate that limits nobody any more.
	noRate = 4 << 30
)

// yield has lagging reads give way to the tail, as background transfers give way in LEDBAT
// (RFC 6817): by delay. What a replay takes of the cores, the disk and the network makes commits
// slower before anything is full. So as long as commits take much longer than the least that they
// took in the last minutes, lagging reads are slowed down, to a rate that is found by trying.
// Without commits, or while they are as fast as ever, there is no limit.
type yield struct {
	now func() time.Time

	mu        sync.Mutex    // guards the following
	since     time.Time     // of the decision before
	last      time.Time     // of the last commit
	took      time.Duration // of the commits since
	commits   int
	read      int64         // bytes read by lagging readers since
	least     time.Duration // mean of an interval, in the newest baseAge; 0: none yet
	before    time.Duration // and in the one before that
	leastFrom time.Time     // when the newest began
	rate      float64       // bytes a second; 0: no limit
	next      time.Time     // when the next read may begin
}

// committed tells how long a commit took.
func (y *yield) committed(took time.Duration) {
	now := y.now()
	y.mu.Lock()
	defer y.mu.Unlock()
	if now.Sub(y.last) > quietAfter { // what came before says nothing of now
		y.since, y.took, y.commits, y.read = now, 0, 0, 0
	}
	y.last = now
	y.took += took
	y.commits++
	if now.Sub(y.since) >= yieldEvery && y.commits >= yieldSamples {
		y.decide(now, y.took/time.Duration(y.commits))
		y.since, y.took, y.commits, y.read = now, 0, 0, 0
	}
}

// decide changes the rate by how long commits took.
func (y *yield) decide(now time.Time, took time.Duration) {
	if now.Sub(y.leastFrom) > baseAge {
		y.before, y.least, y.leastFrom = y.least, 0, now
	}
	base := y.least
	if base == 0 || y.before > 0 && y.before < base {
		base = y.before
	}
	if y.least == 0 || took < y.least {
		y.least = took
	}
	strained := base > 0 && float64(took) > strainedBy*float64(base)+float64(strainedMore)
	switch {
	case strained && y.read > 0:
		reached := float64(y.read) / now.Sub(y.since).Seconds()
		if y.rate == 0 || reached < y.rate {
			y.rate = reached
		}
		y.rate = max(slowDown*y.rate, leastRate)
	case !strained && y.rate > 0:
		if y.rate *= speedUp; y.rate > noRate {
			y.rate, y.next = 0, time.Time{} // turns that were taken before count no more
		}
	}
}

// turn waits until a lagging reader may read about n bytes, or until ctx ends, which it reports as
// false.
func (y *yield) turn(ctx context.Context, n int) bool {
	now := y.now()
	y.mu.Lock()
	var wait time.Duration
	if y.rate > 0 && now.Sub(y.last) <= quietAfter {
		if y.next.Before(now) {
			y.next = now
		}
		wait = y.next.Sub(now)
		y.next = y.next.Add(time.Duration(float64(n) / y.rate * float64(time.Second)))
	}
	y.mu.Unlock()
	if wait <= 0 {
		return true
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		y.got(n, 0)
		return false
	}
}

// got notes how many bytes a lagging reader got in a turn of n.
func (y *yield) got(n, bytes int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.read += int64(bytes)
	if y.rate > 0 {
		y.next = y.next.Add(time.Duration(float64(bytes-n) / y.rate * float64(time.Second)))
	}
}
