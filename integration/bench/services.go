//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	client "github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/floelog/floe/integration/fixture/program"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/open"
)

const (
	accessKey = "floe-bench"
	secretKey = "floe-bench-secret"
	bucket    = "floe"
)

// floe is a running Floe process.
type floe struct {
	*process
	addr    string
	metrics string // URL
}

// startFloe runs a command of the binary on free ports.
func (e *env) startFloe(ctx context.Context, dir, command string, args ...string) (*floe, error) {
	args = append([]string{command, "--addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"}, args...)
	p, err := start(ctx, dir, "floe-"+command, []string{"AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + secretKey}, "", e.floe, args...)
	if err != nil {
		return nil, err
	}
	f := &floe{process: p}
	if f.addr, err = p.find(`ready on (\S+)`); err == nil {
		f.metrics, err = p.find(`metrics (http://[^\s)]+)`)
	}
	if err != nil {
		p.kill()
		return nil, err
	}
	return f, nil
}

// startDev runs floe dev on fresh data.
func (e *env) startDev(ctx context.Context, dir string, args ...string) (*floe, error) {
	return e.startFloe(ctx, dir, "dev", append([]string{"--data", filepath.Join(dir, "data")}, args...)...)
}

// startEtcd runs one member on fresh data.
func (e *env) startEtcd(ctx context.Context, dir string) (p *process, endpoint string, err error) {
	path, err := program.Etcd(ctx, e.root)
	if err != nil {
		return nil, "", err
	}
	peer, err := freeAddr()
	if err != nil {
		return nil, "", err
	}
	if endpoint, err = freeAddr(); err != nil {
		return nil, "", err
	}
	p, err = start(ctx, dir, "etcd", nil, "http://"+endpoint+"/health", path,
		"--name", "bench", "--data-dir", filepath.Join(dir, "etcd"), "--log-level", "warn",
		"--listen-client-urls", "http://"+endpoint, "--advertise-client-urls", "http://"+endpoint,
		"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer,
		"--initial-cluster", "bench=http://"+peer, "--initial-cluster-state", "new")
	return p, endpoint, err
}

// startMinIO runs a server with one bucket.
func (e *env) startMinIO(ctx context.Context, dir string) (p *process, addr string, err error) {
	path, err := program.MinIO(ctx, e.root)
	if err != nil {
		return nil, "", err
	}
	if addr, err = freeAddr(); err != nil {
		return nil, "", err
	}
	console, err := freeAddr()
	if err != nil {
		return nil, "", err
	}
	env := []string{"MINIO_ROOT_USER=" + accessKey, "MINIO_ROOT_PASSWORD=" + secretKey, "MINIO_UPDATE=off", "MINIO_BROWSER=off", "HOME=" + dir}
	p, err = start(ctx, dir, "minio", env, "http://"+addr+"/minio/health/ready", path,
		"server", "--address", addr, "--console-address", console, "--quiet", filepath.Join(dir, "objects"))
	if err != nil {
		return nil, "", err
	}
	c, err := client.New(addr, &client.Options{Creds: credentials.NewStaticV4(accessKey, secretKey, "")})
	if err == nil {
		err = c.MakeBucket(ctx, bucket, client.MakeBucketOptions{})
	}
	if err != nil {
		p.kill()
		return nil, "", fmt.Errorf("make a bucket: %w", err)
	}
	return p, addr, nil
}

// storeURL names a prefix of the bucket on a MinIO, or on a proxy before it.
func (e *env) storeURL(addr, prefix string) string {
	return fmt.Sprintf("s3://%s/%s?driver=%s&region=us-east-1&endpoint=%s", bucket, prefix, e.driver, url.QueryEscape("http://"+addr))
}

// openStore opens a store with the driver that the agents use.
func (e *env) openStore(ctx context.Context, addr, prefix string) (objstore.Store, error) {
	return open.Open(ctx, e.storeURL(addr, prefix), open.Options{AccessKey: accessKey, SecretKey: secretKey})
}

// freeAddr returns a loopback address that nobody listens on at the moment.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// healthy reports why url does not answer 200.
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

// scratch makes a directory for one measurement, and what removes it.
func (e *env) scratch(name string) (dir string, remove func(), err error) {
	dir, err = os.MkdirTemp(e.dir, name+"-")
	return dir, func() { _ = os.RemoveAll(dir) }, err // what is left is removed with e.dir
}
