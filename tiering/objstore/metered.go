package objstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metered returns a store that counts its calls in reg: requests by kind and outcome,
// bytes by kind, latency by kind, and both requests and bytes by what they were made for
// (Purpose), which is what a bill is made of. Agents of one process that share a registry
// share the counters. A Delete of any number of keys is one request here.
func Metered(inner Store, reg prometheus.Registerer) (Store, error) {
	m := &metered{Store: inner}
	requests, err := register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "floe_objstore_requests_total",
		Help: "Requests to the object store, each attempt counted, by kind and outcome.",
	}, []string{"kind", "outcome"}))
	if err != nil {
		return nil, err
	}
	moved, err := register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "floe_objstore_bytes_total",
		Help: "Bytes of object content put and got by requests that succeeded.",
	}, []string{"kind"}))
	if err != nil {
		return nil, err
	}
	seconds, err := register(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "floe_objstore_request_seconds",
		Help: "Latency of requests to the object store, whatever their outcome.",
		// From a local disk (1 ms) to a stalled upload (16 s), in factors of two.
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
	}, []string{"kind"}))
	if err != nil {
		return nil, err
	}
	if err := m.registerPurposes(reg); err != nil {
		return nil, err
	}
	for k, name := range kindNames {
		m.kinds[k] = kindMetrics{bytes: moved.WithLabelValues(name), seconds: seconds.WithLabelValues(name)}
		for o, outcome := range outcomeNames {
			m.kinds[k].requests[o] = requests.WithLabelValues(name, outcome)
		}
	}
	return m, nil
}

// registerPurposes adds the counts by purpose.
func (m *metered) registerPurposes(reg prometheus.Registerer) error {
	requests, err := register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "floe_objstore_purpose_requests_total",
		Help: "Requests to the object store, each attempt counted, by kind and by what they were made for.",
	}, []string{"kind", "purpose"}))
	if err != nil {
		return err
	}
	moved, err := register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "floe_objstore_purpose_bytes_total",
		Help: "Bytes of object content put and got by requests that succeeded, by what they were made for.",
	}, []string{"kind", "purpose"}))
	if err != nil {
		return err
	}
	for k, kind := range kindNames {
		for _, p := range Purposes() {
			m.purposes[k][p] = purposeMetrics{requests.WithLabelValues(kind, p.String()), moved.WithLabelValues(kind, p.String())}
		}
	}
	return nil
}

// register adds c to reg, or returns the equal collector that is there already.
func register[C prometheus.Collector](reg prometheus.Registerer, c C) (C, error) {
	err := reg.Register(c)
	var there prometheus.AlreadyRegisteredError
	if errors.As(err, &there) {
		if old, ok := there.ExistingCollector.(C); ok {
			return old, nil
		}
	}
	if err != nil {
		return c, fmt.Errorf("register object store metrics: %w", err)
	}
	return c, nil
}

type kind int

const (
	kindPut kind = iota
	kindGet
	kindHead
	kindList
	kindDelete
	kinds
)

var kindNames = [kinds]string{"put", "get", "head", "list", "delete"}

type outcome int

const (
	outcomeOK outcome = iota
	outcomeExists
	outcomeNotFound
	outcomeCorrupt
	outcomeThrottled
	outcomeDenied
	outcomeFull
	outcomeCanceled
	outcomeTimeout
	outcomeError
	outcomes
)

var outcomeNames = [outcomes]string{
	"ok", "exists", "not_found", "corrupt", "throttled", "denied", "full", "canceled", "timeout", "error",
}

// outcomeErrors are looked for in this order.
var outcomeErrors = [...]struct {
	err     error
	outcome outcome
}{
	{ErrExists, outcomeExists},
	{ErrNotFound, outcomeNotFound},
	{ErrCorrupt, outcomeCorrupt},
	{ErrThrottled, outcomeThrottled},
	{ErrDenied, outcomeDenied},
	{ErrFull, outcomeFull},
	{context.Canceled, outcomeCanceled},
	{context.DeadlineExceeded, outcomeTimeout},
}

func outcomeOf(err error) outcome {
	if err == nil {
		return outcomeOK
	}
	for _, e := range outcomeErrors {
		if errors.Is(err, e.err) {
			return e.outcome
		}
	}
	return outcomeError
}

type kindMetrics struct {
	requests [outcomes]prometheus.Counter
	bytes    prometheus.Counter
	seconds  prometheus.Observer
}

type purposeMetrics struct {
	requests prometheus.Counter
	bytes    prometheus.Counter
}

type metered struct {
	Store
	kinds    [kinds]kindMetrics
	purposes [kinds][numPurposes]purposeMetrics
}

func (m *metered) observe(ctx context.Context, k kind, start time.Time, n int64, err error) {
	km, pm := &m.kinds[k], &m.purposes[k][PurposeOf(ctx)]
	km.requests[outcomeOf(err)].Inc()
	pm.requests.Inc()
	km.seconds.Observe(time.Since(start).Seconds())
	if err == nil && n > 0 {
		km.bytes.Add(float64(n))
		pm.bytes.Add(float64(n))
	}
}

func (m *metered) Put(ctx context.Context, key string, body Body) error {
	start := time.Now()
	err := m.Store.Put(ctx, key, body)
	m.observe(ctx, kindPut, start, body.Size(), err)
	return err
}

func (m *metered) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	start := time.Now()
	data, err := m.Store.GetRange(ctx, key, off, n)
	m.observe(ctx, kindGet, start, n, err)
	return data, err
}

func (m *metered) GetUpTo(ctx context.Context, key string, off, n int64) (Body, int64, error) {
	start := time.Now()
	data, size, err := m.Store.GetUpTo(ctx, key, off, n)
	m.observe(ctx, kindGet, start, data.Size(), err)
	return data, size, err
}

func (m *metered) Head(ctx context.Context, key string) (Info, error) {
	start := time.Now()
	info, err := m.Store.Head(ctx, key)
	m.observe(ctx, kindHead, start, 0, err)
	return info, err
}

func (m *metered) List(ctx context.Context, prefix, after string, limit int) ([]Info, error) {
	start := time.Now()
	infos, err := m.Store.List(ctx, prefix, after, limit)
	m.observe(ctx, kindList, start, 0, err)
	return infos, err
}

func (m *metered) Delete(ctx context.Context, keys ...string) error {
	start := time.Now()
	err := m.Store.Delete(ctx, keys...)
	m.observe(ctx, kindDelete, start, 0, err)
	return err
}
