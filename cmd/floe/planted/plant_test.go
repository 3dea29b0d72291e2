//go:build planted

package planted

import (
	"io"
	"log/slog"
	"slices"
	"testing"

	"github.com/floelog/floe/agent"
)

func TestEveryBugOfTheTableIsThere(t *testing.T) {
	made := bugs()
	for _, b := range Bugs() {
		if made[b.Name] == nil {
			t.Errorf("%s is in the table only", b.Name)
		}
		delete(made, b.Name)
	}
	for name := range made {
		t.Errorf("%s is not in the table", name)
	}
}

func TestChoose(t *testing.T) {
	rest, p := Choose([]string{"A=1", Variable + "=ack-early", "B=2"})
	if !slices.Equal(rest, []string{"A=1", "B=2"}) || p.name != "ack-early" {
		t.Errorf("%v, %v", rest, p)
	}
	parts := agent.Parts{Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if got, err := p.In("c", parts); err != nil || got.Clients == nil {
		t.Errorf("the bug is not between clients and the agent: %v", err)
	}
	if _, err := (Plant{name: "ack-erly"}).In("c", parts); err == nil {
		t.Error("a bug that is not there was planted")
	}
	if got, err := (Plant{}).In("c", parts); err != nil || got.Clients != nil {
		t.Errorf("something was planted although nothing was named: %v", err)
	}
}
