//go:build integration && unix

package clients

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/floelog/floe/integration/fixture"
)

// env is a running Floe that several tests share, each with topics of its own.
type env struct {
	floe    *fixture.Floe
	java    *java
	workers workers // of TestCoordination

	// written is what has been acknowledged, by topic, for a later look.
	written map[string][]record
}

// clients returns every client; their order is that of the tables.
func (e *env) clients() []client { return []client{kcat{}, librdkafka{}, franz{}, e.java} }

// environment is a way to run Floe.
type environment struct {
	name  string
	start func(t testing.TB, args ...string) *fixture.Floe
}

// environments are the ways to run Floe that every client is tried on.
var environments = []environment{
	{"dev", func(t testing.TB, args ...string) *fixture.Floe { return fixture.Dev(t, 1, args...) }},
	{"dev-3-agents", func(t testing.TB, args ...string) *fixture.Floe { return fixture.Dev(t, 3, args...) }},
	{"etcd-minio", func(t testing.TB, args ...string) *fixture.Floe {
		return fixture.Agents(t, 3, fixture.StoreMinIO, args...)
	}},
	{"etcd-s3", func(t testing.TB, args ...string) *fixture.Floe {
		return fixture.Agents(t, 1, fixture.StoreS3, args...)
	}},
}

// suite is a test of an environment; client and what become lines of docs/compatibility.md.
type suite struct {
	name   string
	run    func(*testing.T, *env)
	client string // name of a client; empty: all of the matrix
	what   string
}

// suites are what is run on each environment, in this order.
var suites = []suite{
	{"matrix", testMatrix, "", "write with none, gzip, snappy, lz4 and zstd, and read what every other client wrote, byte for byte: null and empty keys and values, headers, times"},
	{"kcat", testKcat, "kcat", "metadata (-L), offsets by time, from the end and by number, -Q, topics created by their first record"},
	{"librdkafka", testLibrdkafka, "confluent-kafka-go", "acks 0, 1 and all, offsets of times, watermarks, admin: topics, partitions, configs, records, cluster"},
	{"produce", testFranzProduce, "franz-go", "idempotent or not, acks 0, 1 and all, through every agent, large records and their limits, times of arrival"},
	{"consume", testFranzConsume, "franz-go", "every form of ListOffsets, through every agent, client.rack, fetch sessions, topic ids"},
	{"admin", testFranzAdmin, "franz-go", "admin (kadm): topics, partitions, configs, records, log dirs, cluster; deletion and re-creation"},
	{"java", testJava, "Apache Kafka (Java)", "producer with acks 0, 1 and all, idempotent by default; offsets through consumer and admin client"},
	{"tools", testTools, "Apache Kafka (Java)", "kafka-topics, -configs, -console-producer, -console-consumer (--partition), -get-offsets, -delete-records, -log-dirs, -broker-api-versions, -cluster"},
	{"malformed", testMalformed, "", ""},
	{"restart", testRestart, "", "read it all again after every agent was ended with SIGTERM, and after SIGKILL"},
}

func TestClients(t *testing.T) {
	t.Parallel()
	j := startJava(t)
	t.Run("page", func(t *testing.T) { testPage(t, (&env{java: j}).clients()) })
	for _, en := range places("dev", "dev-3-agents", "etcd-minio", "etcd-s3") {
		t.Run(en.name, func(t *testing.T) {
			e := &env{floe: en.start(t), java: j, written: map[string][]record{}}
			for _, s := range suites {
				t.Run(s.name, func(t *testing.T) { s.run(t, e) })
			}
			e.floe.Stop()
		})
	}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}
