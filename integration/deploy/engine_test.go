//go:build integration

package deploy_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

var promqlParser = parser.NewParser(parser.Options{})

// fires evaluates an expression, a minute after the last of the samples, which are a minute
// apart, and returns the labels of what it yields. Series are written as promtool does:
// `name{label="value"} 0+1x60`.
func fires(t *testing.T, expr string, series []string) []labels.Labels {
	t.Helper()
	var m memory
	end := int64(0)
	for _, s := range series {
		lset, values, err := promqlParser.ParseSeriesDesc(s)
		if err != nil {
			t.Fatalf("series %s: %v", s, err)
		}
		var samples []chunks.Sample
		for i, v := range values {
			at := int64(i) * time.Minute.Milliseconds()
			if !v.Omitted {
				samples = append(samples, sample{at, v.Value})
			}
			end = max(end, at)
		}
		m = append(m, storage.NewListSeries(lset, samples))
	}
	engine := promql.NewEngine(promql.EngineOpts{
		MaxSamples: 1e6, Timeout: time.Minute, Parser: promqlParser,
		NoStepSubqueryIntervalFn: func(int64) int64 { return time.Minute.Milliseconds() },
	})
	defer func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	}()
	q, err := engine.NewInstantQuery(t.Context(), m, nil, expr, time.UnixMilli(end))
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	defer q.Close()
	vector, err := q.Exec(t.Context()).Vector()
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	var out []labels.Labels
	for _, s := range vector {
		out = append(out, s.Metric.Copy())
	}
	return out
}

// memory is a store of series for the engine.
type memory []*storage.SeriesEntry

// Querier implements storage.Queryable.
func (m memory) Querier(int64, int64) (storage.Querier, error) { return querier{m}, nil }

type querier struct{ memory }

// Select implements storage.Querier, as do the next three.
func (q querier) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	found := &seriesSet{next: -1}
	for _, s := range q.memory {
		if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.Labels().Get(m.Name)) }) {
			found.series = append(found.series, s)
		}
	}
	slices.SortFunc(found.series, func(a, b *storage.SeriesEntry) int { return labels.Compare(a.Labels(), b.Labels()) })
	return found
}

func (querier) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (querier) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (querier) Close() error { return nil }

type seriesSet struct {
	series []*storage.SeriesEntry
	next   int
}

func (s *seriesSet) Next() bool                        { s.next++; return s.next < len(s.series) }
func (s *seriesSet) At() storage.Series                { return s.series[s.next] }
func (s *seriesSet) Err() error                        { return nil }
func (s *seriesSet) Warnings() annotations.Annotations { return nil }

// sample implements chunks.Sample.
type sample struct {
	at    int64
	value float64
}

func (s sample) T() int64                      { return s.at }
func (s sample) ST() int64                     { return 0 }
func (s sample) F() float64                    { return s.value }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample           { return s }
