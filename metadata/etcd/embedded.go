package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap/zapcore"
)

const (
	// defaultQuota is the size that the embedded database may reach. Smaller would be
	// reached by a burst of inline commits before their compaction, larger would only
	// hide that nobody compacts.
	defaultQuota = 2 << 30

	// snapshotCount is after how many transactions the raft log is cut on disk. All of it
	// is read into memory at start: fewer would fsync more often, more would make starts
	// slow and large (5000 inline records of 16 KiB are 80 MiB).
	snapshotCount = 5000

	// catchUpEntries is how many transactions stay in memory for followers, of which
	// there are none.
	catchUpEntries = 100

	// tick and electionTimeout: a single member elects itself after up to
	// 2 * electionTimeout. Shorter would wake an idle process more often, longer would
	// make starts slow.
	tick            = 50 * time.Millisecond
	electionTimeout = 5 * tick
)

// EmbeddedConfig says where an embedded server keeps its data.
type EmbeddedConfig struct {
	Dir       string       // data directory, made if it does not exist
	ClientURL string       // where to listen, such as http://127.0.0.1:2379; empty: nowhere
	Quota     int64        // size limit of the database in bytes; 0: 2 GiB
	Logger    *slog.Logger // gets etcd's warnings and errors; nil: nobody does
}

// Embedded is an etcd server with one member inside this process. What it has
// acknowledged is on disk (fsync).
type Embedded struct {
	server  *embed.Etcd
	lock    io.Closer
	closing *atomic.Bool // what etcd says of its own end is not passed on

	mu      sync.Mutex
	closed  bool
	clients []*Client
}

// StartEmbedded starts a server on new or existing data, and returns when it serves.
func StartEmbedded(ctx context.Context, cfg EmbeddedConfig) (*Embedded, error) {
	closing := new(atomic.Bool)
	conf, err := embeddedConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("start embedded etcd: %w", err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("start embedded etcd in %s: %w", cfg.Dir, err)
	}
	started := false
	defer func() {
		if !started {
			_ = lock.Close() // the reason for not starting is worth more
		}
	}()
	if err := discardUnfinished(cfg.Dir); err != nil {
		return nil, fmt.Errorf("start embedded etcd in %s: %w", cfg.Dir, err)
	}
	conf.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(cfg.Logger, zapcore.WarnLevel, closing))
	server, err := embed.StartEtcd(conf)
	if err != nil {
		return nil, fmt.Errorf("start embedded etcd in %s: %w", cfg.Dir, err)
	}
	select {
	case <-server.Server.ReadyNotify():
		started = true
		return &Embedded{server: server, lock: lock, closing: closing}, nil
	case <-server.Server.StopNotify():
		err = errors.New("server stopped")
	case err = <-server.Err():
	case <-ctx.Done():
		err = ctx.Err()
	}
	server.Server.Stop() // first: Close waits for listeners, which wait for the server to be ready or stopped
	server.Close()
	return nil, fmt.Errorf("start embedded etcd in %s: %w", cfg.Dir, err)
}

// lockDir makes the directory and locks it: etcd itself would wait without end, and
// without a word, for another process that uses it.
func lockDir(dir string) (io.Closer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := fileutil.TryLockFile(filepath.Join(dir, "floe.lock"), os.O_CREATE|os.O_WRONLY, 0o600)
	if errors.Is(err, fileutil.ErrLocked) {
		return nil, errors.New("another process uses this directory: stop it, or choose another directory")
	}
	return lock, err
}

func embeddedConfig(cfg EmbeddedConfig) (*embed.Config, error) {
	if cfg.Dir == "" {
		return nil, errors.New("no data directory given")
	}
	conf := embed.NewConfig()
	conf.Dir = cfg.Dir
	conf.Name = "floe"
	conf.InitialCluster = conf.InitialClusterFromName(conf.Name)
	conf.ListenPeerUrls = nil // no peers; the default address only names the member
	conf.ListenClientUrls, conf.AdvertiseClientUrls = nil, nil
	if cfg.ClientURL != "" {
		u, err := url.Parse(cfg.ClientURL)
		if err != nil {
			return nil, fmt.Errorf("client URL: %w", err)
		}
		conf.ListenClientUrls, conf.AdvertiseClientUrls = []url.URL{*u}, []url.URL{*u}
	}
	conf.EnableGRPCGateway = false
	conf.TickMs = uint(tick.Milliseconds())
	conf.ElectionMs = uint(electionTimeout.Milliseconds())
	conf.SnapshotCount = snapshotCount
	conf.SnapshotCatchUpEntries = catchUpEntries
	conf.BackendFreelistType = "map"
	conf.AutoCompactionRetention = "0" // agents compact
	conf.QuotaBackendBytes = cfg.Quota
	if cfg.Quota <= 0 {
		conf.QuotaBackendBytes = defaultQuota
	}
	return conf, nil
}

// NewClient returns a client that calls the server without a network. The server's Close
// closes it, if nobody did before.
func (e *Embedded) NewClient() *Client {
	c := newClient(v3client.New(e.server.Server))
	e.mu.Lock()
	defer e.mu.Unlock()
	e.clients = append(e.clients, c)
	return c
}

// Endpoint returns the URL at which the server listens, empty if it does not.
func (e *Embedded) Endpoint() string {
	if len(e.server.Clients) == 0 {
		return ""
	}
	return "http://" + e.server.Clients[0].Addr().String()
}

// Close closes all clients, stops the server and waits for it.
func (e *Embedded) Close() error {
	e.mu.Lock()
	closed, clients := e.closed, e.clients
	e.closed, e.clients = true, nil
	e.mu.Unlock()
	if closed {
		return nil
	}
	var errs []error
	for _, c := range clients {
		errs = append(errs, c.Close())
	}
	e.closing.Store(true)
	e.server.Close()
	return errors.Join(append(errs, e.lock.Close())...)
}
