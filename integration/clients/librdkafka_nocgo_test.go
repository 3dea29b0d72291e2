//go:build integration && unix && !cgo

package clients

import "testing"

// librdkafka cannot be built: the tests that need it say so.
type librdkafka struct{}

const needsCgo = "librdkafka needs cgo: install a C compiler and set CGO_ENABLED=1"

func (librdkafka) name() string { return "confluent-kafka-go" }

func (librdkafka) version(t *testing.T) string {
	t.Fatal(needsCgo)
	return ""
}

func (librdkafka) produce(t *testing.T, _ []string, _, _ string, _ []record) []record {
	t.Fatal(needsCgo)
	return nil
}

func (librdkafka) consume(t *testing.T, _ []string, _ string, _, _ int) []record {
	t.Fatal(needsCgo)
	return nil
}

func testLibrdkafka(t *testing.T, _ *env) { t.Fatal(needsCgo) }

func (librdkafka) write(t *testing.T, _ []string, _, _ string, _ int32, _ []string) {
	t.Fatal(needsCgo)
}

func (librdkafka) join(t *testing.T, _ *board, _ membership) *member {
	t.Fatal(needsCgo)
	return nil
}

func (librdkafka) pipe(t *testing.T, _ *board, _ piping) *member {
	t.Fatal(needsCgo)
	return nil
}

func (librdkafka) fence(t *testing.T, _ []string, _, _ string) string {
	t.Fatal(needsCgo)
	return ""
}
