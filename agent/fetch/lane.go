package fetch

import "context"

// Lane tells reads near the end of a log, which others wait for, from those that catch up.
type Lane uint8

// The lanes.
const (
	// Tail reads are those of what is in memory, or among the newest bytes of a partition.
	Tail Lane = iota
	// Lagging reads need the object store for what is older. A replay reads as fast as it is
	// let, so these have memory, places and GETs of their own (see cache.Range.Cold).
	Lagging
	lanes
)

var laneNames = [lanes]string{"tail", "lagging"}

func (l Lane) String() string { return laneNames[l] }

// Lanes returns all lanes, in order.
func Lanes() []Lane { return []Lane{Tail, Lagging} }

// places bound how many lagging partitions are read at a time. Who asks first is served
// first.
type places chan struct{}

// enter waits for a place until ctx ends, and reports whether it has one.
func (p places) enter(ctx context.Context) bool {
	select {
	case p <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (p places) leave() { <-p }
