// Package bill works out what a cluster costs, and what makes it dear, from what its agents
// count. It does no I/O and reads no clock: Counts come in, a Bill goes out.
//
// A bill is an estimate of the object store's share: requests by kind, bytes kept and bytes
// moved, at the prices of a table. It knows neither discounts nor what agents and etcd cost.
package bill

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Month is the month of a bill: 730 hours, as the price lists of object stores have it.
const Month = 730 * time.Hour

// Enough is the least time that says something of a month: in less, what agents do at their
// start, or one flush, weighs too much.
const Enough = time.Minute

const gib = 1 << 30

// Key says what a request was: its kind (put, get, list, head, delete) and what it was made for.
type Key struct{ Kind, Purpose string }

// Topic is what one topic moved and what it stores; the empty name sums up many small ones.
type Topic struct {
	In, Out    float64 // bytes of batches that clients produced and fetched
	Stored     float64 // bytes of batches that are kept
	Partitions float64 // with records
}

// Counts are what agents counted in some time.
type Counts struct {
	Over     time.Duration // the time in which it was counted
	Requests map[Key]float64
	Bytes    map[Key]float64
	Topics   map[string]Topic
	Inline   float64 // bytes of batches that needed no request
}

// New returns Counts of nothing.
func New() Counts {
	return Counts{Requests: map[Key]float64{}, Bytes: map[Key]float64{}, Topics: map[string]Topic{}}
}

// Add adds what another agent counted in the same time: the longer one of both stands.
func (c *Counts) Add(o Counts) {
	c.Over = max(c.Over, o.Over)
	c.Inline += o.Inline
	for k, n := range o.Requests {
		c.Requests[k] += n
	}
	for k, n := range o.Bytes {
		c.Bytes[k] += n
	}
	for name, t := range o.Topics {
		sum := c.Topics[name]
		sum.In, sum.Out = sum.In+t.In, sum.Out+t.Out
		sum.Stored, sum.Partitions = sum.Stored+t.Stored, sum.Partitions+t.Partitions
		c.Topics[name] = sum
	}
}

// Since returns what was counted after earlier, a moment that lies over before c. An agent
// that has started again in between begins from nothing.
func (c Counts) Since(earlier Counts, over time.Duration) Counts {
	out := New()
	out.Over = over
	out.Inline = after(c.Inline, earlier.Inline)
	for k, n := range c.Requests {
		out.Requests[k] = after(n, earlier.Requests[k])
	}
	for k, n := range c.Bytes {
		out.Bytes[k] = after(n, earlier.Bytes[k])
	}
	for name, t := range c.Topics {
		old := earlier.Topics[name]
		t.In, t.Out = after(t.In, old.In), after(t.Out, old.Out)
		out.Topics[name] = t
	}
	return out
}

func after(now, before float64) float64 {
	if now < before {
		return now
	}
	return now - before
}

// Prices are what the object store asks for, in dollars.
type Prices struct {
	Put      float64 `yaml:"put"`      // of 1,000 requests
	Get      float64 `yaml:"get"`      // of 1,000 requests
	List     float64 `yaml:"list"`     // of 1,000 requests
	Head     float64 `yaml:"head"`     // of 1,000 requests
	Delete   float64 `yaml:"delete"`   // of 1,000 requests
	Storage  float64 `yaml:"storage"`  // of a GiB for a month
	Transfer float64 `yaml:"transfer"` // of a GiB put or got
}

// DefaultPrices are those of Amazon S3 Standard in us-east-1, reached through a gateway
// endpoint of the same region.
func DefaultPrices() Prices {
	return Prices{Put: 0.005, Get: 0.0004, List: 0.005, Head: 0.0004, Storage: 0.023}
}

// of returns the price of one request of a kind.
func (p Prices) of(kind string) float64 {
	switch kind {
	case "put":
		return p.Put / 1000
	case "get":
		return p.Get / 1000
	case "list":
		return p.List / 1000
	case "head":
		return p.Head / 1000
	}
	return p.Delete / 1000
}

// Line is what requests of one kind and purpose come to, in a month that is like the time
// in which they were counted.
type Line struct {
	Kind     string  `json:"kind"`
	Purpose  string  `json:"purpose"`
	Requests float64 `json:"requestsPerMonth"`
	GiB      float64 `json:"gibPerMonth"`
	Dollars  float64 `json:"dollarsPerMonth"`
}

// TopicLine is one topic's share.
type TopicLine struct {
	Topic      string  `json:"topic"`
	Partitions float64 `json:"partitions"`
	StoredGiB  float64 `json:"storedGiB"`
	InGiB      float64 `json:"inGiBPerMonth"`
	OutGiB     float64 `json:"outGiBPerMonth"`
	Dollars    float64 `json:"storageDollarsPerMonth"` // of what it stores now
}

// Bill is what a month costs.
type Bill struct {
	Counted  time.Duration `json:"-"`
	Seconds  float64       `json:"countedSeconds"`
	Lines    []Line        `json:"requests"` // the dearest first
	Topics   []TopicLine   `json:"topics"`   // the largest first
	Requests float64       `json:"requestDollarsPerMonth"`
	Storage  float64       `json:"storageDollarsPerMonth"`
	Transfer float64       `json:"transferDollarsPerMonth"`
	Total    float64       `json:"dollarsPerMonth"`
	Findings []Finding     `json:"findings"`
}

// Of works out the bill of a month that is like the time in which c was counted.
func Of(c Counts, p Prices) Bill {
	b := Bill{Counted: c.Over, Seconds: c.Over.Seconds(), Findings: []Finding{}}
	months := float64(Month) / float64(max(c.Over, time.Second))
	for k, n := range c.Requests {
		if n == 0 {
			continue
		}
		l := Line{Kind: k.Kind, Purpose: k.Purpose, Requests: n * months, GiB: c.Bytes[k] * months / gib}
		l.Dollars = l.Requests * p.of(k.Kind)
		b.Requests += l.Dollars
		b.Transfer += l.GiB * p.Transfer
		b.Lines = append(b.Lines, l)
	}
	slices.SortFunc(b.Lines, func(x, y Line) int {
		return cmp.Or(cmp.Compare(y.Dollars, x.Dollars), cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Purpose, y.Purpose))
	})
	for _, name := range slices.Sorted(maps.Keys(c.Topics)) {
		t := c.Topics[name]
		l := TopicLine{Topic: name, Partitions: t.Partitions, StoredGiB: t.Stored / gib, InGiB: t.In * months / gib, OutGiB: t.Out * months / gib}
		l.Dollars = l.StoredGiB * p.Storage
		b.Storage += l.Dollars
		b.Topics = append(b.Topics, l)
	}
	slices.SortStableFunc(b.Topics, func(x, y TopicLine) int { return cmp.Compare(y.StoredGiB, x.StoredGiB) })
	b.Total = b.Requests + b.Storage + b.Transfer
	if c.Over >= Enough {
		b.Findings = append(b.Findings, find(c, p, months)...)
	}
	return b
}
