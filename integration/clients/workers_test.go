//go:build integration && unix

package clients

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/floelog/floe/integration/fixture"
)

// workers are the workers of all tests, by the names of their suites. The remote ones are
// a process each, which serves many tests at a time.
type workers map[string]worker

func startWorkers(t *testing.T) workers {
	t.Helper()
	jvm := fixture.Java(t, javaProject)
	java := append(jvmFlags(jvm, compileJava(t, jvm, "Workers.java", "WordCount.java")), "Workers")
	here := filepath.Join(fixture.RepoRoot(t), "integration", "clients")
	return workers{
		"kcat": kcat{}, "librdkafka": librdkafka{}, "franz": franz{}, "sarama": saramaClient{}, "kafka-go": kafkaGo{},
		"java":     startRemote(t, "Apache Kafka (Java)", append([]string{jvm.Java}, java...)...),
		"kafkajs":  startRemote(t, "kafkajs", append(fixture.Node(t, "integration/clients/js"), filepath.Join(here, "js", "worker.js"))...),
		"aiokafka": startRemote(t, "aiokafka", append(fixture.Python(t, "integration/clients/py"), filepath.Join(here, "py", "worker.py"))...),
	}
}

func (w workers) of(t *testing.T, name string) worker {
	t.Helper()
	if w[name] == nil {
		t.Fatalf("no worker is called %s", name)
	}
	return w[name]
}

// pinned is a client that only the tests of coordination use, as the page names it.
type pinned struct {
	title string
	find  func(t *testing.T) string
}

func (p pinned) name() string { return p.title }

func (p pinned) version(t *testing.T) string { return p.find(t) }

// newcomers are the clients of the page that are not in the matrix.
func newcomers() []named {
	module := func(path string) func(*testing.T) string {
		return func(t *testing.T) string { return moduleVersion(t, path) }
	}
	return []named{
		pinned{"sarama", module("github.com/IBM/sarama")},
		pinned{"segmentio/kafka-go", module("github.com/segmentio/kafka-go")},
		pinned{"kafkajs", func(t *testing.T) string {
			var project struct {
				Dependencies map[string]string `json:"dependencies"`
			}
			text, err := os.ReadFile(filepath.Join("js", "package.json"))
			if err == nil {
				err = json.Unmarshal(text, &project)
			}
			if err != nil {
				t.Fatal(err)
			}
			return project.Dependencies["kafkajs"]
		}},
		pinned{"aiokafka", func(t *testing.T) string {
			text, err := os.ReadFile(filepath.Join("py", "requirements.txt"))
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(text)) {
				if version, ok := strings.CutPrefix(strings.TrimSpace(line), "aiokafka=="); ok {
					return version
				}
			}
			t.Fatal("requirements.txt does not pin aiokafka")
			return ""
		}},
	}
}
