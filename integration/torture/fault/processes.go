//go:build linux

package fault

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/floelog/floe/integration/nemesis"
	"github.com/floelog/floe/integration/torture/rig"
)

func processFaults() []Fault {
	return []Fault{
		&simple{"F1", "agents are killed", killAgents},
		&simple{"F2", "agents are paused for one to three leases", pauseAgents},
		&simple{"F3", "agents restart in turn, killed or told to end", rollAgents},
		&simple{"F12", "keepalives starve while agents live", starveAgents},
		&simple{"F27", "a second process has an agent's node id", twinAgent},
		&simple{"F28", "a paused leader wakes up while others see etcd late", twoLeaders},
		&simple{"F32", "file descriptors run out, idle and slow connections pile up", crowdAgent},
	}
}

func killAgents(ctx context.Context, r *Round) (fired int, err error) {
	hit := r.agents()
	for _, a := range hit {
		if a.Kill() {
			fired++
		}
	}
	r.hold(ctx, 0, 2*rig.LeaseTTL) // at once, its lease still lives; later, others have taken over
	return fired, rig.StartAll(healing(ctx), hit)
}

func pauseAgents(ctx context.Context, r *Round) (fired int, err error) {
	hit := r.agents()
	for _, a := range hit {
		if a.Pause(ctx) {
			fired++
		}
	}
	r.hold(ctx, rig.LeaseTTL, 3*rig.LeaseTTL)
	for _, a := range hit {
		a.Resume()
	}
	return fired, nil
}

func rollAgents(ctx context.Context, r *Round) (fired int, err error) {
	kill := r.chance(0.5)
	for _, a := range r.Cluster.Agents() {
		if ctx.Err() != nil {
			return fired, nil
		}
		if kill {
			a.Kill()
		} else if err := a.Terminate(); err != nil {
			// With other faults on, a drain may fail; that no record is lost is what counts.
			r.Note("%v", err)
		}
		fired++
		if err := a.Start(healing(ctx)); err != nil {
			return fired, err
		}
		if kill {
			r.hold(ctx, time.Second, 5*time.Second)
		}
	}
	return fired, nil
}

// starveAgents lets agents run a tenth of the time and speak to etcd a few bytes at a time.
func starveAgents(ctx context.Context, r *Round) (fired int, err error) {
	hit := r.agents()
	var links []*nemesis.Link
	for _, a := range hit {
		links = append(links, a.Etcd...)
	}
	slow := nemesis.Together(links, nemesis.Trouble{Up: nemesis.Traffic{Rate: 100}})
	end := time.Now().Add(2*rig.LeaseTTL + time.Duration(r.Rand.Int64N(int64(rig.LeaseTTL))))
	for time.Now().Before(end) && ctx.Err() == nil {
		for _, a := range hit {
			a.Pause(ctx)
		}
		r.hold(ctx, 400*time.Millisecond, 500*time.Millisecond)
		for _, a := range hit {
			a.Resume()
		}
		r.hold(ctx, 40*time.Millisecond, 60*time.Millisecond)
	}
	if slow.Lift() > 0 {
		fired = len(hit)
	}
	return fired, nil
}

// twinAgent starts an agent a second time. It must not serve while the first one does.
func twinAgent(ctx context.Context, r *Round) (fired int, err error) {
	a := r.agent()
	twin := r.Cluster.Twin(a)
	starts, served := a.Starts(), a.Serves()
	limited, cancel := context.WithTimeout(ctx, 4*rig.LeaseTTL)
	defer cancel()
	began := time.Now()
	if err = twin.Start(limited); err == nil {
		// Where the first one hung or was restarted meanwhile, the second took its place, as it may.
		both := served && a.Serves() && a.Starts() == starts
		r.Note("the twin of %s serves after %v; has the first one served all the time: %v", a.Name(), time.Since(began), both)
	}
	fired = min(1, twin.Starts())
	twin.Kill()
	return fired, nil
}

// twoLeaders pauses an agent beyond its lease, and wakes it up while all agents see what etcd
// says late: the old leader believes that it leads, and the others that it does not.
func twoLeaders(ctx context.Context, r *Round) (fired int, err error) {
	a := r.agent()
	if !a.Pause(ctx) {
		return 0, nil
	}
	r.hold(ctx, rig.LeaseTTL+500*time.Millisecond, 2*rig.LeaseTTL)
	var links []*nemesis.Link
	for _, other := range r.Cluster.Agents() {
		links = append(links, other.Etcd...)
	}
	late := nemesis.Together(links, nemesis.Trouble{Down: nemesis.Traffic{Delay: 300 * time.Millisecond, Jitter: 700 * time.Millisecond}})
	a.Resume()
	r.hold(ctx, 2*time.Second, 4*time.Second)
	if late.Lift() > 0 {
		fired = 1
	}
	return fired, nil
}

// crowdAgent opens connections that say nothing, or little, past the links, and then takes the agent's
// last file descriptors away.
func crowdAgent(ctx context.Context, r *Round) (fired int, err error) {
	a := r.agent()
	const connections = 600 // three rounds in a window; the system's own limits are shared with the load
	crowd := &nemesis.Crowd{Addr: a.Addr()}
	defer crowd.Close()
	if crowd.Open(ctx, connections) > connections/2 {
		fired++
	}
	r.hold(ctx, 2*time.Second, 4*time.Second)
	pid := a.PID()
	if pid == 0 {
		return fired, nil
	}
	var before unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &before); err != nil {
		r.Note("limits of %s: %v", a.Name(), err) // it has just ended
		return fired, nil
	}
	open, err := nemesis.OpenFiles(pid)
	if err != nil {
		r.Note("open files of %s: %v", a.Name(), err)
		return fired, nil
	}
	few := unix.Rlimit{Cur: uint64(open), Max: before.Max}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &few, nil); errors.Is(err, unix.ESRCH) {
		return fired, nil // another fault has just ended it
	} else if err != nil {
		return fired, fmt.Errorf("limit %s to %d files: %w", a.Name(), open, err)
	}
	crowd.Open(ctx, 50)
	r.hold(ctx, time.Second, 4*time.Second)
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &before, nil); err != nil && a.PID() == pid {
		return fired, fmt.Errorf("give %s its files back: %w", a.Name(), err)
	}
	return fired + 1, nil
}
