package report

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/floelog/floe/integration/torture/check"
)

// Recovery is how one kind of event was felt by one kind of probe, over all events of the
// kind: of each event, the partition that it was worst for.
type Recovery struct {
	Event, Probe      string
	Events            int
	Median, P99, Max  time.Duration // longest time between two successes
	EndMedian, EndMax time.Duration // from the event's end until every partition had succeeded
}

// aftermath is how long after its end an event is still blamed for what does not work, unless
// another begins first.
const aftermath = 30 * time.Second

// line is when one partition's probe, or one group, succeeded.
type line struct {
	what string
	part int32
}

// Recoveries measures every kind of event by every kind of probe.
func Recoveries(s *check.Stats) []Recovery {
	events := slices.Clone(s.Faults)
	slices.SortStableFunc(events, func(a, b check.FaultSpan) int { return cmp.Compare(a.From, b.From) })
	lines := successes(s)
	type key struct{ event, probe string }
	gaps, ends := map[key][]time.Duration{}, map[key][]time.Duration{}
	var order []key
	for i, e := range events {
		until := min(e.To+aftermath, s.End)
		for _, next := range events[i+1:] {
			if next.From >= e.To {
				until = min(until, next.From)
				break
			}
		}
		worst, back := map[string]time.Duration{}, map[string]time.Duration{}
		for l, times := range lines {
			gap, end := felt(times, e, until)
			worst[l.what], back[l.what] = max(worst[l.what], gap), max(back[l.what], end)
		}
		for what := range worst {
			k := key{e.Name, what}
			if gaps[k] == nil {
				order = append(order, k)
			}
			gaps[k], ends[k] = append(gaps[k], worst[what]), append(ends[k], back[what])
		}
	}
	slices.SortFunc(order, func(a, b key) int { return cmp.Or(cmp.Compare(a.event, b.event), cmp.Compare(a.probe, b.probe)) })
	var out []Recovery
	for _, k := range order {
		g, e := gaps[k], ends[k]
		slices.Sort(g)
		slices.Sort(e)
		out = append(out, Recovery{k.event, k.probe, len(g), quantile(g, 0.5), quantile(g, 0.99), g[len(g)-1], quantile(e, 0.5), e[len(e)-1]})
	}
	return out
}

// successes returns the times of successes, in order, of each partition of each probe.
func successes(s *check.Stats) map[line][]time.Duration {
	lines := map[line][]time.Duration{}
	for _, t := range s.Tries {
		if t.OK {
			lines[line{t.What, t.Part}] = append(lines[line{t.What, t.Part}], t.At)
		}
	}
	for i, group := range slices.Sorted(maps.Keys(s.Progress)) {
		lines[line{"group", int32(i)}] = s.Progress[group]
	}
	return lines
}

// felt returns the longest time between two successes, as far as it lies in an event or in
// what comes after it, and the time from the event's end to the next success.
func felt(times []time.Duration, e check.FaultSpan, until time.Duration) (gap, end time.Duration) {
	i, _ := slices.BinarySearch(times, e.From)
	before, back := e.From, until
	for ; i < len(times) && times[i] < until; i++ {
		gap = max(gap, times[i]-before)
		if times[i] >= e.To && back == until {
			back = times[i]
		}
		before = times[i]
	}
	return max(gap, until-before), max(0, back-e.To)
}

// quantile returns the smallest value that at least that share of sorted values does not
// exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	i := int(q*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}
