package main

import (
	"errors"
	"log/slog"
	"net"
	"testing"

	"github.com/spf13/pflag"

	"github.com/floelog/floe/cmd/floe/settings"
	"github.com/floelog/floe/tiering/objstore/memory"
)

// Other agents are told the host that clients are told, unless there is another way for them.
func TestAddressForOtherAgents(t *testing.T) {
	errSeen := errors.New("seen")
	for _, tt := range []struct{ args, want []string }{
		{[]string{"--advertise=kafka.example:9092", "--rpc-addr=127.0.0.1:0"}, []string{"kafka.example", "the port that was bound"}},
		{[]string{"--advertise=localhost:9092", "--rpc-addr=127.0.0.1:0", "--rpc-advertise=agent-1:9093"}, []string{"agent-1", "9093"}},
	} {
		flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
		settings.AddFlags(flags, settings.Agent)
		if err := flags.Parse(append([]string{"--addr=127.0.0.1:0", "--etcd=e:1", "--store=memory:"}, tt.args...)); err != nil {
			t.Fatal(err)
		}
		s, err := settings.Load(flags, nil, settings.Agent)
		if err != nil {
			t.Fatal(err)
		}
		var got identity
		var bound string
		p := process{newNode: func(_ *settings.Settings, id identity, made parts) (node, error) {
			got = id
			_, bound, _ = net.SplitHostPort(made.rpc.Addr().String())
			return nil, errSeen
		}}
		if _, err := newMember(t.Context(), p, s, slog.New(slog.DiscardHandler), nil, memory.New(), 0); !errors.Is(err, errSeen) {
			t.Fatal(err)
		}
		host, port, err := net.SplitHostPort(got.rpc)
		if tt.want[1] == "the port that was bound" {
			tt.want[1] = bound
		}
		if err != nil || host != tt.want[0] || port != tt.want[1] {
			t.Errorf("%v: other agents are told %s, want %v (%v)", tt.args, got.rpc, tt.want, err)
		}
	}
}
