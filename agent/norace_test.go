//go:build !race

package agent_test

import "testing"

// lastsHours is said by tests that go through many hours of virtual time; see race_test.go.
func lastsHours(*testing.T) {}
