//go:build linux

package main

import (
	"math/bits"
	"time"
)

const (
	subBuckets = 64 // of a power of two: a percentile is at most 1.6 % above the truth
	exponents  = 58 // up to 2^63 ns
)

// histogram counts durations in log-linear buckets: fixed memory and a few nanoseconds
// for each. It is for one goroutine.
type histogram struct {
	count   int64
	longest int64
	buckets [exponents * subBuckets]int64
}

// bucketOf returns the index that v nanoseconds fall into. Below 128 every value has its own.
func bucketOf(v int64) int {
	if v < subBuckets {
		return int(v)
	}
	e := bits.Len64(uint64(v)) - 7 // v>>e lies in [64,128)
	return e*subBuckets + int(v>>e)
}

// upper returns the largest value of bucket i.
func upper(i int) int64 {
	if i < 2*subBuckets {
		return int64(i)
	}
	e := i/subBuckets - 1
	return (int64(i-e*subBuckets)+1)<<e - 1
}

func (h *histogram) add(d time.Duration) {
	v := max(int64(d), 0)
	h.count++
	h.longest = max(h.longest, v)
	h.buckets[min(bucketOf(v), len(h.buckets)-1)]++
}

// percentile returns the smallest bucket's end that p percent of the values do not exceed,
// in milliseconds; 0 of no values.
func (h *histogram) percentile(p float64) float64 {
	want := int64(p/100*float64(h.count) + 0.9999999)
	var seen int64
	for i, n := range h.buckets {
		if seen += n; n > 0 && seen >= want {
			return float64(min(upper(i), h.longest)) / 1e6
		}
	}
	return float64(h.longest) / 1e6
}
