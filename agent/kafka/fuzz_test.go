package kafka_test

import (
	"bytes"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/protocol"
)

// serveAny serves a request of any content and checks that the answer is one.
func serveAny(t *testing.T, key, version int16, body []byte) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.prod.auto = accept
		w.create("t", 3)
		w.create("compacted", 1, "cleanup.policy=compact")
		p := w.h.Serve(w.ctx, nil, &protocol.Request{Key: key, Version: version, Body: body})
		<-p.Done()
		if r := p.Response(); r.Close || r.None {
			return
		}
		resp := kmsg.ResponseForKey(key)
		resp.SetVersion(version)
		b := bytes.Join(p.Response().Buffers, nil)
		if err := resp.ReadFrom(b); err != nil {
			t.Fatalf("key %d v%d: %v in %x", key, version, err, b)
		}
		if !bytes.Equal(resp.AppendTo(nil), b) {
			t.Errorf("key %d v%d: the answer is not canonical: %x", key, version, b)
		}
	})
}

func FuzzServe(f *testing.F) {
	for key := range int16(kmsg.MaxKey) {
		if req := kmsg.RequestForKey(key); req != nil {
			for v := int16(0); v <= req.MaxVersion(); v++ {
				req.SetVersion(v)
				f.Add(key, v, req.AppendTo(nil))
			}
		}
	}
	f.Fuzz(serveAny)
}

// TestAnyRequest serves well-formed requests full of odd values: names that exist and do
// not, numbers at the ends of their ranges, nulls, empty and repeated entries.
func TestAnyRequest(t *testing.T) {
	const seed, rounds = 1, 40
	rnd := rand.New(rand.NewPCG(seed, seed))
	ids := newWorld(t)
	topic := ids.create("known", 1)
	for key := range int16(kmsg.MaxKey) {
		lo, hi, ok := ids.h.Versions(key)
		if !ok {
			continue
		}
		for v := lo; v <= hi; v++ {
			for range rounds {
				req := kmsg.RequestForKey(key)
				req.SetVersion(v)
				g := filler{rnd, topic}
				g.fill(reflect.ValueOf(req).Elem(), 0)
				req.SetVersion(v)
				serveAny(t, key, v, req.AppendTo(nil))
			}
		}
	}
}

// filler fills a request at random.
type filler struct {
	*rand.Rand
	topic *catalogue.Topic
}

func (g filler) pick(n ...int64) int64 { return n[g.IntN(len(n))] }

func (g filler) fill(v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[kmsg.Tags]() {
			return
		}
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() && v.Type().Field(i).Name != "Version" {
				g.fill(f, depth+1)
			}
		}
	case reflect.Pointer:
		if g.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			g.fill(v.Elem(), depth+1)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes(g.bytes())
			return
		}
		n := g.IntN(4)
		if n == 0 && g.IntN(2) == 0 {
			return // null
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			g.fill(v.Index(i), depth+1)
		}
	case reflect.Array: // a topic id
		if g.IntN(2) == 0 {
			v.Set(reflect.ValueOf([16]byte(g.topic.ID)))
		} else {
			v.Index(0).SetUint(uint64(g.IntN(2)))
		}
	case reflect.String:
		words := []string{"t", "t", "compacted", "none", "", "..", "bad name", "1", "retention.ms", "cleanup.policy", "delete", "-1", "zone-b", "consumer.session.timeout.ms", "50000", "consumer.assignor"}
		v.SetString(words[g.IntN(len(words))])
	case reflect.Bool:
		v.SetBool(g.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n := g.pick(0, 0, 1, 1, 2, 3, 4, 5, -1, -1, -2, -6, 100, 1<<20, math.MaxInt8, math.MaxInt16, math.MinInt16, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64)
		v.SetInt(n)
	}
}

func (g filler) bytes() []byte {
	switch g.IntN(4) {
	case 0:
		return nil
	case 1:
		return []byte{}
	case 2:
		b := records(2)
		b[g.IntN(len(b))] ^= byte(1 << g.IntN(8))
		return b
	}
	return records(1 + g.IntN(3))
}
