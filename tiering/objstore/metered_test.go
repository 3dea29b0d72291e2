package objstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/memory"
	"github.com/floelog/floe/tiering/objstore/objstoretest"
)

func metered(t *testing.T, inner objstore.Store, reg prometheus.Registerer) objstore.Store {
	t.Helper()
	s, err := objstore.Metered(inner, reg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMeteredConformance(t *testing.T) {
	objstoretest.Run(t, func(t *testing.T) objstore.Store { return metered(t, memory.New(), prometheus.NewRegistry()) })
}

func TestMeteredCounts(t *testing.T) {
	reg := prometheus.NewRegistry()
	inner := &script{Store: memory.New()}
	first, second := metered(t, inner, reg), metered(t, inner, reg) // two agents of one process
	ctx := t.Context()
	canceled, cancel := context.WithCancel(ctx)
	cancel()

	inner.steps = []step{{}, {}, {err: objstore.ErrThrottled}, {err: errReset}, {err: objstore.ErrDenied}, {hang: true}}
	body := objstoretest.Body(1, 1000, 100)
	var errs []error
	errs = append(errs, first.Put(ctx, "a", body), second.Put(ctx, "a", body)) // ok, exists
	errs = append(errs, first.Put(ctx, "b", body), first.Put(ctx, "b", body))  // throttled, error
	errs = append(errs, first.Put(ctx, "b", body), first.Put(canceled, "b", body))
	_, err := second.GetRange(objstore.WithPurpose(ctx, objstore.Fetch), "a", 10, 250)
	errs = append(errs, err)
	_, err = second.GetRange(ctx, "a", 900, 250)
	errs = append(errs, err)
	_, _, err = second.GetUpTo(ctx, "a", 900, 250) // 100 bytes
	errs = append(errs, err)
	_, err = second.Head(ctx, "none")
	errs = append(errs, err)
	_, err = second.List(ctx, "", "", 10)
	errs = append(errs, err, second.Delete(ctx, "a", "b", "c"))

	want := []error{nil, objstore.ErrExists, objstore.ErrThrottled, errReset, objstore.ErrDenied, context.Canceled,
		nil, objstore.ErrCorrupt, nil, objstore.ErrNotFound, nil, nil}
	for i, err := range errs {
		if !errors.Is(err, want[i]) {
			t.Errorf("call %d: %v, want %v", i, err, want[i])
		}
	}
	checkMetrics(t, reg, `
floe_objstore_requests_total{kind="delete",outcome="ok"} 1
floe_objstore_requests_total{kind="get",outcome="corrupt"} 1
floe_objstore_requests_total{kind="get",outcome="ok"} 2
floe_objstore_requests_total{kind="head",outcome="not_found"} 1
floe_objstore_requests_total{kind="list",outcome="ok"} 1
floe_objstore_requests_total{kind="put",outcome="canceled"} 1
floe_objstore_requests_total{kind="put",outcome="denied"} 1
floe_objstore_requests_total{kind="put",outcome="error"} 1
floe_objstore_requests_total{kind="put",outcome="exists"} 1
floe_objstore_requests_total{kind="put",outcome="ok"} 1
floe_objstore_requests_total{kind="put",outcome="throttled"} 1
floe_objstore_bytes_total{kind="get"} 350
floe_objstore_bytes_total{kind="put"} 1000
floe_objstore_purpose_requests_total{kind="put",purpose="other"} 6
floe_objstore_purpose_requests_total{kind="get",purpose="fetch"} 1
floe_objstore_purpose_requests_total{kind="get",purpose="other"} 2
floe_objstore_purpose_requests_total{kind="head",purpose="other"} 1
floe_objstore_purpose_requests_total{kind="list",purpose="other"} 1
floe_objstore_purpose_requests_total{kind="delete",purpose="other"} 1
floe_objstore_purpose_bytes_total{kind="get",purpose="fetch"} 250
floe_objstore_purpose_bytes_total{kind="get",purpose="other"} 100
floe_objstore_purpose_bytes_total{kind="put",purpose="other"} 1000
`)
}

// checkMetrics compares the counters of reg that are not 0 with want, and sees that
// every kind has its latencies.
func checkMetrics(t *testing.T, reg *prometheus.Registry, want string) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	latencies := 0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "floe_objstore_request_seconds" && m.GetHistogram().GetSampleCount() > 0 {
				latencies++
			}
			if v := m.GetCounter().GetValue(); v != 0 {
				var labels []string
				for _, l := range m.GetLabel() {
					labels = append(labels, l.GetName()+`="`+l.GetValue()+`"`)
				}
				got[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = v
			}
		}
	}
	if latencies != 5 {
		t.Errorf("%d latency histograms, want one for each kind", latencies)
	}
	lines := strings.Split(strings.TrimSpace(want), "\n")
	if len(got) != len(lines) {
		t.Errorf("%d counters, want %d: %v", len(got), len(lines), got)
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, " ")
		if v, ok := got[name]; !ok || value != fmt.Sprint(v) {
			t.Errorf("%s is %v, want %s", name, v, value)
		}
	}
}
