package bill_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/cmd/floe/bill"
)

const gib = 1 << 30

// counted is a minute of a workload that makes requests of one kind.
func counted(key bill.Key, requests, bytes float64) bill.Counts {
	c := bill.New()
	c.Over = time.Minute
	c.Requests[key], c.Bytes[key] = requests, bytes
	return c
}

func TestBillOfAMonth(t *testing.T) {
	c := counted(bill.Key{Kind: "put", Purpose: "produce"}, 60, gib)
	c.Add(counted(bill.Key{Kind: "get", Purpose: "fetch"}, 10, gib/2))
	c.Topics["a"] = bill.Topic{In: gib, Stored: 3 * gib, Partitions: 2}
	c.Topics["b"] = bill.Topic{Out: gib, Stored: 5 * gib, Partitions: 1}
	b := bill.Of(c, bill.Prices{Put: 1, Get: 0.5, Storage: 2, Transfer: 0.25})
	minutes := bill.Month.Minutes()
	for what, x := range map[string][2]float64{
		"requests": {b.Requests, minutes * (60*0.001 + 10*0.0005)},
		"storage":  {b.Storage, 16},
		"transfer": {b.Transfer, minutes * 1.5 * 0.25},
		"total":    {b.Total, b.Requests + b.Storage + b.Transfer},
		"in":       {b.Topics[1].InGiB, minutes},
	} {
		if math.Abs(x[0]-x[1]) > 1e-6*x[1] {
			t.Errorf("%s: got %g, want %g", what, x[0], x[1])
		}
	}
	if b.Topics[0].Topic != "b" || b.Lines[0].Kind != "put" {
		t.Errorf("the largest topic and the dearest requests come first: got %+v, %+v", b.Topics, b.Lines)
	}
}

func TestFindingsNameTheSetting(t *testing.T) {
	short := counted(bill.Key{Kind: "put", Purpose: "produce"}, 240, 240*50_000)
	short.Over = 10 * time.Second
	tiny := bill.New()
	tiny.Over = time.Hour
	tiny.Topics["many"] = bill.Topic{Partitions: 5000, Stored: 5000 * 10_000}
	for name, c := range map[string]struct {
		counts  bill.Counts
		setting string
	}{
		"small flushes":        {counted(bill.Key{Kind: "put", Purpose: "produce"}, 240, 240*50_000), "flush-age"},
		"too short a time":     {short, ""},
		"large flushes":        {counted(bill.Key{Kind: "put", Purpose: "produce"}, 240, 240*(8<<20)), ""},
		"few small flushes":    {counted(bill.Key{Kind: "put", Purpose: "produce"}, 0.1, 1000), ""},
		"small GETs":           {counted(bill.Key{Kind: "get", Purpose: "fetch"}, 6000, 6000*20_000), "cache-size"},
		"GETs of whole blocks": {counted(bill.Key{Kind: "get", Purpose: "fetch"}, 6000, 6000*(2<<20)), ""},
		"merging is not these": {counted(bill.Key{Kind: "put", Purpose: "merge"}, 240, 1000), ""},
		"frequent snapshots":   {counted(bill.Key{Kind: "put", Purpose: "metadata"}, 60, 60_000), "inline-max"},
		"carried records":      {counted(bill.Key{Kind: "put", Purpose: "carry"}, 12, 6_000), "carry-age"},
		"carried by the way":   {counted(bill.Key{Kind: "put", Purpose: "carry"}, 1, 600), ""},
		"tiny partitions":      {tiny, "num-partitions"},
	} {
		got := bill.Of(c.counts, bill.DefaultPrices()).Findings
		switch {
		case c.setting == "" && len(got) > 0:
			t.Errorf("%s: found %+v", name, got)
		case c.setting != "" && (len(got) != 1 || got[0].Setting != c.setting || got[0].What == "" || got[0].Remedy == ""):
			t.Errorf("%s: found %+v, want %s", name, got, c.setting)
		}
	}
}

func TestCountsSince(t *testing.T) {
	key := bill.Key{Kind: "put", Purpose: "produce"}
	before, now := counted(key, 100, 1000), counted(key, 130, 1500)
	before.Topics["a"] = bill.Topic{In: 7, Stored: 9}
	now.Topics["a"] = bill.Topic{In: 10, Stored: 12}
	d := now.Since(before, time.Minute)
	if d.Requests[key] != 30 || d.Bytes[key] != 500 || d.Topics["a"] != (bill.Topic{In: 3, Stored: 12}) {
		t.Errorf("got %+v", d)
	}
	again := counted(key, 5, 50) // after a restart
	if d := again.Since(now, time.Minute); d.Requests[key] != 5 {
		t.Errorf("an agent that started again counted %g requests, want 5", d.Requests[key])
	}
}

func TestParse(t *testing.T) {
	const text = `
# TYPE floe_objstore_purpose_requests_total counter
floe_objstore_purpose_requests_total{kind="put",purpose="produce"} 12
floe_objstore_purpose_requests_total{kind="get",purpose="fetch"} 3
# TYPE floe_objstore_purpose_bytes_total counter
floe_objstore_purpose_bytes_total{kind="put",purpose="produce"} 4096
# TYPE floe_topic_bytes_total counter
floe_topic_bytes_total{topic="a",direction="in"} 5
floe_topic_bytes_total{topic="a",direction="out"} 6
# TYPE floe_topic_stored_bytes gauge
floe_topic_stored_bytes{topic="a"} 7
# TYPE floe_topic_partitions gauge
floe_topic_partitions{topic="a"} 2
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1000
`
	c, err := bill.Parse(strings.NewReader(text), time.Unix(1060, 0))
	if err != nil {
		t.Fatal(err)
	}
	if c.Over != time.Minute || c.Requests[bill.Key{Kind: "put", Purpose: "produce"}] != 12 || c.Bytes[bill.Key{Kind: "put", Purpose: "produce"}] != 4096 ||
		c.Topics["a"] != (bill.Topic{In: 5, Out: 6, Stored: 7, Partitions: 2}) {
		t.Errorf("got %+v", c)
	}
	for name, text := range map[string]string{"nothing of Floe": "up 1\n", "no metrics": "<html>\n"} {
		if _, err := bill.Parse(strings.NewReader(text), time.Unix(0, 0)); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("floe_objstore_purpose_requests_total{kind=\"put\",purpose=\"x\"} 1\n"))
	f.Add([]byte("process_start_time_seconds NaN\nfloe_objstore_purpose_requests_total 1e400\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := bill.Parse(strings.NewReader(string(b)), time.Unix(1, 0))
		if err == nil && len(bill.Of(c, bill.DefaultPrices()).Lines) > len(c.Requests) {
			t.Error("more lines than there were requests")
		}
	})
}
