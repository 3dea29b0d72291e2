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

// backup is what one life knows of the copies that it has stored.
type backup struct {
	number     uint64          // of the last copy
	outdated   <-chan struct{} // closed when the topics are not those of the last copy any more; nil: no copy yet
	producerID int64           // as last read
	led        bool            // shard 0, when last looked at
}

// due reports whether the topics have changed since the last copy.
func (b *backup) due() bool {
	select {
	case <-b.outdated:
		return true
	default:
		return b.outdated == nil
	}
}

// backUp keeps a copy of the catalogue in the bucket, as long as this agent leads shard 0:
// one when it begins to lead, and one whenever the topics have changed. What is due when the life
// ends is stored then, see lastBackup.
func (a *Agent) backUp(ctx context.Context, l *life) {
	b := &l.backup
	defer a.lastBackup(ctx, l)
	for {
		_, leadership := a.set.Leaderships()
		if b.led = a.set.Leader(0) != nil; !b.led {
			b.outdated = nil
			select {
			case <-ctx.Done():
				return
			case <-leadership:
			}
			continue
		}
		if !b.due() {
			select {
			case <-ctx.Done():
				return
			case <-leadership:
				continue
			case <-b.outdated:
			}
		}
		if !sleep(ctx, backupPause) || !a.tryBackup(ctx, l, b) && !sleep(ctx, backupRetry) {
			return
		}
	}
}

// lastBackup stores what is due when a life ends: the metadata store may be lost. backUp has ended, or is about to. A
// drain does it once more behind the last request, which may have created a topic.
func (a *Agent) lastBackup(ctx context.Context, l *life) {
	if !l.backup.led || !l.backup.due() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	a.tryBackup(ctx, l, &l.backup)
}

// tryBackup stores one copy, and reports whether it did.
func (a *Agent) tryBackup(ctx context.Context, l *life, b *backup) bool {
	ctx, cancel := context.WithTimeout(objstore.WithPurpose(ctx, objstore.Metadata), carryTimeout)
	defer cancel()
	view := a.catalogue.View()
	b.number++
	a.readProducerID(ctx, b)
	if err := a.storeCatalogue(ctx, l, view, b); err != nil {
		a.parts.Log.Warn("the catalogue's copy could not be stored", "err", err)
		return false
	}
	b.outdated = view.Changed()
	return true
}

// readProducerID brings the mark of producer ids up to date. Where the metadata store does not
// answer the last one that was read will do: a recovery goes far above it.
func (a *Agent) readProducerID(ctx context.Context, b *backup) {
	ctx, cancel := context.WithTimeout(ctx, backupPause)
	defer cancel()
	kvs, _, err := a.parts.Meta.Get(ctx, a.keys.ProducerIDs())
	if err != nil || !kvs[0].Exists() {
		return
	}
	if id, err := strconv.ParseInt(string(kvs[0].Value), 10, 64); err == nil {
		b.producerID = id
	}
}

// storeCatalogue stores one copy of the topics.
func (a *Agent) storeCatalogue(ctx context.Context, l *life, view catalogue.View, b *backup) error {
	c, err := a.catalogue.Copy(view, b.producerID, time.Now().UnixMilli())
	if err != nil {
		return err
	}
	c.Cluster.FormatVersion = int(a.levels.now()) // which may have risen since it was read
	data, err := c.Encode()
	if err != nil {
		return err
	}
	key := catalogue.CopyKey(l.session.ID(), b.number)
	if err := a.parts.Objects.Put(ctx, key, objstore.Body{data}); err != nil {
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
