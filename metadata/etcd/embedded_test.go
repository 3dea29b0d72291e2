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
