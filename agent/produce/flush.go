package produce

import (
	"time"

	"github.com/floelog/floe/tiering"
)

// flush is a set of batches of many partitions that share one segment.
type flush struct {
	seg     tiering.SegmentID
	opened  time.Time
	bytes   int64
	batches []*Batch // in order of arrival
	parts   map[tiering.ShardID]*item
}

// addLocked puts batches into the open flush and each shard's lane.
func (p *Pipeline) addLocked(batches []*Batch) {
	for _, b := range batches {
		if p.open != nil && len(p.open.batches) >= maxFlushBatches {
			p.closeFlushLocked("batches")
		}
		if p.open == nil {
			p.openFlushLocked()
		}
		f := p.open
		f.bytes += int64(len(b.Data))
		f.batches = append(f.batches, b)
		it := f.parts[b.Shard]
		if it == nil {
			it = &item{flush: f}
			f.parts[b.Shard] = it
			l := p.lanes[b.Shard]
			l.queue = append(l.queue, it)
			l.flushed++
		}
		it.batches = append(it.batches, b)
	}
	p.considerLocked()
}

func (p *Pipeline) openFlushLocked() {
	p.open = &flush{
		seg:    tiering.SegmentID{Session: p.parts.Session, Seq: p.takeSegmentLocked()},
		opened: p.parts.Now(),
		parts:  map[tiering.ShardID]*item{},
	}
	p.armLocked(p.cfg.FlushAge)
}

// considerLocked closes the open flush if there is a reason to.
func (p *Pipeline) considerLocked() {
	f := p.open
	if f == nil {
		return
	}
	now := p.parts.Now()
	free := p.uploading < cap(p.slots)
	switch {
	case f.bytes >= p.cfg.FlushBytes:
		p.closeFlushLocked("size")
	case len(f.batches) >= maxFlushBatches:
		p.closeFlushLocked("batches")
	case p.cfg.FlushIdle && p.uploading == 0:
		p.closeFlushLocked("idle")
	case now.Sub(f.opened) >= p.cfg.FlushAge:
		p.closeFlushLocked("age")
	case p.cfg.FlushIdle && free && f.bytes >= quietBytes:
		if quiet := now.Sub(p.lastAdd); quiet >= quietTime {
			p.closeFlushLocked("quiet")
		} else {
			p.armLocked(quietTime - quiet)
		}
	default:
		p.armLocked(p.cfg.FlushAge - now.Sub(f.opened))
	}
}

// armLocked makes the pipeline consider the open flush again after d. A timer that is
// set already to fire later is moved forward.
func (p *Pipeline) armLocked(d time.Duration) {
	if p.timer == nil {
		p.timer = time.AfterFunc(d, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.considerLocked()
		})
		return
	}
	p.timer.Reset(d)
}

// closeFlushLocked ends the open flush and starts its upload.
func (p *Pipeline) closeFlushLocked(reason string) {
	f := p.open
	p.open = nil
	p.uploading++
	p.parts.Observe.Flushed(f.bytes, len(f.batches), p.parts.Now().Sub(f.opened), reason)
	p.work.Add(1)
	go func() {
		defer p.work.Done()
		p.upload(f)
	}()
}
