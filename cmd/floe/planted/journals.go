//go:build planted

package planted

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/floelog/floe/metadata"
)

// store stands between an agent and the metadata store.
type store struct {
	metadata.Store
	h  *host
	on func(s *store, ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error)
}

func (s *store) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	if slices.ContainsFunc(txn.Then, func(o metadata.Op) bool { return !o.Delete && s.is(o.Key, "journal") }) {
		return s.on(s, ctx, txn)
	}
	return s.Store.Txn(ctx, txn)
}

// is reports whether a key is the named one of some shard.
func (s *store) is(key, name string) bool {
	k, err := s.h.keys.ParseShardKey(key)
	return err == nil && k.Name == name
}

// onRecord plants a bug around the transactions that append records.
func onRecord(on func(s *store, ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error)) func() bug {
	return func() bug {
		return bug{meta: func(h *host, inner metadata.Store) metadata.Store { return &store{inner, h, on} }}
	}
}

func journalBugs() map[string]func() bug {
	return map[string]func() bug{
		"unknown-as-committed": onRecord(func(s *store, ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
			res, err := s.Store.Txn(ctx, txn)
			if err != nil && !errors.Is(err, metadata.ErrInvalid) && !errors.Is(err, metadata.ErrLeaseLost) {
				return metadata.TxnResult{Succeeded: true}, nil
			}
			return res, err
		}),
		"refused-as-committed": onRecord(func(s *store, ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
			res, err := s.Store.Txn(ctx, txn)
			res.Succeeded = err == nil
			return res, err
		}),
		"head-from-memory": func() bug {
			return bug{meta: func(_ *host, inner metadata.Store) metadata.Store {
				return &remembering{Store: inner, heads: map[string]remembered{}}
			}}
		},
	}
}

// remembered is an answer that is given again for a while.
type remembered struct {
	kv    metadata.KV
	until time.Time
}

// remembering answers questions for journals' heads from memory.
type remembering struct {
	metadata.Store

	mu    sync.Mutex // guards the following
	heads map[string]remembered
}

func (r *remembering) Get(ctx context.Context, keys ...string) ([]metadata.KV, int64, error) {
	if slices.ContainsFunc(keys, func(k string) bool { return !strings.HasSuffix(k, "/head") }) {
		return r.Store.Get(ctx, keys...)
	}
	out := make([]metadata.KV, len(keys))
	whole := true
	r.mu.Lock()
	for i, k := range keys {
		m, ok := r.heads[k]
		whole = whole && ok && time.Now().Before(m.until)
		out[i] = m.kv
	}
	r.mu.Unlock()
	if whole {
		return out, 0, nil
	}
	kvs, revision, err := r.Store.Get(ctx, keys...)
	if err == nil {
		r.mu.Lock()
		for i, k := range keys {
			r.heads[k] = remembered{kvs[i], time.Now().Add(3 * time.Second)}
		}
		r.mu.Unlock()
	}
	return kvs, revision, err
}
