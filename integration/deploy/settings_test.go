//go:build integration

package deploy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var (
	variable = regexp.MustCompile(`\bFLOE_[A-Z_]+\b`)
	flag     = regexp.MustCompile(`floe agent[^\n|]*`)
	flagName = regexp.MustCompile(`--([a-z-]+)`)
)

// deployed returns the text files of the folder deploy, and its page in docs.
func deployed(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(filepath.Join(root, "deploy"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		files[path] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range []string{"docs/deploy.md", runbooks} {
		content, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		files[page] = string(content)
	}
	return files
}

// Every variable and every flag of floe agent that is named is a setting.
func TestSettingsExist(t *testing.T) {
	table := settingsOf(t)
	named := 0
	for path, text := range deployed(t) {
		for _, v := range variable.FindAllString(text, -1) {
			named++
			if _, ok := table[strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(v, "FLOE_")), "_", "-")]; !ok {
				t.Errorf("%s: %s is no setting of floe agent", path, v)
			}
		}
		for _, command := range flag.FindAllString(text, -1) {
			for _, m := range flagName.FindAllStringSubmatch(command, -1) {
				if _, ok := table[m[1]]; !ok {
					t.Errorf("%s: --%s is no flag of floe agent", path, m[1])
				}
			}
		}
	}
	if named < 40 {
		t.Errorf("%d variables were seen: this test no longer sees the files", named)
	}
}

var (
	codeSpan = regexp.MustCompile("(?:`|\n {4,})floe ([^`\n]+)")
	plain    = regexp.MustCompile(`^[a-z]+$`)
)

// The commands that the pages name exist, with their flags.
func TestCommandsExist(t *testing.T) {
	seen := 0
	for path, text := range deployed(t) {
		if filepath.Ext(path) != ".md" {
			continue
		}
		for _, m := range codeSpan.FindAllStringSubmatch(text, -1) {
			seen++
			words := strings.Fields(m[1])
			n := 0
			for n < len(words) && plain.MatchString(words[n]) {
				n++
			}
			help, err := exec.Command(floe(t), append(words[:n:n], "--help")...).CombinedOutput()
			if err != nil || !bytes.Contains(help, []byte("floe "+strings.Join(words[:n], " "))) {
				t.Errorf("%s: floe %s: %v\n%s", path, m[1], err, help)
			}
			for _, f := range flagName.FindAllString(m[1], -1) {
				if !bytes.Contains(help, []byte(f)) {
					t.Errorf("%s: floe %s: there is no %s", path, m[1], f)
				}
			}
		}
	}
	if seen < 5 {
		t.Errorf("%d commands were seen: this test no longer sees the pages", seen)
	}
}

// What the chart decides itself is exactly what its values must not repeat.
func TestChartOwnsItsSettings(t *testing.T) {
	helpers := deployed(t)[filepath.Join(root, "deploy/helm/floe/templates/_helpers.tpl")]
	deployment := deployed(t)[filepath.Join(root, "deploy/helm/floe/templates/deployment.yaml")]
	list := regexp.MustCompile(`range \$name := list (.*) -}}`).FindStringSubmatch(helpers)
	if list == nil {
		t.Fatal("the list of settings is not where it was")
	}
	for _, v := range variable.FindAllString(deployment, -1) {
		name := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(v, "FLOE_")), "_", "-")
		if name != "log-format" && !strings.Contains(list[1], `"`+name+`"`) {
			t.Errorf("the deployment sets %s, and values may say something else by settings.%s", v, name)
		}
	}
	table := settingsOf(t)
	for _, m := range regexp.MustCompile(`"([^"]+)"`).FindAllStringSubmatch(list[1], -1) {
		if _, ok := table[m[1]]; !ok {
			t.Errorf("%s is no setting", m[1])
		}
	}
}

// startsWith runs floe agent with some environment, over a store whose driver has no endpoint:
// it ends with exit code 2 and names a setting if one is wrong, else it fails at the store.
func startsWith(t *testing.T, what string, env map[string]string) {
	t.Helper()
	var environ []string
	for k, v := range env {
		if k != "FLOE_STORE" && !strings.HasPrefix(k, "AWS_") {
			environ = append(environ, k+"="+v)
		}
	}
	environ = append(environ, "FLOE_STORE=s3://bucket?driver=minio")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, floe(t), "agent")
	var said bytes.Buffer
	cmd.Env, cmd.Stderr = environ, &said
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() == 2 || !strings.Contains(said.String(), "driver=minio needs to know where") {
		t.Errorf("%s: %v: %s", what, err, said.String())
	}
}

// Floe takes the settings that the chart, the Compose file and the units give it: values as
// well as names, and how they fit together.
func TestSettingsAreTaken(t *testing.T) {
	for name, text := range variants {
		o := render(t, valuesOf(t, text))
		for _, d := range o.deployments {
			env := envOf(d)
			if env["FLOE_CONFIG"] != "" {
				env["FLOE_CONFIG"] = filepath.Join(t.TempDir(), "floe.yaml")
				if err := os.WriteFile(env["FLOE_CONFIG"], []byte(o.configMaps[d.Name[:3]+"-settings"].Data["floe.yaml"]), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if env["FLOE_ETCD_PASSWORD_FILE"] != "" {
				env["FLOE_ETCD_USER"] = "from-a-secret"
			}
			startsWith(t, "chart with "+name, env)
		}
	}
	for name, s := range project(t, nil).Services {
		if !strings.HasPrefix(name, "agent-") {
			continue
		}
		env := map[string]string{}
		for k, v := range s.Environment {
			env[k] = *v
		}
		startsWith(t, "Compose's "+name, env)
	}
	startsWith(t, "systemd's floe.yaml", map[string]string{"FLOE_CONFIG": filepath.Join(root, "deploy/systemd/floe.yaml")})
}

// iamStatement is a statement of an IAM policy.
type iamStatement struct {
	Sid       string
	Effect    string
	Action    any
	Resource  string
	Condition map[string]map[string]string
}

// The actions that each call of the drivers needs. HEAD and GET of what is missing answer 404
// only to those who may list.
var needs = map[string]string{
	"PutObject": "s3:PutObject", "GetObject": "s3:GetObject", "HeadObject": "s3:GetObject", "StatObject": "s3:GetObject",
	"ListObjectsV2": "s3:ListBucket", "ListObjectsIter": "s3:ListBucket",
	"DeleteObjects": "s3:DeleteObject", "RemoveObjectsWithIter": "s3:DeleteObject",
}

var (
	s3Call    = regexp.MustCompile(`s\.client\.(\w+)\(`)
	minioCall = regexp.MustCompile(`s\.core\.(\w+)\(`)
)

// The policy allows exactly what the drivers call.
func TestPolicyIsTheLeast(t *testing.T) {
	var want []string
	for file, call := range map[string]*regexp.Regexp{"s3/s3.go": s3Call, "minio/minio.go": minioCall} {
		code, err := os.ReadFile(filepath.Join(root, "tiering/objstore", file))
		if err != nil {
			t.Fatal(err)
		}
		var here []string
		for _, m := range call.FindAllStringSubmatch(string(code), -1) {
			if needs[m[1]] == "" {
				t.Errorf("%s calls %s: which right does that need?", file, m[1])
			}
			here = append(here, needs[m[1]])
		}
		slices.Sort(here)
		here = slices.Compact(here)
		if want != nil && !slices.Equal(here, want) {
			t.Errorf("the drivers need different rights: %v and %v", here, want)
		}
		want = here
	}
	content, err := os.ReadFile(filepath.Join(root, "deploy/iam/policy.json"))
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		Version   string
		Statement []iamStatement
	}
	d := json.NewDecoder(bytes.NewReader(content))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range p.Statement {
		actions, many := s.Action.([]any)
		if !many {
			actions = []any{s.Action}
		}
		for _, a := range actions {
			got = append(got, a.(string))
			resource := "arn:aws:s3:::BUCKET/PREFIX/*"
			if a == "s3:ListBucket" {
				resource = "arn:aws:s3:::BUCKET"
			}
			if s.Resource != resource || s.Effect != "Allow" {
				t.Errorf("%s: %s of %s, want %s", a, s.Effect, s.Resource, resource)
			}
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the policy allows %v, the drivers need %v", got, want)
	}
}

var goImage = regexp.MustCompile(`golang:(\d+\.\d+)\b`)

func TestDockerfile(t *testing.T) {
	content := deployed(t)[filepath.Join(root, "deploy/Dockerfile")]
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	m := goImage.FindStringSubmatch(content)
	if m == nil || !strings.Contains(string(mod), "\ngo "+m[1]+".") {
		t.Errorf("it builds with Go %v, go.mod wants another", m)
	}
	stages := strings.Split(content, "\nFROM ")
	last := stages[len(stages)-1]
	for _, want := range []string{"\nUSER 65532:65532\n", "\nENTRYPOINT [\"/usr/local/bin/floe\"]\n", "\nSTOPSIGNAL SIGTERM\n", "COPY --from=build /floe /usr/local/bin/floe"} {
		if !strings.Contains(last, want) {
			t.Errorf("the image's stage has no %q", strings.TrimSpace(want))
		}
	}
	if !strings.Contains(content, "RUN CGO_ENABLED=0 ") || strings.Contains(last, "\nRUN ") {
		t.Error("the binary is not static, or the image's stage runs something: it has no shell")
	}
	if o := render(t, valuesOf(t, "")); *o.deployments["floe"].Spec.Template.Spec.SecurityContext.RunAsUser != 65532 {
		t.Error("the chart runs another user than the image's")
	}
}

// A provisioned folder of Grafana is what its files say.
func TestGrafanaProvisioning(t *testing.T) {
	var sources struct {
		APIVersion  int `json:"apiVersion"`
		Datasources []struct {
			Name      string `json:"name"`
			Type      string `json:"type"`
			Access    string `json:"access"`
			URL       string `json:"url"`
			IsDefault bool   `json:"isDefault"`
		} `json:"datasources"`
	}
	content := deployed(t)[filepath.Join(root, composeDir, "grafana/datasources/prometheus.yaml")]
	if err := yaml.UnmarshalStrict([]byte(content), &sources); err != nil {
		t.Fatal(err)
	}
	if len(sources.Datasources) != 1 || sources.Datasources[0].URL != "http://prometheus:9090" || !sources.Datasources[0].IsDefault {
		t.Errorf("data sources %+v", sources.Datasources)
	}
	var mounted []string
	grafana := project(t, nil).Services["grafana"]
	for _, v := range grafana.Volumes {
		mounted = append(mounted, v.Target)
	}
	if provider := deployed(t)[filepath.Join(root, composeDir, "grafana/dashboards/floe.yaml")]; !strings.Contains(provider, "path: /var/lib/grafana/dashboards\n") || !slices.Contains(mounted, "/var/lib/grafana/dashboards") {
		t.Errorf("dashboards are mounted among %v, Grafana looks elsewhere:\n%s", mounted, provider)
	}
	home := *grafana.Environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
	if !slices.ContainsFunc(dashboardFiles(t), func(f string) bool { return filepath.Base(f) == filepath.Base(home) }) {
		t.Errorf("there is no dashboard %s", home)
	}
}
