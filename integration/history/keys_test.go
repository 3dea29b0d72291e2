package history

import (
	"maps"
	"slices"
	"testing"
)

// plot builds a history of keys.
type plot struct{ *Keys }

// put sends and acknowledges a value of a key.
func (p plot) put(key string, offset int64) Value {
	v := p.Send(events, key, size)
	p.Acked(v, offset)
	return v
}

// del does so with a tombstone.
func (p plot) del(key string, offset int64) Value {
	v := p.Send(events, key, 0)
	p.Acked(v, offset)
	return v
}

func (p plot) read(consumer, key string, offset int64, v Value) {
	r := KeyRead{Offset: offset, Value: v, Key: key}
	if n := p.sends[v-1].size; n > 0 {
		r.Record = Payload(v, n)
	}
	p.Polled(consumer, events, []KeyRead{r})
}

func (p plot) all(consumer string) { p.ReadWhole(consumer, events, 0, 100) }

func TestAnomaliesOfKeys(t *testing.T) {
	tests := []struct {
		name  string
		happy func(p plot)
		want  []Kind
	}{
		{"nothing happens", func(p plot) { p.all("a") }, nil},
		{"only the newest is left", func(p plot) { p.put("k", 0); p.read("a", "k", 1, p.put("k", 1)); p.all("a") }, nil},
		{"all is left", func(p plot) {
			v, w := p.put("k", 0), p.put("k", 1)
			p.read("a", "k", 0, v)
			p.read("a", "k", 1, w)
			p.all("a")
		}, nil},
		{"the newest is lost", func(p plot) { v := p.put("k", 0); p.put("k", 1); p.read("a", "k", 0, v); p.all("a") }, []Kind{LostWrite}},
		{"the only one is lost", func(p plot) { p.put("k", 0); p.all("a") }, []Kind{LostWrite}},
		{"nobody has read it all", func(p plot) { p.put("k", 0) }, nil},
		{"lost to one who follows", func(p plot) { p.put("k", 0); p.Followed("a", events, 0, 100) }, []Kind{LostWrite}},
		{"gone with the front", func(p plot) { p.put("k", 0); p.ReadWhole("a", events, 1, 100) }, nil},
		{"the end is cut off", func(p plot) { p.read("a", "k", 7, p.put("k", 7)); p.ReadWhole("a", events, 0, 7) }, []Kind{LostWrite}},
		{"moved", func(p plot) { p.read("a", "k", 2, p.put("k", 1)); p.all("a") }, []Kind{InconsistentOffsets}},
		{"moved, and read first", func(p plot) { v := p.Send(events, "k", size); p.read("a", "k", 2, v); p.Acked(v, 1) }, []Kind{InconsistentOffsets}},
		{"a tombstone is left", func(p plot) { p.put("k", 0); p.read("a", "k", 1, p.del("k", 1)); p.all("a") }, nil},
		{"a tombstone is gone", func(p plot) { p.put("k", 0); p.del("k", 1); p.all("a") }, nil},
		{"a deleted key is back", func(p plot) { v := p.put("k", 0); p.del("k", 1); p.read("a", "k", 0, v); p.all("a") }, []Kind{Undead}},
		{"who follows slowly misses tombstones", func(p plot) {
			v := p.put("k", 0)
			p.del("k", 1)
			p.read("a", "k", 0, v)
			p.Followed("a", events, 0, 100)
		}, nil},
		{"aborted, then read", func(p plot) { v := p.Send(events, "k", size); p.Failed(v); p.read("a", "k", 0, v) }, []Kind{AbortedRead}},
		{"read, then aborted", func(p plot) { v := p.Send(events, "k", size); p.read("a", "k", 0, v); p.Failed(v) }, []Kind{AbortedRead}},
		{"unknown, and newest", func(p plot) {
			p.put("k", 0)
			v := p.Send(events, "k", size)
			p.Unknown(v)
			p.read("a", "k", 1, v)
			p.all("a")
		}, nil},
		{"unknown, and deleted", func(p plot) { p.put("k", 0); p.Unknown(p.Send(events, "k", 0)); p.all("a") }, nil},
		{"without an answer, and deleted", func(p plot) { p.put("k", 0); p.Send(events, "k", 0); p.all("a") }, nil},
		{"deleted before", func(p plot) { p.Unknown(p.Send(events, "k", 0)); p.put("k", 1); p.all("a") }, []Kind{LostWrite}},
		{"unknown, and not deleted in full", func(p plot) {
			v := p.put("k", 0)
			p.put("k", 1)
			p.Unknown(p.Send(events, "k", 0))
			p.read("a", "k", 0, v)
			p.all("a")
		}, []Kind{LostWrite}},
		{"without an answer, and the only one", func(p plot) { p.read("a", "k", 0, p.Send(events, "k", size)); p.all("a") }, nil},
		{"twice", func(p plot) { v := p.put("k", 0); p.read("a", "k", 0, v); p.read("a", "k", 1, v) }, []Kind{Duplicate, InconsistentOffsets}},
		{"two at one offset", func(p plot) { p.put("k", 0); p.read("a", "j", 0, p.Send(events, "j", size)) }, []Kind{InconsistentOffsets}},
		{"an older version after a newer one", func(p plot) {
			v, w := p.Send(events, "k", size), p.Send(events, "k", size)
			p.read("a", "k", 0, w)
			p.read("a", "k", 1, v)
		}, []Kind{KeyBack}},
		{"led back", func(p plot) { v := p.put("k", 0); p.read("a", "k", 0, v); p.read("a", "k", 0, v) }, []Kind{NonmonotonicPoll}},
		{"another key", func(p plot) { p.put("j", 0); p.Polled("a", events, []KeyRead{{0, 1, "k", Payload(1, size)}}) }, []Kind{Phantom}},
		{"never sent", func(p plot) { p.Polled("a", events, []KeyRead{{0, 9, "k", nil}, {1, 0, "k", nil}}) }, []Kind{Phantom}},
		{"another partition's", func(p plot) { p.put("k", 0); p.Polled("a", other, []KeyRead{{0, 1, "k", Payload(1, size)}}) }, []Kind{Phantom}},
		{"a value became a tombstone", func(p plot) { p.put("k", 0); p.Polled("a", events, []KeyRead{{0, 1, "k", nil}}) }, []Kind{Corrupt}},
		{"a tombstone became a value", func(p plot) { p.del("k", 0); p.Polled("a", events, []KeyRead{{0, 1, "k", Payload(1, size)}}) }, []Kind{Corrupt}},
		{"other bytes", func(p plot) { p.put("k", 0); p.Polled("a", events, []KeyRead{{0, 1, "k", Payload(2, size)}}) }, []Kind{Corrupt}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := plot{NewKeys(func(line string) { t.Log(line) })}
			tt.happy(p)
			r := p.Check()
			slices.Sort(tt.want)
			if got := slices.Sorted(maps.Keys(r.Anomalies)); !slices.Equal(got, tt.want) {
				t.Errorf("anomalies are %q, want %q: %v", got, tt.want, r.Err())
			}
		})
	}
}

func TestReportOfKeys(t *testing.T) {
	p := plot{NewKeys(nil)}
	p.put("k", 0)
	v := p.put("k", 1)
	p.Failed(p.Send(events, "k", size))
	p.Unknown(p.Send(events, "k", 0))
	p.read("a", "k", 1, v)
	p.read("b", "k", 1, v)
	p.Followed("a", events, 0, 4)
	p.ReadWhole("b", events, 0, 4)
	r := p.Check()
	if r.Sent != 4 || r.Acked != 2 || r.Failed != 1 || r.Unknown != 1 || r.Reads != 2 || r.Offsets != 1 || r.Err() != nil {
		t.Errorf("%s: %v", r.Counts(), r.Err())
	}
	for _, f := range []func(){func() { p.Acked(v, 2) }, func() { p.Failed(0) }, func() { p.Unknown(9) }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("an answer to nothing was taken")
				}
			}()
			f()
		}()
	}
}
