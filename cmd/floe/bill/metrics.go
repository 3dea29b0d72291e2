package bill

import (
	"fmt"
	"io"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Parse reads what an agent counted since its start from what it serves under /metrics; now
// is when it was asked.
func Parse(r io.Reader, now time.Time) (Counts, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(r)
	if err != nil {
		return Counts{}, fmt.Errorf("reading metrics: %w", err)
	}
	requests := families["floe_objstore_purpose_requests_total"]
	if requests == nil {
		return Counts{}, fmt.Errorf("reading metrics: there is no floe_objstore_purpose_requests_total: is this a Floe agent of this version?")
	}
	c := New()
	each(requests, func(l map[string]string, v float64) { c.Requests[Key{l["kind"], l["purpose"]}] += v })
	each(families["floe_objstore_purpose_bytes_total"], func(l map[string]string, v float64) { c.Bytes[Key{l["kind"], l["purpose"]}] += v })
	topic := func(name string, set func(t *Topic, l map[string]string, v float64)) {
		each(families[name], func(l map[string]string, v float64) {
			t := c.Topics[l["topic"]]
			set(&t, l, v)
			c.Topics[l["topic"]] = t
		})
	}
	topic("floe_topic_bytes_total", func(t *Topic, l map[string]string, v float64) {
		if l["direction"] == "in" {
			t.In += v
		} else {
			t.Out += v
		}
	})
	topic("floe_topic_stored_bytes", func(t *Topic, _ map[string]string, v float64) { t.Stored += v })
	topic("floe_topic_partitions", func(t *Topic, _ map[string]string, v float64) { t.Partitions += v })
	each(families["floe_inline_bytes_total"], func(_ map[string]string, v float64) { c.Inline += v })
	each(families["process_start_time_seconds"], func(_ map[string]string, v float64) {
		c.Over = now.Sub(time.Unix(0, int64(v*float64(time.Second))))
	})
	return c, nil
}

// each calls f with the labels and the value of every series of a family.
func each(family *dto.MetricFamily, f func(labels map[string]string, value float64)) {
	for _, m := range family.GetMetric() {
		labels := make(map[string]string, len(m.GetLabel()))
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		switch {
		case m.Counter != nil:
			f(labels, m.GetCounter().GetValue())
		case m.Gauge != nil:
			f(labels, m.GetGauge().GetValue())
		case m.Untyped != nil:
			f(labels, m.GetUntyped().GetValue())
		}
	}
}
