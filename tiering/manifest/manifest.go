// Package manifest is the format of a manifest: the immutable object that lists a run of a
// partition's extents, so that metadata needs to name one object instead of hundreds of extents.
// A manifest lies under tiering.SegmentID.ManifestKey. The byte diagram stands beside the
// encoder in codec.go.
//
// Invariants:
//  1. The extents of a manifest lie end to end; none is inline, some may be holes.
//  2. Equal manifests encode equally, and what Decode takes Encode writes again.
//  3. Every byte is under a checksum that the reader compares.
//  4. A decoder allocates no more than a constant times the bytes it is given.
//
// Encode writes the newest version only; Decode reads every one from 1 up, for ever. The golden
// files in testdata hold one manifest of each version and are never rewritten.
//
// The package does no I/O and keeps no state: everything may be called concurrently.
package manifest

import (
	"errors"
	"fmt"
	"math"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// Limits of a manifest, kept by Encode and checked by Decode.
const (
	// MaxExtents bounds what a reader holds in memory to 0.7 MiB. Not smaller: jobs aim at 512
	// and may find that many holes and small extents between them. Not larger: who wants one
	// extent reads all of them.
	MaxExtents = 1 << 13

	// MaxAborted bounds what a reader holds of aborted transactions to 1.5 MiB, and the record that
	// brings them back into metadata to what etcd takes. Not smaller: an extent of 32 MiB may have
	// that many small ones, and could not move into a manifest. Not larger: see MaxExtents.
	MaxAborted = 1 << 16

	// MaxBytes bounds the object. As many extents and aborted transactions, each as long as can be,
	// fit in.
	MaxBytes = 3 << 20
)

// The errors that Encode and Decode wrap.
var (
	// ErrCorrupt says that bytes are not those of a manifest, or not any more. It is also an
	// objstore.ErrCorrupt.
	ErrCorrupt = fmt.Errorf("manifest: %w", objstore.ErrCorrupt)
	// ErrVersion says that a newer Floe wrote the manifest.
	ErrVersion = errors.New("manifest: unknown version")
	// ErrInvalid says that Encode was asked for what no manifest can say.
	ErrInvalid = errors.New("manifest: invalid")
)

// Manifest is the content of the object. Beyond the extents it holds what tells whose they are
// when nothing but the bucket is left.
type Manifest struct {
	Cluster   [16]byte
	ID        tiering.SegmentID // the manifest's own
	Partition tiering.TopicPartition
	Extents   []tiering.Extent // ascending and end to end; at least one
	// Aborted are all aborted transactions with an offset among the extents' between their first
	// record and their marker, which may lie before and behind: ascending by Last.
	Aborted []Aborted
}

// Aborted is an aborted transaction.
type Aborted struct {
	ProducerID int64
	First      tiering.Offset // of its first record
	Last       tiering.Offset // of its marker
}

// check says why m cannot be a manifest.
func (m *Manifest) check() error {
	switch n := len(m.Extents); {
	case n < 1 || n > MaxExtents:
		return fmt.Errorf("%d extents, want 1 to %d", n, MaxExtents)
	case m.ID.Session.IsZero():
		return errors.New("no session in its id")
	case m.Partition.Partition < 0:
		return fmt.Errorf("partition %d", m.Partition.Partition)
	}
	at := m.Extents[0].Base
	for i, e := range m.Extents {
		if err := checkExtent(e, at); err != nil {
			return fmt.Errorf("extent %d: %w", i, err)
		}
		at = e.End()
	}
	return m.checkAborted(m.Extents[0].Base, at)
}

// checkAborted says why the aborted transactions cannot be those of the offsets [from, to).
func (m *Manifest) checkAborted(from, to tiering.Offset) error {
	if n := len(m.Aborted); n > MaxAborted {
		return fmt.Errorf("%d aborted transactions, want at most %d", n, MaxAborted)
	}
	for i, a := range m.Aborted {
		if a.ProducerID < 0 || a.First < 0 || a.First >= a.Last || a.Last < from || a.First >= to || i > 0 && a.Last <= m.Aborted[i-1].Last {
			return fmt.Errorf("aborted transaction %d: %+v", i, a)
		}
	}
	return nil
}

func checkExtent(e tiering.Extent, at tiering.Offset) error {
	switch {
	case e.Base != at || at < 0:
		return fmt.Errorf("at offset %d, want %d", e.Base, at)
	case e.Count < 1 || e.Count > math.MaxInt64-int64(at):
		return fmt.Errorf("%d records at offset %d", e.Count, at)
	case e.Epoch < 0:
		return fmt.Errorf("epoch %d", e.Epoch)
	case e.Length < 0 || e.Position < 0 || int64(e.Position) > math.MaxInt64-int64(e.Length):
		return fmt.Errorf("%d bytes at position %d", e.Length, e.Position)
	case len(e.Inline) > 0 || e.IsInline():
		return errors.New("it is inline")
	case e.IsHole() && (!e.Segment.IsZero() || e.Position != 0 || e.MaxTimestamp != tiering.NoTimestamp):
		return fmt.Errorf("hole in segment %s at position %d with timestamp %d", e.Segment, e.Position, e.MaxTimestamp)
	case !e.IsHole() && e.Segment.Session.IsZero():
		return errors.New("no session in its segment")
	}
	return nil
}
