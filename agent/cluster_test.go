package agent_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/agent/kafka"
)

// farewell is how long clients are still told of an agent after its registration is gone.
const farewell = 10 * time.Second

func nodeIDs(agents []kafka.Agent) (ids []int32) {
	for _, a := range agents {
		ids = append(ids, a.NodeID)
	}
	return ids
}

// kill ends an agent as SIGKILL does, as far as others can see.
func (c *cluster) kill(name string, n *node) {
	n.meta.Partition()
	n.stop()
	c.mu.Lock()
	delete(c.nodes, name+":9094")
	c.mu.Unlock()
}

// An agent that is killed and starts again is away for a while, between the end of its old
// lease and its new registration. librdkafka from 2.10 on must not see that: it drops what
// Metadata does not name, and its transactional producers may wait for that for ever
// (confluentinc/librdkafka#5511).
func TestClientsSeeNoGapWhereAKilledAgentStartsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a, b := c.start("a", 1, c.objects), c.start("b", 2, c.objects)
		c.ready(a)
		c.ready(b)
		c.kill("b", b)
		var again *node
		gaps := 0
		for begun := time.Now(); time.Since(begun) < 30*time.Second; time.Sleep(time.Millisecond) {
			synctest.Wait()
			if again == nil && time.Since(begun) > 2*leaseTTL {
				again = c.start("b", 2, c.objects)
			}
			cluster := a.Ports().Cluster
			if live := nodeIDs(cluster.Agents()); !slices.Equal(live, []int32{1, 2}) {
				gaps++
			}
			if told := nodeIDs(cluster.Familiar()); !slices.Equal(told, []int32{1, 2}) {
				t.Fatalf("clients are told of agents %v %v after agent 2 was killed", told, time.Since(begun))
			}
		}
		if live := a.Ports().Cluster.Agents(); len(live) != 2 {
			t.Errorf("agents %v live in the end, want both", nodeIDs(live))
		}
		if gaps == 0 {
			t.Error("agent 2 was never away: nothing was tested")
		}
		c.end(a, b, again)
	})
}

func TestClientsAreToldOfAnAgentForAWhileAfterItEnded(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(*cluster, *node)
		gone time.Duration // from then on it is not registered as one to go to
	}{
		{"killed", func(c *cluster, n *node) { c.kill("b", n) }, 2 * leaseTTL},
		{"drained", func(_ *cluster, n *node) { n.stop() }, time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				a, b := c.start("a", 1, c.objects), c.start("b", 2, c.objects)
				c.ready(a)
				c.ready(b)
				cluster := a.Ports().Cluster
				synctest.Wait() // until a knows b
				test.end(c, b)
				time.Sleep(test.gone)
				synctest.Wait()
				if live, told := nodeIDs(cluster.Agents()), nodeIDs(cluster.Familiar()); !slices.Equal(live, []int32{1}) || !slices.Equal(told, []int32{1, 2}) {
					t.Errorf("agents %v live and clients are told of %v, want 1 and both", live, told)
				}
				time.Sleep(farewell - test.gone - time.Millisecond) // it was there for the first of it
				synctest.Wait()
				if told := nodeIDs(cluster.Familiar()); !slices.Equal(told, []int32{1, 2}) {
					t.Errorf("clients are told of %v before the agent's farewell, want both", told)
				}
				time.Sleep(test.gone + time.Second) // longer than it was there
				synctest.Wait()
				if told := nodeIDs(cluster.Familiar()); !slices.Equal(told, []int32{1}) {
					t.Errorf("clients are told of %v for ever, want 1 alone", told)
				}
				c.end(a, b)
			})
		})
	}
}
