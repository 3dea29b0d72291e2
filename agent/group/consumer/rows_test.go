package consumer_test

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/agent/group/consumer"
)

// busy is a group in the middle of things, with members of all kinds.
func busy(t testing.TB) *world {
	w := newWorld(t)
	w.setTopics(map[string]int32{"t": 6, "u": 2})
	for _, line := range []string{
		"a join names=t,u rack=z1", "b join regex=t|u instance=i1 assignor=range rebalance=7000", "c cjoin names=t",
		"a beat own=t:0,1,2,3,4,5+u:0,1", "b beat instance=i1",
	} {
		w.do(line)
	}
	return w
}

// TestGoldenRows: the bytes of rows may only change with their version.
func TestGoldenRows(t *testing.T) {
	w := newWorld(t)
	w.setTopics(map[string]int32{"t": 3})
	w.do("a join names=t rack=r instance=i rebalance=300")
	want := map[string]string{
		"c/epoch": "\x01\x02\x02" + // version, group epoch 1, assignment epoch 1
			"\x1b\xcb\x22\xff\xa1\x7c\x56\x17", // FNV-1a of t's id and its 3 partitions
		"c/m/a": "\x01\x01\x01i\x01\x01r" + // version, instance, rack
			"\x06client\x04host\xac\x02" + // client id, host, rebalance time-out
			"\x00\x01\x01t\x00\x00", // no assignor, one name, no regular expression, not classic
		"c/t/a": "\x01\x01\x00\x01" + strings.Repeat("\x00", 14) + "\x03\x00\x00\x00",
		"c/a/a": "\x01\x01\x02\x00" + // version, stable, epoch 1, previous 0
			"\x01\x00\x01" + strings.Repeat("\x00", 14) + "\x03\x00\x00\x00" + "\x00", // assigned, revoking
	}
	for key, value := range want {
		if got := string(w.rows[key]); got != value {
			t.Errorf("%s:\n got %x\nwant %x", key, got, value)
		}
	}
	if len(w.rows) != len(want) {
		t.Errorf("rows %q", slices.Sorted(maps.Keys(w.rows)))
	}
}

// TestLoadFromALaggingCopy: a new coordinator's copy of the topics may be behind what the last
// one saw; that is no reason to rebalance.
func TestLoadFromALaggingCopy(t *testing.T) {
	for _, sub := range []string{"names=t,u", "regex=.*"} {
		w := newWorld(t)
		w.setTopics(map[string]int32{"t": 2, "u": 1})
		w.do("a join " + sub)
		behind, ahead := topics{"t": {Name: "t", ID: w.topics["t"].ID, Partitions: 1}}, w.topics
		w.topics = behind
		w.reload()
		w.pass(time.Second)
		if got := w.do("a beat"); got != "a epoch 1" {
			t.Errorf("%s: %s", sub, got)
		}
		w.topics = topics{"t": ahead["t"]} // it comes nearer
		w.store(w.g.TopicsChanged(w.topics, w.now))
		w.topics = ahead
		w.store(w.g.TopicsChanged(w.topics, w.now))
		w.pass(10 * time.Second)
		if got := w.state(); !strings.HasPrefix(got, "Stable 1/1") {
			t.Errorf("%s: %s", sub, got)
		}
	}
}

// TestLoadNoticesTopics: a change while nobody coordinated raises the epoch, and the row leaves
// with the tick that Wake asks for.
func TestLoadNoticesTopics(t *testing.T) {
	w := newWorld(t)
	w.setTopics(map[string]int32{"t": 2})
	w.do("a join names=t")
	w.topics = topics{"t": {Name: "t", ID: w.topics["t"].ID, Partitions: 3}}
	w.reload()
	w.pass(5 * time.Second)
	if got := w.state(); !strings.HasPrefix(got, "Assigning 2/1") {
		t.Fatal(got)
	}
	if w.wrote != 1 {
		t.Fatalf("%d rows", w.wrote)
	}
	w.reload()
	if got := w.do("a beat"); got != "a epoch 2 has t:0,1,2" {
		t.Fatal(got)
	}
}

// TestLoadRepairs: rows that a failover cut off are made good by another epoch.
func TestLoadRepairs(t *testing.T) {
	for name, spoil := range map[string]func(before, after map[string][]byte){
		"a target is missing":     func(_, after map[string][]byte) { delete(after, "c/t/b") },
		"a member's is alone":     func(_, after map[string][]byte) { delete(after, "c/t/b"); delete(after, "c/a/b") },
		"the epoch is an old one": func(before, after map[string][]byte) { after["c/epoch"] = before["c/epoch"] },
		"the epoch is missing":    func(_, after map[string][]byte) { delete(after, "c/epoch") },
		"rows of nobody":          func(_, after map[string][]byte) { delete(after, "c/m/b") },
		"a target is an old one":  func(before, after map[string][]byte) { after["c/t/a"] = before["c/t/a"] },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.setTopics(map[string]int32{"t": 4})
			w.do("a join names=t")
			before := maps.Clone(w.rows)
			w.do("b join names=t")
			spoil(before, w.rows)
			w.reload()
			w.pass(0)
			w.do("b join names=t")
			for range 3 {
				w.do("a beat own=t:0,1")
				w.do("b beat own=t:2,3")
			}
			if got := w.state(); !strings.HasPrefix(got, "Stable") {
				t.Fatal(got)
			}
			if a, b := w.do("a beat own=t:0,1 rebalance=1 names=t"), w.do("b beat own=t:2,3 rebalance=1 names=t"); !strings.HasSuffix(a, "has t:0,1") || !strings.HasSuffix(b, "has t:2,3") {
				t.Fatalf("%s; %s", a, b)
			}
			for key := range w.rows {
				if strings.HasSuffix(key, "/b") && w.rows["c/m/b"] == nil {
					t.Errorf("%s is left over", key)
				}
			}
		})
	}
}

// TestLoadRefuses: damaged rows are told, with their name.
func TestLoadRefuses(t *testing.T) {
	w := busy(t)
	for _, key := range slices.Sorted(maps.Keys(w.rows)) {
		good := w.rows[key]
		for _, bad := range [][]byte{good[:len(good)-1], append(slices.Clone(good), 0), append([]byte{9}, good[1:]...), {1}} {
			w.rows[key] = bad
			_, err := consumer.Load("g", w.seq(), w.cfg, w.topics, w.now)
			if err == nil || !strings.Contains(err.Error(), key[strings.LastIndex(key, "/")+1:]) {
				t.Errorf("%s = %x: %v", key, bad, err)
			}
		}
		w.rows[key] = good
	}
	w.rows["c/x"] = []byte{1}
	if _, err := consumer.Load("g", w.seq(), w.cfg, w.topics, w.now); err == nil {
		t.Error("a row that nobody knows was loaded")
	}
	delete(w.rows, "c/x")
	w.rows["k/mine"] = []byte{1} // of another package
	w.rows["c/m/z"], w.rows["c/a/z"] = w.rows["c/m/a"], w.rows["c/a/a"]
	if _, err := consumer.Load("g", w.seq(), w.cfg, w.topics, w.now); err == nil || !strings.Contains(err.Error(), "belongs to") {
		t.Errorf("partitions with two owners were loaded: %v", err)
	}
}

// TestDrop deletes every row.
func TestDrop(t *testing.T) {
	w := busy(t)
	for _, r := range w.g.Drop() {
		if w.rows[r.Key] == nil || len(r.Value) > 0 {
			t.Errorf("row %q", r.Key)
		}
		delete(w.rows, r.Key)
	}
	if len(w.rows) > 0 {
		t.Errorf("left over: %q", slices.Sorted(maps.Keys(w.rows)))
	}
}

// FuzzLoad: whatever rows there are, Load refuses them or returns a group that works, and that
// its own rows rebuild.
func FuzzLoad(f *testing.F) {
	w := busy(f)
	f.Add(w.rows["c/epoch"], w.rows["c/m/a"], w.rows["c/t/a"], w.rows["c/a/a"])
	f.Add(w.rows["c/epoch"], w.rows["c/m/b"], w.rows["c/t/b"], w.rows["c/a/b"])
	f.Add(w.rows["c/epoch"], w.rows["c/m/c"], w.rows["c/t/c"], w.rows["c/a/c"])
	f.Fuzz(func(t *testing.T, group, said, target, current []byte) {
		w := newWorld(t)
		w.setTopics(map[string]int32{"t": 6, "u": 2})
		w.rows = map[string][]byte{"c/epoch": group, "c/m/a": said, "c/t/a": target, "c/a/a": current}
		g, err := consumer.Load("g", w.seq(), w.cfg, w.topics, w.now)
		if err != nil {
			return
		}
		w.g = g
		w.pass(0)
		before := w.describe()
		w.reload()
		if after := w.describe(); !reflect.DeepEqual(before, after) {
			t.Fatalf("%+v, after another load %+v", before, after)
		}
		w.do("n join names=t")
		w.pass(time.Hour)
	})
}
