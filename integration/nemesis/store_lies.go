package nemesis

import (
	"bytes"
	"maps"
	"regexp"
	"sync/atomic"
	"time"
)

// StoreImposition is shares of faults while they last, and what they have done.
type StoreImposition struct {
	store  *Store
	shares map[Fault]float64
	delay  time.Duration
	fired  atomic.Int64
}

// Impose adds shares of faults to what Set has set, until they are lifted. Of several impositions the greatest
// share of a fault counts, with its own delay.
func (s *Store) Impose(shares map[Fault]float64, delay time.Duration) *StoreImposition {
	i := &StoreImposition{store: s, shares: maps.Clone(shares), delay: delay}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lasts[i] = true
	return i
}

// Lift ends the imposition and returns how often its faults happened.
func (i *StoreImposition) Lift() int {
	i.store.mu.Lock()
	defer i.store.mu.Unlock()
	delete(i.store.lasts, i)
	return i.Fired()
}

// Fired returns how often its faults have happened so far.
func (i *StoreImposition) Fired() int { return int(i.fired.Load()) }

// share returns the share of requests that a fault happens to. s.mu is held.
func (s *Store) share(f Fault) (share float64, delay time.Duration) {
	share, delay = s.shares[f], s.delay
	for i := range s.lasts {
		if i.shares[f] > share {
			share, delay = i.shares[f], i.delay
		}
	}
	return share, delay
}

// count counts a fault, for all who wanted it. s.mu is held.
func (s *Store) count(f Fault) {
	s.fired[f]++
	for i := range s.lasts {
		if i.shares[f] > 0 {
			i.fired.Add(1)
		}
	}
}

var (
	listed    = regexp.MustCompile(`(?s)<Contents>.*?</Contents>`)
	listedKey = regexp.MustCompile(`<Key>([^<]*)</Key>`)
)

// otherList leaves one of the objects out of a listing, or adds one that was never there.
func otherList(body []byte, at float64, fault Fault) (out []byte, ok bool) {
	all := listed.FindAllIndex(body, -1)
	if len(all) == 0 {
		return body, false
	}
	one := all[int(at*float64(len(all)))]
	if fault == ListMissing {
		return append(body[:one[0]:one[0]], body[one[1]:]...), true
	}
	extra := listedKey.ReplaceAll(body[one[0]:one[1]], []byte("<Key>${1}0</Key>"))
	return bytes.Join([][]byte{body[:one[1]], extra, body[one[1]:]}, nil), true
}
