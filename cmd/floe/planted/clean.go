//go:build !planted

package planted

import "github.com/floelog/floe/agent"

// Plant is no bug.
type Plant struct{}

// Choose returns the environment as it is: settings refuse FLOE_PLANTED, which names none of them.
func Choose(environ []string) ([]string, Plant) { return environ, Plant{} }

// In returns the parts as they are.
func (Plant) In(_ string, p agent.Parts) (agent.Parts, error) { return p, nil }
