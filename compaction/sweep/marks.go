package sweep

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/retry"
	"github.com/floelog/floe/tiering/objstore"
)

// Every complete sweep that something has changed before leaves a mark: first under Keys.GCMark, by compare-and-set, then as an
// object of the same name, so that the bucket never has one that the metadata store has not
// had. If it does, the metadata store has gone back.
//
//	gc/mark/<cluster>/<number>-<nonce>     cluster: its id, in hexadecimal digits of its characters
//
// The objects also claim the bucket for the cluster.
const markPrefix = "gc/mark/"

// mark is one sweep's; the zero mark precedes the first.
type mark struct{ number, nonce uint64 }

func (m mark) String() string { return fmt.Sprintf("%016x-%016x", m.number, m.nonce) }

func parseMark(text string) (m mark, err error) {
	if n, err := fmt.Sscanf(text, "%016x-%016x", &m.number, &m.nonce); n != 2 || err != nil || m.String() != text {
		return mark{}, fmt.Errorf("mark %q: want <number>-<nonce>", text)
	}
	return m, nil
}

// claim is the key prefix of a cluster's marks.
func claim(cluster string) string { return markPrefix + hex.EncodeToString([]byte(cluster)) + "/" }

// bucketMarks are the marks in the bucket.
type bucketMarks struct {
	newest  mark
	keys    []string // of this cluster's
	foreign string   // a key of another cluster's, empty: none
}

func (s *Sweeper) listMarks(ctx context.Context) (found bucketMarks, err error) {
	own := claim(s.cfg.Cluster)
	err = s.all(ctx, markPrefix, func(info objstore.Info) error {
		text, ours := strings.CutPrefix(info.Key, own)
		if !ours {
			found.foreign = info.Key
			return nil
		}
		m, err := parseMark(text)
		if m.number > found.newest.number {
			found.newest = m
		}
		found.keys = append(found.keys, info.Key)
		return err
	})
	return found, err
}

func (s *Sweeper) storedMark(ctx context.Context) (mark, metadata.KV, error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	kvs, _, err := retry.Get(ctx, s.parts.Meta, s.pacer, s.cfg.Keys.GCMark())
	if err != nil {
		return mark{}, metadata.KV{}, fmt.Errorf("reading the mark of the last sweep: %w", err)
	}
	if !kvs[0].Exists() {
		return mark{}, kvs[0], nil
	}
	m, err := parseMark(string(kvs[0].Value))
	return m, kvs[0], err
}

// readMarks finds out whether the metadata store has gone back since the last sweep, and
// whether the bucket is this cluster's alone. The bucket is read first: meanwhile another
// sweeper may leave a mark.
func (s *Sweeper) readMarks(ctx context.Context) error {
	found, err := s.listMarks(ctx)
	if err != nil {
		return err
	}
	stored, _, err := s.storedMark(ctx)
	if err != nil {
		return err
	}
	s.mark = stored
	if m := found.newest; m.number > stored.number || m.number == stored.number && m != stored {
		return fmt.Errorf("the bucket was swept as %s, and the metadata store knows of %s: %w", m, stored, errRestored)
	}
	if found.foreign == "" {
		return nil
	}
	err = fmt.Errorf("another cluster sweeps the same bucket, by %s (if that cluster is gone for good, delete its marks)", found.foreign)
	if len(found.keys) == 0 && !s.cfg.DryRun {
		err = errors.Join(err, s.advance(ctx)) // so that it learns of this one
	}
	return err
}

// leaveMark leaves a mark, unless nothing is to be deleted and nothing has changed since the
// last one: then it would tell nothing new.
func (s *Sweeper) leaveMark(ctx context.Context, deletes bool) error {
	if !deletes && s.due.marked && s.due.markedFor == s.due.now {
		return nil
	}
	if err := s.advance(ctx); err != nil {
		return err
	}
	s.due.marked, s.due.markedFor = true, s.due.now
	return nil
}

// advance leaves this sweep's mark.
func (s *Sweeper) advance(ctx context.Context) error {
	next := mark{s.mark.number + 1, s.parts.Nonce()}
	key := s.cfg.Keys.GCMark()
	unmoved := metadata.Absent(key)
	if s.mark != (mark{}) {
		unmoved = metadata.Equals(key, []byte(s.mark.String()))
	}
	if err := s.putMark(ctx, unmoved, next); err != nil {
		return err
	}
	s.mark = next
	object := claim(s.cfg.Cluster) + next.String()
	if err := s.parts.Objects.Put(ctx, object, objstore.Body{[]byte(next.String())}); err != nil {
		return fmt.Errorf("leaving a mark: %w", err)
	}
	found, err := s.listMarks(ctx)
	if err != nil {
		return err
	}
	var old []string
	for _, k := range found.keys {
		if k < object {
			old = append(old, k)
		}
	}
	if len(old) == 0 {
		return nil
	}
	if err := s.parts.Objects.Delete(ctx, old...); err != nil {
		return fmt.Errorf("deleting old marks: %w", err)
	}
	return nil
}

func (s *Sweeper) putMark(ctx context.Context, unmoved metadata.Condition, next mark) error {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	res, err := s.parts.Meta.Txn(ctx, metadata.Txn{
		If:   []metadata.Condition{unmoved},
		Then: []metadata.Op{metadata.Put(s.cfg.Keys.GCMark(), []byte(next.String()))},
	})
	switch {
	case err != nil:
		return fmt.Errorf("marking the sweep: %w", err) // applied or not, the next one reads what is there
	case !res.Succeeded:
		return errors.New("another sweeper is at work")
	}
	return nil
}

// Unfreeze lets deletion go on after an operator has made sure that the cluster's metadata is
// what it should be: it takes over the bucket's marks and lifts the freeze.
func (s *Sweeper) Unfreeze(ctx context.Context) error {
	found, err := s.listMarks(ctx)
	if err != nil {
		return err
	}
	stored, kv, err := s.storedMark(ctx)
	if err != nil {
		return err
	}
	if found.newest.number >= stored.number && found.newest != stored {
		unmoved := metadata.Absent(s.cfg.Keys.GCMark())
		if kv.Exists() {
			unmoved = metadata.Equals(s.cfg.Keys.GCMark(), kv.Value)
		}
		if err := s.putMark(ctx, unmoved, mark{found.newest.number + 1, s.parts.Nonce()}); err != nil {
			return err
		}
	}
	if _, err := s.parts.Meta.Txn(ctx, metadata.Txn{Then: []metadata.Op{metadata.Delete(s.cfg.Keys.GCFreeze())}}); err != nil {
		return fmt.Errorf("lifting the freeze (try again): %w", err)
	}
	return nil
}
