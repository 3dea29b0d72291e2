package kafka_test

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
)

func TestDescribeGroupConfigs(t *testing.T) {
	w := newWorld(t, func(s *kafka.Settings) {
		s.ConsumerAssignors = []string{"range"}
		s.ConsumerHeartbeat = kafka.Between{Default: 3 * time.Second, Least: time.Second, Most: 10 * time.Second}
	})
	w.groups.configs["g"] = map[string]string{"consumer.session.timeout.ms": "50000", "of.a.newer.release": "1"}
	versions(w, 32, func(v int16) {
		w.groups.err = nil
		got := map[string]string{}
		for _, c := range call[*kmsg.DescribeConfigsResponse](w, describe(v, kmsg.ConfigResourceTypeGroupConfig, "g")).Resources[0].Configs {
			var syn []string
			for _, s := range c.ConfigSynonyms {
				syn = append(syn, s.Name+"="+text(s.Value)+" "+s.Source.String())
			}
			got[c.Name] = text(c.Value) + " " + c.Source.String() + ": " + strings.Join(syn, ", ")
			kind := kmsg.ConfigTypeInt
			if c.Name == "consumer.assignor" {
				kind = kmsg.ConfigTypeString
			}
			if c.ReadOnly || c.IsSensitive || v >= 3 && (c.ConfigType != kind || text(c.Documentation) == "") {
				t.Errorf("v%d: %+v", v, c)
			}
		}
		want := map[string]string{
			"consumer.assignor":              "range STATIC_BROKER_CONFIG: group.consumer.assignors=range STATIC_BROKER_CONFIG, group.consumer.assignors=uniform,range DEFAULT_CONFIG",
			"consumer.session.timeout.ms":    "50000 GROUP_CONFIG: consumer.session.timeout.ms=50000 GROUP_CONFIG, group.consumer.session.timeout.ms=45000 DEFAULT_CONFIG",
			"consumer.heartbeat.interval.ms": "3000 STATIC_BROKER_CONFIG: group.consumer.heartbeat.interval.ms=3000 STATIC_BROKER_CONFIG, group.consumer.heartbeat.interval.ms=5000 DEFAULT_CONFIG",
		}
		if !maps.Equal(got, want) {
			t.Errorf("v%d: %v\nwant %v", v, got, want)
		}
		for _, r := range refusals {
			w.groups.err = r.err
			if got := call[*kmsg.DescribeConfigsResponse](w, describe(v, kmsg.ConfigResourceTypeGroupConfig, "g")).Resources[0]; got.ErrorCode != r.code || got.ErrorMessage == nil || len(got.Configs) > 0 {
				t.Errorf("v%d: %v: %+v, want %d", v, r.err, got, r.code)
			}
		}
	})
	w.groups.err = nil
	broker := map[string]string{}
	for _, c := range call[*kmsg.DescribeConfigsResponse](w, describe(4, kmsg.ConfigResourceTypeBroker, "1")).Resources[0].Configs {
		broker[c.Name] = text(c.Value)
	}
	for name, want := range map[string]string{"group.consumer.session.timeout.ms": "45000", "group.consumer.min.heartbeat.interval.ms": "1000",
		"group.consumer.max.session.timeout.ms": "60000", "offset.metadata.max.bytes": "4096"} {
		if broker[name] != want {
			t.Errorf("the agent's %s is %q, want %q", name, broker[name], want)
		}
	}
}

// groupEdit is one edit of an alteration; the value "-" is null.
type groupEdit struct {
	name  string
	op    kmsg.IncrementalAlterConfigOp
	value string
}

func alterGroup(w *world, v int16, validate bool, edits ...groupEdit) (int16, *string) {
	w.t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Version, req.ValidateOnly = v, validate
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeGroupConfig, "g"
	for _, e := range edits {
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		if c.Name, c.Op = e.name, e.op; e.value != "-" {
			c.Value = kmsg.StringPtr(e.value)
		}
		r.Configs = append(r.Configs, c)
	}
	req.Resources = append(req.Resources, r)
	out := call[*kmsg.IncrementalAlterConfigsResponse](w, req).Resources[0]
	return out.ErrorCode, out.ErrorMessage
}

func TestIncrementalAlterGroupConfigs(t *testing.T) {
	const session, heartbeat = "consumer.session.timeout.ms", "consumer.heartbeat.interval.ms"
	w := newWorld(t, func(s *kafka.Settings) {
		s.ConsumerSession = kafka.Between{Default: 45 * time.Second, Least: 10 * time.Second, Most: time.Minute}
	})
	before := map[string]string{session: "50000", "of.a.newer.release": "1"}
	for name, c := range map[string]struct {
		edits []groupEdit
		want  int16
		after map[string]string
	}{
		"set":                  {[]groupEdit{{heartbeat, 0, " 6000 "}}, 0, map[string]string{session: "50000", heartbeat: "6000", "of.a.newer.release": "1"}},
		"assignor":             {[]groupEdit{{"consumer.assignor", 0, "range"}}, 0, map[string]string{session: "50000", "consumer.assignor": "range", "of.a.newer.release": "1"}},
		"no such assignor":     {[]groupEdit{{"consumer.assignor", 0, "sticky"}}, kerr.InvalidConfig.Code, nil},
		"delete":               {[]groupEdit{{session, 1, "-"}}, 0, map[string]string{"of.a.newer.release": "1"}},
		"delete what is unset": {[]groupEdit{{heartbeat, 1, "-"}}, 0, before},
		"delete what is newer": {[]groupEdit{{"of.a.newer.release", 1, "-"}}, 0, map[string]string{session: "50000"}},
		"nothing":              {nil, 0, before},
		"set what is newer":    {[]groupEdit{{"of.a.newer.release", 0, "2"}}, kerr.InvalidConfig.Code, nil},
		"unknown":              {[]groupEdit{{"share.session.timeout.ms", 0, "50000"}}, kerr.InvalidConfig.Code, nil},
		"delete unknown":       {[]groupEdit{{"no.such", 1, "-"}}, kerr.InvalidConfig.Code, nil},
		"no number":            {[]groupEdit{{session, 0, "long"}}, kerr.InvalidConfig.Code, nil},
		"too short":            {[]groupEdit{{heartbeat, 0, "4999"}}, kerr.InvalidConfig.Code, nil},
		"too long":             {[]groupEdit{{session, 0, "60001"}}, kerr.InvalidConfig.Code, nil},
		"null":                 {[]groupEdit{{session, 0, "-"}}, kerr.InvalidRequest.Code, nil},
		"append":               {[]groupEdit{{session, 2, "50000"}}, kerr.InvalidConfig.Code, nil},
		"no such operation":    {[]groupEdit{{session, 9, "50000"}}, kerr.InvalidConfig.Code, nil},
		"twice":                {[]groupEdit{{session, 0, "50000"}, {session, 1, "-"}}, kerr.InvalidRequest.Code, nil},
		"all or nothing":       {[]groupEdit{{heartbeat, 0, "6000"}, {"no.such", 0, "1"}}, kerr.InvalidConfig.Code, nil},
		"session too short":    {[]groupEdit{{heartbeat, 0, "10000"}, {session, 0, "10000"}}, kerr.InvalidConfig.Code, nil},
	} {
		versions(w, 44, func(v int16) {
			w.groups.configs["g"] = maps.Clone(before)
			for _, validate := range []bool{true, false} {
				got, message := alterGroup(w, v, validate, c.edits...)
				if got != c.want || (got == 0) != (message == nil) {
					t.Errorf("%s, v%d, validate %v: %d %s, want %d", name, v, validate, got, text(message), c.want)
				}
				want := before
				if !validate && c.after != nil {
					want = c.after
				}
				if !maps.Equal(w.groups.configs["g"], want) {
					t.Errorf("%s, v%d, validate %v: configs %v, want %v", name, v, validate, w.groups.configs["g"], want)
				}
			}
		})
	}
	for _, r := range refusals {
		w.groups.err = r.err
		if got, message := alterGroup(w, 1, false, groupEdit{session, 0, "50000"}); got != r.code || message == nil {
			t.Errorf("%v: %d %s, want %d", r.err, got, text(message), r.code)
		}
	}
}

func TestAlterConfigsReplacesAGroups(t *testing.T) {
	w := newWorld(t)
	versions(w, 33, func(v int16) {
		w.groups.configs["g"] = map[string]string{"consumer.session.timeout.ms": "50000", "of.a.newer.release": "1"}
		req := kmsg.NewPtrAlterConfigsRequest()
		req.Version = v
		r := kmsg.NewAlterConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeGroupConfig, "g"
		r.Configs = []kmsg.AlterConfigsRequestResourceConfig{{Name: "consumer.heartbeat.interval.ms", Value: kmsg.StringPtr("6000")}}
		req.Resources = append(req.Resources, r)
		if got := call[*kmsg.AlterConfigsResponse](w, req).Resources[0]; got.ErrorCode != 0 {
			t.Errorf("v%d: %+v", v, got)
		}
		if got := w.groups.configs["g"]; !maps.Equal(got, map[string]string{"consumer.heartbeat.interval.ms": "6000"}) {
			t.Errorf("v%d: configs %v", v, got)
		}
	})
}
