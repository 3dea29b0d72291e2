package main

import (
	"errors"
	"log/slog"
	"net"
	"slices"
	"testing"

	"github.com/spf13/pflag"

	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/cmd/floe/settings"
	"github.com/floelog/floe/tiering/objstore/memory"
)

// The settings know the ways to find a client's zone that the handlers do.
func TestWaysToFindAClientsZone(t *testing.T) {
	for _, row := range settings.Table() {
		if row.Name != "client-zone" {
			continue
		}
		var known []string
		for _, way := range kafka.ClientZones() {
			known = append(known, string(way))
		}
		if !slices.Equal(row.Choices, known) || row.Default != known[0] {
			t.Errorf("client-zone is one of %v, by default %s, want %v", row.Choices, row.Default, known)
		}
		return
	}
	t.Error("there is no setting client-zone")
}

// Every agent of a process listens on ports of its own, and tells what was bound.
func TestFurtherListenersAreOpened(t *testing.T) {
	flags := pflag.NewFlagSet("dev", pflag.ContinueOnError)
	settings.AddFlags(flags, settings.Dev)
	if err := flags.Parse([]string{"--addr=127.0.0.1:0", "--listener=outside=127.0.0.1:0,advertise=localhost:0,client-zone=none", "--client-zone=agent", "--admin-addr="}); err != nil {
		t.Fatal(err)
	}
	s, err := settings.Load(flags, nil, settings.Dev)
	if err != nil {
		t.Fatal(err)
	}
	errSeen := errors.New("seen")
	p := process{newNode: func(s *settings.Settings, _ identity, made parts) (node, error) {
		if len(made.further) != 1 {
			t.Fatalf("listeners are %+v, want one", made.further)
		}
		l := made.further[0]
		_, bound, _ := net.SplitHostPort(l.Addr().String())
		if l.Name != "outside" || l.Advertise != "localhost:"+bound {
			t.Errorf("listener %s advertises %s, want localhost:%s", l.Name, l.Advertise, bound)
		}
		zones := kafkaSettings(s, "store").ClientZones
		if zones["outside"] != kafka.ZoneOfNobody || zones[kafka.DefaultListener] != kafka.ZoneOfAgent {
			t.Errorf("zones of clients are found by %v", zones)
		}
		return nil, errSeen
	}}
	if _, err := newMember(t.Context(), p, s, slog.New(slog.DiscardHandler), nil, memory.New(), 0); !errors.Is(err, errSeen) {
		t.Error(err)
	}
}
