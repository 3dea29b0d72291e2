package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/floelog/floe/metadata"
)

const (
	// defaultDialTimeout is for how long Open waits for an answer. Shorter would fail
	// while a cluster elects a leader, longer would leave an operator without the reason.
	defaultDialTimeout = 5 * time.Second

	// pingAfter and pingTimeout bound for how long a dead connection is used. gRPC allows
	// no shorter pingAfter, and etcd calls more than one in 5 s too many.
	pingAfter   = 10 * time.Second
	pingTimeout = 3 * time.Second

	// reconnectFirst and reconnectMax bound the pause between two attempts to connect to a member,
	// and connectTimeout one attempt. gRPC's own would let the end of an outage go unnoticed
	// for two minutes. Shorter: a member that starts is greeted by hundreds of connections a second.
	// Longer: agents do without a metadata store that is back.
	reconnectFirst = 100 * time.Millisecond
	reconnectMax   = time.Second
	connectTimeout = 2 * time.Second
)

// reconnect is how a lost connection is made again.
func reconnect() grpc.DialOption {
	pauses := backoff.DefaultConfig
	pauses.BaseDelay, pauses.MaxDelay = reconnectFirst, reconnectMax
	return grpc.WithConnectParams(grpc.ConnectParams{Backoff: pauses, MinConnectTimeout: connectTimeout})
}

// oldest is the oldest server that the contract holds with. Before 3.5.8 the progress of
// a watch could overtake its events, so that a view would have skipped changes.
var oldest = version{3, 5, 8}

// Config says how to reach a cluster.
type Config struct {
	Endpoints   []string      // host:port or URLs of the members
	DialTimeout time.Duration // for how long Open waits for an answer; 0: 5 s
	TLS         *tls.Config   // nil: plain text, unless the endpoints are https
	Username    string        // empty: no login
	Password    string
	Logger      *slog.Logger // gets the errors of the connection itself; nil: nobody does
}

// Open connects to a cluster. It fails if no endpoint answers in time, or if the one that
// does is older than etcd 3.5.8.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, fmt.Errorf("connect to etcd: %w: no endpoints given", metadata.ErrInvalid)
	}
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = defaultDialTimeout
	}
	all := strings.Join(cfg.Endpoints, ", ")
	c, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		DialTimeout:          cfg.DialTimeout,
		DialKeepAliveTime:    pingAfter,
		DialKeepAliveTimeout: pingTimeout,
		TLS:                  cfg.TLS,
		Username:             cfg.Username,
		Password:             cfg.Password,
		Logger:               zapLogger(cfg.Logger, zapcore.ErrorLevel, nil), // its warnings are errors of calls, which return them
		DialOptions:          []grpc.DialOption{grpc.WithDisableRetry(), reconnect(), grpc.WithChainUnaryInterceptor(once)},
	})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd at %s: %w", all, err)
	}
	v, err := serverVersion(ctx, c, cfg.Endpoints, cfg.DialTimeout)
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("connect to etcd at %s: %w", all, ctx.Err())
	case err != nil:
		err = fmt.Errorf("connect to etcd at %s: no usable answer within %v: %w", all, cfg.DialTimeout, err)
	case v.before(oldest):
		err = fmt.Errorf("connect to etcd at %s: server is version %v, need %v or newer", all, v, oldest)
	default:
		client := newClient(c)
		client.tls = cfg.TLS
		return client, nil
	}
	if closeErr := c.Close(); closeErr != nil && !errors.Is(closeErr, context.Canceled) {
		err = errors.Join(err, closeErr)
	}
	return nil, err
}

// once keeps clientv3, whose retries are outside of it, from repeating a call: it repeats
// any, changes too, that a server answers with the status of an ended context while the
// caller's own context lives.
func once(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, conn, opts...)
	if last, ok := ctx.Value(attemptKey{}).(*attempt); ok && err != nil {
		last.err.Store(&err)
	}
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded:
		if ctx.Err() == nil {
			return status.Errorf(codes.Unknown, "server's context ended: %v", err)
		}
	}
	return err
}

// attempt is what the last attempt at a call failed with: clientv3 only tells, when time
// is up, that it is, and not that a certificate was not trusted.
type attempt struct{ err atomic.Pointer[error] }

// attemptKey is the key of an *attempt in a context.
type attemptKey struct{}

// serverVersion asks all endpoints and returns the first answer, or the first error if
// there is none.
func serverVersion(ctx context.Context, c *clientv3.Client, endpoints []string, timeout time.Duration) (version, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	type answer struct {
		version version
		err     error
	}
	answers := make(chan answer, len(endpoints))
	for _, endpoint := range endpoints {
		go func() { // ends with ctx at the latest; all are awaited below
			last := new(attempt)
			resp, err := c.Status(context.WithValue(ctx, attemptKey{}, last), endpoint)
			if err != nil {
				if reason := last.err.Load(); reason != nil {
					err = errors.New(strings.TrimPrefix(status.Convert(*reason).Message(), "latest balancer error: "))
				}
				answers <- answer{err: fmt.Errorf("%s: %w", endpoint, err)}
				return
			}
			v, err := parseVersion(resp.Version)
			answers <- answer{v, err}
		}()
	}
	var found *version
	var firstErr error
	for range endpoints {
		a := <-answers
		switch {
		case a.err == nil && found == nil:
			found = &a.version
			cancel()
		case a.err != nil && firstErr == nil:
			firstErr = a.err
		}
	}
	if found != nil {
		return *found, nil
	}
	return version{}, firstErr
}

// version is a server's version: major, minor, patch.
type version [3]int

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

func (v version) before(w version) bool {
	for i := range v {
		if v[i] != w[i] {
			return v[i] < w[i]
		}
	}
	return false
}

// parseVersion reads "3.5.8" or "3.6.0-rc.1".
func parseVersion(s string) (version, error) {
	var v version
	numbers, _, _ := strings.Cut(s, "-")
	parts := strings.Split(numbers, ".")
	if len(parts) != len(v) {
		return v, fmt.Errorf("etcd version %q: not of the form 1.2.3", s)
	}
	for i, part := range parts {
		n, err := strconv.Atoi(part)
		if err != nil {
			return v, fmt.Errorf("etcd version %q: %w", s, err)
		}
		v[i] = n
	}
	return v, nil
}
