package sweep

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// listPage is how many objects one LIST asks for: what S3 answers at most.
const listPage = 1000

// prefixes are what segments and manifests lie under, in the order in which they are listed:
// that of their keys.
var prefixes = [...]string{tiering.ManifestPrefix, tiering.SegmentPrefix}

// cursor is how far segments and manifests have been listed.
type cursor struct {
	prefix int    // index of the prefix that is listed next
	after  string // key that was listed last under it
	last   string // key that was listed last of all
}

func (c *cursor) ended() bool { return c.prefix == len(prefixes) }

// object is what is held of a listed segment or manifest.
type object struct {
	size, live int64 // bytes; live: that extents name
	modified   int64 // milliseconds since 1970, by the store's clock
	extents    int32 // that name it
	named      bool
	archived   bool // a manifest names it
}

// window is the part of the segments and manifests that is looked at in one round: those
// whose keys are greater than from and at most to.
type window struct {
	objects  [2]map[tiering.SegmentID]object // by Kind: Segment, Manifest
	from, to string                          // empty: without end
}

// covers reports whether an object that is not in the window belongs there.
func (w *window) covers(n name) bool {
	if w.from == "" && w.to == "" {
		return true
	}
	key := n.objectKey()
	return key > w.from && (w.to == "" || key <= w.to)
}

// fill lists the next window.
func (s *Sweeper) fill(ctx context.Context, c *cursor) (*window, error) {
	w := &window{from: c.last, objects: [2]map[tiering.SegmentID]object{{}, {}}}
	for !c.ended() && len(w.objects[Segment])+len(w.objects[Manifest]) < s.cfg.Window {
		last, end, err := s.page(ctx, prefixes[c.prefix], c.after, w.add)
		if err != nil {
			return nil, err
		}
		if last != "" {
			c.after, c.last = last, last
		}
		if end {
			c.prefix, c.after = c.prefix+1, ""
		}
	}
	if !c.ended() {
		w.to = c.last
	}
	return w, nil
}

func (w *window) add(info objstore.Info) error {
	kind, parse := Segment, tiering.ParseSegmentKey
	if strings.HasPrefix(info.Key, tiering.ManifestPrefix) {
		kind, parse = Manifest, tiering.ParseManifestKey
	}
	id, err := parse(info.Key)
	if err != nil {
		return fmt.Errorf("an object of unknown form: %w", err)
	}
	modified := int64(math.MaxInt64) // unknown: as new as can be
	if !info.Modified.IsZero() {
		modified = info.Modified.UnixMilli()
	}
	w.objects[kind][id] = object{size: info.Size, modified: modified}
	return nil
}

// page lists one page and calls each with its objects, in order. last is empty if there were none.
func (s *Sweeper) page(ctx context.Context, prefix, after string, each func(objstore.Info) error) (last string, end bool, err error) {
	infos, err := s.parts.Objects.List(ctx, prefix, after, listPage)
	if err != nil {
		return "", false, fmt.Errorf("listing %s: %w", prefix, err)
	}
	if len(infos) > listPage {
		return "", false, fmt.Errorf("listing %s: %d objects where %d were asked for", prefix, len(infos), listPage)
	}
	last = after
	for _, info := range infos {
		if info.Key == prefix && info.Size == 0 && last == "" { // what consoles store for a folder
			s.folders++
			last = info.Key
			continue
		}
		if !strings.HasPrefix(info.Key, prefix) || info.Key <= last || info.Size < 0 {
			return "", false, fmt.Errorf("listing %s: %q after %q makes no sense", prefix, info.Key, last)
		}
		last = info.Key
		if err := each(info); err != nil {
			return "", false, err
		}
	}
	if len(infos) == 0 {
		last = ""
	}
	return last, len(infos) < listPage, nil
}

// all lists everything under a prefix of which there is never much.
func (s *Sweeper) all(ctx context.Context, prefix string, each func(objstore.Info) error) error {
	after, n := "", 0
	for {
		last, end, err := s.page(ctx, prefix, after, func(info objstore.Info) error {
			if n++; n > maxOthers {
				return fmt.Errorf("listing %s: more than %d objects", prefix, maxOthers)
			}
			return each(info)
		})
		if err != nil || end {
			return err
		}
		after = last
	}
}

// others are the listed objects that are not segments or manifests.
type others struct {
	snapshots []snapshotObject
	copies    []copyObject
	clocks    []clockObject
	selfTests []objstore.Info
}

type snapshotObject struct {
	journal.SnapshotName
	size int64
}

type copyObject struct {
	key      string
	session  tiering.SessionID
	seq      uint64
	size     int64
	modified time.Time
}

type clockObject struct {
	key     string
	session tiering.SessionID
	size    int64
}

func (s *Sweeper) listOthers(ctx context.Context) (*others, error) {
	o := &others{}
	err := s.all(ctx, journal.SnapshotPrefix, func(info objstore.Info) error {
		n, err := journal.ParseSnapshotKey(info.Key)
		o.snapshots = append(o.snapshots, snapshotObject{n, info.Size})
		return err
	})
	if err != nil {
		return nil, err
	}
	err = s.all(ctx, catalogue.CopyPrefix, func(info objstore.Info) error {
		session, seq, err := catalogue.ParseCopyKey(info.Key)
		o.copies = append(o.copies, copyObject{info.Key, session, seq, info.Size, info.Modified})
		return err
	})
	if err != nil {
		return nil, err
	}
	err = s.all(ctx, clockPrefix, func(info objstore.Info) error {
		session, err := parseClockKey(info.Key)
		o.clocks = append(o.clocks, clockObject{info.Key, session, info.Size})
		return err
	})
	if err != nil {
		return nil, err
	}
	err = s.all(ctx, objstore.SelfTestPrefix, func(info objstore.Info) error {
		o.selfTests = append(o.selfTests, info)
		return nil
	})
	return o, err
}

// selfTestTime is how long an agent that starts may take to test the object store. Shorter: the
// test's object could be deleted under it, and the agent would not start. Longer: what failed
// tests leave behind, a few bytes each, stays for longer.
const selfTestTime = time.Hour

const clockPrefix = "gc/clock/"

// ClockKey names a small object by which the given session of an agent compares its clock
// with the store's. Whoever stores one deletes it again; what is left behind is swept.
func ClockKey(session tiering.SessionID, nonce uint64) string {
	return fmt.Sprintf("%s%s-%016x", clockPrefix, session, nonce)
}

func parseClockKey(key string) (tiering.SessionID, error) {
	id, _, _ := strings.Cut(strings.TrimPrefix(key, clockPrefix), "-")
	session, err := tiering.ParseSessionID(id)
	if err != nil {
		return session, fmt.Errorf("key %q: want %s<session>-<nonce>", key, clockPrefix)
	}
	return session, nil
}
