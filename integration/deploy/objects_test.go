//go:build integration

package deploy_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"

	"github.com/floelog/floe/integration/deploy"
)

// root is that of the repository.
var root = filepath.Join("..", "..")

// objects are what a chart renders, by kind and name.
type objects struct {
	deployments map[string]*appsv1.Deployment
	scalers     map[string]*autoscaling.HorizontalPodAutoscaler
	configMaps  map[string]*corev1.ConfigMap
	services    map[string]*corev1.Service
	accounts    map[string]*corev1.ServiceAccount
	budgets     map[string]*policy.PodDisruptionBudget
	policies    map[string]*networking.NetworkPolicy
	podMonitors map[string]*monitoring.PodMonitor
	rules       map[string]*monitoring.PrometheusRule
}

// render renders the chart and decodes every object strictly, as the API server would with
// field validation: what the types do not know is an error.
func render(t *testing.T, values map[string]any) *objects {
	t.Helper()
	manifests, err := deploy.Render(filepath.Join(root, deploy.Chart), values)
	if err != nil {
		t.Fatal(err)
	}
	o := newObjects()
	for _, m := range manifests {
		if err := o.add([]byte(m.Content)); err != nil {
			t.Errorf("%s: %v\n%s", m.Name, err, m.Content)
		}
	}
	return o
}

func newObjects() *objects {
	return &objects{
		deployments: map[string]*appsv1.Deployment{}, scalers: map[string]*autoscaling.HorizontalPodAutoscaler{},
		configMaps: map[string]*corev1.ConfigMap{}, services: map[string]*corev1.Service{}, accounts: map[string]*corev1.ServiceAccount{},
		budgets: map[string]*policy.PodDisruptionBudget{}, policies: map[string]*networking.NetworkPolicy{},
		podMonitors: map[string]*monitoring.PodMonitor{}, rules: map[string]*monitoring.PrometheusRule{},
	}
}

func (o *objects) add(doc []byte) error {
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Metadata   struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
		} `json:"metadata"`
	}
	if err := yaml.Unmarshal(doc, &head); err != nil {
		return err
	}
	if head.Metadata.Namespace != "floe" {
		return fmt.Errorf("%s %s is in namespace %q, not in the release's", head.Kind, head.Metadata.Name, head.Metadata.Namespace)
	}
	name := head.Metadata.Name
	switch head.APIVersion + " " + head.Kind {
	case "apps/v1 Deployment":
		return decode(doc, name, o.deployments)
	case "autoscaling/v2 HorizontalPodAutoscaler":
		return decode(doc, name, o.scalers)
	case "v1 ConfigMap":
		return decode(doc, name, o.configMaps)
	case "v1 Service":
		return decode(doc, name, o.services)
	case "v1 ServiceAccount":
		return decode(doc, name, o.accounts)
	case "policy/v1 PodDisruptionBudget":
		return decode(doc, name, o.budgets)
	case "networking.k8s.io/v1 NetworkPolicy":
		return decode(doc, name, o.policies)
	case "monitoring.coreos.com/v1 PodMonitor":
		return decode(doc, name, o.podMonitors)
	case "monitoring.coreos.com/v1 PrometheusRule":
		return decode(doc, name, o.rules)
	}
	return fmt.Errorf("%s %s is a kind that no test knows", head.APIVersion, head.Kind)
}

func decode[T any](doc []byte, name string, into map[string]*T) error {
	if into[name] != nil {
		return fmt.Errorf("%s is there twice", name)
	}
	into[name] = new(T)
	return yaml.UnmarshalStrict(doc, into[name])
}

// documents cuts a stream of YAML documents.
func documents(content string) []string {
	var out []string
	for _, doc := range strings.Split("\n"+content, "\n---\n") {
		if hasContent(doc) {
			out = append(out, doc)
		}
	}
	return out
}

func hasContent(doc string) bool {
	for _, line := range strings.Split(doc, "\n") {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return true
		}
	}
	return false
}
