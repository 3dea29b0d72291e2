package agent

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/test/bufconn"

	"github.com/floelog/floe/agent/group"
	"github.com/floelog/floe/agent/txn"
	"github.com/floelog/floe/metadata/memory"
	objects "github.com/floelog/floe/tiering/objstore/memory"
)

// TestStopWithoutSession: an agent that has lost its session and cannot register again
// ends when it is told to, although nobody drains.
func TestStopWithoutSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := memory.New()
		defer server.Close()
		meta := server.Client("agent")
		a, err := New(Config{
			Cluster: "test", Advertise: "agent:9092", RPCAdvertise: "agent:9093", Shards: 2, LeaseTTL: 3 * time.Second,
			FlushBytes: 1 << 20, FlushAge: time.Second, Uploads: 1, RollupAge: time.Minute, RollupBytes: 1 << 20,
			Groups: group.DefaultSettings(), Transactions: txn.DefaultSettings(), RequestMemory: 1 << 20, CacheBytes: 8 << 20, MaxRequestBytes: 1 << 20, DrainTimeout: 10 * time.Second,
		}, Parts{
			Meta: meta, Objects: objects.New(), Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
			RPCListener: bufconn.Listen(1 << 10),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		<-a.Ready()

		meta.Partition()
		time.Sleep(20 * time.Second) // virtual: the lease, and what an old life may take to end
		if why := a.Unready(); len(why) > 0 {
			t.Errorf("without a session, as there is no other agent: unready because of %q", why)
		}
		if why := a.Degraded(); len(why) == 0 || !strings.Contains(strings.Join(why, "\n"), "no session") {
			t.Errorf("without a session: degraded because of %q", why)
		}
		stop()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("ended with %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("did not end")
			meta.Heal()
			a.peerServer.Stop(ctx)
			<-ended
		}
	})
}
