package fsck

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/membership"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/repair/stored"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

// The classes of objects that nothing names.
const (
	live     = iota // a session that lives may still name it
	carrying        // may carry journal records that no snapshot holds yet
	garbage         // nothing will ever name it; the sweeper deletes it after its grace
	overdue         // garbage that is older than the bound
	unknown         // not Floe's
	numClasses
)

var classes = [numClasses]Class{
	live:     {Name: "live", Meaning: "of a session that lives and may still name them"},
	carrying: {Name: "carrying", Meaning: "may carry journal records that no snapshot holds yet"},
	garbage:  {Name: "garbage", Meaning: "wait for the sweeper"},
	overdue:  {Name: "overdue", Meaning: "should have been swept"},
	unknown:  {Name: "unknown", Meaning: "of no name that Floe gives"},
}

const (
	// listPage is how many objects are listed at once.
	listPage = 1000
	// clockSkew is how far the clocks of store and agents may lie apart. Smaller calls objects garbage
	// that a recovery may need. Larger calls garbage needed for longer.
	clockSkew = time.Hour
	// sweepersPrefix begins the keys of what the sweeper stores for itself.
	sweepersPrefix = "gc/"
	// keptCopies is how many copies of the catalogue are kept.
	keptCopies = 2
)

// uncovered is since when journal records are not in a snapshot, see journal.Uncovered.
type uncovered struct {
	oldest int64
	some   bool
}

// carries reports whether an object of that time may carry one of them.
func (u uncovered) carries(modified time.Time) bool {
	return u.some && modified.Add(clockSkew).UnixMilli() >= u.oldest
}

// judge sorts the objects of the bucket into classes.
type judge struct {
	c             *checker
	named         *names
	before, after map[tiering.SessionID]membership.SessionState
	uncovered     uncovered
	now           time.Time
	copies        map[string]bool // of the catalogue, that are kept
	snapshots     newest
	sums          [numClasses]Class
}

// unnamed lists the bucket and reports what nothing names.
func (c *checker) unnamed(ctx context.Context, named *names, before map[tiering.SessionID]membership.SessionState, u uncovered) error {
	var objects []objstore.Info
	copies, err := c.copies(ctx)
	if err != nil {
		return err
	}
	j := &judge{c: c, named: named, before: before, uncovered: u, copies: copies, snapshots: newest{}, sums: classes}
	c.Progress("objects", 0, 0)
	// Sessions are read after the listing too: one that began meanwhile lives.
	err = c.list(ctx, "", func(page []objstore.Info) { objects = append(objects, j.strangers(page)...) })
	if err != nil {
		return err
	}
	if j.after, err = membership.Sessions(ctx, c.Meta, c.keys); err != nil {
		return err
	}
	j.now = c.Now()
	var carriers []objstore.Info
	for _, o := range objects {
		i := j.class(o)
		if i == carrying {
			carriers = append(carriers, o)
		}
		class := &j.sums[i]
		class.Objects++
		class.Bytes += o.Size
		class.Example = cmp.Or(class.Example, o.Key)
	}
	j.conclude()
	if err := c.carriers(ctx, carriers); err != nil {
		return err
	}
	return c.behind(ctx, j.snapshots)
}

// carriers checks the headers of segments that nothing names and that may carry journal records, which a recovery
// from the bucket needs.
func (c *checker) carriers(ctx context.Context, all []objstore.Info) error {
	return each(ctx, c, "headers", all, func(ctx context.Context, o objstore.Info) error {
		h, err := stored.Header(ctx, c.Objects, o)
		id, perr := tiering.ParseSegmentKey(o.Key)
		switch {
		case errors.Is(err, objstore.ErrNotFound):
			return nil // swept meanwhile
		case err != nil && !damaged(err) && !errors.Is(err, segment.ErrVersion):
			return err
		case err == nil && (perr != nil || h.ID != id || h.Cluster != c.id):
			err = fmt.Errorf("%w: it says that it is segment %s of cluster %s", objstore.ErrCorrupt, h.ID, tiering.TopicID(h.Cluster))
		}
		for _, r := range h.Carry {
			if _, derr := shard.DecodeRecord(r.Bytes); derr != nil && err == nil {
				err = fmt.Errorf("journal record %d of shard %d: %w", r.Seq, r.Shard, derr)
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.report.Checked.Headers++
		if err != nil {
			c.report.add([]Finding{{Warning, "carried", 0, "", -1, -1, -1, o.Key, "what it carries for a recovery cannot be used: " + err.Error(), remedyCarried}})
		}
		return nil
	})
}

func (c *checker) list(ctx context.Context, prefix string, f func([]objstore.Info)) error {
	for after, done := "", int64(0); ; {
		page, err := c.Objects.List(ctx, prefix, after, listPage)
		if err != nil {
			return fmt.Errorf("listing the bucket: %w", err)
		}
		f(page)
		if len(page) < listPage {
			return nil
		}
		after = page[len(page)-1].Key
		done += int64(len(page))
		c.Progress("objects", done, 0)
	}
}

// copies returns the newest copies of the catalogue, which are kept.
func (c *checker) copies(ctx context.Context) (map[string]bool, error) {
	var all []objstore.Info
	if err := c.list(ctx, catalogue.CopyPrefix, func(page []objstore.Info) { all = append(all, page...) }); err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b objstore.Info) int { return cmp.Or(b.Modified.Compare(a.Modified), cmp.Compare(b.Key, a.Key)) })
	kept := map[string]bool{}
	for _, o := range all[:min(len(all), keptCopies)] {
		kept[o.Key] = true
	}
	if len(all) == 0 {
		c.report.add([]Finding{{Warning, "catalogue", 0, "", -1, -1, -1, catalogue.CopyPrefix, "the bucket has no copy of the catalogue: without etcd the cluster could not be rebuilt",
			"let the agents run for a minute; if none appears then, look into the log of the one that leads shard 0"}})
	}
	return kept, nil
}

// strangers counts all objects and returns those that nothing names.
func (j *judge) strangers(page []objstore.Info) (out []objstore.Info) {
	for _, o := range page {
		j.c.report.Bucket.Objects++
		j.c.report.Bucket.Bytes += o.Size
		j.snapshots.add(o.Key)
		if !j.isNamed(o.Key) {
			out = append(out, o)
		}
	}
	return out
}

func (j *judge) isNamed(key string) bool {
	if id, err := tiering.ParseSegmentKey(key); err == nil {
		return j.named.segments[id]
	}
	if id, err := tiering.ParseManifestKey(key); err == nil {
		return j.named.manifests[id]
	}
	return j.named.snapshots[key] || j.copies[key] || strings.HasPrefix(key, sweepersPrefix)
}

// class says why nothing names an object.
func (j *judge) class(o objstore.Info) int {
	if strings.HasPrefix(o.Key, objstore.SelfTestPrefix) { // left behind by an agent that could not start
		if j.now.Sub(o.Modified) > j.c.Bound {
			return overdue
		}
		return garbage
	}
	session, seq, numbered, err := owner(o.Key)
	if err != nil {
		return unknown
	}
	was, lived := j.before[session]
	_, lives := j.after[session]
	old := j.now.Sub(o.Modified) > j.c.Bound
	segmentOf := strings.HasPrefix(o.Key, tiering.SegmentPrefix)
	switch {
	case numbered && (lived && seq >= was.LowWatermark || !lived && lives):
		return live
	case !numbered && (lived || lives) && !old: // a snapshot or copy may be on its way
		return live
	case segmentOf && j.uncovered.carries(o.Modified):
		return carrying
	case old:
		return overdue
	}
	return garbage
}

// owner returns the session that stored an object, and its running number where the
// session's low watermark counts it.
func owner(key string) (session tiering.SessionID, seq uint64, numbered bool, err error) {
	if id, err := tiering.ParseSegmentKey(key); err == nil {
		return id.Session, id.Seq, true, nil
	}
	if id, err := tiering.ParseManifestKey(key); err == nil {
		return id.Session, id.Seq, true, nil
	}
	if n, err := journal.ParseSnapshotKey(key); err == nil {
		return n.Session, 0, false, nil
	}
	if session, _, err := catalogue.ParseCopyKey(key); err == nil {
		return session, 0, false, nil
	}
	return session, 0, false, errors.New("no name that Floe gives")
}

// conclude files the classes and what is wrong with them.
func (j *judge) conclude() {
	r := &j.c.report
	r.Bucket.Name, r.Bucket.Meaning = "all", "all objects of the bucket"
	for _, class := range j.sums {
		if class.Objects > 0 {
			r.Unnamed = append(r.Unnamed, class)
		}
	}
	if r.Bucket.Bytes > 0 {
		r.Unreferred = float64(j.sums[garbage].Bytes+j.sums[overdue].Bytes) / float64(r.Bucket.Bytes)
	}
	complain := func(class int, kind, remedy string) {
		if s := j.sums[class]; s.Objects > 0 {
			r.add([]Finding{{Warning, kind, 0, "", -1, -1, -1, s.Example,
				fmt.Sprintf("%d objects of %d bytes %s (bound %v); the first is %s", s.Objects, s.Bytes, s.Meaning, j.c.Bound, s.Example), remedy}})
		}
	}
	complain(overdue, "unnamed", remedySweep)
	complain(unknown, "foreign", "give the cluster a bucket, or a prefix of one, of its own")
}
