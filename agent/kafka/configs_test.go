package kafka_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
)

func describe(v int16, kind kmsg.ConfigResourceType, name string, keys ...string) *kmsg.DescribeConfigsRequest {
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Version, req.IncludeSynonyms, req.IncludeDocumentation = v, true, true
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName, r.ConfigNames = kind, name, keys
	req.Resources = append(req.Resources, r)
	return req
}

func TestDescribeTopicConfigs(t *testing.T) {
	w := newWorld(t, func(s *kafka.Settings) {
		s.TopicDefaults = map[string]string{"retention.ms": "99", "compression.type": "zstd"}
	})
	w.create("t", 1, "compression.type=lz4")
	versions(w, 32, func(v int16) {
		resp := call[*kmsg.DescribeConfigsResponse](w, describe(v, kmsg.ConfigResourceTypeTopic, "t"))
		got := map[string]kmsg.DescribeConfigsResponseResourceConfig{}
		for _, c := range resp.Resources[0].Configs {
			got[c.Name] = c
			if c.IsSensitive || c.ReadOnly || c.Value == nil || v >= 3 && (c.ConfigType == 0 || text(c.Documentation) == "") {
				t.Errorf("v%d: %+v", v, c)
			}
		}
		for name, want := range map[string]string{
			"compression.type": "lz4 DYNAMIC_TOPIC_CONFIG: compression.type=lz4 DYNAMIC_TOPIC_CONFIG, compression.type=zstd STATIC_BROKER_CONFIG, compression.type=producer DEFAULT_CONFIG",
			"retention.ms":     "99 STATIC_BROKER_CONFIG: log.retention.ms=99 STATIC_BROKER_CONFIG, log.retention.hours=168 DEFAULT_CONFIG",
			"cleanup.policy":   "delete DEFAULT_CONFIG: log.cleanup.policy=delete DEFAULT_CONFIG",
		} {
			c := got[name]
			var syn []string
			for _, s := range c.ConfigSynonyms {
				syn = append(syn, s.Name+"="+text(s.Value)+" "+s.Source.String())
			}
			if is := text(c.Value) + " " + c.Source.String() + ": " + strings.Join(syn, ", "); is != want {
				t.Errorf("v%d: %s is %s\nwant %s", v, name, is, want)
			}
		}
		resp = call[*kmsg.DescribeConfigsResponse](w, describe(v, kmsg.ConfigResourceTypeTopic, "t", "retention.ms", "no.such"))
		if c := resp.Resources[0].Configs; len(c) != 1 || c[0].Name != "retention.ms" {
			t.Errorf("v%d: one config asked for: %+v", v, c)
		}
	})
}

func TestDescribeOtherResources(t *testing.T) {
	w := newWorld(t, func(s *kafka.Settings) {
		s.BrokerConfigs = map[string]string{"advertised.listeners": "PLAINTEXT://a.example:9092"}
	})
	for _, c := range []struct {
		kind kmsg.ConfigResourceType
		name string
		want int16
	}{
		{kmsg.ConfigResourceTypeTopic, "none", kerr.UnknownTopicOrPartition.Code},
		{kmsg.ConfigResourceTypeTopic, "bad name", kerr.InvalidTopicException.Code},
		{kmsg.ConfigResourceTypeBroker, "", 0},
		{kmsg.ConfigResourceTypeBroker, "1", 0},
		{kmsg.ConfigResourceTypeBroker, "2", kerr.InvalidRequest.Code},
		{kmsg.ConfigResourceTypeBroker, "one", kerr.InvalidRequest.Code},
		{kmsg.ConfigResourceTypeBrokerLogger, "1", kerr.InvalidRequest.Code},
		{kmsg.ConfigResourceTypeClientMetrics, "x", kerr.InvalidRequest.Code},
		{kmsg.ConfigResourceTypeGroupConfig, "g", 0},
		{kmsg.ConfigResourceTypeGroupConfig, "", kerr.InvalidRequest.Code},
		{77, "x", kerr.InvalidRequest.Code},
	} {
		versions(w, 32, func(v int16) {
			r := call[*kmsg.DescribeConfigsResponse](w, describe(v, c.kind, c.name)).Resources[0]
			if r.ErrorCode != c.want || (c.want == 0) != (r.ErrorMessage == nil) || r.ResourceName != c.name {
				t.Errorf("v%d: %v %q: %d %s, want %d", v, c.kind, c.name, r.ErrorCode, text(r.ErrorMessage), c.want)
			}
		})
	}
	got := map[string]string{}
	for _, c := range call[*kmsg.DescribeConfigsResponse](w, describe(4, kmsg.ConfigResourceTypeBroker, "1")).Resources[0].Configs {
		got[c.Name] = text(c.Value)
		if !c.ReadOnly {
			t.Errorf("%s can be altered", c.Name)
		}
	}
	for name, want := range map[string]string{"broker.id": "1", "broker.rack": "zone-a", "num.partitions": "1", "log.retention.hours": "168", "advertised.listeners": "PLAINTEXT://a.example:9092"} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
}

func TestIncrementalAlterConfigs(t *testing.T) {
	w := newWorld(t)
	type edit struct {
		name string
		op   kmsg.IncrementalAlterConfigOp
		val  string // "-" for null
	}
	for name, c := range map[string]struct {
		kind     kmsg.ConfigResourceType
		resource string
		edits    []edit
		want     int16
		after    map[string]string
	}{
		"set and append":    {2, "t", []edit{{"retention.ms", 0, "5"}, {"cleanup.policy", 2, "delete"}}, 0, map[string]string{"cleanup.policy": "compact,delete", "retention.ms": "5"}},
		"delete":            {2, "t", []edit{{"cleanup.policy", 1, "-"}}, 0, map[string]string{}},
		"subtract":          {2, "t", []edit{{"cleanup.policy", 3, "compact"}}, 0, map[string]string{"cleanup.policy": ""}},
		"all or nothing":    {2, "t", []edit{{"retention.ms", 0, "5"}, {"segment.ms", 0, "0"}}, kerr.InvalidConfig.Code, nil},
		"unknown":           {2, "t", []edit{{"no.such", 0, "5"}}, kerr.InvalidConfig.Code, nil},
		"null":              {2, "t", []edit{{"retention.ms", 0, "-"}}, kerr.InvalidRequest.Code, nil},
		"one key twice":     {2, "t", []edit{{"retention.ms", 0, "5"}, {"retention.ms", 0, "6"}}, kerr.InvalidRequest.Code, nil},
		"append to number":  {2, "t", []edit{{"retention.ms", 2, "5"}}, kerr.InvalidConfig.Code, nil},
		"no such operation": {2, "t", []edit{{"retention.ms", 9, "5"}}, kerr.InvalidConfig.Code, nil},
		"no such topic":     {2, "none", []edit{{"retention.ms", 0, "5"}}, kerr.UnknownTopicOrPartition.Code, nil},
		"agent":             {4, "1", []edit{{"log.retention.ms", 0, "5"}}, kerr.InvalidRequest.Code, nil},
		"agent, nothing":    {4, "1", nil, 0, nil},
		"all agents":        {4, "", []edit{{"log.retention.ms", 0, "5"}}, kerr.InvalidRequest.Code, nil},
		"other agent":       {4, "2", nil, kerr.InvalidRequest.Code, nil},
		"logger":            {8, "1", []edit{{"x", 0, "INFO"}}, kerr.InvalidRequest.Code, nil},
	} {
		versions(w, 44, func(v int16) {
			w.create("t", 1, "cleanup.policy=compact")
			before := map[string]string{"cleanup.policy": "compact"}
			req := kmsg.NewPtrIncrementalAlterConfigsRequest()
			req.Version = v
			r := kmsg.NewIncrementalAlterConfigsRequestResource()
			r.ResourceType, r.ResourceName = c.kind, c.resource
			for _, e := range c.edits {
				rc := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
				if rc.Name, rc.Op = e.name, e.op; e.val != "-" {
					rc.Value = kmsg.StringPtr(e.val)
				}
				r.Configs = append(r.Configs, rc)
			}
			req.Resources = append(req.Resources, r)
			for _, validate := range []bool{true, false} {
				req.ValidateOnly = validate
				out := call[*kmsg.IncrementalAlterConfigsResponse](w, req).Resources[0]
				if out.ErrorCode != c.want || (c.want == 0) != (out.ErrorMessage == nil) {
					t.Errorf("%s, v%d, validate %v: %d %s, want %d", name, v, validate, out.ErrorCode, text(out.ErrorMessage), c.want)
				}
				want := before
				if !validate && c.after != nil {
					want = c.after
				}
				if topic, _ := w.topics.Topic("t"); !maps.Equal(topic.Configs, want) {
					t.Errorf("%s, v%d, validate %v: configs %v, want %v", name, v, validate, topic.Configs, want)
				}
			}
			req.Resources = append(req.Resources, r)
			if out := call[*kmsg.IncrementalAlterConfigsResponse](w, req); out.Resources[0].ErrorCode != kerr.InvalidRequest.Code || out.Resources[1].ErrorCode != kerr.InvalidRequest.Code {
				t.Errorf("%s, v%d: one resource twice: %+v", name, v, out.Resources)
			}
			w.drop("t")
		})
	}
}

func TestAlterConfigsReplacesAll(t *testing.T) {
	w := newWorld(t)
	versions(w, 33, func(v int16) {
		w.create("t", 1, "cleanup.policy=compact")
		alter := func(validate bool, resource string, kind kmsg.ConfigResourceType, name string, value *string) int16 {
			req := kmsg.NewPtrAlterConfigsRequest()
			req.Version, req.ValidateOnly = v, validate
			r := kmsg.NewAlterConfigsRequestResource()
			r.ResourceType, r.ResourceName = kind, resource
			r.Configs = []kmsg.AlterConfigsRequestResourceConfig{{Name: name, Value: value}}
			req.Resources = append(req.Resources, r)
			return call[*kmsg.AlterConfigsResponse](w, req).Resources[0].ErrorCode
		}
		str := kmsg.StringPtr
		for _, c := range []struct {
			resource, name string
			kind           kmsg.ConfigResourceType
			value          *string
			want           int16
		}{
			{"t", "retention.ms", 2, nil, kerr.InvalidRequest.Code},
			{"t", "retention.ms", 2, str("x"), kerr.InvalidConfig.Code},
			{"none", "retention.ms", 2, str("5"), kerr.UnknownTopicOrPartition.Code},
			{"1", "log.retention.ms", 4, str("5"), kerr.InvalidRequest.Code},
			{"g", "x", 32, str("5"), kerr.InvalidConfig.Code},
			{"", "x", 32, str("5"), kerr.InvalidRequest.Code},
			{"g", "x", 16, str("5"), kerr.InvalidRequest.Code},
		} {
			if got := alter(false, c.resource, c.kind, c.name, c.value); got != c.want {
				t.Errorf("v%d: %+v: %d", v, c, got)
			}
		}
		for _, validate := range []bool{true, false} {
			if got := alter(validate, "t", 2, "retention.ms", str("5")); got != 0 {
				t.Errorf("v%d: %d", v, got)
			}
			want := map[string]string{"cleanup.policy": "compact"}
			if !validate {
				want = map[string]string{"retention.ms": "5"}
			}
			if topic, _ := w.topics.Topic("t"); !maps.Equal(topic.Configs, want) {
				t.Errorf("v%d, validate %v: %v, want %v", v, validate, topic.Configs, want)
			}
		}
		w.drop("t")
	})
}
