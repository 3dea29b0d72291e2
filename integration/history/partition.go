package history

import "math/bits"

// pageSize is the number of offsets of a page.
const pageSize = 1024

// page is what is known of pageSize offsets.
type page struct {
	values    [pageSize]Value // 0: nothing
	read      [pageSize / 64]uint64
	committed [pageSize / 64]uint64 // read by consumers of committed records
}

// partition is what acknowledgements and reads have said of a partition. It is kept in
// pages, as a damaged offset may be any number.
type partition struct {
	name     Partition
	pages    map[int64]*page
	ackedEnd int64 // after the highest offset that was acknowledged
	readEnd  int64 // after the highest offset that was read
	logStart int64 // the highest that was told
	whole    *span // what was read completely at the end; nil: nothing
	stable   *span // the same by a consumer of committed records
	deleted  bool
}

// span is a range of offsets, without its end.
type span struct{ from, to int64 }

func (h *History) partition(name Partition) *partition {
	p, ok := h.partitions[name]
	if !ok {
		p = &partition{name: name, pages: map[int64]*page{}}
		h.partitions[name] = p
	}
	return p
}

// value returns what is known to be at an offset, 0 for nothing, and whether it was read.
func (p *partition) value(offset int64) (v Value, read bool) {
	pg := p.pages[offset/pageSize]
	if pg == nil || offset < 0 {
		return 0, false
	}
	i := offset % pageSize
	return pg.values[i], pg.read[i/64]&(1<<(i%64)) != 0
}

// page returns the page of an offset, which is not negative.
func (p *partition) page(offset int64) *page {
	pg := p.pages[offset/pageSize]
	if pg == nil {
		pg = &page{}
		p.pages[offset/pageSize] = pg
	}
	return pg
}

// readCommitted reports whether a consumer of committed records was given an offset.
func (p *partition) readCommitted(offset int64) bool {
	pg := p.pages[offset/pageSize]
	i := offset % pageSize
	return pg != nil && offset >= 0 && pg.committed[i/64]&(1<<(i%64)) != 0
}

func (p *partition) markRead(offset int64, committed bool) {
	i := offset % pageSize
	pg := p.page(offset)
	pg.read[i/64] |= 1 << (i % 64)
	if committed {
		pg.committed[i/64] |= 1 << (i % 64)
	}
	p.readEnd = max(p.readEnd, offset+1)
}

// readCount returns how many offsets were read.
func (p *partition) readCount() int {
	n := 0
	for _, pg := range p.pages {
		for _, w := range pg.read {
			n += bits.OnesCount64(w)
		}
	}
	return n
}

// agree notes that somebody saw v at an offset, where everybody must see the same.
func (h *History) agree(p *partition, offset int64, v Value, who string) {
	known := &p.page(offset).values[offset%pageSize]
	switch *known {
	case 0:
		*known = v
	case v:
	default:
		h.anomaly(InconsistentOffsets, "%s offset %d holds %d according to %s, and was %d before", p.name, offset, v, who, *known)
	}
}
