// Package disk keeps blocks of segments in a folder, below the memory cache of an agent
// (tiering/cache) and above the object store. It is a cache and nothing else: whatever happens
// to the folder, records are read from the store.
//
// One file holds one block, as frames (frame.go) whose CRC-32C is compared whenever they are
// read; what is in the folder is no more trusted than what comes over a network. Files that are
// found at the start are taken over, and looked into when somebody first wants them.
//
// Invariants:
//  1. Bytes are returned that were put, or none.
//  2. Files that count for at most Options.Bytes together, Options.QueueBytes that wait to be
//     written, and as many reads as there are readers.
//  3. Nothing but Get waits for the disk, and that for a bounded time. What cannot be
//     written in time is not written.
//  4. Only the writer changes files, one at a time; readers find out when they read one that
//     changed meanwhile, and take it for absent.
//  5. Trouble that is the disk's and not a single file's (no space, no permission, an input
//     or output error, a folder that is gone, files that are bad again and again) ends the
//     cache: it is said once in the log, the folder is emptied as far as it can be, and
//     everything is absent from then on.
//
// All methods may be called concurrently.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
)

const (
	// MinBytes is the least size of a cache: less holds too few blocks to be of use.
	MinBytes = 16 << 20

	// DefaultQueueBytes wait to be written. Not less: the disk does not keep up with every
	// burst of GETs. Not more: they may be in memory for nothing else.
	DefaultQueueBytes = 16 << 20

	// readers bound the reads at a time. Not fewer: disks want several. Not more: each holds a
	// block of memory.
	readers = 8

	// patience is how long a Get waits: longer than a disk in order takes even when it is
	// busy, shorter than what anybody would wait for a store that is.
	patience = 500 * time.Millisecond

	// maxFaults is how many blocks that are bad, or reads that took too long, end the cache,
	// apart from those that were forgiven.
	// Not fewer: a crash leaves some half-written. Not more: each costs a reader time.
	maxFaults = 16

	// forgiving is how many reads that found what they wanted make up for one fault. Not fewer:
	// a disk that loses every thousandth block is no disk to keep. Not more: those that a crash
	// spoils now and then would end the cache of an agent that runs for years.
	forgiving = 4096

	// closePatience is how long Close waits for reads and a write that the disk holds up.
	closePatience = 5 * time.Second
)

// Options say where a cache is and how large. Dir and Bytes are wanted.
type Options struct {
	Dir        string
	Bytes      int64 // of files, at least MinBytes
	QueueBytes int64 // that wait to be written; 0: DefaultQueueBytes
	Files      Files // nil: those of Dir
}

// Cache is a disk cache. It implements cache.Disk.
type Cache struct {
	opts Options
	log  *slog.Logger
	held io.Closer // the folder's lock

	reads chan *reading
	work  chan struct{} // there is something for the writer; capacity 1
	stop  chan struct{}
	tasks sync.WaitGroup
	once  sync.Once

	counters

	mu      sync.Mutex // guards the following; held for no longer than it takes to look
	index   *index
	queue   []*writing
	queued  int64
	writing *writing // under way
	doomed  []key    // files to remove
	off     bool
}

var _ cache.Disk = (*Cache)(nil)

// Open takes a folder for a cache, with what a cache left in it. Its errors are one line, for
// an operator. Close it after use.
func Open(opts Options, log *slog.Logger) (*Cache, error) {
	if opts.Bytes < MinBytes {
		return nil, fmt.Errorf("disk cache: %d bytes are too few: at least %d", opts.Bytes, MinBytes)
	}
	if opts.QueueBytes == 0 {
		opts.QueueBytes = DefaultQueueBytes
	}
	held, err := claim(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("disk cache: %w", err)
	}
	blocks, err := scan(opts.Dir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("disk cache: %w", err), held.Close())
	}
	if opts.Files == nil {
		opts.Files = Directory(opts.Dir)
	}
	c := &Cache{
		opts: opts, log: log, held: held, index: newIndex(opts.Bytes),
		reads: make(chan *reading), work: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	for _, b := range blocks {
		e := &entry{key: b.key, size: b.size}
		c.doom(c.index.makeRoom(e.cost(), nil))
		c.index.add(e)
	}
	c.tasks.Go(c.write)
	for range readers {
		c.tasks.Go(c.read)
	}
	c.wake()
	return c, nil
}

// Close ends the cache and gives the folder up. What is in it stays, for the next Open.
func (c *Cache) Close() error {
	c.once.Do(func() { close(c.stop) })
	done := make(chan struct{})
	go func() {
		c.tasks.Wait()
		close(done)
	}()
	timer := time.NewTimer(closePatience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		return errors.Join(fmt.Errorf("disk cache: folder %s does not answer", c.opts.Dir), c.held.Close())
	}
	return c.held.Close()
}

// reading is a read that a Get waits for.
type reading struct {
	entry  *entry
	frames []frame // nil: to be found out first
	size   int64
	lo, hi int64
	done   chan []byte // nil: absent; capacity 1
}

// Has implements cache.Disk.
func (c *Cache) Has(start int64, p cache.Piece) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lookUp(start, p) != nil
}

// lookUp returns the entry that has a piece, or may have it, or nil. The caller holds the lock.
func (c *Cache) lookUp(start int64, p cache.Piece) *entry {
	e := c.index.entries[key{p.Segment, start}]
	if e == nil || e.frames != nil && e.filled() < int64(p.Position)-start+p.Length {
		return nil
	}
	return e
}

// Get implements cache.Disk.
func (c *Cache) Get(ctx context.Context, start int64, p cache.Piece) ([]byte, bool) {
	c.mu.Lock()
	e := c.lookUp(start, p)
	if e == nil {
		c.mu.Unlock()
		c.misses.Add(1)
		return nil, false
	}
	c.index.touch(e)
	lo := int64(p.Position) - start
	r := &reading{entry: e, frames: e.frames, size: e.size, lo: lo, hi: lo + p.Length, done: make(chan []byte, 1)}
	c.mu.Unlock()

	timer := time.NewTimer(patience)
	defer timer.Stop()
	var b []byte
	select {
	case c.reads <- r:
		select {
		case b = <-r.done:
		case <-timer.C:
			c.slow.Add(1)
			c.fault(errors.New("reads take too long"))
		case <-ctx.Done():
		}
	case <-timer.C:
		c.slow.Add(1)
	case <-ctx.Done():
	case <-c.stop:
	}
	if b == nil {
		c.misses.Add(1)
		return nil, false
	}
	if c.hits.Add(1)%forgiving == 0 {
		c.forgive()
	}
	c.hitBytes.Add(int64(len(b)))
	return b, true
}

// Drop implements cache.Disk.
func (c *Cache) Drop(segment tiering.SegmentID, start int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(key{segment, start})
}

// drop forgets a block and what is about to be written of it. The caller holds the lock.
func (c *Cache) drop(k key) {
	kept := c.queue[:0]
	for _, w := range c.queue {
		if w.key == k {
			c.queued -= w.cost()
		} else {
			kept = append(kept, w)
		}
	}
	clear(c.queue[len(kept):])
	c.queue = kept
	if c.writing != nil && c.writing.key == k {
		c.writing.cancelled = true
	}
	if e := c.index.entries[k]; e != nil {
		c.index.remove(e)
		c.doomed = append(c.doomed, k)
		c.wake()
	}
}

// doom has the files of entries removed that are in the index no more.
func (c *Cache) doom(out []*entry) {
	for _, e := range out {
		c.evicted.Add(1)
		c.doomed = append(c.doomed, e.key)
	}
}

// bad ends a block whose file did not have what it should, unless it is another file by now.
func (c *Cache) bad(r *reading, err error) {
	c.mu.Lock()
	same := c.index.entries[r.entry.key] == r.entry
	if same {
		c.drop(r.entry.key)
	}
	c.mu.Unlock()
	if same {
		c.corrupt.Add(1)
		c.fault(fmt.Errorf("block %s: %w", fileName(r.entry.key), err))
	}
}

// forgive takes one fault back, if there is any.
func (c *Cache) forgive() {
	for {
		n := c.faults.Load()
		if n <= 0 || c.faults.CompareAndSwap(n, n-1) {
			return
		}
	}
}

// fault counts trouble with a single block or read.
func (c *Cache) fault(err error) {
	if c.faults.Add(1) >= maxFaults {
		c.fail(fmt.Errorf("%d faults, the last: %w", maxFaults, err))
	}
}

// fail ends the cache.
func (c *Cache) fail(err error) {
	c.mu.Lock()
	was := c.off
	c.off = true
	if !was {
		c.queue, c.queued = nil, 0
		for k := range c.index.entries {
			c.doomed = append(c.doomed, k)
		}
		c.index = newIndex(c.opts.Bytes)
	}
	c.mu.Unlock()
	if !was {
		c.log.Error("the disk cache is given up; blocks are read from the object store", "folder", c.opts.Dir, "err", err)
		c.wake()
	}
}

// ofOneFile reports whether an error says something of a single file, not of the disk.
func ofOneFile(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.EOF) || errors.Is(err, errFrame)
}

// Stats are a cache's counters since Open and its gauges of the moment.
type Stats struct {
	Hits, HitBytes        int64 // Gets that found what they wanted
	Misses                int64
	Writes, WrittenBytes  int64
	Skipped, SkippedBytes int64 // Puts that there was no time or place for
	Corrupt               int64 // blocks whose file was bad
	Slow                  int64 // Gets that took too long
	Evicted               int64 // blocks

	Blocks, Bytes int64 // that there are
	Capacity      int64
	QueuedBytes   int64
	GivenUp       bool
}

type counters struct {
	hits, hitBytes, misses         atomic.Int64
	writes, written                atomic.Int64
	skipped, skippedBytes          atomic.Int64
	corrupt, slow, faults, evicted atomic.Int64
}

// Stats returns the counters and gauges.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{
		Hits: c.hits.Load(), HitBytes: c.hitBytes.Load(), Misses: c.misses.Load(),
		Writes: c.writes.Load(), WrittenBytes: c.written.Load(),
		Skipped: c.skipped.Load(), SkippedBytes: c.skippedBytes.Load(),
		Corrupt: c.corrupt.Load(), Slow: c.slow.Load(), Evicted: c.evicted.Load(),
		Blocks: int64(len(c.index.entries)), Bytes: c.index.bytes(), Capacity: c.opts.Bytes,
		QueuedBytes: c.queued, GivenUp: c.off,
	}
}
