//go:build linux

package fault

import (
	"context"
	"fmt"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/floelog/floe/integration/nemesis"
	"github.com/floelog/floe/integration/torture/rig"
)

func etcdFaults() []Fault {
	return []Fault{
		&simple{"F7", "etcd's leader is killed, paused or moved", hitEtcdLeader},
		&simple{"F8", "a follower of etcd is paused with requests in hand", pauseFollower},
		&simple{"F9", "etcd loses its quorum", loseQuorum},
		&simple{"F10", "etcd forgets what a watch that hangs has not seen", compactEtcd},
		&simple{"F13", "etcd has no space", noSpace},
		&simple{"F14", "etcd is defragmented and copied, its members hear each other late", defragEtcd},
		&simple{"F16", "a member of etcd loses its data and is replaced", replaceMember},
	}
}

// asked bounds a request to etcd, which may have no quorum because of another fault.
func asked(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 3*time.Second)
}

func hitEtcdLeader(ctx context.Context, r *Round) (fired int, err error) {
	leader, err := r.Cluster.Leader(ctx)
	if err != nil {
		return 0, nil // there is none to be hit; the next try may find one
	}
	m := r.Cluster.Members()[leader]
	switch r.Rand.IntN(3) {
	case 0:
		if m.Kill() {
			fired = 1
		}
		r.hold(ctx, time.Second, 6*time.Second)
		return fired, m.Start(healing(ctx))
	case 1:
		if m.Pause(ctx) {
			fired = 1
		}
		r.hold(ctx, 2*time.Second, 8*time.Second) // longer than an election takes
		m.Resume()
		return fired, nil
	}
	return moveLeader(ctx, r, m), nil
}

// moveLeader hands leadership over as an operator does.
func moveLeader(ctx context.Context, r *Round, from *rig.Member) int {
	limited, cancel := asked(ctx)
	defer cancel()
	to := r.Cluster.Members()[(from.Number+1+r.Rand.IntN(rig.Members-1))%rig.Members]
	status, err := r.Cluster.EtcdClient().Status(limited, to.Client())
	if err != nil {
		return 0
	}
	// Only the leader itself may be asked.
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{from.Client()}, DialTimeout: 2 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return 0
	}
	defer client.Close()
	if _, err := client.MoveLeader(limited, status.Header.MemberId); err != nil {
		r.Note("move the leader of etcd from %s to %s: %v", from.Name(), to.Name(), err)
		return 0
	}
	return 1
}

// pauseFollower stops a follower with agents' requests in its hands for most of the window.
func pauseFollower(ctx context.Context, r *Round) (fired int, err error) {
	leader, err := r.Cluster.Leader(ctx)
	if err != nil {
		return 0, nil
	}
	m := r.Cluster.Members()[(leader+1+r.Rand.IntN(rig.Members-1))%rig.Members]
	if !m.Pause(ctx) {
		return 0, nil
	}
	r.hold(ctx, 8*time.Second, 20*time.Second)
	m.Resume()
	return 1, nil
}

func loseQuorum(ctx context.Context, r *Round) (fired int, err error) {
	members := r.Cluster.Members()
	first := r.Rand.IntN(len(members))
	lost := []*rig.Member{members[first], members[(first+1)%len(members)]}
	for _, m := range lost {
		if m.Kill() {
			fired = 1
		}
	}
	r.hold(ctx, 3*time.Second, 12*time.Second)
	return fired, rig.StartMembers(healing(ctx), lost)
}

// compactEtcd holds what etcd says to some agents, and has it forget all of that; then cuts them, so
// that they come back with a revision that is gone.
func compactEtcd(ctx context.Context, r *Round) (fired int, err error) {
	var links []*nemesis.Link
	for _, a := range r.agents() {
		links = append(links, a.Etcd...)
	}
	held := nemesis.Together(links, nemesis.Trouble{Down: nemesis.Traffic{Blackhole: true}, CutOnLift: true})
	done := 0
	for end := time.Now().Add(rig.LeaseTTL + time.Duration(r.Rand.Int64N(int64(rig.LeaseTTL)))); time.Now().Before(end) && ctx.Err() == nil; {
		if compact(ctx, r.Cluster.EtcdClient()) {
			done++
		}
		r.hold(ctx, 900*time.Millisecond, 1100*time.Millisecond)
	}
	if held.Lift() > 0 {
		fired = done
	}
	return fired, nil
}

// compact has etcd forget everything but its newest revision.
func compact(ctx context.Context, client *clientv3.Client) bool {
	limited, cancel := asked(ctx)
	defer cancel()
	now, err := client.Get(limited, "/", clientv3.WithCountOnly())
	if err != nil {
		return false
	}
	_, err = client.Compact(limited, now.Header.Revision)
	return err == nil // agents compact, too: that one was there already is no effect
}

// noSpace raises the alarm that a member raises when its database has reached its quota, through raft as
// the member does: from then on etcd refuses writes.
func noSpace(ctx context.Context, r *Round) (fired int, err error) {
	client := r.Cluster.EtcdClient()
	m := r.Cluster.Members()[r.Rand.IntN(rig.Members)]
	limited, cancel := asked(ctx)
	defer cancel()
	status, err := client.Status(limited, m.Client())
	if err != nil {
		return 0, nil
	}
	alarm := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: status.Header.MemberId, Alarm: pb.AlarmType_NOSPACE}
	if _, err := pb.NewMaintenanceClient(client.ActiveConnection()).Alarm(limited, alarm); err != nil {
		// Whether it was raised is unknown.
		return 0, disarm(healing(ctx), client)
	}
	if _, err := client.Put(limited, "/torture/space", "x"); err != nil {
		fired = 1
	}
	r.hold(ctx, 2*time.Second, 8*time.Second)
	return fired, disarm(healing(ctx), client)
}

// disarm is the runbook's last step; it is repeated for as long as another fault is in its way.
func disarm(ctx context.Context, client *clientv3.Client) (err error) {
	for range 30 {
		limited, cancel := asked(ctx)
		_, err = client.AlarmDisarm(limited, &clientv3.AlarmMember{})
		cancel()
		if err == nil {
			return nil
		}
		nemesis.Hold(ctx, time.Second)
	}
	return fmt.Errorf("disarm etcd's alarm: %w", err)
}

func defragEtcd(ctx context.Context, r *Round) (fired int, err error) {
	var peers []*nemesis.Link
	for _, m := range r.Cluster.Members() {
		peers = append(peers, m.Peer)
	}
	// Slow, but less than an election's time.
	late := nemesis.Together(peers, nemesis.Trouble{Down: nemesis.Traffic{Delay: 20 * time.Millisecond, Jitter: 150 * time.Millisecond}})
	defer late.Lift()
	for _, m := range r.Cluster.Members() {
		limited, cancel := asked(ctx)
		if _, err := r.Cluster.EtcdClient().Defragment(limited, m.Client()); err == nil {
			fired++
		}
		cancel()
	}
	limited, cancel := asked(ctx)
	defer cancel()
	if snapshot, err := r.Cluster.EtcdClient().Snapshot(limited); err == nil {
		_, _ = io.Copy(io.Discard, snapshot) // that it is read is the load
		_ = snapshot.Close()
	}
	r.hold(ctx, 3*time.Second, 6*time.Second)
	if late.Effects() == 0 {
		return 0, nil
	}
	return fired, nil
}

func replaceMember(ctx context.Context, r *Round) (fired int, err error) {
	m := r.Cluster.Members()[r.Rand.IntN(rig.Members)]
	for _, other := range r.Cluster.Members() {
		if !other.Serves() {
			return 0, nil // without all of them, taking one away may take the majority
		}
	}
	if err := r.Cluster.Replace(healing(ctx), m); err != nil {
		r.Note("replace %s: %v", m.Name(), err)
		return 0, nil
	}
	r.hold(ctx, 3*time.Second, 6*time.Second)
	return 1, nil
}
