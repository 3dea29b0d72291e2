// Package compaction turns what the produce path committed into what long storage wants:
//
//	Rollup    batches that were committed inline, in journals, are moved into segments
//	Merger    small extents become larger ones, of level 1 and 2 (compaction/plan says which)
//	Archiver  the oldest extents of a long partition move into manifests
//
// Invariants:
//  1. A replacement covers exactly the offsets it replaces; records and their offsets do
//     not change.
//  2. The new object is durable before any shard names it; a replacement that comes too
//     late (trimmed, or replaced by another) changes nothing.
//  3. Nothing to do costs no request, neither to the object store nor to the metadata store.
//  4. Bytes that do not verify are never merged.
package compaction
