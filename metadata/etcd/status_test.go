package etcd_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/metadata/etcd"
)

// A member says how large its database may be, and its clock, which is ours, does not differ.
func TestMembers(t *testing.T) {
	const quota = 64 << 20
	server := start(t, etcd.EmbeddedConfig{ClientURL: "http://127.0.0.1:0", Quota: quota})
	url := server.Endpoint()
	client, err := etcd.Open(t.Context(), etcd.Config{Endpoints: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for name, c := range map[string]*etcd.Client{"embedded": server.NewClient(), strings.TrimPrefix(url, "http://"): client} {
		members := c.Members(t.Context())
		if len(members) != 1 {
			t.Fatalf("%s: %d members", name, len(members))
		}
		m := members[0]
		if m.Name != name || m.Err != nil || !m.Leads || m.Bytes <= 0 || m.InUse > m.Bytes || m.Quota != quota || len(m.Alarms) != 0 || m.Version == "" {
			t.Errorf("%s: %+v", name, m)
		}
		if m.Skew.Abs() > time.Second {
			t.Errorf("%s: our own clock differs by %v", name, m.Skew)
		}
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if m := client.Members(ctx); len(m) != 1 || m[0].Err == nil {
		t.Errorf("a server that has ended: %+v", m)
	}
}
