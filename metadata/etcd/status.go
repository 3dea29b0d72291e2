package etcd

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/floelog/floe/metadata"
)

var _ metadata.Inspector = (*Client)(nil)

// Members implements metadata.Inspector for the members that the client was given.
func (c *Client) Members(ctx context.Context) []metadata.MemberStatus {
	endpoints := c.etcd.Endpoints()
	if len(endpoints) == 0 {
		endpoints = []string{""} // the server of this process
	}
	out := make([]metadata.MemberStatus, len(endpoints))
	var wg sync.WaitGroup
	for i, endpoint := range endpoints {
		wg.Go(func() { out[i] = c.member(ctx, endpoint) })
	}
	wg.Wait()
	return out
}

func (c *Client) member(ctx context.Context, endpoint string) metadata.MemberStatus {
	out := metadata.MemberStatus{Name: strings.TrimPrefix(strings.TrimPrefix(endpoint, "http://"), "https://")}
	if endpoint == "" {
		out.Name = "embedded"
	}
	began := time.Now()
	s, err := c.etcd.Status(ctx, endpoint)
	out.Latency = time.Since(began)
	if err != nil {
		out.Err = wrap(ctx, "etcd status", err)
		return out
	}
	out.Version, out.Leads = s.Version, s.Leader != 0 && s.Leader == s.Header.GetMemberId()
	out.Bytes, out.InUse, out.Quota = s.DbSize, s.DbSizeInUse, s.DbSizeQuota
	out.Alarms = alarms(s)
	if endpoint != "" {
		out.Skew = c.skew(ctx, endpoint)
	}
	return out
}

// alarms are what a member finds wrong with itself, by etcd's names.
func alarms(s *clientv3.StatusResponse) (out []string) {
	for _, e := range s.Errors {
		for _, name := range []string{"NOSPACE", "CORRUPT"} {
			if strings.Contains(e, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// skew compares a member's clock with ours by the header of an answer to HTTP, which etcd gives on
// the same port, in whole seconds. What cannot be asked, as by a firewall for HTTP, is 0.
func (c *Client) skew(ctx context.Context, endpoint string) time.Duration {
	url := endpoint
	if !strings.Contains(url, "://") {
		url = "http://" + url
		if c.tls != nil {
			url = "https://" + endpoint
		}
	}
	// A transport of its own keeps no connection that Close would have to end.
	transport := &http.Transport{TLSClientConfig: c.tls, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/version", nil)
	if err != nil {
		return 0
	}
	before := time.Now()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0
	}
	after := time.Now()
	_ = resp.Body.Close()
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return 0
	}
	// The header was written between before and after, and its second may have lasted a second more.
	switch {
	case date.After(after):
		return date.Sub(after.Round(0))
	case date.Add(time.Second).Before(before):
		return date.Add(time.Second).Sub(before.Round(0))
	}
	return 0
}
