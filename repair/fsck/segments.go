package fsck

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

// segments checks segments against those who name them, and returns what is wrong with each.
func (c *checker) segments(ctx context.Context, refs map[tiering.SegmentID][]ref) (map[tiering.SegmentID][]Finding, error) {
	var mu sync.Mutex
	bad := map[tiering.SegmentID][]Finding{}
	ids := slices.SortedFunc(maps.Keys(refs), func(a, b tiering.SegmentID) int {
		return bytes.Compare([]byte(a.Key()), []byte(b.Key()))
	})
	err := each(ctx, c, "segments", ids, func(ctx context.Context, id tiering.SegmentID) error {
		fs, err := c.segment(ctx, id, refs[id])
		if len(fs) > 0 {
			mu.Lock()
			bad[id] = fs
			mu.Unlock()
		}
		return err
	})
	return bad, err
}

// segment checks one segment: its size, its index, and whether that has what extents name.
func (c *checker) segment(ctx context.Context, id tiering.SegmentID, refs []ref) ([]Finding, error) {
	key := id.Key()
	blame := func(refs []ref, kind string, err error) (fs []Finding) {
		for _, r := range refs {
			name, _ := c.topicName(r.tp.Topic)
			fs = append(fs, Finding{Damage, kind, r.shard, name, r.tp.Partition, r.extent.Base, r.extent.End(), key, err.Error(), remedyObject})
		}
		return fs
	}
	read := func(off tiering.Position, n int64) ([]byte, error) {
		return c.Objects.GetRange(ctx, key, int64(off), n)
	}
	info, err := c.Objects.Head(ctx, key)
	var seg *segment.Segment
	if err == nil {
		seg, err = segment.Open(info.Size, read)
	}
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		return blame(refs, "missing", errors.New("the object does not exist")), nil
	case damaged(err) || errors.Is(err, segment.ErrVersion):
		return blame(refs, "segment", err), nil
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	c.count(func(t *Totals) { t.Segments++ })
	chunks, fs := placed(seg, refs, blame)
	if !c.Deep {
		return fs, nil
	}
	if err := c.header(id, seg, read); damaged(err) {
		fs = append(fs, blame(refs[:1], "segment", err)...)
	} else if err != nil {
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	for _, i := range slices.Sorted(maps.Keys(chunks)) {
		x := seg.Entries[i]
		whole, err := readChunk(x, read)
		if err == nil {
			err = segment.VerifyChunk(x, [][]byte{whole})
		}
		if damaged(err) {
			fs = append(fs, blame(chunks[i], "chunk", err)...)
			continue
		} else if err != nil {
			return nil, fmt.Errorf("reading %s: %w", key, err)
		}
		for _, r := range chunks[i] {
			from := r.extent.Position - x.Position
			n, err := batches(whole[from:from+tiering.Position(r.extent.Length)], r.extent, x.Base != segment.Unassigned)
			if err != nil {
				fs = append(fs, blame([]ref{r}, "batch", err)...)
			}
			c.count(func(t *Totals) { t.Batches += n; t.Bytes += int64(r.extent.Length) })
		}
	}
	return fs, nil
}

// placed files extents under the entries of the chunks in which they lie.
func placed(seg *segment.Segment, refs []ref, blame func([]ref, string, error) []Finding) (chunks map[int][]ref, fs []Finding) {
	chunks = map[int][]ref{}
	for _, r := range refs {
		i, err := place(seg, r)
		if err != nil {
			fs = append(fs, blame([]ref{r}, "chunk", err)...)
			continue
		}
		chunks[i] = append(chunks[i], r)
	}
	for _, refs := range chunks {
		fs = append(fs, blame(overlapping(refs), "chunk", errOverlap)...)
	}
	return chunks, fs
}

// place finds the chunk in which an extent lies.
func place(seg *segment.Segment, r ref) (int, error) {
	e := r.extent
	i := slices.IndexFunc(seg.Entries, func(x segment.Entry) bool { return x.Shard == r.shard && x.TopicPartition == r.tp })
	if i < 0 {
		return 0, fmt.Errorf("the segment has no chunk of shard %d, %s", r.shard, r.tp)
	}
	x := seg.Entries[i]
	switch end := e.Position + tiering.Position(e.Length); {
	case e.Position < x.Position || end > x.End():
		return 0, fmt.Errorf("bytes %d to %d are outside of its chunk, bytes %d to %d", e.Position, end, x.Position, x.End())
	case x.Base != segment.Unassigned && e.Position == x.Position && e.Base != x.Base:
		return 0, fmt.Errorf("its chunk begins at offset %d, the extent at %d", x.Base, e.Base)
	}
	return i, nil
}

var errOverlap = errors.New("bytes of it are another extent's, too")

// overlapping returns the extents of a chunk whose bytes belong to another one, too: no batch has two
// offsets. Where batches are of one size, neither checksums nor offsets tell.
func overlapping(refs []ref) (out []ref) {
	slices.SortFunc(refs, func(a, b ref) int {
		return cmp.Or(cmp.Compare(a.extent.Position, b.extent.Position), cmp.Compare(a.extent.Base, b.extent.Base))
	})
	end := tiering.Position(0)
	for _, r := range refs {
		if r.extent.Position < end {
			out = append(out, r)
		}
		end = max(end, r.extent.Position+tiering.Position(r.extent.Length))
	}
	return out
}

// header compares what a segment says of itself with its name.
func (c *checker) header(id tiering.SegmentID, seg *segment.Segment, read segment.ReadFunc) error {
	h, err := seg.ReadHeader(read)
	if err != nil {
		return err
	}
	if h.ID != id || h.Cluster != c.id {
		return fmt.Errorf("%w: it says that it is segment %s of cluster %s", objstore.ErrCorrupt, h.ID, tiering.TopicID(h.Cluster))
	}
	return nil
}

// chunkRead is how much of a chunk is read with one request. Smaller: more requests. Larger:
// a store that breaks off has more to send again.
const chunkRead = 8 << 20

// readChunk reads all of a chunk.
func readChunk(x segment.Entry, read segment.ReadFunc) ([]byte, error) {
	var whole []byte
	for at, left := x.Position, x.Length; left > 0; {
		n := min(left, chunkRead)
		b, err := read(at, n)
		if err != nil {
			return nil, err
		}
		if n == x.Length {
			return b, nil
		}
		if whole == nil {
			whole = make([]byte, 0, x.Length) // grown step by step it would take twice as much
		}
		whole = append(whole, b...)
		at, left = at+tiering.Position(n), left-n
	}
	return whole, nil
}
