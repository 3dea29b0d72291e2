package coordinator

import "time"

// Observer hears what a Shell does, for metrics. Its methods must return quickly and may be
// called concurrently.
type Observer interface {
	// Answered is told of every request to a machine of this agent: what it asked, from
	// there to the reply how long it took (a member's join waits for the other members),
	// and Ask's error.
	Answered(body any, took time.Duration, err error)
	// Stepped is told of every step of a machine, and whether it had something to write.
	Stepped(wrote bool)
	// Led is told when a machine begins to serve, 1, and when it ends, -1.
	Led(change int)
	// Rebuilt is told when a machine is built anew because its changes were refused.
	Rebuilt()
	// CallRepeated is told of every call that is about to be tried again.
	CallRepeated()
}

type nobody struct{}

func (nobody) Answered(any, time.Duration, error) {}
func (nobody) Stepped(bool)                       {}
func (nobody) Led(int)                            {}
func (nobody) Rebuilt()                           {}
func (nobody) CallRepeated()                      {}
