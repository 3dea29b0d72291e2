package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/coordinator"
	"github.com/floelog/floe/agent/group"
	"github.com/floelog/floe/agent/txn"
)

func TestCoordinatorMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := newMetrics(reg).coordinators
	groups, txns := m.of("groups"), m.of("transactions")
	moved := fmt.Errorf("shard 3: %w", coordinator.ErrNotCoordinator)
	groups.Answered(kmsg.NewPtrJoinGroupRequest(), 3*time.Second, nil)
	groups.Answered(kmsg.NewPtrJoinGroupRequest(), time.Second, moved)
	groups.Answered(group.Commit{}, time.Millisecond, nil)
	txns.Answered(txn.Enlist{}, time.Millisecond, context.DeadlineExceeded)
	txns.Answered(kmsg.NewPtrEndTxnRequest(), time.Millisecond, errors.New("the store is silent"))
	for _, o := range []coordinator.Observer{groups, txns} {
		o.Stepped(true)
		o.Stepped(true)
		o.Stepped(false)
		o.Led(1)
		o.CallRepeated()
	}
	groups.Led(-1)
	txns.Rebuilt()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "floe_coordinator") {
			continue
		}
		for _, metric := range f.GetMetric() {
			var labels []string
			for _, l := range metric.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			v := metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
			got = append(got, fmt.Sprintf("%s %s %g", strings.TrimPrefix(f.GetName(), "floe_"), strings.Join(labels, " "), v))
		}
	}
	want := []string{
		"coordinator_calls_repeated_total groups 1", "coordinator_calls_repeated_total transactions 1",
		"coordinator_rebuilds_total groups 0", "coordinator_rebuilds_total transactions 1",
		"coordinator_request_seconds groups Commit 1", "coordinator_request_seconds groups JoinGroup 2",
		"coordinator_request_seconds transactions EndTxn 1", "coordinator_request_seconds transactions Enlist 1",
		"coordinator_requests_total groups answered Commit 1", "coordinator_requests_total groups answered JoinGroup 1",
		"coordinator_requests_total groups not_coordinator JoinGroup 1",
		"coordinator_requests_total transactions failed EndTxn 1", "coordinator_requests_total transactions given_up Enlist 1",
		"coordinator_steps_total groups false 1", "coordinator_steps_total groups true 2",
		"coordinator_steps_total transactions false 1", "coordinator_steps_total transactions true 2",
		"coordinators groups 0", "coordinators transactions 1",
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
