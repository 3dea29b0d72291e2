package classic_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group/classic"
)

// grown returns the rows of a stable group of two members, one of them static.
func grown(t testing.TB) *play {
	p := newPlay(&testing.T{})
	for _, line := range []string{"join client=a v=1", "join client=b instance=B protocols=range:x,rr:y", "wait for=6s", "sync me=a-1 gen=1 assign=a-1:A,B-2:B", "sync me=B-2 instance=B gen=1"} {
		p.do(line)
	}
	if p.g.State() != "Stable" || len(p.rows) != 4 {
		t.Fatalf("%s, %d rows", p.g.State(), len(p.rows))
	}
	return p
}

// FuzzLoad has rows that no intact agent wrote: an error or a group, no panic; and a group
// works, whatever it holds.
func FuzzLoad(f *testing.F) {
	p := grown(f)
	keys := slices.Sorted(maps.Keys(p.rows))
	f.Add(p.rows[keys[0]], keys[1], p.rows[keys[1]], keys[2], p.rows[keys[2]], p.rows[keys[3]])
	f.Add(p.rows[keys[0]], keys[1], p.rows[keys[1]], "g/m/00000001/0001/a-1", []byte("x"), []byte{9})
	f.Fuzz(func(t *testing.T, header []byte, k1 string, v1 []byte, k2 string, v2, last []byte) {
		rows := map[string][]byte{"g/h": header, "g/n": last, k1: v1, k2: v2}
		now := time.Unix(1_700_000_000, 0)
		g, err := classic.Load("g", sorted(rows), p.cfg, now)
		if err != nil {
			return
		}
		for range 10 {
			if wake := g.Wake(); !wake.IsZero() {
				if wake.After(now) {
					now = wake
				}
				g.Tick(now)
			}
		}
		g.Step(coordinator.Request{ID: 1, Body: joinOf(words{"v": "1"})}, now)
	})
}

// TestLoadDamaged has each row cut short, and one too many, and one missing.
func TestLoadDamaged(t *testing.T) {
	p := grown(t)
	now := p.now
	for key, value := range p.rows {
		for n := 1; n < len(value); n++ {
			rows := maps.Clone(p.rows)
			rows[key] = value[:n]
			if g, err := classic.Load("g", sorted(rows), p.cfg, now); err == nil && g.State() == "Stable" {
				t.Errorf("row %q with %d of %d bytes: a stable group", key, n, len(value))
			}
		}
		rows := maps.Clone(p.rows)
		delete(rows, key)
		g, err := classic.Load("g", sorted(rows), p.cfg, now)
		switch {
		case err != nil:
			t.Errorf("without row %q: %v", key, err)
		case key == "g/h" && g.State() != "Empty":
			t.Errorf("without its header the group is %s", g.State())
		case strings.HasPrefix(key, "g/m/") && g.State() != "PreparingRebalance":
			t.Errorf("without row %q the group is %s", key, g.State())
		}
	}
	// Rows of another generation are what a failover left: they count for nothing, and go.
	p.rows["g/m/00000009/0000/x"] = []byte("x")
	p.do("reload")
	if p.g.State() != "Stable" || p.g.Members() != 2 {
		t.Fatalf("%s with %d members", p.g.State(), p.g.Members())
	}
	for _, line := range []string{"leave members=B-2/B", "join me=a-1 client=a", "sync me=a-1 gen=2"} {
		p.do(line)
	}
	if got := slices.Sorted(maps.Keys(p.rows)); !slices.Equal(got, []string{"g/h", "g/m/00000002/0000/a-1", "g/n"}) {
		t.Errorf("rows %v", got)
	}
}
