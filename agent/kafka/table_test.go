package kafka

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestTable(t *testing.T) {
	if err := checkTable(apis); err != nil {
		t.Fatal(err)
	}
	serve := apis[2].serve
	for name, table := range map[string][]api{
		"twice":            append(apis[:len(apis):len(apis)], apis[3]),
		"no handler":       {{key: 1, max: 1}},
		"two handlers":     {{key: 1, max: 1, serve: serve, raw: apis[0].raw}},
		"versions swapped": {{key: 1, min: 2, max: 1, serve: serve}},
		"advertised above": {{key: 1, min: 1, max: 2, advertised: 2, serve: serve}},
	} {
		if checkTable(table) == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for i, a := range apis {
		if i > 0 && apis[i-1].key >= a.key {
			t.Errorf("key %d after %d", a.key, apis[i-1].key)
		}
		r := kmsg.RequestForKey(a.key)
		for v := a.min; v <= a.max; v++ {
			if r.SetVersion(v); r.IsFlexible() != (v >= a.flexible) {
				t.Errorf("key %d: version %d is flexible: %v", a.key, v, r.IsFlexible())
			}
		}
	}
}
