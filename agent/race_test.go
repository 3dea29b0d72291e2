//go:build race

package agent_test

import "testing"

// lastsHours is said by tests that go through many hours of virtual time: under the race detector
// the test process ended with a SIGSEGV within it, on a goroutine that runs timers, in about one of
// five runs; why is not known. `make test` runs them without it.
func lastsHours(t *testing.T) {
	t.Helper()
	t.Skip("hours of virtual time: runs without the race detector")
}
