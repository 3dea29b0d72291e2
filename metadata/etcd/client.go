// Package etcd keeps the metadata contract in etcd, and is the only importer of it. A
// Client speaks to a cluster (Open); an Embedded is a server with one member inside this
// process, whose clients do without a network.
//
// Transactions are sent once. clientv3 repeats a change when no connection existed to send
// it on, when the server refused its login token unread, and, which once prevents, when a
// server answers that its context ended; gRPC's own retries are turned off, but for
// requests that no server has read. So what returns an error was applied at most once, and
// its outcome is unknown (invariant 2 of package metadata). Reads are repeated by clientv3
// while no server is available.
//
// All exported methods may be called concurrently.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/floelog/floe/metadata"
)

// firstKey is the smallest key; etcd takes no empty one.
const firstKey = "\x00"

// Client is a metadata.Store in etcd.
type Client struct {
	etcd *clientv3.Client
	tls  *tls.Config // nil: plain text, unless an endpoint is https

	mu      sync.Mutex
	closed  bool
	watches map[*watch]struct{}
	wg      sync.WaitGroup // watches; added to under mu
	done    chan struct{}  // closed by Close
}

var _ metadata.Store = (*Client)(nil)

func newClient(c *clientv3.Client) *Client {
	client := &Client{etcd: c, watches: make(map[*watch]struct{}), done: make(chan struct{})}
	return client
}

// Close ends all watches and the connection. Calls in flight fail.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	close(c.done)
	for w := range c.watches {
		w.cancel()
	}
	c.mu.Unlock()
	c.wg.Wait()
	if err := c.etcd.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close etcd client: %w", err)
	}
	return nil
}

// Txn implements metadata.Store.
func (c *Client) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	if err := txn.Validate(); err != nil {
		return metadata.TxnResult{}, err
	}
	conds := make([]clientv3.Cmp, len(txn.If))
	for i, cond := range txn.If {
		conds[i] = compare(cond)
	}
	resp, err := c.etcd.Txn(ctx).If(conds...).Then(operations(txn.Then)...).Else(reads(txn.Else, 0)...).Commit()
	if err != nil {
		return metadata.TxnResult{}, wrap(ctx, "etcd txn", err)
	}
	res := metadata.TxnResult{Succeeded: resp.Succeeded, Revision: resp.Header.Revision}
	if !resp.Succeeded && len(txn.Else) > 0 {
		res.Else = make([]metadata.KV, 0, len(txn.Else))
		res.Else = appendReads(res.Else, txn.Else, resp)
	}
	return res, nil
}

func compare(c metadata.Condition) clientv3.Cmp {
	switch c.Kind {
	case metadata.KeyAbsent:
		return clientv3.Compare(clientv3.CreateRevision(c.Key), "=", 0)
	case metadata.KeyPresent:
		return clientv3.Compare(clientv3.CreateRevision(c.Key), ">", 0)
	default:
		return clientv3.Compare(clientv3.Value(c.Key), "=", string(c.Value))
	}
}

func operations(ops []metadata.Op) []clientv3.Op {
	out := make([]clientv3.Op, 0, len(ops))
	for _, op := range ops {
		switch {
		case !op.Delete && op.Lease == 0:
			out = append(out, clientv3.OpPut(op.Key, string(op.Value)))
		case !op.Delete:
			out = append(out, clientv3.OpPut(op.Key, string(op.Value), clientv3.WithLease(clientv3.LeaseID(op.Lease))))
		case op.End == "":
			out = append(out, clientv3.OpDelete(op.Key))
		case op.End == metadata.RangeToEnd || op.End > op.Key: // else nothing is in it
			out = append(out, clientv3.OpDelete(op.Key, clientv3.WithRange(op.End)))
		}
	}
	return out
}

func reads(keys []string, revision int64) []clientv3.Op {
	out := make([]clientv3.Op, len(keys))
	for i, key := range keys {
		out[i] = clientv3.OpGet(key, clientv3.WithRev(revision))
	}
	return out
}

// appendReads appends what the transaction has read, one KV for each key.
func appendReads(kvs []metadata.KV, keys []string, resp *clientv3.TxnResponse) []metadata.KV {
	for i, key := range keys {
		kv := metadata.KV{Key: key}
		if found := resp.Responses[i].GetResponseRange().GetKvs(); len(found) > 0 {
			kv.Value, kv.Revision = found[0].Value, found[0].ModRevision
		}
		kvs = append(kvs, kv)
	}
	return kvs
}

// Get implements metadata.Store. Of more keys than a transaction can read, the first read
// fixes the revision at which the others follow.
func (c *Client) Get(ctx context.Context, keys ...string) ([]metadata.KV, int64, error) {
	if len(keys) < 2 {
		return c.getOne(ctx, keys)
	}
	kvs := make([]metadata.KV, 0, len(keys))
	revision := int64(0)
	for len(keys) > 0 {
		part := keys[:min(len(keys), metadata.MaxTxnOps)]
		resp, err := c.etcd.Txn(ctx).Then(reads(part, revision)...).Commit()
		if err != nil {
			return nil, 0, wrap(ctx, "etcd get", err)
		}
		kvs = appendReads(kvs, part, resp)
		if revision == 0 {
			revision = resp.Header.Revision
		}
		keys = keys[len(part):]
	}
	return kvs, revision, nil
}

func (c *Client) getOne(ctx context.Context, keys []string) ([]metadata.KV, int64, error) {
	key := firstKey // for the revision alone
	if len(keys) == 1 {
		key = keys[0]
	}
	resp, err := c.etcd.Get(ctx, key)
	if err != nil {
		return nil, 0, wrap(ctx, "etcd get", err)
	}
	if len(keys) == 0 {
		return nil, resp.Header.Revision, nil
	}
	kv := metadata.KV{Key: key}
	if len(resp.Kvs) > 0 {
		kv.Value, kv.Revision = resp.Kvs[0].Value, resp.Kvs[0].ModRevision
	}
	return []metadata.KV{kv}, resp.Header.Revision, nil
}

// Range implements metadata.Store.
func (c *Client) Range(ctx context.Context, from, end string, revision int64, limit int) (metadata.Page, error) {
	if end == "" {
		return metadata.Page{}, fmt.Errorf("etcd range from %q: %w: no end", from, metadata.ErrInvalid)
	}
	if from == "" {
		from = firstKey
	}
	resp, err := c.etcd.Get(ctx, from, clientv3.WithRange(end), clientv3.WithRev(revision), clientv3.WithLimit(int64(limit)))
	if err != nil {
		return metadata.Page{}, wrap(ctx, "etcd range", err)
	}
	page := metadata.Page{Revision: revision, More: resp.More}
	if revision == 0 {
		page.Revision = resp.Header.Revision
	}
	if len(resp.Kvs) > 0 {
		page.KVs = make([]metadata.KV, len(resp.Kvs))
	}
	for i, kv := range resp.Kvs {
		page.KVs[i] = metadata.KV{Key: string(kv.Key), Value: kv.Value, Revision: kv.ModRevision}
	}
	return page, nil
}

// Grant implements metadata.Store. etcd counts in whole seconds: ttl is rounded up.
func (c *Client) Grant(ctx context.Context, ttl time.Duration) (metadata.LeaseID, error) {
	if ttl <= 0 {
		return 0, fmt.Errorf("etcd grant: %w: time to live %v", metadata.ErrInvalid, ttl)
	}
	resp, err := c.etcd.Grant(ctx, int64((ttl+time.Second-1)/time.Second))
	if err != nil {
		return 0, wrap(ctx, "etcd grant", err)
	}
	return metadata.LeaseID(resp.ID), nil
}

// KeepAlive implements metadata.Store.
func (c *Client) KeepAlive(ctx context.Context, lease metadata.LeaseID) error {
	_, err := c.etcd.KeepAliveOnce(ctx, clientv3.LeaseID(lease))
	return wrap(ctx, "etcd keep alive", err)
}

// Revoke implements metadata.Store.
func (c *Client) Revoke(ctx context.Context, lease metadata.LeaseID) error {
	_, err := c.etcd.Revoke(ctx, clientv3.LeaseID(lease))
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return wrap(ctx, "etcd revoke", err)
}

// Compact implements metadata.Store.
func (c *Client) Compact(ctx context.Context, revision int64) error {
	_, err := c.etcd.Compact(ctx, revision)
	if errors.Is(err, rpctypes.ErrCompacted) {
		return nil
	}
	return wrap(ctx, "etcd compact", err)
}

// wrap says what failed, and which of metadata's errors it is. Those that say that
// nothing was applied are what etcd answers before it proposes a change to its members,
// or, for a lost lease, what all members find alike when they apply it.
func wrap(ctx context.Context, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrTooManyOps), errors.Is(err, rpctypes.ErrRequestTooLarge),
		errors.Is(err, rpctypes.ErrDuplicateKey), errors.Is(err, rpctypes.ErrEmptyKey),
		errors.Is(err, rpctypes.ErrFutureRev), errors.Is(err, rpctypes.ErrLeaseTTLTooLarge):
		return fmt.Errorf("%s: %w: %v", what, metadata.ErrInvalid, err)
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return fmt.Errorf("%s: %w", what, metadata.ErrLeaseLost)
	case errors.Is(err, rpctypes.ErrCompacted):
		return fmt.Errorf("%s: %w", what, metadata.ErrCompacted)
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("%s: %w: %w", what, metadata.ErrFull, err)
	case errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrLeaderChanged), errors.Is(err, rpctypes.ErrTimeout),
		errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail), errors.Is(err, rpctypes.ErrTimeoutDueToConnectionLost),
		errors.Is(err, rpctypes.ErrUnhealthy):
		return fmt.Errorf("%s: %w: %w", what, metadata.ErrNoQuorum, err)
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrAuthFailed), errors.Is(err, rpctypes.ErrInvalidAuthToken):
		return fmt.Errorf("%s: %w: %w", what, metadata.ErrDenied, err)
	case status.Code(err) == codes.Unavailable, codeOf(err) == codes.Unavailable:
		return fmt.Errorf("%s: %w: %w", what, metadata.ErrUnreachable, err)
	case ctx.Err() != nil && !errors.Is(err, ctx.Err()):
		return fmt.Errorf("%s: %w: %w", what, ctx.Err(), err)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}

// codeOf returns the code of what clientv3 makes of a status.
func codeOf(err error) codes.Code {
	var coded rpctypes.EtcdError
	if errors.As(err, &coded) {
		return coded.Code()
	}
	return codes.OK
}
