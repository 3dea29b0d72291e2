package disk

// protectedShare is the part of the cache, in quarters, that blocks have which were read from
// it: three. The rest is for newcomers. Not more: they would leave before they are read again.
// Not less: a replay, all of whose blocks are newcomers, takes it.
const protectedShare = 3

// entry is a block in the index.
type entry struct {
	key
	frames []frame // contiguous from the block's start; nil: not looked at since the start
	size   int64   // of the file

	in           *queue
	older, newer *entry
}

// filled returns up to where the block is there; 0 if that is not known.
func (e *entry) filled() int64 {
	if len(e.frames) == 0 {
		return 0
	}
	return e.frames[len(e.frames)-1].hi
}

// cost is what an entry counts for: its file, at least minCost.
func (e *entry) cost() int64 { return max(e.size, minCost) }

// minCost is what the smallest entry counts for. Not smaller: an entry takes some 300 bytes of
// memory, which is so less than a half per cent of the disk's. Not larger: blocks of which
// little is known are small.
const minCost = 64 << 10

// index knows what is on the disk, and what leaves first when there is no room: blocks that
// were never read from the disk go before those that were. Nothing of it is concurrent.
type index struct {
	capacity  int64
	entries   map[key]*entry
	newcomers queue
	protected queue
}

func newIndex(capacity int64) *index {
	return &index{capacity: capacity, entries: map[key]*entry{}}
}

func (x *index) bytes() int64 { return x.newcomers.bytes + x.protected.bytes }

// add inserts an entry that is not in the index.
func (x *index) add(e *entry) {
	x.entries[e.key] = e
	x.newcomers.push(e)
}

// rewrite takes note of an entry's new content.
func (x *index) rewrite(e *entry, frames []frame, size int64) {
	in := e.in
	in.remove(e)
	e.frames, e.size = frames, size
	in.push(e)
}

// touch notes that an entry was read.
func (x *index) touch(e *entry) {
	if e.in == nil {
		return
	}
	e.in.remove(e)
	x.protected.push(e)
	for x.protected.bytes > x.capacity/4*protectedShare && x.protected.oldest != e {
		old := x.protected.oldest
		x.protected.remove(old)
		x.newcomers.push(old)
	}
}

// remove forgets an entry.
func (x *index) remove(e *entry) {
	if e.in != nil {
		e.in.remove(e)
		delete(x.entries, e.key)
	}
}

// makeRoom forgets entries until n bytes more fit, and returns them. It keeps e.
func (x *index) makeRoom(n int64, e *entry) (out []*entry) {
	for x.bytes()+n > x.capacity {
		old := x.newcomers.oldest
		if old != nil && old == e {
			old = e.newer
		}
		if old == nil {
			if old = x.protected.oldest; old != nil && old == e {
				old = e.newer
			}
		}
		if old == nil {
			return out
		}
		x.remove(old)
		out = append(out, old)
	}
	return out
}

// queue is a FIFO of entries from which any can be removed. An entry's cost must not change
// while it is in one.
type queue struct {
	oldest, newest *entry
	bytes          int64
}

func (q *queue) push(e *entry) {
	e.in, e.older, e.newer = q, q.newest, nil
	if q.newest == nil {
		q.oldest = e
	} else {
		q.newest.newer = e
	}
	q.newest = e
	q.bytes += e.cost()
}

func (q *queue) remove(e *entry) {
	if e.older == nil {
		q.oldest = e.newer
	} else {
		e.older.newer = e.newer
	}
	if e.newer == nil {
		q.newest = e.older
	} else {
		e.newer.older = e.older
	}
	e.in, e.older, e.newer = nil, nil, nil
	q.bytes -= e.cost()
}
