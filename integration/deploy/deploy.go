// Package deploy renders what is in the folder deploy, for its tests and for `make manifests`.
// It is a module of its own, so that Helm, Prometheus and the types of Kubernetes are no
// dependencies of Floe. Its functions have no state.
package deploy

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
	"sigs.k8s.io/yaml"
)

// Paths below the root of the repository.
const (
	Chart          = "deploy/helm/floe"
	ManifestValues = "deploy/kubernetes/values.yaml" // what Manifests are rendered with
	Manifests      = "deploy/kubernetes/floe.yaml"
)

// Release and namespace of what is rendered.
const (
	release   = "floe"
	namespace = "floe"
)

// Values reads a file of values.
func Values(path string) (map[string]any, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("values: %w", err)
	}
	values := map[string]any{}
	if err := yaml.UnmarshalStrict(content, &values); err != nil {
		return nil, fmt.Errorf("values of %s: %w", path, err)
	}
	return values, nil
}

// Render returns the objects of the chart in a folder, in the order in which Helm installs
// them, each with its path in the chart: what `helm template floe DIR -n floe` writes.
func Render(dir string, values map[string]any) ([]releaseutil.Manifest, error) {
	chart, err := loader.LoadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("loading the chart: %w", err)
	}
	options := chartutil.ReleaseOptions{Name: release, Namespace: namespace, Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(chart, values, options, chartutil.DefaultCapabilities.Copy())
	if err != nil {
		return nil, fmt.Errorf("values of the chart: %w", err)
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		return nil, fmt.Errorf("rendering the chart: %w", err)
	}
	maps.DeleteFunc(files, func(path, _ string) bool {
		return strings.HasSuffix(path, ".txt") || strings.HasPrefix(filepath.Base(path), "_")
	})
	hooks, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return nil, fmt.Errorf("sorting the rendered objects: %w", err)
	}
	if len(hooks) > 0 {
		return nil, fmt.Errorf("the chart has hooks, such as %s, which plain manifests cannot have", hooks[0].Path)
	}
	return manifests, nil
}

// RenderManifests returns what Manifests should hold.
func RenderManifests(root string) ([]byte, error) {
	values, err := Values(filepath.Join(root, ManifestValues))
	if err != nil {
		return nil, err
	}
	objects, err := Render(filepath.Join(root, Chart), values)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "# Written by `make manifests` from the chart in %s and %s.\n", Chart, ManifestValues)
	for _, o := range objects {
		lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(o.Content), "\n"), func(line string) bool { return strings.TrimSpace(line) == "" })
		fmt.Fprintf(&out, "---\n# Source: %s\n%s\n", o.Name, strings.Join(lines, "\n"))
	}
	return out.Bytes(), nil
}
