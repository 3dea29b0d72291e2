package agent

import (
	"context"
	"errors"
	"reflect"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
)

// coordinatorMetrics is what is counted of all coordinators; of makes an observer of one kind.
type coordinatorMetrics struct {
	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	steps    *prometheus.CounterVec
	led      *prometheus.GaugeVec
	rebuilt  *prometheus.CounterVec
	repeated *prometheus.CounterVec
}

func newCoordinatorMetrics(reg prometheus.Registerer) *coordinatorMetrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &coordinatorMetrics{
		requests: counter("floe_coordinator_requests_total", "Requests to coordinators of this agent, by kind of coordinator, request and outcome.", "kind", "request", "outcome"),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "floe_coordinator_request_seconds", Buckets: latencyBuckets,
			Help: "Time from a request to a coordinator to its reply; a member that joins waits for the others."}, []string{"kind", "request"}),
		steps:    counter("floe_coordinator_steps_total", "Steps of coordinators, by whether they had something to write.", "kind", "wrote"),
		led:      prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "floe_coordinators", Help: "Shards whose coordinator this agent is."}, []string{"kind"}),
		rebuilt:  counter("floe_coordinator_rebuilds_total", "Coordinators built anew because what they wanted to write was refused.", "kind"),
		repeated: counter("floe_coordinator_calls_repeated_total", "Calls of coordinators to other shards that had to be repeated.", "kind"),
	}
	reg.MustRegister(m.requests, m.latency, m.steps, m.led, m.rebuilt, m.repeated)
	return m
}

// coordinatorObserver implements coordinator.Observer for one kind.
type coordinatorObserver struct {
	kind          string
	m             *coordinatorMetrics
	wrote, silent prometheus.Counter
	led           prometheus.Gauge
	rebuilt       prometheus.Counter
	repeated      prometheus.Counter
}

func (m *coordinatorMetrics) of(kind string) *coordinatorObserver {
	return &coordinatorObserver{
		kind: kind, m: m,
		wrote:  m.steps.WithLabelValues(kind, strconv.FormatBool(true)),
		silent: m.steps.WithLabelValues(kind, strconv.FormatBool(false)),
		led:    m.led.WithLabelValues(kind), rebuilt: m.rebuilt.WithLabelValues(kind), repeated: m.repeated.WithLabelValues(kind),
	}
}

// Answered implements coordinator.Observer, as do the next four.
func (o *coordinatorObserver) Answered(body any, took time.Duration, err error) {
	name := requestName(body)
	o.m.requests.WithLabelValues(o.kind, name, requestOutcome(err)).Inc()
	o.m.latency.WithLabelValues(o.kind, name).Observe(took.Seconds())
}

func (o *coordinatorObserver) Stepped(wrote bool) {
	if wrote {
		o.wrote.Inc()
	} else {
		o.silent.Inc()
	}
}

func (o *coordinatorObserver) Led(change int) { o.led.Add(float64(change)) }
func (o *coordinatorObserver) Rebuilt()       { o.rebuilt.Inc() }
func (o *coordinatorObserver) CallRepeated()  { o.repeated.Inc() }

// requestName is the Kafka API's name, or that of what stands for its requests: a few dozen.
func requestName(body any) string {
	if r, ok := body.(kmsg.Request); ok {
		return kmsg.NameForKey(r.Key())
	}
	if t := reflect.TypeOf(body); t != nil {
		return t.Name()
	}
	return ""
}

func requestOutcome(err error) string {
	switch {
	case err == nil:
		return "answered"
	case errors.Is(err, coordinator.ErrNotCoordinator):
		return "not_coordinator"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "given_up"
	}
	return "failed"
}
