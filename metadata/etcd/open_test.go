package etcd_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/etcd"
)

// fakeServer is an etcd server that answers as the test says.
type fakeServer struct {
	pb.UnimplementedKVServer
	pb.UnimplementedMaintenanceServer

	version string
	txn     func() error // what a transaction is answered with
	txns    atomic.Int64 // how many arrived

	mu    sync.Mutex
	conns []net.Conn
}

func (f *fakeServer) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{Version: f.version}, nil
}

func (f *fakeServer) Txn(context.Context, *pb.TxnRequest) (*pb.TxnResponse, error) {
	f.txns.Add(1)
	return nil, f.txn()
}

// cut closes all connections.
func (f *fakeServer) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		_ = c.Close() // it may be closed already
	}
	f.conns = nil
}

// listener remembers connections for cut.
type listener struct {
	net.Listener
	f *fakeServer
}

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.f.mu.Lock()
		l.f.conns = append(l.f.conns, c)
		l.f.mu.Unlock()
	}
	return c, err
}

// serve starts the server and returns its address.
func (f *fakeServer) serve(t *testing.T, opts ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(opts...)
	pb.RegisterKVServer(server, f)
	pb.RegisterMaintenanceServer(server, f)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener{l, f}) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().String()
}

// TestTxnSentOnce checks invariant 2 of package metadata: whatever goes wrong once a
// transaction has reached a server, it is not sent again, and its outcome is unknown.
func TestTxnSentOnce(t *testing.T) {
	f := &fakeServer{version: "3.6.0"}
	for _, c := range []struct {
		name string
		txn  func() error
	}{
		{"leader changed", func() error { return status.Error(codes.Unavailable, "etcdserver: leader changed") }},
		{"timed out", func() error { return status.Error(codes.Unavailable, "etcdserver: request timed out") }},
		{"server stopped", func() error { return status.Error(codes.Unavailable, "etcdserver: server stopped") }},
		{"transport closing", func() error { return status.Error(codes.Unavailable, "transport is closing") }},
		{"too many requests", func() error { return status.Error(codes.ResourceExhausted, "etcdserver: too many requests") }},
		{"no space", func() error {
			return status.Error(codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded")
		}},
		{"deadline", func() error { return status.Error(codes.DeadlineExceeded, "context deadline exceeded") }},
		{"canceled", func() error { return status.Error(codes.Canceled, "context canceled") }},
		{"aborted", func() error { return status.Error(codes.Aborted, "aborted") }},
		{"unknown", func() error { return errors.New("what?") }},
		{"connection cut", func() error { f.cut(); return nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.txn = c.txn
			f.txns.Store(0)
			store := connect(t, f.serve(t))
			_, err := store.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Put("/a", nil)}})
			if err == nil || errors.Is(err, metadata.ErrInvalid) || errors.Is(err, metadata.ErrLeaseLost) {
				t.Errorf("error %v, want an unknown outcome", err)
			}
			if n := f.txns.Load(); n != 1 {
				t.Errorf("transaction was sent %d times", n)
			}
		})
	}
}

// TestTxnRefused checks which of a server's answers say that nothing was applied.
func TestTxnRefused(t *testing.T) {
	f := &fakeServer{version: "3.6.0"}
	store := connect(t, f.serve(t))
	for _, c := range []struct {
		code    codes.Code
		message string
		want    error
	}{
		{codes.InvalidArgument, "etcdserver: too many operations in txn request", metadata.ErrInvalid},
		{codes.InvalidArgument, "etcdserver: request is too large", metadata.ErrInvalid},
		{codes.InvalidArgument, "etcdserver: duplicate key given in txn request", metadata.ErrInvalid},
		{codes.NotFound, "etcdserver: requested lease not found", metadata.ErrLeaseLost},
	} {
		f.txn = func() error { return status.Error(c.code, c.message) }
		_, err := store.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Put("/a", nil)}})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", c.message, err, c.want)
		}
	}
}

func TestOpen(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	refusing, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := refusing.Addr().String()
	if err := refusing.Close(); err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := etcd.Open(ended, etcd.Config{Endpoints: []string{refused}}); !errors.Is(err, context.Canceled) {
		t.Errorf("open with an ended context: %v", err)
	}
	version := func(v string) string { return (&fakeServer{version: v}).serve(t) }
	for _, c := range []struct {
		name      string
		endpoints []string
		want      string // in the error; empty: none
	}{
		{"no endpoints", nil, "no endpoints given"},
		{"nobody there", []string{refused}, "connection refused"},
		{"nobody answers", []string{silent.Addr().String(), refused}, "no usable answer within"},
		{"too old", []string{version("3.4.30")}, "server is version 3.4.30, need 3.5.8 or newer"},
		{"watch progress out of order", []string{version("3.5.7")}, "server is version 3.5.7"},
		{"not a version", []string{version("latest")}, "latest"},
		{"oldest", []string{version("3.5.8")}, ""},
		{"newer", []string{version("4.0.0-rc.1")}, ""},
		{"one of several", []string{refused, version("3.6.0")}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			store, err := etcd.Open(t.Context(), etcd.Config{Endpoints: c.endpoints, DialTimeout: 500 * time.Millisecond})
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				closeClient(t, store)
				return
			}
			if err == nil {
				closeClient(t, store)
				t.Fatal("open succeeded")
			}
			if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q, want one line with %q", err, c.want)
			}
		})
	}
}

func TestOpenTLS(t *testing.T) {
	https := httptest.NewTLSServer(nil) // has a certificate and who trusts it
	defer https.Close()
	f := &fakeServer{version: "3.6.0"}
	addr := f.serve(t, grpc.Creds(credentials.NewServerTLSFromCert(&https.TLS.Certificates[0])))
	roots := x509.NewCertPool()
	roots.AddCert(https.Certificate())
	for _, c := range []struct {
		name string
		tls  *tls.Config
		want string
	}{
		{"trusted", &tls.Config{RootCAs: roots}, ""},
		{"untrusted", &tls.Config{RootCAs: x509.NewCertPool()}, "certificate"},
		{"plain text", nil, "no usable answer within"},
	} {
		t.Run(c.name, func(t *testing.T) {
			store, err := etcd.Open(t.Context(), etcd.Config{Endpoints: []string{addr}, TLS: c.tls, DialTimeout: 500 * time.Millisecond})
			if err == nil {
				closeClient(t, store)
			}
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// TestOpenLogin speaks to a server that asks for a password.
func TestOpenLogin(t *testing.T) {
	server := start(t, etcd.EmbeddedConfig{ClientURL: "http://127.0.0.1:0"})
	ctx := t.Context()
	admin, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint()}})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	_, addErr := admin.UserAdd(ctx, "root", "secret")
	_, grantErr := admin.UserGrantRole(ctx, "root", "root")
	_, enableErr := admin.AuthEnable(ctx)
	if err := errors.Join(addErr, grantErr, enableErr); err != nil {
		t.Fatal(err)
	}
	cfg := etcd.Config{Endpoints: []string{server.Endpoint()}, Username: "root", Password: "secret", DialTimeout: time.Minute} // bcrypt is slow
	store, err := etcd.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer closeClient(t, store)
	res, err := store.Txn(ctx, metadata.Txn{Then: []metadata.Op{metadata.Put("/a", nil)}})
	if err != nil || !res.Succeeded {
		t.Errorf("txn after login: %v, succeeded %v", err, res.Succeeded)
	}
	if b := <-store.Watch(ctx, "/", res.Revision); b.Err != nil || len(b.Events) != 1 {
		t.Errorf("watch after login: %+v", b)
	}
	cfg.Password = "wrong"
	if wrong, err := etcd.Open(ctx, cfg); err == nil {
		closeClient(t, wrong)
		t.Error("open with a wrong password succeeded")
	} else if !strings.Contains(err.Error(), "authentication failed") || strings.Contains(err.Error(), "secret") {
		t.Errorf("open with a wrong password: %v", err)
	}
}
