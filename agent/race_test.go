//go:build race

package agent_test

import "testing"

// lastsHours is said by tests that go through many hours of virtual time: under the race detector
// the test process ended with a SIGSEGV in about one of five runs, on the runtime's own stack
// while it ran the bubble's timers, with none of Floe's code on it. `make test` runs them without.
func lastsHours(t *testing.T) {
	t.Helper()
	t.Skip("hours of virtual time: runs without the race detector")
}
