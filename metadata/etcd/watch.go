package etcd

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/floelog/floe/metadata"
)

var (
	errClosed   = errors.New("etcd client closed")
	errBackward = errors.New("etcd watch went backward")
)

// watch is one watch of a client.
type watch struct {
	cancel context.CancelFunc
	told   int64 // up to which revision everything was delivered
}

// watchContext makes a watch fail when its member has lost the leader, rather than wait
// for events that cannot come. It also selects the stream that the client's watches share.
func watchContext(ctx context.Context) context.Context { return clientv3.WithRequireLeader(ctx) }

// Watch implements metadata.Store. clientv3 resumes a watch whose connection breaks.
func (c *Client) Watch(ctx context.Context, prefix string, revision int64) <-chan metadata.WatchBatch {
	out := make(chan metadata.WatchBatch)
	watchCtx, cancel := context.WithCancel(ctx)
	w := &watch{cancel: cancel, told: revision - 1}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		cancel()
		close(out)
		return out
	}
	c.watches[w] = struct{}{}
	c.wg.Go(func() {
		defer close(out)
		err := c.follow(watchCtx, w, prefix, revision, out)
		if ctx.Err() == nil {
			select {
			case out <- metadata.WatchBatch{Err: err}:
			case <-ctx.Done():
			case <-c.done:
			}
		}
		cancel()
		c.mu.Lock()
		delete(c.watches, w)
		c.mu.Unlock()
	})
	return out
}

// follow delivers until the watch is lost, and says why it was.
func (c *Client) follow(ctx context.Context, w *watch, prefix string, revision int64, out chan<- metadata.WatchBatch) error {
	from := prefix
	if from == "" {
		from = firstKey
	}
	responses := c.etcd.Watch(watchContext(ctx), from,
		clientv3.WithRange(metadata.PrefixEnd(prefix)), clientv3.WithRev(max(revision, 0)),
		clientv3.WithFragment()) // joined again by clientv3: a revision has no size limit
	for resp := range responses {
		if resp.CompactRevision != 0 {
			return fmt.Errorf("etcd watch from revision %d: %w", w.told+1, metadata.ErrCompacted)
		}
		if err := resp.Err(); err != nil {
			return wrap(ctx, "etcd watch", err)
		}
		batch, err := w.batch(resp)
		if err != nil {
			return err
		}
		if batch.Revision == 0 {
			continue
		}
		select {
		case out <- batch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	select {
	case <-c.done:
		return errClosed
	default:
		return fmt.Errorf("etcd watch of %q ended", prefix)
	}
}

// batch converts a response; revision 0 says that it tells nothing new. The revision of a
// response with events is that of the store, which a watch that is catching up has not
// reached: only that of the last event is certain. A progress notification is not asked for
// and not believed: under load one was seen to overtake the events of a watch that was just
// created, which then, as far as it was told, had missed nothing.
func (w *watch) batch(resp clientv3.WatchResponse) (metadata.WatchBatch, error) {
	if len(resp.Events) == 0 {
		return metadata.WatchBatch{}, nil
	}
	batch := metadata.WatchBatch{Events: make([]metadata.Event, len(resp.Events))}
	for i, ev := range resp.Events {
		kv := metadata.KV{Key: string(ev.Kv.Key), Revision: ev.Kv.ModRevision}
		deleted := ev.Type == clientv3.EventTypeDelete
		if !deleted {
			kv.Value = ev.Kv.Value
		}
		if kv.Revision <= w.told {
			return metadata.WatchBatch{}, fmt.Errorf("%w: revision %d after %d", errBackward, kv.Revision, w.told)
		}
		batch.Events[i] = metadata.Event{KV: kv, Deleted: deleted}
		batch.Revision = kv.Revision
	}
	w.told = batch.Revision
	return batch, nil
}
