package agent

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/protocol"
)

// traffic counts connections and requests.
type traffic struct {
	open     *prometheus.GaugeVec
	opened   *prometheus.CounterVec
	closed   *prometheus.CounterVec
	refused  *prometheus.CounterVec
	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	bytesIn  *prometheus.CounterVec
	bytesOut *prometheus.CounterVec
}

func newTraffic(reg prometheus.Registerer) *traffic {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	t := &traffic{
		open:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "floe_connections", Help: "Open client connections."}, []string{"listener"}),
		opened:   counter("floe_connections_opened_total", "Client connections accepted.", "listener"),
		closed:   counter("floe_connections_closed_total", "Client connections closed, by reason.", "listener", "reason"),
		refused:  counter("floe_connections_refused_total", "Client connections refused because of a limit.", "listener"),
		requests: counter("floe_requests_total", "Requests served, by API and Kafka error code.", "api", "code"),
		latency:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "floe_request_seconds", Help: "Time from a request's last byte to its answer.", Buckets: latencyBuckets}, []string{"api"}),
		bytesIn:  counter("floe_request_bytes_total", "Bytes of requests.", "api"),
		bytesOut: counter("floe_response_bytes_total", "Bytes of answers.", "api"),
	}
	reg.MustRegister(t.open, t.opened, t.closed, t.refused, t.requests, t.latency, t.bytesIn, t.bytesOut)
	return t
}

// ConnOpened implements protocol.Observer, as do the next three.
func (t *traffic) ConnOpened(listener string) {
	t.open.WithLabelValues(listener).Inc()
	t.opened.WithLabelValues(listener).Inc()
}

func (t *traffic) ConnClosed(listener, reason string) {
	t.open.WithLabelValues(listener).Dec()
	t.closed.WithLabelValues(listener, reason).Inc()
}

func (t *traffic) ConnRefused(listener string) { t.refused.WithLabelValues(listener).Inc() }

func (t *traffic) Served(s protocol.Served) {
	api := kmsg.NameForKey(s.Key)
	t.requests.WithLabelValues(api, strconv.Itoa(int(s.ErrorCode))).Inc()
	t.latency.WithLabelValues(api).Observe(s.Latency.Seconds())
	t.bytesIn.WithLabelValues(api).Add(float64(s.RequestSize))
	t.bytesOut.WithLabelValues(api).Add(float64(s.ResponseSize))
}
