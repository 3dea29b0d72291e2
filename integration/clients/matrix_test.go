//go:build integration && unix

package clients

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// testMatrix has every client write with every codec, each into a partition of its own,
// and every client read what every other wrote.
func testMatrix(t *testing.T, e *env) {
	addrs := e.floe.Addrs()
	for _, w := range e.clients() {
		topic := topicName(t, nameOf(w))
		createTopic(t, addrs, topic, len(codecs))
		from := time.Now().UnixMilli()
		var want []record
		for p, codec := range codecs {
			write := samples(int32(p))
			if _, shell := w.(kcat); shell {
				write = kcatSamples(int32(p))
			}
			want = append(want, w.produce(t, addrs, topic, codec, write)...)
			checkCodec(t, addrs[0], topic, p)
		}
		to := time.Now().UnixMilli()
		for _, r := range (franz{}).consume(t, addrs, topic, len(codecs), len(want)) {
			adopt(t, want, r, from, to)
		}
		e.written[topic] = want
		for _, r := range e.clients() {
			t.Run(nameOf(w)+"-"+nameOf(r), func(t *testing.T) {
				compare(t, w.name()+" to "+r.name(), r.consume(t, addrs, topic, len(codecs), len(want)), want)
			})
		}
	}
}

// adopt takes the time of a record that was read for the one that was written there, if
// the client that wrote it chose the time.
func adopt(t *testing.T, want []record, r record, from, to int64) {
	t.Helper()
	for i := range want {
		if want[i].partition != r.partition || want[i].offset != r.offset || want[i].timestamp != 0 {
			continue
		}
		if r.timestamp < from || r.timestamp > to {
			t.Errorf("a record written between %d and %d has time %d", from, to, r.timestamp)
		}
		want[i].timestamp = r.timestamp
	}
}

// nameOf is a client's name in names of tests and topics.
func nameOf(c client) string {
	switch c.(type) {
	case kcat:
		return "kcat"
	case librdkafka:
		return "librdkafka"
	case franz:
		return "franz"
	}
	return "java"
}

// checkCodec checks that the batches of a partition come back in the codec of the
// partition's number, as they were sent; a client leaves what does not shrink alone.
func checkCodec(t *testing.T, addr, topic string, codec int) {
	t.Helper()
	raw := fetchRaw(t, addr, topicID(t, addr, topic), int32(codec), 0)
	seen := map[int]int{}
	for len(raw) >= 61 {
		var b kmsg.RecordBatch
		if err := b.ReadFrom(raw); err != nil {
			break // the last one may be cut short
		}
		seen[int(b.Attributes&7)]++
		raw = raw[12+int(b.Length):]
	}
	if seen[codec] == 0 {
		t.Errorf("partition %d, written with %s: batches by codec are %v", codec, codecs[codec], seen)
	}
	for c := range seen {
		if c != codec && c != 0 {
			t.Errorf("partition %d, written with %s: batches by codec are %v", codec, codecs[codec], seen)
		}
	}
}
