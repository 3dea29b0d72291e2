//go:build linux

package rig

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/floelog/floe/integration/nemesis"
)

const (
	accessKey   = "floe-torture"
	secretKey   = "floe-torture-secret"
	bucket      = "floe"
	clusterName = "torture"
)

// Member is a member of etcd.
type Member struct {
	*Process
	Number int
	Peer   *nemesis.Link // other members come through it

	client string        // URL, past all links
	data   string        // folder
	whole  chan struct{} // holds one value, which a replacement takes
}

// Start is Process.Start, of a member that is not being replaced: its old data would be of no use.
func (m *Member) Start(ctx context.Context) error {
	select {
	case <-m.whole:
		defer func() { m.whole <- struct{}{} }()
		return m.Process.Start(ctx)
	case <-ctx.Done():
		return fmt.Errorf("start %s, which is being replaced: %w", m.Name(), ctx.Err())
	}
}

// Client returns the URL of the member, past all links.
func (m *Member) Client() string { return m.client }

// newMember makes a member that is not started.
func (c *Cluster) newMember(i int, initial string) *Member {
	m := &Member{Number: i, Peer: c.peers[i], client: "http://" + c.at(10+i, 2379), data: filepath.Join(c.dir, fmt.Sprintf("etcd-%d", i)), whole: make(chan struct{}, 1)}
	m.whole <- struct{}{}
	m.Process = c.process(fmt.Sprintf("etcd-%d", i), c.etcd, m.args(c.at(10+i, 2380), initial, "new"))
	m.ready = func(ctx context.Context, _ *output) error { return awaitHealthy(ctx, m.client+"/health") }
	return m
}

func (m *Member) args(listen, initial, state string) []string {
	return []string{
		"--name", memberName(m.Number), "--data-dir", m.data, "--log-level", "warn",
		"--listen-client-urls", m.client, "--advertise-client-urls", m.client,
		"--listen-peer-urls", "http://" + listen, "--initial-advertise-peer-urls", "http://" + m.Peer.Addr(),
		"--initial-cluster", initial, "--initial-cluster-state", state,
		// An election needs a second or two, as in production, and faults last longer.
		"--heartbeat-interval", "100", "--election-timeout", "1000", "--snapshot-count", "5000",
		// A process that is killed loses nothing that it wrote, synced or not. With fsync, whatever else uses the disk
		// would be a fault that no plan knows of: leases of 3 s end while one takes a second or two.
		"--unsafe-no-fsync",
	}
}

func memberName(i int) string { return fmt.Sprintf("m%d", i) }

// startEtcd starts all members.
func (c *Cluster) startEtcd(ctx context.Context) error {
	var initial []string
	for i := range Members {
		l, err := c.link(c.at(10+i, 2380), c.at(20+i, 2380), false)
		if err != nil {
			return err
		}
		c.peers = append(c.peers, l)
		initial = append(initial, memberName(i)+"=http://"+l.Addr())
	}
	var endpoints []string
	for i := range Members {
		m := c.newMember(i, strings.Join(initial, ","))
		c.members = append(c.members, m)
		endpoints = append(endpoints, m.client)
	}
	if err := each(c.members, func(m *Member) error { return m.Start(ctx) }); err != nil {
		return err
	}
	var err error
	c.client, err = clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second, Logger: quiet()})
	if err != nil {
		return err
	}
	c.closers = append(c.closers, c.client.Close)
	return nil
}

// EtcdClient returns a client of etcd past all links.
func (c *Cluster) EtcdClient() *clientv3.Client { return c.client }

// Leader returns the number of the member that leads; an error if none does.
func (c *Cluster) Leader(ctx context.Context) (int, error) {
	leader, term := -1, uint64(0)
	for i, m := range c.members {
		if !m.Serves() {
			continue
		}
		asked, cancel := context.WithTimeout(ctx, time.Second)
		s, err := c.client.Status(asked, m.client)
		cancel()
		// One that was paused may believe for a moment that it still leads.
		if err == nil && s.Leader == s.Header.MemberId && s.RaftTerm > term {
			leader, term = i, s.RaftTerm
		}
	}
	if leader < 0 {
		return 0, errors.New("etcd has no leader")
	}
	return leader, nil
}

// replaceTimeout bounds each step of a replacement: longer than etcd is without a quorum.
const replaceTimeout = 60 * time.Second

// Replace takes a member out of the cluster, which needs a quorum, deletes its data, and lets it join as a
// new one.
func (c *Cluster) Replace(ctx context.Context, m *Member) error {
	select {
	case <-m.whole:
		defer func() { m.whole <- struct{}{} }()
	case <-ctx.Done():
		return ctx.Err()
	}
	m.Kill()
	url := "http://" + m.Peer.Addr()
	// Each step is repeated until the members' list says that it is done: what timed out may have been.
	if err := c.membership(ctx, url, false); err != nil {
		return fmt.Errorf("remove %s: %w", m.Name(), err)
	}
	if err := os.RemoveAll(m.data); err != nil {
		return err
	}
	if err := c.membership(ctx, url, true); err != nil {
		return fmt.Errorf("add %s: %w", m.Name(), err)
	}
	var initial []string
	for i, l := range c.peers {
		initial = append(initial, memberName(i)+"=http://"+l.Addr())
	}
	m.Use(c.etcd, m.args(c.at(10+m.Number, 2380), strings.Join(initial, ","), "existing"))
	return m.Process.Start(ctx)
}

// membership adds the member of a peer URL to the cluster, or removes it.
func (c *Cluster) membership(ctx context.Context, url string, add bool) error {
	ctx, cancel := context.WithTimeout(ctx, replaceTimeout)
	defer cancel()
	for {
		done, err := c.changeMembers(ctx, url, add)
		if done {
			return nil
		}
		if !pause(ctx, 300*time.Millisecond) {
			return errors.Join(ctx.Err(), err)
		}
	}
}

// changeMembers reports whether the list of members is as it should be, and changes it if it is not.
func (c *Cluster) changeMembers(ctx context.Context, url string, add bool) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	list, err := c.client.MemberList(ctx)
	if err != nil {
		return false, fmt.Errorf("list members: %w", err)
	}
	for _, have := range list.Members {
		if len(have.PeerURLs) > 0 && have.PeerURLs[0] == url {
			if !add {
				_, err = c.client.MemberRemove(ctx, have.ID)
			}
			return add, err
		}
	}
	if add {
		_, err = c.client.MemberAdd(ctx, []string{url})
	}
	return !add, err
}

// startMinIO starts the object store and makes the bucket.
func (c *Cluster) startMinIO(ctx context.Context, path string) error {
	addr := c.at(2, 9000)
	c.minio = c.process("minio", path, []string{"server", "--address", addr, "--console-address", c.at(2, 9001), "--quiet", filepath.Join(c.dir, "objects")})
	c.minio.env = []string{"MINIO_ROOT_USER=" + accessKey, "MINIO_ROOT_PASSWORD=" + secretKey, "MINIO_UPDATE=off", "MINIO_BROWSER=off", "HOME=" + c.dir}
	c.minio.ready = func(ctx context.Context, _ *output) error {
		return awaitHealthy(ctx, "http://"+addr+"/minio/health/ready")
	}
	if err := c.minio.Start(ctx); err != nil {
		return err
	}
	var err error
	if c.objects, err = minio.New(addr, &minio.Options{Creds: credentials.NewStaticV4(accessKey, secretKey, "")}); err != nil {
		return err
	}
	if err := c.objects.MakeBucket(ctx, bucket, minio.MakeBucketOptions{}); err != nil {
		return fmt.Errorf("make a bucket: %w", err)
	}
	return nil
}

// MinIO returns the object store's process.
func (c *Cluster) MinIO() *Process { return c.minio }

// Objects returns a client of the object store past all links, and the bucket.
func (c *Cluster) Objects() (client *minio.Client, name string) { return c.objects, bucket }

// DirectArgs returns the flags by which floe's commands reach the cluster past all links, and the
// environment that they need.
func (c *Cluster) DirectArgs() (args, env []string) {
	var endpoints []string
	for _, m := range c.members {
		endpoints = append(endpoints, m.client)
	}
	return []string{"--cluster", clusterName, "--etcd", strings.Join(endpoints, ","), "--store", c.storeURL(c.at(2, 9000))},
		[]string{"AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + secretKey}
}

// awaitHealthy asks url until it answers 200.
func awaitHealthy(ctx context.Context, url string) error {
	for {
		err := healthy(ctx, url)
		if err == nil {
			return nil
		}
		if !pause(ctx, 50*time.Millisecond) {
			return err
		}
	}
}

func healthy(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// StartMembers starts those of the members that do not run. Two of three serve only together.
func StartMembers(ctx context.Context, members []*Member) error {
	return each(members, func(m *Member) error { return m.Start(ctx) })
}
