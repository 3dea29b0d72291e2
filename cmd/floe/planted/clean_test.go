//go:build !planted

package planted

import (
	"slices"
	"testing"

	"github.com/floelog/floe/agent"
)

// Without the tag the variable reaches the settings, which refuse it, and nothing is planted.
func TestNothingIsPlanted(t *testing.T) {
	environ := []string{"A=1", Variable + "=ack-early"}
	rest, p := Choose(environ)
	if !slices.Equal(rest, environ) {
		t.Errorf("the environment is %v", rest)
	}
	if got, err := p.In("c", agent.Parts{}); err != nil || got.Clients != nil || got.Meta != nil || got.Objects != nil || got.Jobs != nil || got.Machines != nil {
		t.Errorf("%+v, %v", got, err)
	}
}
