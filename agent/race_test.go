//go:build race

package agent_test

import "testing"

// lastsHours is said by tests that go through many hours of virtual time: Go's own runtime
// crashes in some of ten runs of them under the race detector. `make test` runs them without it.
func lastsHours(t *testing.T) {
	t.Helper()
	t.Skip("hours of virtual time: runs without the race detector")
}
