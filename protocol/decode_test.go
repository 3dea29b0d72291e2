package protocol_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// everyVersion calls f for each key and version that kmsg knows.
func everyVersion(f func(key, version int16)) {
	for key := int16(0); key <= kmsg.MaxKey; key++ {
		req := kmsg.RequestForKey(key)
		if req == nil {
			continue
		}
		for v := int16(0); v <= req.MaxVersion(); v++ {
			f(key, v)
		}
	}
}

// scramble fills a request with random values.
func scramble(v reflect.Value, rng *rand.Rand) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(rng.Uint64()) >> rng.IntN(64))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		v.SetUint(rng.Uint64() >> rng.IntN(64))
	case reflect.Float64:
		v.SetFloat(rng.Float64())
	case reflect.String:
		v.SetString("áé"[:2*rng.IntN(3)])
	case reflect.Array:
		for i := range v.Len() {
			scramble(v.Index(i), rng)
		}
	case reflect.Pointer:
		if v.SetZero(); rng.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			scramble(v.Elem(), rng)
		}
	case reflect.Slice:
		n := rng.IntN(4)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			scramble(v.Index(i), rng)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			switch v.Type().Field(i).Name {
			case "Version":
			case "UnknownTags":
				if rng.IntN(4) == 0 {
					v.Field(i).Addr().Interface().(*kmsg.Tags).Set(100+rng.Uint32N(1000), []byte("tag"))
				}
			default:
				scramble(v.Field(i), rng)
			}
		}
	}
}

func randomRequest(key, version int16, rng *rand.Rand) kmsg.Request {
	req := kmsg.RequestForKey(key)
	scramble(reflect.ValueOf(req).Elem(), rng)
	req.SetVersion(version)
	return req
}

// The shapes that requests are measured by are found out, not written down; here they
// must fit every field of every version.
func TestDecodeRequestTakesEveryRequest(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	everyVersion(func(key, version int16) {
		for range 30 {
			body := randomRequest(key, version, rng).AppendTo(nil)
			got, err := protocol.DecodeRequest(&protocol.Request{Key: key, Version: version, Body: body})
			if err != nil {
				t.Fatalf("%s version %d: %v\n%x", kmsg.NameForKey(key), version, err, body)
			}
			if again := got.AppendTo(nil); !bytes.Equal(again, body) {
				t.Fatalf("%s version %d encodes again as\n%x, was\n%x", kmsg.NameForKey(key), version, again, body)
			}
			if _, err := protocol.DecodeRequest(&protocol.Request{Key: key, Version: version, Body: append(body, 0)}); !errors.Is(err, protocol.ErrMalformed) {
				t.Fatalf("%s version %d with a byte more: %v", kmsg.NameForKey(key), version, err)
			}
			if len(body) == 0 {
				continue
			}
			if _, err := protocol.DecodeRequest(&protocol.Request{Key: key, Version: version, Body: body[:len(body)-1]}); !errors.Is(err, protocol.ErrMalformed) {
				t.Fatalf("%s version %d with a byte less: %v", kmsg.NameForKey(key), version, err)
			}
		}
	})
}

func TestDecodeRequestRefuses(t *testing.T) {
	huge := binary.AppendUvarint(nil, 1<<32-1)
	rows := []struct {
		name         string
		key, version int16
		body         []byte
	}{
		{"unknown key", 1000, 0, nil},
		{"negative key", -1, 0, nil},
		{"version too high", 3, 99, nil},
		{"version negative", 3, -1, nil},
		{"4 billion tags", 18, 3, append([]byte{2, 'a', 2, 'b'}, huge...)},
		{"4 billion elements", 3, 9, huge},
		{"an array of nothing", 3, 9, append(binary.AppendUvarint(nil, 100_001), make([]byte, 100_000)...)},
		{"invalid UTF-8", 18, 3, []byte{2, 0xff, 2, 'b', 0}},
		{"null where none may be", 18, 3, []byte{0, 2, 'b', 0}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			start := time.Now()
			_, err := protocol.DecodeRequest(&protocol.Request{Key: row.key, Version: row.version, Body: row.body})
			if !errors.Is(err, protocol.ErrMalformed) {
				t.Errorf("got %v after %v", err, time.Since(start))
			}
		})
	}
}

// decodeBound is what decoding a body may allocate, and what the test itself does.
func decodeBound(body int) uint64 { return uint64(max(16<<10, 8*body)) + 64<<10 }

func FuzzDecodeRequest(f *testing.F) {
	rng := rand.New(rand.NewPCG(2, 2))
	everyVersion(func(key, version int16) {
		f.Add(key, version, randomRequest(key, version, rng).AppendTo(nil))
	})
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		r := &protocol.Request{Key: key, Version: version, Body: body}
		// The first decoding builds the shape; the second is what clients can repeat.
		if _, err := protocol.DecodeRequest(r); err != nil && !errors.Is(err, protocol.ErrMalformed) {
			t.Fatalf("error of no class: %v", err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		req, err := protocol.DecodeRequest(r)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > decodeBound(len(body)) {
			t.Fatalf("%d bytes allocated for a body of %d", used, len(body))
		}
		if err != nil && strings.Contains(err.Error(), "panic") {
			t.Fatal(err)
		}
		if err == nil && (req.Key() != key || req.GetVersion() != version) {
			t.Fatalf("decoded as key %d version %d", req.Key(), req.GetVersion())
		}
	})
}

// sameProduce compares our reading of a produce request with kmsg's.
func sameProduce(t *testing.T, ours *protocol.ProduceRequest, theirs *kmsg.ProduceRequest) {
	t.Helper()
	id := ""
	if theirs.TransactionID != nil {
		id = *theirs.TransactionID
	}
	if string(ours.TransactionalID) != id || (ours.TransactionalID == nil) != (theirs.TransactionID == nil) ||
		ours.Acks != theirs.Acks || ours.TimeoutMillis != theirs.TimeoutMillis || ours.NumTopics != len(theirs.Topics) {
		t.Fatalf("head: %q %d %d %d topics, want %q %d %d %d", ours.TransactionalID, ours.Acks, ours.TimeoutMillis,
			ours.NumTopics, id, theirs.Acks, theirs.TimeoutMillis, len(theirs.Topics))
	}
	i, total := 0, 0
	for topic := range ours.Topics() {
		want := theirs.Topics[i]
		if string(topic.Name) != want.Topic || topic.ID != want.TopicID || topic.Partitions != len(want.Partitions) {
			t.Fatalf("topic %d: %q %x, want %q %x", i, topic.Name, topic.ID, want.Topic, want.TopicID)
		}
		j := 0
		for p := range topic.All() {
			w := want.Partitions[j]
			if p.Index != w.Partition || !bytes.Equal(p.Records, w.Records) || (p.Records == nil) != (w.Records == nil) {
				t.Fatalf("partition %d: %d %q, want %d %q", j, p.Index, p.Records, w.Partition, w.Records)
			}
			j++
			total++
		}
		if j != len(want.Partitions) {
			t.Fatalf("%d partitions, want %d", j, len(want.Partitions))
		}
		i++
	}
	if i != len(theirs.Topics) || total != ours.Partitions {
		t.Fatalf("%d topics, %d partitions; want %d, %d", i, total, len(theirs.Topics), ours.Partitions)
	}
}

func TestDecodeProduceAgreesWithKmsg(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	highest := kmsg.NewPtrProduceRequest().MaxVersion()
	for version := int16(0); version <= highest; version++ {
		for range 200 {
			req := randomRequest(0, version, rng)
			body := req.AppendTo(nil)
			theirs := kmsg.NewPtrProduceRequest()
			theirs.Version = version
			if err := theirs.ReadFrom(body); err != nil {
				t.Fatal(err)
			}
			ours, err := protocol.DecodeProduce(version, body)
			if err != nil {
				t.Fatalf("version %d: %v", version, err)
			}
			sameProduce(t, &ours, theirs)
			for _, bad := range [][]byte{append(bytes.Clone(body), 0), body[:len(body)-1]} {
				if _, err := protocol.DecodeProduce(version, bad); !errors.Is(err, protocol.ErrMalformed) {
					t.Fatalf("version %d, %d of %d bytes: %v", version, len(bad), len(body), err)
				}
			}
		}
	}
	for _, version := range []int16{-1, highest + 1} {
		if _, err := protocol.DecodeProduce(version, nil); !errors.Is(err, protocol.ErrMalformed) {
			t.Errorf("version %d: %v", version, err)
		}
	}
}

// What a produce request may hold of entries that cost more than their bytes is bounded.
func TestDecodeProduceBoundsEntries(t *testing.T) {
	for _, c := range []struct {
		topics, partitions int
		ok                 bool
	}{
		{1, protocol.MaxProducePartitions, true}, {1, protocol.MaxProducePartitions + 1, false},
		{protocol.MaxProducePartitions, 0, true}, {protocol.MaxProducePartitions + 1, 0, false},
		{1 << 10, 64, true}, {1 << 10, 65, false},
	} {
		req := kmsg.NewPtrProduceRequest()
		req.Version = 9
		req.Topics = make([]kmsg.ProduceRequestTopic, c.topics)
		for i := range req.Topics {
			req.Topics[i].Partitions = make([]kmsg.ProduceRequestTopicPartition, c.partitions)
		}
		got, err := protocol.DecodeProduce(9, req.AppendTo(nil))
		if c.ok != (err == nil) || err != nil && !errors.Is(err, protocol.ErrMalformed) {
			t.Errorf("%d topics of %d partitions: %v", c.topics, c.partitions, err)
		}
		if c.ok && (got.NumTopics != c.topics || got.Partitions != c.topics*c.partitions) {
			t.Errorf("%d topics, %d partitions; want %+v", got.NumTopics, got.Partitions, c)
		}
	}
}

func FuzzDecodeProduce(f *testing.F) {
	rng := rand.New(rand.NewPCG(4, 4))
	for version := int16(0); version <= 13; version++ {
		f.Add(version, randomRequest(0, version, rng).AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, version int16, body []byte) {
		ours, err := protocol.DecodeProduce(version, body)
		if err != nil {
			if !errors.Is(err, protocol.ErrMalformed) {
				t.Fatalf("error of no class: %v", err)
			}
			return
		}
		theirs := kmsg.NewPtrProduceRequest()
		theirs.Version = version
		if err := theirs.ReadFrom(body); err != nil {
			t.Fatalf("taken here, but kmsg says %v", err)
		}
		sameProduce(t, &ours, theirs)
	})
}

func BenchmarkDecodeProduce(b *testing.B) {
	req := kmsg.NewPtrProduceRequest()
	req.Version = 12
	for range 10 {
		topic := kmsg.NewProduceRequestTopic()
		topic.Topic = "a-topic-of-usual-length"
		for p := range int32(10) {
			part := kmsg.NewProduceRequestTopicPartition()
			part.Partition, part.Records = p, make([]byte, 1000)
			topic.Partitions = append(topic.Partitions, part)
		}
		req.Topics = append(req.Topics, topic)
	}
	body := req.AppendTo(nil)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		r, err := protocol.DecodeProduce(12, body)
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for t := range r.Topics() {
			for p := range t.All() {
				n += len(p.Records)
			}
		}
		if n != 100_000 {
			b.Fatal(n)
		}
	}
}

func BenchmarkDecodeRequest(b *testing.B) {
	req := randomRequest(1, 16, rand.New(rand.NewPCG(5, 5)))
	r := &protocol.Request{Key: 1, Version: 16, Body: req.AppendTo(nil)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := protocol.DecodeRequest(r); err != nil {
			b.Fatal(err)
		}
	}
}
