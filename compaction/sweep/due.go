package sweep

import (
	"context"
	"encoding/binary"
	"hash/fnv"
	"maps"
	"slices"
	"time"

	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/tiering"
)

// dueness says when the next sweep is worth its requests.
type dueness struct {
	now      uint64    // print of the cluster, as it was seen last
	changed  time.Time // when it was seen to be another
	done     uint64    // print as of the last complete sweep
	complete bool      // there was one, and none has failed since
	settled  bool      // one was late enough after the last change

	marked    bool   // this process has left a mark
	markedFor uint64 // print as of the last one
}

// swept takes note of a sweep that began at the given time.
func (d *dueness) swept(began time.Time, complete bool) {
	d.complete = complete
	if complete {
		d.done = d.now
		d.settled = began.Sub(d.changed) >= settleAfter
	}
}

// isDue looks whether anything has changed since the last complete sweep, or has waited.
func (s *Sweeper) isDue(ctx context.Context) (bool, error) {
	sessions, err := s.sessions(ctx)
	if err != nil {
		return false, err
	}
	shards, err := s.standings(ctx)
	if err != nil {
		return true, nil // the sweep finds the same, and says so
	}
	d, now := &s.due, s.parts.Now()
	if p := fingerprint(sessions, shards); p != d.now || d.changed.IsZero() {
		d.now, d.changed = p, now
	}
	if !d.complete || d.done != d.now {
		return true, nil
	}
	for _, first := range s.seen {
		if now.Sub(first) >= s.cfg.Grace {
			return true, nil
		}
	}
	return !d.settled && now.Sub(d.changed) >= settleAfter, nil
}

// fingerprint tells the cluster at one time from itself at another.
func fingerprint(sessions map[tiering.SessionID]membership.SessionState, shards []standing) uint64 {
	h := fnv.New64a()
	var b []byte
	for _, id := range slices.SortedFunc(maps.Keys(sessions), func(a, b tiering.SessionID) int { return slices.Compare(a[:], b[:]) }) {
		b = append(b[:0], id[:]...)
		b = binary.BigEndian.AppendUint64(b, sessions[id].LowWatermark)
		_, _ = h.Write(b) // never fails
	}
	for _, st := range shards {
		b = binary.BigEndian.AppendUint64(b[:0], st.head)
		b = append(b, st.pointer.Key...)
		_, _ = h.Write(b) // never fails
	}
	return h.Sum64()
}
