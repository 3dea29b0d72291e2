package agent

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/tiering/objstore"
)

const (
	// backupPause gathers changes of the catalogue: many topics that are created together
	// are one copy. Shorter costs a PUT for each; longer leaves new topics without a name if
	// the metadata store is lost.
	backupPause = time.Second
	// backupRetry is the pause after a copy that failed.
	backupRetry = 5 * time.Second
)

// backUp keeps a copy of the catalogue in the bucket, as long as this agent leads shard 0:
// one when it begins to lead, and one whenever the topics have changed.
func (a *Agent) backUp(ctx context.Context, l *life) {
	var number uint64
	var outdated <-chan struct{} // closed when the topics are not those of the last copy any more; nil: no copy yet
	for {
		_, leadership := a.set.Leaderships()
		if a.set.Leader(0) == nil {
			outdated = nil
			select {
			case <-ctx.Done():
				return
			case <-leadership:
			}
			continue
		}
		if outdated != nil {
			select {
			case <-ctx.Done():
				return
			case <-leadership:
				continue
			case <-outdated:
			}
		}
		if !sleep(ctx, backupPause) {
			return
		}
		view := a.catalogue.View()
		number++
		if err := a.storeCatalogue(ctx, l, view, number); err != nil {
			if ctx.Err() == nil {
				a.parts.Log.Warn("the catalogue's copy could not be stored; it is tried again", "err", err)
			}
			if !sleep(ctx, backupRetry) {
				return
			}
			continue
		}
		outdated = view.Changed()
	}
}

// storeCatalogue stores one copy of the topics.
func (a *Agent) storeCatalogue(ctx context.Context, l *life, view catalogue.View, number uint64) error {
	kvs, _, err := a.parts.Meta.Get(ctx, a.keys.ProducerIDs())
	if err != nil {
		return fmt.Errorf("reading %s: %w", a.keys.ProducerIDs(), err)
	}
	producerID := int64(0)
	if kvs[0].Exists() {
		if producerID, err = strconv.ParseInt(string(kvs[0].Value), 10, 64); err != nil {
			return fmt.Errorf("%s: %w", kvs[0].Key, err)
		}
	}
	c, err := a.catalogue.Copy(view, producerID, time.Now().UnixMilli())
	if err != nil {
		return err
	}
	data, err := c.Encode()
	if err != nil {
		return err
	}
	key := catalogue.CopyKey(l.session.ID(), number)
	if err := a.parts.Objects.Put(objstore.WithPurpose(ctx, objstore.Metadata), key, objstore.Body{data}); err != nil {
		return fmt.Errorf("storing %s: %w", key, err)
	}
	return nil
}

// sleep waits for d or for ctx to end, and reports whether ctx lives.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
