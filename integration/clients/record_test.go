//go:build integration && unix

package clients

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// patience bounds every wait for a client. Little here takes seconds; a machine that runs every
// test at once, with several virtual machines of Java among them, may need many times that.
const patience = 3 * time.Minute

// A record is what a producer is given and a consumer gets. Nil and empty bytes differ.
type record struct {
	partition  int32
	offset     int64
	timestamp  int64 // ms
	key, value []byte
	headers    []header
}

type header struct {
	name  string
	value []byte
}

func (r record) String() string {
	return fmt.Sprintf("%d@%d time %d key %s value %s headers %s", r.partition, r.offset, r.timestamp, show(r.key), show(r.value), r.headers)
}

func (h header) String() string { return h.name + "=" + show(h.value) }

func show(b []byte) string {
	switch {
	case b == nil:
		return "null"
	case len(b) > 40:
		return fmt.Sprintf("%q… (%d bytes)", b[:40], len(b))
	}
	return fmt.Sprintf("%q", b)
}

func sameBytes(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

func (r record) same(o record) bool {
	return r.partition == o.partition && r.offset == o.offset && r.timestamp == o.timestamp &&
		sameBytes(r.key, o.key) && sameBytes(r.value, o.value) &&
		slices.EqualFunc(r.headers, o.headers, func(a, b header) bool { return a.name == b.name && sameBytes(a.value, b.value) })
}

// compare checks that a client read exactly these records; the order of partitions is
// left to it.
func compare(t *testing.T, who string, got, want []record) {
	t.Helper()
	order := func(a, b record) int {
		return cmp.Or(cmp.Compare(a.partition, b.partition), cmp.Compare(a.offset, b.offset))
	}
	got, want = slices.Clone(got), slices.Clone(want)
	slices.SortStableFunc(got, order)
	slices.SortStableFunc(want, order)
	if len(got) != len(want) {
		t.Errorf("%s: read %d records, want %d", who, len(got), len(want))
	}
	wrong := 0
	for i := range min(len(got), len(want)) {
		if got[i].same(want[i]) {
			continue
		}
		if wrong++; wrong > 3 {
			break // the first ones tell
		}
		t.Errorf("%s: record %d is\n%v, want\n%v", who, i, got[i], want[i])
	}
}

// partitionsOf returns how many partitions the records need.
func partitionsOf(records []record) int {
	n := int32(0)
	for _, r := range records {
		n = max(n, r.partition+1)
	}
	return int(n)
}

// samples are records with everything that a record can hold: no key, no value, empty
// ones, every byte, headers of all kinds, times out of order, and sizes from nothing to
// more than what is committed inline, compressible and not.
func samples(partition int32) []record {
	random := rand.New(rand.NewPCG(uint64(partition), 7))
	noise := make([]byte, 20_000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	const then = 1_700_000_000_000
	records := []record{
		{timestamp: then, value: []byte("a value without a key")},
		{timestamp: then + 7, key: []byte("tombstone")},
		{timestamp: then - 5, key: []byte{}, value: []byte{}},
		{timestamp: then + 1, key: every, value: every},
		{timestamp: 1, key: []byte("the oldest"), value: []byte("1970")},
		{timestamp: then + 2, key: []byte("headers"), value: []byte("four"), headers: []header{
			{"name", []byte("value")}, {"name", []byte("again")}, {"empty", []byte{}}, {"bytes", []byte("\xff\x80\x01")}}},
		{timestamp: then + 3, value: []byte("a header that is null"), headers: []header{{"null", nil}, {"größe", []byte("ü")}}},
		{timestamp: then + 4, key: []byte("compressible"), value: bytes.Repeat([]byte("all work and no play "), 5000)},
		{timestamp: then + 5, key: []byte("noise"), value: noise},
	}
	for i := range 20 {
		records = append(records, record{timestamp: then + 100 + int64(i), key: fmt.Appendf(nil, "key-%d", i%3), value: fmt.Appendf(nil, "value %d", i)})
	}
	for i := range records {
		records[i].partition = partition
	}
	return records
}

// codecs are the compressions that Kafka knows; a codec's place is its number in batches.
var codecs = []string{"none", "gzip", "snappy", "lz4", "zstd"}

// named is a client as docs/compatibility.md names it.
type named interface {
	name() string
	version(t *testing.T) string
}

// A client writes and reads as one implementation of the protocol does.
type client interface {
	named

	// produce writes records of one partition in their order, idempotently if the client
	// can, and returns them with their offsets, and times if it cannot set them.
	produce(t *testing.T, addrs []string, topic, codec string, records []record) []record

	// consume reads that many records of the partitions from 0 on, from their start, by
	// assignment and without a group.
	consume(t *testing.T, addrs []string, topic string, partitions, records int) []record
}

// topicName makes a topic's name from a test's, so that tests share an environment.
func topicName(t *testing.T, more ...string) string {
	_, name, _ := strings.Cut(t.Name(), "/")
	name = strings.Join(append([]string{name}, more...), "-")
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", r) {
			return r
		}
		return '-'
	}, name)
}
