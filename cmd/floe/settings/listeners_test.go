package settings_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/floelog/floe/cmd/floe/settings"
)

func TestListeners(t *testing.T) {
	want := []settings.Listener{
		{Name: "INSIDE", Addr: "127.0.0.1:9192", Advertise: "127.0.0.1:9192", ClientZone: "agent"},
		{Name: "outside", Addr: "0.0.0.0:9292", Advertise: "kafka.example:443", ClientZone: "none"},
		{Name: "any", Addr: "[::1]:0", Advertise: "[::1]:0", ClientZone: "agent"},
	}
	for _, c := range []struct {
		how           string
		args, environ []string
		file          string
	}{
		{"flags", []string{"--client-zone=agent", "--listener", "INSIDE=127.0.0.1:9192", "--listener", "outside=0.0.0.0:9292,advertise=kafka.example:443,client-zone=none", "--listener", "any=[::1]:0"}, nil, ""},
		{"variables", nil, []string{"FLOE_CLIENT_ZONE=agent", "FLOE_LISTENER=INSIDE=127.0.0.1:9192,outside=0.0.0.0:9292,client-zone=none,advertise=kafka.example:443, any=[::1]:0"}, ""},
		{"file", nil, nil, "client-zone: agent\nlistener:\n- INSIDE=127.0.0.1:9192\n- outside=0.0.0.0:9292,advertise=kafka.example:443,client-zone=none\n- any=[::1]:0\n"},
	} {
		s, err := load(t, settings.Agent, slices.Concat(agent, c.args), c.environ, c.file)
		if err != nil {
			t.Errorf("%s: %v", c.how, err)
			continue
		}
		if !slices.Equal(s.Listeners, want) {
			t.Errorf("%s: listeners are %+v, want %+v", c.how, s.Listeners, want)
		}
	}
	if s, err := load(t, settings.Agent, agent, nil, ""); err != nil || len(s.Listeners) != 0 || s.ClientZone != "client" || !s.InlineAcrossZones {
		t.Errorf("by default there are %+v, client-zone %q, inline-across-zones %v (%v)", s.Listeners, s.ClientZone, s.InlineAcrossZones, err)
	}
}

func TestListenersThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		listener string
		args     []string
		says     []string
	}{
		{"inside", nil, []string{`"inside"`, "NAME=HOST:PORT"}},
		{"=127.0.0.1:1", nil, []string{`""`, "A-Z"}},
		{"in side=127.0.0.1:1", nil, []string{`"in side"`, "A-Z"}},
		{"Kafka=127.0.0.1:1", nil, []string{"Kafka", "addr"}},
		{"a=127.0.0.1:1,A=127.0.0.1:2", nil, []string{"two listeners A"}},
		{"advertise=a:1,a=127.0.0.1:2", nil, []string{"advertise=a:1", "no listener before it"}},
		{"a=127.0.0.1:1,advertise=b:1,advertise=c:1", nil, []string{"a has advertise twice"}},
		{"a=127.0.0.1:1,tls=on", nil, []string{`"tls=on"`, "neither"}},
		{"a=127.0.0.1:1,client-zone=near", nil, []string{"near", "client-else-agent"}},
		{"a=127.0.0.1:x", nil, []string{`"x"`}},
		{"a=0.0.0.0:1", nil, []string{"every interface", "advertise=HOST:PORT"}},
		{"a=:1", nil, []string{"every interface", "advertise=HOST:PORT"}},
		{"a=127.0.0.1:1,advertise=0.0.0.0:1", nil, []string{"0.0.0.0:1", "nothing that a client can connect to"}},
		{"a=127.0.0.1:1,advertise=[::]:1", nil, []string{"[::]:1", "nothing that a client can connect to"}},
		{"a=127.0.0.1:1,advertise=h:0", nil, []string{"h:0", "nothing that a client can connect to"}},
		{"a=127.0.0.1:1,advertise=h", nil, []string{`"h"`}},
		{"a=127.0.0.1:9092", nil, []string{"addr", "listener a", "same port"}},
		{"a=0.0.0.0:9092,advertise=h:9092", nil, []string{"addr", "listener a", "same port"}},
		{"a=127.0.0.1:9644", nil, []string{"admin-addr", "listener a", "same port"}},
		{"a=127.0.0.1:9100", []string{"--rpc-addr=127.0.0.1:9100"}, []string{"rpc-addr", "listener a", "same port"}},
		{"a=127.0.0.1:9100,b=127.0.0.1:9100", nil, []string{"listener a", "listener b", "same port"}},
	} {
		_, err := load(t, settings.Agent, slices.Concat(agent, []string{"--listener", c.listener}, c.args), nil, "")
		var refused *settings.Error
		if !errors.As(err, &refused) || refused.Name != "--listener" || strings.Contains(err.Error(), "\n") {
			t.Errorf("--listener %s: %v, want one line about --listener", c.listener, err)
			continue
		}
		for _, word := range c.says {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("--listener %s: %q does not say %q", c.listener, err, word)
			}
		}
	}
	for _, c := range []struct {
		listener string
		ok       bool
	}{{"a=127.0.0.1:9095", true}, {"a=127.0.0.1:9094", false}, {"a=127.0.0.1:9090", false}, {"a=127.0.0.1:9089", true}, {"a=127.0.0.1:65533", true}, {"a=127.0.0.1:65534", false}} {
		_, err := load(t, settings.Dev, []string{"--agents=3", "--listener", c.listener}, nil, "") // 9092 to 9094
		if (err == nil) != c.ok {
			t.Errorf("three agents with --listener %s: %v", c.listener, err)
		}
	}
	for _, args := range [][]string{{"--client-zone=near"}, {"--inline-across-zones=maybe"}} {
		if _, err := load(t, settings.Agent, slices.Concat(agent, args), nil, ""); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
}
