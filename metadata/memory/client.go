package memory

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/floelog/floe/metadata"
)

// Client is one connection to a Server, with faults of its own. It implements
// metadata.Store.
type Client struct {
	server *Server
	name   string

	mu      sync.Mutex // may be held when taking server.mu, never the other way round
	faults  Faults
	rnd     *rand.Rand
	paused  bool
	parted  bool
	changed chan struct{} // closed and replaced when paused or parted changes
}

var _ metadata.Store = (*Client)(nil)

// Client returns a new client. Its name stands in its errors.
func (s *Server) Client(name string) *Client {
	return &Client{server: s, name: name, changed: make(chan struct{})}
}

// Txn implements metadata.Store.
func (c *Client) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	if err := txn.Validate(); err != nil {
		return metadata.TxnResult{}, c.wrap("txn", err)
	}
	if c.faulty() {
		txn = clone(txn) // it may be applied when the caller has its buffers back
	}
	var res metadata.TxnResult
	err := c.call(ctx, true, func(s *Server) error {
		var err error
		res, err = s.data.txn(txn)
		return err
	})
	if err != nil {
		return metadata.TxnResult{}, c.wrap("txn", err)
	}
	return res, nil
}

// Get implements metadata.Store.
func (c *Client) Get(ctx context.Context, keys ...string) ([]metadata.KV, int64, error) {
	if slices.Contains(keys, "") {
		return nil, 0, c.wrap("get", fmt.Errorf("%w: empty key", metadata.ErrInvalid))
	}
	var kvs []metadata.KV
	var revision int64
	err := c.call(ctx, false, func(s *Server) error {
		kvs, revision = make([]metadata.KV, len(keys)), s.data.revision
		for i, key := range keys {
			kvs[i] = s.data.get(key)
		}
		return nil
	})
	if err != nil {
		return nil, 0, c.wrap("get", err)
	}
	return kvs, revision, nil
}

// Range implements metadata.Store.
func (c *Client) Range(ctx context.Context, from, end string, revision int64, limit int) (metadata.Page, error) {
	if end == "" {
		return metadata.Page{}, c.wrap("range", fmt.Errorf("%w: no end", metadata.ErrInvalid))
	}
	var page metadata.Page
	err := c.call(ctx, false, func(s *Server) error {
		var err error
		page, err = s.data.page(from, end, revision, limit)
		return err
	})
	if err != nil {
		return metadata.Page{}, c.wrap("range", err)
	}
	return page, nil
}

// Grant implements metadata.Store.
func (c *Client) Grant(ctx context.Context, ttl time.Duration) (metadata.LeaseID, error) {
	if ttl <= 0 {
		return 0, c.wrap("grant", fmt.Errorf("%w: time to live %v", metadata.ErrInvalid, ttl))
	}
	var id metadata.LeaseID
	err := c.call(ctx, true, func(s *Server) error {
		s.lastLease++
		id = s.lastLease
		s.startLease(id, ttl)
		return nil
	})
	if err != nil {
		return 0, c.wrap("grant", err)
	}
	return id, nil
}

// KeepAlive implements metadata.Store.
func (c *Client) KeepAlive(ctx context.Context, lease metadata.LeaseID) error {
	return c.wrap("keep alive", c.call(ctx, true, func(s *Server) error {
		l := s.leases[lease]
		if l == nil {
			return fmt.Errorf("lease %x: %w", int64(lease), metadata.ErrLeaseLost)
		}
		l.deadline = time.Now().Add(l.ttl)
		return nil
	}))
}

// Revoke implements metadata.Store.
func (c *Client) Revoke(ctx context.Context, lease metadata.LeaseID) error {
	return c.wrap("revoke", c.call(ctx, true, func(s *Server) error {
		s.endLease(lease)
		return nil
	}))
}

// Compact implements metadata.Store.
func (c *Client) Compact(ctx context.Context, revision int64) error {
	return c.wrap("compact", c.call(ctx, true, func(s *Server) error {
		return s.data.compact(revision)
	}))
}

// clone copies what an application of the transaction reads.
func clone(t metadata.Txn) metadata.Txn {
	t = metadata.Txn{If: slices.Clone(t.If), Then: slices.Clone(t.Then), Else: slices.Clone(t.Else)}
	for i := range t.If {
		t.If[i].Value = bytes.Clone(t.If[i].Value)
	}
	for i := range t.Then {
		t.Then[i].Value = bytes.Clone(t.Then[i].Value)
	}
	return t
}

func (c *Client) wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("metadata %s of %s: %w", what, c.name, err)
}

// call carries a request to the server and its answer back, with the client's faults.
// What f has set is only to be read when call returns nil: f may also run later.
func (c *Client) call(ctx context.Context, changes bool, f func(*Server) error) error {
	s := c.server
	apply := func() error { return s.apply(f) }
	ft := c.drawCall(changes)
	if err := c.gate(ctx); err != nil {
		return err
	}
	if ft.there+ft.back > 0 {
		s.fire(Latency)
	}
	if start := time.Now(); !s.sleep(ctx, ft.there) {
		if changes && ft.fail != FailBefore {
			s.fire(Abandoned)
			s.later(ft.there-time.Since(start)+ft.late, apply)
		}
		return ended(ctx)
	}
	if ft.fail != "" {
		s.fire(ft.fail)
	}
	var err error
	switch ft.fail {
	case FailBefore:
		err = fmt.Errorf("%w: request lost", ErrFault)
	case FailAfter:
		_ = apply() // the answer that is lost
		err = fmt.Errorf("%w: answer lost", ErrFault)
	case ApplyLate:
		s.later(ft.late, apply)
		err = fmt.Errorf("%w: request late", ErrFault)
	default:
		err = apply()
	}
	if !s.sleep(ctx, ft.back) {
		return ended(ctx)
	}
	if gateErr := c.gate(ctx); gateErr != nil {
		return gateErr
	}
	return err
}

// ended says why a sleep was cut short.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return errClosed
}
