package kafka_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

func TestApiVersionsIsWhatIsServed(t *testing.T) {
	w := newWorld(t)
	versions(w, 18, func(v int16) {
		req := kmsg.NewPtrApiVersionsRequest()
		req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = v, "floe-test", "1.0"
		resp := call[*kmsg.ApiVersionsResponse](w, req)
		if resp.ErrorCode != 0 || len(resp.ApiKeys) == 0 {
			t.Fatalf("v%d: %+v", v, resp)
		}
		for _, k := range resp.ApiKeys {
			lo, hi, ok := w.h.Versions(k.ApiKey)
			if !ok || hi != k.MaxVersion || lo != k.MinVersion && k.ApiKey != 0 {
				t.Errorf("key %d: %d to %d advertised, %d to %d served (%v)", k.ApiKey, k.MinVersion, k.MaxVersion, lo, hi, ok)
			}
		}
		levels := map[string]int16{}
		for i, f := range resp.FinalizedFeatures {
			s := resp.SupportedFeatures[i]
			levels[f.Name] = f.MaxVersionLevel
			// Before version 4, clients take no feature that may be at level 0 (KIP-1022).
			if f.MinVersionLevel != f.MaxVersionLevel || s.Name != f.Name || s.MaxVersion != f.MaxVersionLevel || (s.MinVersion == 0) != (v >= 4) {
				t.Errorf("v%d: feature %+v, supported %+v", v, f, s)
			}
		}
		if v >= 3 && (resp.FinalizedFeaturesEpoch < 0 || levels["transaction.version"] != 2 || levels["group.version"] != 1) {
			t.Errorf("v%d: features %v, epoch %d", v, levels, resp.FinalizedFeaturesEpoch)
		}
		if k := resp.ApiKeys[0]; k.ApiKey != 0 || k.MinVersion != 0 {
			t.Errorf("Produce is advertised from %d on, want 0", k.MinVersion)
		}
	})
}

// The ranges are those of Apache Kafka's brokers: no more, so that no client meets a
// version that Kafka does not have, and no less at either end.
func TestRangesAreKafkas(t *testing.T) {
	w := newWorld(t)
	kafka44 := kversion.V4_4_0()
	served := 0
	for key := range int16(kmsg.MaxKey) {
		lo, hi, ok := w.h.Versions(key)
		if !ok {
			continue
		}
		served++
		top, known := kafka44.LookupMaxKeyVersion(key)
		if !known || hi != top {
			t.Errorf("%s: up to version %d, Kafka has %d", kmsg.NameForKey(key), hi, top)
		}
		if m := kmsg.RequestForKey(key).MaxVersion(); hi > m {
			t.Errorf("%s: version %d cannot be decoded", kmsg.NameForKey(key), hi)
		}
		want := map[int16]int16{0: 3, 1: 4, 2: 1, 8: 2, 9: 1, 19: 2, 20: 1, 23: 2, 27: 1, 32: 1, 35: 1}[key] // KIP-896
		if lo != want {
			t.Errorf("%s: from version %d, Kafka from %d", kmsg.NameForKey(key), lo, want)
		}
	}
	if served < 18 {
		t.Errorf("%d APIs", served)
	}
}

func TestApiVersionsRefusals(t *testing.T) {
	w := newWorld(t)
	str := kmsg.StringPtr
	for name, c := range map[string]struct {
		version           int16
		software, release string
		cluster           *string
		node              int32
		want              int16
	}{
		"bad name":            {3, "bad name", "1", nil, -1, kerr.InvalidRequest.Code},
		"no version":          {4, "lib", "", nil, -1, kerr.InvalidRequest.Code},
		"dash at the end":     {4, "lib-", "1", nil, -1, kerr.InvalidRequest.Code},
		"old client, no name": {2, "", "", nil, -1, 0},
		"cluster alone":       {5, "lib", "1", str("x"), -1, kerr.InvalidRequest.Code},
		"node alone":          {5, "lib", "1", nil, 1, kerr.InvalidRequest.Code},
		"other cluster":       {5, "lib", "1", str("x"), 1, kerr.RebootstrapRequired.Code},
		"other node":          {5, "lib", "1", str(w.cluster.id), 2, kerr.RebootstrapRequired.Code},
		"this node":           {5, "lib", "1", str(w.cluster.id), 1, 0},
	} {
		req := kmsg.NewPtrApiVersionsRequest()
		req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = c.version, c.software, c.release
		req.ClusterID, req.NodeID = c.cluster, c.node
		if resp := call[*kmsg.ApiVersionsResponse](w, req); resp.ErrorCode != c.want || (c.want == 0) != (len(resp.ApiKeys) > 0) {
			t.Errorf("%s: code %d with %d keys, want %d", name, resp.ErrorCode, len(resp.ApiKeys), c.want)
		}
	}
}

func TestUnservedEndsTheConnection(t *testing.T) {
	w := newWorld(t)
	for _, req := range []kmsg.Request{&kmsg.FetchRequest{Version: 3}, &kmsg.ShareGroupHeartbeatRequest{Version: 1}, &kmsg.ProduceRequest{Version: 2}} {
		p := w.start(req)
		if <-p.Done(); !p.Response().Close {
			t.Errorf("%T is answered", req)
		}
	}
	r := request(&kmsg.MetadataRequest{Version: 9})
	r.Body = r.Body[:1]
	for _, key := range []int16{0, 1, 3, 18} {
		r.Key, r.Version = key, 9
		if key == 18 {
			r.Version = 3
		}
		if p := w.h.Serve(w.ctx, nil, r); !p.Response().Close {
			t.Errorf("key %d: broken bytes are answered", key)
		}
	}
}
