//go:build integration

package deploy_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/floelog/floe/integration/deploy"
)

// later are metrics that a floe dev at work does not serve, with the reason. Each is looked
// for in the source; one that is served must not be here.
var later = map[string]string{
	"floe_cache_disk_given_up":       "only with cache-disk-dir, which floe agent has",
	"floe_cache_disk_bytes":          "only with cache-disk-dir",
	"floe_cache_disk_capacity_bytes": "only with cache-disk-dir",
	"floe_connections_refused_total": "only when connections were refused",

	"floe_fetch_lagging_wait_seconds_bucket": "only when a consumer was far behind",
	"floe_fetch_lagging_wait_seconds_count":  "only when a consumer was far behind",
}

var ofHistogram = regexp.MustCompile(`_(bucket|count)$`)

// ofTargets are labels that Prometheus adds, and its own metric of every target.
var ofTargets = []string{"job", "instance", "cluster", "__name__"}

// served is what a metric is known by: the values of its labels.
type served map[string]map[string][]string

// add takes a page of metrics, with the series that histograms and summaries consist of.
func (s served) add(families map[string]*dto.MetricFamily) {
	for name, f := range families {
		names := map[string]string{name: ""}
		switch f.GetType() {
		case dto.MetricType_HISTOGRAM:
			names = map[string]string{name + "_bucket": "le", name + "_sum": "", name + "_count": ""}
		case dto.MetricType_SUMMARY:
			names = map[string]string{name: "quantile", name + "_sum": "", name + "_count": ""}
		}
		for n, extra := range names {
			s[n] = map[string][]string{}
			if extra != "" {
				s[n][extra] = nil
			}
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					s[n][l.GetName()] = append(s[n][l.GetName()], l.GetValue())
				}
			}
		}
	}
}

// sources are the Go files of Floe, without tests.
func sources(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "integration"):
			return filepath.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		content, err := os.ReadFile(path)
		all.Write(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// alert is one alert of files/alerts.yaml.
type alert struct {
	name, expr  string
	labels      map[string]string
	annotations map[string]string
}

const alertsFile = deploy.Chart + "/files/alerts.yaml"

// alertsOf reads the alerts with Prometheus's own parser, which checks names, expressions,
// durations and templates, and refuses unknown fields.
func alertsOf(t *testing.T) []alert {
	t.Helper()
	groups, errs := rulefmt.ParseFile(filepath.Join(root, alertsFile), false, model.LegacyValidation, promqlParser)
	for _, err := range errs {
		t.Error(err)
	}
	if len(errs) > 0 {
		t.FailNow()
	}
	var out []alert
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" {
				t.Errorf("group %s has a rule that is no alert: %s", g.Name, r.Record)
			}
			out = append(out, alert{r.Alert, r.Expr, r.Labels, r.Annotations})
		}
	}
	return out
}

func dashboardFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, deploy.Chart, "files", "dashboards", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	return files
}

// dashboard is what is checked of a dashboard of Grafana.
type dashboard struct {
	UID, Title string
	Panels     []struct {
		ID      int
		Type    string
		Title   string
		GridPos struct{ X, Y, W, H int }
		Targets []struct{ Expr, RefID string }
	}
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
}

// query is an expression of an alert, a dashboard or an autoscaler.
type query struct{ from, expr string }

// ofGrafana replaces what Grafana does before Prometheus sees an expression.
var ofGrafana = strings.NewReplacer("$__rate_interval", "5m", "$cluster", ".*", "$instance", ".*")

var labelValues = regexp.MustCompile(`^label_values\((.+), *(\w+)\)$`)

// queries returns all expressions in the folder deploy.
func queries(t *testing.T) []query {
	t.Helper()
	var out []query
	for _, a := range alertsOf(t) {
		out = append(out, query{"alert " + a.name, a.expr})
	}
	uids := map[string]bool{}
	for _, file := range dashboardFiles(t) {
		var d dashboard
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(content, &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		name := filepath.Base(file)
		if uids[d.UID] || d.UID == "" || d.Title == "" {
			t.Errorf("%s: uid %q and title %q: each dashboard has its own", name, d.UID, d.Title)
		}
		uids[d.UID] = true
		out = append(out, ofPanels(t, name, &d)...)
	}
	for variant, text := range variants {
		for _, s := range render(t, valuesOf(t, text)).scalers {
			for _, m := range s.Spec.Metrics {
				if m.Pods != nil {
					out = append(out, query{"autoscaler of " + variant, m.Pods.Metric.Name})
				}
			}
		}
	}
	return out
}

func ofPanels(t *testing.T, name string, d *dashboard) (out []query) {
	t.Helper()
	for _, v := range d.Templating.List {
		if m := labelValues.FindStringSubmatch(v.Definition); m != nil {
			out = append(out, query{name + ": variable " + v.Name, ofGrafana.Replace(m[1])})
		} else if v.Type == "query" {
			t.Errorf("%s: variable %s: %s", name, v.Name, v.Definition)
		}
	}
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 || p.GridPos.H == 0 {
			t.Errorf("%s: %s: its id %d is another's, or its place %+v is not on the page", name, p.Title, p.ID, p.GridPos)
		}
		ids[p.ID] = true
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s: %s shows nothing", name, p.Title)
		}
		for _, target := range p.Targets {
			out = append(out, query{name + ": " + p.Title, ofGrafana.Replace(target.Expr)})
		}
	}
	return out
}

// Whatever an alert, a dashboard or an autoscaler names is served by an agent or by etcd, with
// that label and that value.
func TestMetricsExist(t *testing.T) {
	all := served{"up": {}}
	all.add(metricsOf(t))
	all.add(etcdMetrics(t))
	code := sources(t)
	for name, why := range later {
		if all[name] != nil {
			t.Errorf("%s is served: remove it from later (%s)", name, why)
		}
		if !strings.Contains(code, `"`+ofHistogram.ReplaceAllString(name, "")+`"`) {
			t.Errorf("%s is nowhere in the source", name)
		}
	}
	used := map[string]bool{}
	for _, q := range queries(t) {
		expr, err := promqlParser.ParseExpr(q.expr)
		if err != nil {
			t.Errorf("%s: %v", q.from, err)
			continue
		}
		parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
			switch n := n.(type) {
			case *parser.VectorSelector:
				used[n.Name] = true
				checkSelector(t, q.from, n, all, code)
			case *parser.AggregateExpr:
				checkGrouping(t, q.from, n, all)
			}
			return nil
		})
	}
	for name := range later {
		if !used[name] {
			t.Errorf("%s is used nowhere: remove it from later", name)
		}
	}
}

func checkSelector(t *testing.T, from string, v *parser.VectorSelector, all served, code string) {
	t.Helper()
	known, ok := all[v.Name]
	if !ok {
		if _, comes := later[v.Name]; !comes {
			t.Errorf("%s: nobody serves %s", from, v.Name)
		}
		return
	}
	for _, m := range v.LabelMatchers {
		if slices.Contains(ofTargets, m.Name) {
			continue
		}
		values, ok := known[m.Name]
		if !ok {
			t.Errorf("%s: %s has no label %s", from, v.Name, m.Name)
			continue
		}
		// Values that only appear by an event are in the source, error codes apart.
		if m.Type == labels.MatchEqual && !slices.Contains(values, m.Value) && m.Name != "code" && m.Name != "le" && m.Name != "quantile" &&
			!strings.Contains(code, `"`+m.Value+`"`) {
			t.Errorf("%s: %s has no %s=%q", from, v.Name, m.Name, m.Value)
		}
		if m.Type == labels.MatchRegexp && m.Value != ".*" {
			for _, value := range strings.Split(m.Value, "|") {
				if !slices.Contains(values, value) {
					t.Errorf("%s: %s has no %s=%q", from, v.Name, m.Name, value)
				}
			}
		}
	}
}

// checkGrouping checks that what an expression groups by is a label of what it groups.
func checkGrouping(t *testing.T, from string, by *parser.AggregateExpr, all served) {
	t.Helper()
	for _, set := range parser.ExtractSelectors(by) {
		name := ""
		for _, m := range set {
			if m.Name == model.MetricNameLabel {
				name = m.Value
			}
		}
		for _, label := range by.Grouping {
			if _, has := all[name][label]; all[name] != nil && !has && !slices.Contains(ofTargets, label) {
				t.Errorf("%s: %s has no label %s to group by", from, name, label)
			}
		}
	}
}
