//go:build integration && unix

package killed

import "time"

// fault does something to a cluster and undoes it. What it waits for meanwhile is part of
// the fault.
type fault struct {
	name string
	fire func(c *cluster, got *figures)
}

// Every fault that a cluster of agents must survive.
var faults = []fault{
	{"SIGKILL agent", killAgent},
	{"SIGKILL agent quickly", killAgentQuickly},
	{"SIGKILL all agents", killAll},
	{"SIGKILL etcd leader", killEtcdLeader},
	{"SIGKILL MinIO", killMinIO},
	{"SIGSTOP agent", pauseAgent},
	{"SIGTERM rolling", rollingRestart},
}

// killAgent measures how long the partitions that an agent led acknowledge nothing, and
// starts it again when they do.
func killAgent(c *cluster, got *figures) {
	victim, led := c.victim()
	since := time.Now()
	c.floe.KillProcess(victim)
	_, all := c.await(since, led)
	got.takeovers = append(got.takeovers, all...)
	c.floe.StartProcess(victim)
}

// killAgentQuickly starts the agent again at once, so that its earlier lease still lives.
func killAgentQuickly(c *cluster, got *figures) {
	victim, _ := c.victim()
	since := time.Now()
	c.floe.KillProcess(victim)
	c.floe.StartProcess(victim)
	longest, _ := c.await(since, c.load.All())
	got.recovered = append(got.recovered, longest)
}

func killAll(c *cluster, got *figures) {
	since := time.Now()
	c.floe.Kill()
	c.floe.Start()
	longest, _ := c.await(since, c.load.All())
	got.recovered = append(got.recovered, longest)
}

func killEtcdLeader(c *cluster, got *figures) {
	leader := c.floe.Etcd.Leader()
	since := time.Now()
	c.floe.Etcd.Kill(leader)
	longest, _ := c.await(since, c.load.All())
	got.recovered = append(got.recovered, longest)
	c.floe.Etcd.Restart(leader)
}

// killMinIO leaves the store down for a while: what is small goes on through etcd, the
// rest waits.
func killMinIO(c *cluster, got *figures) {
	c.minio.Kill()
	c.hold(time.Second + time.Duration(c.r.Int64N(int64(2*time.Second))))
	since := time.Now()
	c.minio.Start()
	longest, _ := c.await(since, c.load.All())
	got.recovered = append(got.recovered, longest)
}

// pauseAgent stops an agent until others have long taken over, and lets it wake up with
// everything that it had in hand.
func pauseAgent(c *cluster, got *figures) {
	victim, led := c.victim()
	since := time.Now()
	c.floe.Pause(victim)
	_, all := c.await(since, led)
	got.moved = append(got.moved, all...)
	c.hold(time.Until(since.Add(2 * lease)))
	woken := time.Now()
	c.floe.Continue(victim)
	longest, _ := c.await(woken, c.load.All())
	got.recovered = append(got.recovered, longest)
}

// rollingRestart ends one agent after the other as an operator does.
func rollingRestart(c *cluster, got *figures) {
	for i := range c.floe.Processes() {
		since := time.Now()
		c.floe.StopProcess(i)
		c.floe.StartProcess(i)
		longest, _ := c.await(since, c.load.All())
		got.recovered = append(got.recovered, longest)
	}
}

// hold lets time pass: how long a fault lasts is what it is.
func (c *cluster) hold(d time.Duration) {
	select {
	case <-time.After(d):
	case <-c.t.Context().Done():
	}
}
