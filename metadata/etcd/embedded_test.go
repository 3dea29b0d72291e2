package etcd_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/etcd"
)

// TestEmbeddedRestart checks that data, history and leases outlive the server.
func TestEmbeddedRestart(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	server := start(t, etcd.EmbeddedConfig{Dir: dir})
	store := server.NewClient()
	lease, err := store.Grant(ctx, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var first metadata.TxnResult
	for _, value := range []string{"1", "2"} {
		res, err := store.Txn(ctx, metadata.Txn{Then: []metadata.Op{
			metadata.Put("/a", []byte(value)), metadata.PutLeased("/b", []byte(value), lease)}})
		if err != nil {
			t.Fatal(err)
		}
		if value == "1" {
			first = res
		}
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}

	store = start(t, etcd.EmbeddedConfig{Dir: dir}).NewClient()
	kvs, revision, err := store.Get(ctx, "/a", "/b")
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range kvs {
		if string(kv.Value) != "2" || kv.Revision != first.Revision+1 || revision != kv.Revision {
			t.Errorf("%s = %q of revision %d at %d, want 2 of %d", kv.Key, kv.Value, kv.Revision, revision, first.Revision+1)
		}
	}
	page, err := store.Range(ctx, "/a", "/b", first.Revision, 0)
	if err != nil || len(page.KVs) != 1 || string(page.KVs[0].Value) != "1" {
		t.Errorf("range at an old revision: %v, %v", page.KVs, err)
	}
	if err := store.KeepAlive(ctx, lease); err != nil {
		t.Errorf("keep alive: %v", err)
	}
	if err := store.Revoke(ctx, lease); err != nil {
		t.Errorf("revoke: %v", err)
	}
	if kvs, _, err := store.Get(ctx, "/b"); err != nil || kvs[0].Exists() {
		t.Errorf("key of a revoked lease: %v, %v", kvs, err)
	}
}

// TestEmbeddedCloseEndsWatches closes a server under a watch and a waiting call.
func TestEmbeddedCloseEndsWatches(t *testing.T) {
	server := start(t, etcd.EmbeddedConfig{})
	store := server.NewClient()
	res, err := store.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Put("/a", nil)}})
	if err != nil {
		t.Fatal(err)
	}
	batches := store.Watch(t.Context(), "/", res.Revision)
	if b := <-batches; b.Err != nil || len(b.Events) != 1 {
		t.Fatalf("batch %+v, want one event", b)
	}
	for range 2 { // closing twice is no error
		if err := server.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	for b := range batches {
		if b.Err == nil {
			t.Errorf("batch %+v of a closed server", b)
		}
	}
	if _, _, err := store.Get(t.Context(), "/a"); err == nil {
		t.Error("get from a closed server succeeded")
	}
	if b, ok := <-store.Watch(t.Context(), "/", 1); ok {
		t.Errorf("batch %+v from a closed client", b)
	}
}

func TestEmbeddedRefusals(t *testing.T) {
	used := t.TempDir()
	start(t, etcd.EmbeddedConfig{Dir: used})
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		cfg  etcd.EmbeddedConfig
		want string
	}{
		{"no directory", etcd.EmbeddedConfig{}, "no data directory given"},
		{"directory in use", etcd.EmbeddedConfig{Dir: used}, "another process uses this directory"},
		{"directory is a file", etcd.EmbeddedConfig{Dir: file}, "not a directory"},
		{"URL without scheme", etcd.EmbeddedConfig{Dir: t.TempDir(), ClientURL: "127.0.0.1:0"}, "client URL"},
		{"address of another machine", etcd.EmbeddedConfig{Dir: t.TempDir(), ClientURL: "http://192.0.2.1:1"}, "192.0.2.1"},
	} {
		server, err := etcd.StartEmbedded(t.Context(), c.cfg)
		if err == nil {
			err = errors.Join(errors.New("it started"), server.Close())
		}
		if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %q, want one line with %q", c.name, err, c.want)
		}
	}
	// What failed has released its directory.
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if server, err := etcd.StartEmbedded(ctx, etcd.EmbeddedConfig{Dir: dir}); err == nil {
		if err := server.Close(); err != nil { // it was ready at once
			t.Error(err)
		}
	}
	start(t, etcd.EmbeddedConfig{Dir: dir})
}

// TestEmbeddedUnfinishedStart starts on what a first start left that was killed before the
// member had made itself the one member of its cluster.
func TestEmbeddedUnfinishedStart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	begun := func(t *testing.T) (dir, segments string) {
		dir = t.TempDir()
		segments = filepath.Join(dir, "member", "wal")
		if err := os.MkdirAll(filepath.Join(dir, "member", "snap"), 0o700); err != nil {
			t.Fatal(err)
		}
		member, err := proto.Marshal(&pb.Metadata{NodeID: new(uint64(1)), ClusterID: new(uint64(2))})
		if err != nil {
			t.Fatal(err)
		}
		log, err := wal.Create(zap.NewNop(), segments, member)
		if err != nil {
			t.Fatal(err)
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		return dir, segments
	}
	t.Run("nothing was committed", func(t *testing.T) {
		dir, _ := begun(t)
		for i := range 2 { // the second start finds what the first has stored
			server, err := etcd.StartEmbedded(ctx, etcd.EmbeddedConfig{Dir: dir, ClientURL: "http://127.0.0.1:0"})
			if err != nil {
				t.Fatal(err)
			}
			store := server.NewClient()
			kvs, _, err := store.Get(ctx, "/a")
			if err != nil || kvs[0].Exists() != (i == 1) {
				t.Errorf("start %d: /a is %v, %v", i, kvs, err)
			}
			if _, err := store.Txn(ctx, metadata.Txn{Then: []metadata.Op{metadata.Put("/a", nil)}}); err != nil {
				t.Error(err)
			}
			if err := server.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	for name, more := range map[string][]byte{
		"a record that cannot be read": []byte("\x10\x00\x00\x00\x00\x00\x00\x00garbage garbage "),
		"something behind the end":     []byte("\x00\x00\x00\x00\x00\x00\x00\x00something"),
	} {
		t.Run(name, func(t *testing.T) {
			dir, segments := begun(t)
			path := filepath.Join(segments, "0000000000000000-0000000000000000.wal")
			blank, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			last := int64(len(bytes.TrimRight(blank, "\x00")))
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, writeErr := f.WriteAt(more, (last+7)/8*8)
			if err := errors.Join(writeErr, f.Close()); err != nil {
				t.Fatal(err)
			}
			ended, end := context.WithCancel(ctx)
			end()
			if server, err := etcd.StartEmbedded(ended, etcd.EmbeddedConfig{Dir: dir}); err == nil {
				t.Error("it started", server.Close())
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("what may hold something was thrown away: %v", err)
			}
		})
	}
}

// TestEmbeddedStartGivenUp ends a start that waits for its member to be ready: with
// listeners, which wait too.
func TestEmbeddedStartGivenUp(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 {
		if server, err := etcd.StartEmbedded(ctx, etcd.EmbeddedConfig{Dir: dir, ClientURL: "http://127.0.0.1:0"}); err == nil {
			if err := server.Close(); err != nil { // it was ready at once
				t.Error(err)
			}
		}
	}
	start(t, etcd.EmbeddedConfig{Dir: dir})
}

// TestEmbeddedQuiet checks that a healthy life, refusals included, logs nothing.
func TestEmbeddedQuiet(t *testing.T) {
	var log bytes.Buffer
	dir, ctx := filepath.Join(t.TempDir(), "etcd"), t.Context()
	for range 2 {
		server, err := etcd.StartEmbedded(ctx, etcd.EmbeddedConfig{Dir: dir, ClientURL: "http://127.0.0.1:0",
			Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		for _, store := range []metadata.Store{server.NewClient(), connect(t, server.Endpoint())} {
			if err := store.Revoke(ctx, 77); err != nil {
				t.Error(err)
			}
			if err := store.Compact(ctx, 1<<40); !errors.Is(err, metadata.ErrInvalid) {
				t.Errorf("compact in the future: %v", err)
			}
			if _, err := store.Txn(ctx, metadata.Txn{Then: []metadata.Op{metadata.Put("/a", nil)}}); err != nil {
				t.Error(err)
			}
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}
	if log.Len() != 0 {
		t.Errorf("logged:\n%s", log.String())
	}
}

// BenchmarkStart measures the start of a server on new and on existing data.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		dir := b.TempDir()
		for range 2 {
			server, err := etcd.StartEmbedded(b.Context(), etcd.EmbeddedConfig{Dir: dir})
			if err != nil {
				b.Fatal(err)
			}
			if err := server.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
}
