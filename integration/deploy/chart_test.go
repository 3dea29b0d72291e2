//go:build integration

package deploy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/floelog/floe/integration/deploy"
)

// variants are the values that the chart is tried out with, on top of what must be given.
var variants = map[string]string{
	"least":       ``,
	"zones":       `{zones: {names: [eu-west-1a, eu-west-1b, eu-west-1c]}, replicas: 2, nodeSelector: {pool: kafka}}`,
	"autoscaling": `{autoscaling: {enabled: true, targetLoadRatio: 700m, podMetrics: [{name: floe_memory_used_bytes, averageValue: 400Mi}, {name: floe_connections, averageValue: 2000}]}}`,
	"everything": `{
		fullnameOverride: log, cluster: events, zones: {names: [a, b]}, ipv6: true, drainTimeoutSeconds: 120,
		image: {repository: registry.example/floe, tag: v1, pullPolicy: Always}, imagePullSecrets: [{name: pull}],
		etcd: {tls: {secret: etcd-tls}, auth: {secret: etcd-auth}}, rpc: {tls: {secret: agents-tls}}, store: {credentialsSecret: store},
		settings: {flush-size: 4MiB, auto-create-topics: false, num-partitions: 6, log-format: text, lease-ttl: 5s},
		memoryBudget: 6GiB, resources: {limits: {cpu: 4, memory: 8Gi}}, cacheDisk: {enabled: true, size: 100Gi},
		autoscaling: {enabled: true, minReplicas: 2, maxReplicas: 9},
		service: {type: LoadBalancer, annotations: {lb.example/internal: "true"}},
		serviceAccount: {annotations: {eks.amazonaws.com/role-arn: "arn:aws:iam::1:role/floe"}},
		networkPolicy: {clients: [{podSelector: {matchLabels: {kafka: client}}}], egress: {etcd: {to: [{podSelector: {matchLabels: {app: etcd}}}]}}},
		monitoring: {podMonitor: {enabled: true, labels: {release: prometheus}}, prometheusRule: {enabled: true}, dashboards: {enabled: true}},
		podAnnotations: {a: b}, podLabels: {c: d}, tolerations: [{key: dedicated, operator: Exists}], priorityClassName: high,
		affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: arch, operator: In, values: [arm64]}]}]}}},
	}`,
	"nothing optional": `{podDisruptionBudget: {enabled: false}, networkPolicy: {enabled: false}, serviceAccount: {create: false}, etcd: {tls: {secret: ca, clientCertificate: false}}}`,
	"open egress":      `{networkPolicy: {clients: [], monitoring: [], egress: {enabled: false}}}`,
}

// valuesOf adds what must be given to some values.
func valuesOf(t *testing.T, text string) map[string]any {
	t.Helper()
	values := map[string]any{}
	if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(text, "\t", "  ")), &values); err != nil {
		t.Fatal(err)
	}
	must := map[string]map[string]any{"etcd": {"endpoints": []any{"etcd-0:2379", "etcd-1:2379"}}, "store": {"url": "s3://bucket/prefix?region=eu-west-1"}}
	for name, fields := range must {
		if values[name] == nil {
			values[name] = map[string]any{}
		}
		for field, value := range fields {
			if given := values[name].(map[string]any); given[field] == nil {
				given[field] = value
			}
		}
	}
	return values
}

func TestChartLints(t *testing.T) {
	for name, text := range variants {
		linted := lint.All(filepath.Join(root, deploy.Chart), valuesOf(t, text), "floe", true)
		for _, m := range linted.Messages {
			if m.Severity >= support.WarningSev {
				t.Errorf("%s: %v", name, m)
			}
		}
	}
}

func TestChartRenders(t *testing.T) {
	for name, text := range variants {
		t.Run(name, func(t *testing.T) {
			values := valuesOf(t, text)
			o := render(t, values)
			zones := 1
			if z, ok := values["zones"].(map[string]any); ok {
				zones = len(z["names"].([]any))
			}
			if len(o.deployments) != zones {
				t.Errorf("%d deployments, want %d", len(o.deployments), zones)
			}
			for _, d := range o.deployments {
				checkDeployment(t, o, d)
			}
			checkReferences(t, o)
		})
	}
}

// checkDeployment checks what must hold of each Deployment, whatever the values.
func checkDeployment(t *testing.T, o *objects, d *appsv1.Deployment) {
	t.Helper()
	pod, name := d.Spec.Template, d.Name
	selects(t, name, d.Spec.Selector, pod.Labels)
	c := pod.Spec.Containers[0]
	env := map[string]corev1.EnvVar{}
	for _, e := range c.Env {
		if _, twice := env[e.Name]; twice {
			t.Errorf("%s: %s is set twice", name, e.Name)
		}
		env[e.Name] = e
	}
	drain, err := time.ParseDuration(env["FLOE_DRAIN_TIMEOUT"].Value)
	if grace := time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second; err != nil || grace < drain+15*time.Second {
		t.Errorf("%s: a grace period of %v is too short for a drain of %v (%v)", name, grace, drain, err)
	}
	security := c.SecurityContext
	if !*security.ReadOnlyRootFilesystem || *security.AllowPrivilegeEscalation || !*pod.Spec.SecurityContext.RunAsNonRoot ||
		fmt.Sprint(security.Capabilities.Drop) != "[ALL]" || *pod.Spec.AutomountServiceAccountToken {
		t.Errorf("%s: it has rights that an agent does not need: %+v", name, security)
	}
	if c.ReadinessProbe.HTTPGet.Path != "/readyz" || c.LivenessProbe.HTTPGet.Path != "/healthz" {
		t.Errorf("%s: probes ask %s and %s", name, c.ReadinessProbe.HTTPGet.Path, c.LivenessProbe.HTTPGet.Path)
	}
	volumes := map[string]bool{}
	for _, v := range pod.Spec.Volumes {
		volumes[v.Name] = true
		if v.Secret != nil && (v.Secret.DefaultMode == nil || *v.Secret.DefaultMode != 0o440) {
			t.Errorf("%s: secret %s can be read by everyone, which Floe refuses", name, v.Name)
		}
		if v.ConfigMap != nil && o.configMaps[v.ConfigMap.Name] == nil {
			t.Errorf("%s: there is no config map %s", name, v.ConfigMap.Name)
		}
	}
	for _, m := range c.VolumeMounts {
		if !volumes[m.Name] {
			t.Errorf("%s: there is no volume %s", name, m.Name)
		}
		delete(volumes, m.Name)
	}
	if len(volumes) > 0 {
		t.Errorf("%s: volumes that nothing mounts: %v", name, volumes)
	}
	if len(o.scalers) > 0 && d.Spec.Replicas != nil {
		t.Errorf("%s: replicas are given although an autoscaler decides: each upgrade would undo what it did", name)
	}
}

// checkReferences checks that objects name each other rightly.
func checkReferences(t *testing.T, o *objects) {
	t.Helper()
	for _, s := range o.scalers {
		if o.deployments[s.Spec.ScaleTargetRef.Name] == nil {
			t.Errorf("autoscaler %s: there is no deployment %s", s.Name, s.Spec.ScaleTargetRef.Name)
		}
	}
	for _, d := range o.deployments {
		pod := d.Spec.Template.Labels
		for _, b := range o.budgets {
			selects(t, b.Name, b.Spec.Selector, pod)
		}
		for _, p := range o.policies {
			selects(t, p.Name, &p.Spec.PodSelector, pod)
		}
		for _, m := range o.podMonitors {
			selects(t, m.Name, &m.Spec.Selector, pod)
		}
		for _, s := range o.services {
			selects(t, s.Name, &metav1.LabelSelector{MatchLabels: s.Spec.Selector}, pod)
		}
		if name := d.Spec.Template.Spec.ServiceAccountName; o.accounts[name] == nil && name != "default" {
			t.Errorf("%s: there is no service account %s", d.Name, name)
		}
	}
}

func selects(t *testing.T, name string, selector *metav1.LabelSelector, pod map[string]string) {
	t.Helper()
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil || s.Empty() || !s.Matches(labels.Set(pod)) {
		t.Errorf("%s: %v does not select pods with %v (%v)", name, selector, pod, err)
	}
}

// Deployments of different zones must not adopt each other's pods.
func TestZonesAreApart(t *testing.T) {
	o := render(t, valuesOf(t, variants["zones"]))
	for _, a := range o.deployments {
		for _, b := range o.deployments {
			s, err := metav1.LabelSelectorAsSelector(a.Spec.Selector)
			if err != nil {
				t.Fatal(err)
			}
			if s.Matches(labels.Set(b.Spec.Template.Labels)) != (a == b) {
				t.Errorf("selector of %s and pods of %s", a.Name, b.Name)
			}
		}
		zone := a.Spec.Template.Spec.NodeSelector["topology.kubernetes.io/zone"]
		if got := envOf(a)["FLOE_ZONE"]; zone == "" || got != zone {
			t.Errorf("%s: agents on nodes of %q say that they are in %q", a.Name, zone, got)
		}
	}
	one := render(t, valuesOf(t, ""))
	for _, e := range one.deployments["floe"].Spec.Template.Spec.Containers[0].Env {
		if e.Name == "FLOE_ZONE" && (e.ValueFrom == nil || e.ValueFrom.FieldRef.FieldPath != "metadata.labels['topology.kubernetes.io/zone']") {
			t.Errorf("without zones, FLOE_ZONE is %+v", e)
		}
	}
}

// envOf returns the variables of an agent that have a value, with the pod's address in place.
func envOf(d *appsv1.Deployment) map[string]string {
	env := map[string]string{}
	for _, e := range d.Spec.Template.Spec.Containers[0].Env {
		if e.ValueFrom == nil {
			env[e.Name] = strings.NewReplacer("[$(POD_IP)]", "[fd00::1]", "$(POD_IP)", "10.0.0.1", "$(HOST_IP)", "10.0.0.2").Replace(e.Value)
		}
	}
	return env
}

func TestChartRefuses(t *testing.T) {
	tests := map[string]struct{ values, want string }{
		"no etcd":               {`{etcd: {endpoints: []}}`, "etcd.endpoints"},
		"no store":              {`{store: {url: ""}}`, "store.url"},
		"credentials in a URL":  {`{store: {url: "s3://me:secret@b"}}`, "url"},
		"unknown value":         {`{replica: 3}`, "replica"},
		"a setting of its own":  {`{settings: {drain-timeout: 5m}}`, "settings.drain-timeout"},
		"no metric to scale by": {`{autoscaling: {enabled: true, targetCPUUtilization: 0}}`, "podMetrics"},
		"a ratio beyond full":   {`{autoscaling: {enabled: true, targetLoadRatio: 1500m}}`, "targetLoadRatio"},
		"fewer than the least":  {`{autoscaling: {minReplicas: 20}}`, "minReplicas"},
		"too long a drain":      {`{drainTimeoutSeconds: 3600}`, "drainTimeoutSeconds"},
		"zone with a blank":     {`{zones: {names: ["a b"]}}`, "zones"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := deploy.Render(filepath.Join(root, deploy.Chart), valuesOf(t, tt.values)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want an error that names %s", err, tt.want)
			}
		})
	}
}

func TestManifestsAreCurrent(t *testing.T) {
	want, err := deploy.RenderManifests(root)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, deploy.Manifests))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the chart says: run make manifests", deploy.Manifests)
	}
	o := newObjects()
	for _, doc := range documents(string(got)) {
		if err := o.add([]byte(doc)); err != nil {
			t.Error(err)
		}
	}
	if len(o.deployments) != 1 || len(o.policies) != 1 {
		t.Errorf("%d deployments and %d network policies, want one of each", len(o.deployments), len(o.policies))
	}
}

// What the chart embeds is what is in its files.
func TestChartEmbedsMonitoring(t *testing.T) {
	o := render(t, valuesOf(t, variants["everything"]))
	rule := o.rules["log"]
	embedded, err := json.Marshal(rule.Spec)
	if err != nil {
		t.Fatal(err)
	}
	alerts := 0
	for _, g := range rule.Spec.Groups {
		alerts += len(g.Rules)
	}
	if want := len(alertsOf(t)); alerts != want || !bytes.Contains(embedded, []byte("runbooks.md#floegone")) {
		t.Errorf("the PrometheusRule has %d alerts, want %d, with links to runbooks", alerts, want)
	}
	if n := len(o.configMaps["log-dashboards"].Data); n != len(dashboardFiles(t)) {
		t.Errorf("the config map has %d dashboards, want %d", n, len(dashboardFiles(t)))
	}
	if got := o.configMaps["log-settings"].Data["floe.yaml"]; !strings.Contains(got, "flush-size: 4MiB") {
		t.Errorf("settings: %s", got)
	}
}
