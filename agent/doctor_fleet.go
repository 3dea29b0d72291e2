package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/floelog/floe/agent/peer"
	"github.com/floelog/floe/diagnosis"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/membership"
)

// The kinds of questions that any agent answers, whatever it leads; their shard is 0 and means
// nothing. Agents of versions before them say metadata.ErrInvalid.
const (
	// ClockQuestion asks what time it is: the answer is a time in JSON.
	ClockQuestion = "clock"
	// DoctorQuestion asks what the agent says of itself: a diagnosis.Examined in JSON.
	DoctorQuestion = "doctor"
)

// examine answers the questions above.
func (d *doctor) examine(kind string) (answer []byte, known bool, err error) {
	switch kind {
	case ClockQuestion:
		answer, err = json.Marshal(time.Now())
	case DoctorQuestion:
		answer, err = json.Marshal(d.examined())
	default:
		return nil, false, nil
	}
	return answer, true, err
}

// askClock compares an agent's clock with this one's.
func (a *Agent) askClock(ctx context.Context, of membership.Agent, out *diagnosis.Agent) {
	began := time.Now()
	b, err := a.parts.Peers.Ask(ctx, of.RPCAddress, peer.Question{Kind: ClockQuestion})
	ended := time.Now()
	if errors.Is(err, metadata.ErrInvalid) {
		return // of an older version: it answers, and does not know the question
	}
	out.Asked = true
	var theirs time.Time
	if err != nil || json.Unmarshal(b, &theirs) != nil {
		out.Silent = true
		return
	}
	out.Skew = skewOf(theirs, began, ended)
}

// skewOf is how far a clock that was read between two times of ours is from ours at least.
func skewOf(theirs, began, ended time.Time) time.Duration {
	theirs = theirs.Round(0)
	switch {
	case theirs.After(ended.Round(0)):
		return theirs.Sub(ended.Round(0))
	case theirs.Before(began.Round(0)):
		return theirs.Sub(began.Round(0))
	}
	return 0
}

// AskDoctor asks an agent what it says of itself. Whatever goes wrong is in the answer.
func AskDoctor(ctx context.Context, peers Peers, of membership.Agent) diagnosis.Examined {
	e := diagnosis.Examined{Node: int32(of.NodeID), Address: of.Address, Zone: of.Zone, Version: of.Version}
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	b, err := peers.Ask(ctx, of.RPCAddress, peer.Question{Kind: DoctorQuestion})
	switch {
	case errors.Is(err, metadata.ErrInvalid):
		e.Error = "it is of a version without floe doctor"
	case err != nil:
		e.Error = err.Error()
	default:
		if err := json.Unmarshal(b, &e); err != nil {
			e.Error = fmt.Sprintf("its answer cannot be read: %v", err)
		}
	}
	return e
}

// Doctor reports what all agents of the cluster say of themselves, once this one serves.
func (a *Agent) Doctor(ctx context.Context) (*diagnosis.Report, error) {
	select {
	case <-a.serving:
	default:
		return nil, errors.New("the agent does not serve yet")
	}
	all := a.agents.View().All()
	examined := make([]diagnosis.Examined, len(all))
	here := false
	var asking sync.WaitGroup
	for i, of := range all {
		if int32(of.NodeID) == a.node.Load() {
			examined[i], here = a.doctor.examined(), true
			continue
		}
		asking.Go(func() { examined[i] = AskDoctor(ctx, a.parts.Peers, of) })
	}
	asking.Wait()
	if !here { // between two sessions
		examined = append(examined, a.doctor.examined())
	}
	return diagnosis.NewReport(a.cfg.Cluster, time.Now(), examined), nil
}
