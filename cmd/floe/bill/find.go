package bill

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Finding is something that makes a workload dear, and the setting that cures it.
type Finding struct {
	Setting string  `json:"setting"` // of the agents, or of a topic
	What    string  `json:"what"`
	Remedy  string  `json:"remedy"`
	Dollars float64 `json:"dollarsPerMonth"` // that could be saved, about
}

const (
	// worthSaying is the least that a finding must save in a month: nobody turns a setting
	// for less.
	worthSaying = 1.0
	// goodFlush is the size of a flush from which on larger ones save next to nothing: at
	// 4 MiB a GiB costs 256 PUTs, a tenth of a cent.
	goodFlush = 4 << 20
	// goodGet is what a GET brings when it reads a block of the cache.
	goodGet = 2 << 20
	// tinyPartition and manyPartitions say when partitions are too many for what they hold:
	// each has a chunk in every flush that it takes part in, and state in every agent.
	tinyPartition  = 1 << 20
	manyPartitions = 1000
	// snapshotEvery is how often a busy cluster may write snapshots without a word.
	snapshotEvery = time.Minute
	// carryEvery is the carry-age that a saving is worked out for: still no more than minutes are missing
	// from a cluster that has lost etcd and agents together.
	carryEvery = time.Minute
)

// find looks for what makes the workload dear; months is what the counts are multiplied by.
func find(c Counts, p Prices, months float64) []Finding {
	var out []Finding
	add := func(f Finding, ok bool) {
		if ok {
			out = append(out, f)
		}
	}
	add(smallFlushes(c, p, months))
	add(smallGets(c, p, months))
	add(manySnapshots(c, p, months))
	add(manyCarried(c, p, months))
	add(tinyPartitions(c))
	slices.SortFunc(out, func(a, b Finding) int { return cmp.Compare(b.Dollars, a.Dollars) })
	return out
}

func smallFlushes(c Counts, p Prices, months float64) (Finding, bool) {
	k := Key{"put", "produce"}
	n, bytes := c.Requests[k], c.Bytes[k]
	saved := (n - bytes/goodFlush) * months * p.of("put")
	if n == 0 || saved < worthSaying {
		return Finding{}, false
	}
	return Finding{
		Setting: "flush-age", Dollars: saved,
		What: fmt.Sprintf("flushes are small: %s on average, %.0f PUTs a month", size(bytes/n), n*months),
		Remedy: "raise flush-age, so that more is gathered before it is stored; or inline-max and inline-rate, so that small flushes need no PUT; " +
			"with several agents, fewer of them also make larger flushes",
	}, true
}

func smallGets(c Counts, p Prices, months float64) (Finding, bool) {
	k := Key{"get", "fetch"}
	n, bytes := c.Requests[k], c.Bytes[k]
	saved := (n - bytes/goodGet) * months * p.of("get")
	if n == 0 || saved < worthSaying {
		return Finding{}, false
	}
	return Finding{
		Setting: "cache-size", Dollars: saved,
		What:   fmt.Sprintf("consumers' reads need many small GETs: %s on average, %.0f a month", size(bytes/n), n*months),
		Remedy: "raise cache-size (or give the agents a disk cache), so that blocks are still there when the next reader comes; a shorter merge-age makes what is read lie side by side",
	}, true
}

func manySnapshots(c Counts, p Prices, months float64) (Finding, bool) {
	k := Key{"put", "metadata"}
	n := c.Requests[k]
	saved := (n - c.Over.Seconds()/snapshotEvery.Seconds()) * months * p.of("put")
	if saved < worthSaying {
		return Finding{}, false
	}
	return Finding{
		Setting: "inline-max", Dollars: saved,
		What:   fmt.Sprintf("snapshots of metadata are frequent: %.0f a month", n*months),
		Remedy: "lower inline-max or inline-rate, since inline batches make journals grow; or raise flush-age, so that there are fewer journal records",
	}, true
}

func manyCarried(c Counts, p Prices, months float64) (Finding, bool) {
	n := c.Requests[Key{"put", "carry"}]
	saved := (n - c.Over.Seconds()/carryEvery.Seconds()) * months * p.of("put")
	if saved < worthSaying {
		return Finding{}, false
	}
	return Finding{
		Setting: "carry-age", Dollars: saved,
		What:   fmt.Sprintf("journal records are stored in the bucket by themselves: %.0f times a month, since few segments take them along", n*months),
		Remedy: "raise carry-age, if it may be a minute of what was committed through etcd alone that is missing should etcd and all agents be lost in one moment",
	}, true
}

func tinyPartitions(c Counts) (Finding, bool) {
	var partitions, stored float64
	for _, t := range c.Topics {
		partitions += t.Partitions
		stored += t.Stored
	}
	if partitions < manyPartitions || stored/partitions >= tinyPartition {
		return Finding{}, false
	}
	return Finding{
		Setting: "num-partitions",
		What:    fmt.Sprintf("%.0f partitions hold %s on average", partitions, size(stored/partitions)),
		Remedy:  "give topics fewer partitions (num-partitions for those that are created by themselves): each partition has its part in every flush and merge, and takes memory in every agent",
	}, true
}

// size writes bytes for people.
func size(n float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for n >= 1024 && i < len(units)-1 {
		n /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%.0f %s", n, units[i])
	}
	return fmt.Sprintf("%.1f %s", n, units[i])
}
