package sim

import (
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering"
)

// auditedRecord is one offset of a compacted partition, as it was committed: a record, or the
// marker of a transaction.
type auditedRecord struct {
	id        uint64
	key       string
	tombstone bool
	timestamp int64
	batch     int   // index in auditedLog.batches
	removed   int64 // revision at which log compaction removed it; 0: it is there
}

// auditedAbort is an aborted transaction; removed is the revision at which its marker was.
type auditedAbort struct {
	shard.AbortedTransaction
	removed int64
}

// rewritten is a batch of a compacted partition as it is stored.
type rewritten struct {
	digest  uint64
	horizon int64
}

// keyed notes the records of a batch that was committed to a compacted partition.
func (a *auditor) keyed(part *partition, log *auditedLog, b placed) {
	k := len(log.batches) - 1
	is := &log.batches[k]
	for range b.end() - min(b.end(), tiering.Offset(len(log.records))) { // more than it has, if some could not be read
		log.records = append(log.records, auditedRecord{batch: k, timestamp: is.latest})
	}
	log.stored[b.base] = rewritten{is.digest, b.DeleteHorizon()}
	if is.control {
		return
	}
	for r, err := range b.Records(nil) {
		if err != nil {
			a.w.fail("objects", part, "the records at offset %d: %v", b.base, err)
			return
		}
		at := b.base + tiering.Offset(r.OffsetDelta)
		if at < b.base || at >= b.end() {
			a.w.fail("one value", part, "the batch at offset %d has a record at offset %d", b.base, at)
			return
		}
		log.records[at] = auditedRecord{id: recordDigest(&r, b.Timestamp(r)), key: string(r.Key), tombstone: r.Value == nil, timestamp: b.Timestamp(r), batch: k}
		log.keys[string(r.Key)] = append(log.keys[string(r.Key)], at)
	}
}

// compacted judges what took the place of offsets of a compacted partition.
func (a *auditor) compacted(part *partition, log *auditedLog, from, to tiering.Offset, found []placed, v verdict) {
	if to > tiering.Offset(len(log.records)) {
		a.w.fail("one value", part, "offsets %d to %d are replaced at revision %d, %d were committed", from, to, v.revision, len(log.records))
		return
	}
	here := make([]bool, to-from)
	for _, b := range found {
		if !a.recognised(part, log, b, v) {
			return
		}
		if log.batches[mustFind(log, b.base)].control {
			here[b.base-from] = true
			a.present(part, log, b.base, 0, v)
			continue
		}
		for r, err := range b.Records(nil) {
			at := b.base + tiering.Offset(r.OffsetDelta)
			if err != nil || at < from || at >= to {
				a.w.fail("compaction", part, "the batch at offset %d cannot be read at revision %d: %v", b.base, v.revision, err)
				return
			}
			here[at-from] = true
			a.present(part, log, at, recordDigest(&r, b.Timestamp(r)), v)
		}
	}
	var gone []tiering.Offset
	for i := range here {
		r := &log.records[from+tiering.Offset(i)]
		if !here[i] && r.removed == 0 {
			r.removed = v.revision
			gone = append(gone, from+tiering.Offset(i))
		}
	}
	for _, at := range gone {
		if why := a.mayGo(log, at, v); why != "" {
			r := &log.records[at]
			a.w.fail("compaction", part, "offset %d (key %q, tombstone %v, time %d) went at revision %d (time %d, stable %d): %s", at, r.key, r.tombstone, r.timestamp, v.revision, v.time, v.stable, why)
		}
	}
	for i, _ := log.find(from); i < len(log.batches) && log.batches[i].base < to; i++ {
		delete(log.stored, log.batches[i].base)
	}
	for _, b := range found {
		log.stored[b.base] = rewritten{digest(b.View), b.DeleteHorizon()}
	}
}

func mustFind(log *auditedLog, at tiering.Offset) int {
	k, _ := log.find(at)
	return k
}

// recognised demands that a batch is what is left of one that was committed there.
func (a *auditor) recognised(part *partition, log *auditedLog, b placed, v verdict) bool {
	k, ok := log.find(b.base)
	if !ok || log.batches[k].base != b.base {
		a.w.fail("compaction", part, "a batch at offset %d, where none was committed, at revision %d", b.base, v.revision)
		return false
	}
	is := &log.batches[k]
	if b.ProducerID() != is.producer || b.ProducerEpoch() != is.producerEpoch || b.BaseSequence() != is.sequence ||
		b.IsTransactional() != is.transactional || b.IsControl() != is.control || b.Codec() != is.codec {
		a.w.fail("compaction", part, "the batch at offset %d has become another one's at revision %d", b.base, v.revision)
	}
	for ; k < len(log.batches) && log.batches[k].base < b.end(); k++ {
		if log.batches[k].epoch != is.epoch && log.batches[k].end() > v.start {
			a.w.fail("compaction", part, "the batch at offset %d reaches up to %d, into epoch %d, at revision %d", b.base, b.end(), log.batches[k].epoch, v.revision)
		}
	}
	if is.control && !is.commit && b.end() != b.base+1 {
		a.w.fail("compaction", part, "the abort marker at offset %d reaches up to %d at revision %d: clients end what begins there with it", b.base, b.end(), v.revision)
	}
	was, there := log.stored[b.base]
	h := b.DeleteHorizon()
	switch {
	case !there: // its records were removed, and are back
	case was.horizon != batch.NoHorizon && h != was.horizon:
		a.w.fail("compaction", part, "the delete horizon of offset %d went from %d to %d at revision %d", b.base, was.horizon, h, v.revision)
	case was.horizon == batch.NoHorizon && h != batch.NoHorizon && h < is.time+part.keeps.deleteRetention.Milliseconds():
		a.w.fail("compaction", part, "offset %d, committed at time %d, got delete horizon %d at revision %d (kept for %v)", b.base, is.time, h, v.revision, part.keeps.deleteRetention)
	}
	return true
}

// present demands that a record is the one that was committed at its offset, and was not
// removed before. id is 0 for a marker.
func (a *auditor) present(part *partition, log *auditedLog, at tiering.Offset, id uint64, v verdict) {
	switch r := &log.records[at]; {
	case r.id != id:
		a.w.fail("one value", part, "offset %d holds another record since revision %d", at, v.revision)
	case r.removed != 0:
		a.w.fail("compaction", part, "offset %d, which was removed at revision %d, is back at revision %d", at, r.removed, v.revision)
	}
}

// mayGo says why a record that was removed should have stayed; nothing if it may go.
func (a *auditor) mayGo(log *auditedLog, at tiering.Offset, v verdict) string {
	r := &log.records[at]
	b := &log.batches[r.batch]
	h := log.stored[b.base].horizon
	passed := h != batch.NoHorizon && v.time >= h
	switch end := log.ends[b.key]; {
	case b.end() <= v.start:
		return ""
	case !log.part.keeps.asked.Load():
		return "nobody asked for log compaction"
	case at >= v.stable:
		return "it is not stable"
	case b.control && a.hasData(log, b.key, v.start):
		return "data of its transaction is left"
	case b.control && b.commit && !passed: // of an aborted one nobody is told any more
		return "its delete horizon has not passed"
	case b.control:
		a.note("tier marker")
		a.unmark(log, at, v)
		return ""
	case b.transactional && end.revision != 0 && !end.commit:
		a.note("tier aborted data")
		return ""
	case a.superseded(log, at, v):
		a.note("tier superseded")
		return ""
	case !r.tombstone:
		return "it is the newest of its key"
	case !passed:
		return "its delete horizon has not passed"
	}
	for _, older := range log.keys[r.key] {
		if older < at && older >= v.start && log.records[older].removed == 0 {
			return "an older record of its key is left"
		}
	}
	a.note("tier tombstone")
	return ""
}

// superseded reports whether a newer record of the same key was there for log compaction to see.
func (a *auditor) superseded(log *auditedLog, at tiering.Offset, v verdict) bool {
	lag := log.part.keeps.minLag.Milliseconds()
	for _, newer := range log.keys[log.records[at].key] {
		if newer <= at || newer >= v.stable {
			continue
		}
		r := &log.records[newer]
		b := &log.batches[r.batch]
		if end := log.ends[b.key]; b.transactional && !end.commit {
			continue
		}
		if r.timestamp+lag <= v.time {
			return true
		}
	}
	return false
}

// hasData reports whether a batch of a transaction is left.
func (a *auditor) hasData(log *auditedLog, k txnKey, start tiering.Offset) bool {
	for at := start; at < tiering.Offset(len(log.records)); at++ {
		b := &log.batches[log.records[at].batch]
		if b.key == k && !b.control && log.records[at].removed == 0 {
			return true
		}
	}
	return false
}

func (a *auditor) unmark(log *auditedLog, at tiering.Offset, v verdict) {
	for i := range log.aborts {
		if log.aborts[i].Last == at {
			log.aborts[i].removed = v.revision
		}
	}
}

// cleaned demands that nothing is left to remove below the offset up to which log compaction is
// said to have been done.
func (a *auditor) cleaned(s *auditedShard, tp tiering.TopicPartition, v *verdict) {
	part, log, to := a.w.find(tp), a.log(tp), s.state.Partition(tp).Cleaned
	if to == v.cleaned || part.gone.Load() {
		return
	}
	a.note("tier cleaned")
	if to < v.cleaned || to > v.stable {
		a.w.fail("compaction", part, "it went from being done up to %d to %d at revision %d; %d was stable", v.cleaned, to, v.revision, v.stable)
	}
	for key, offsets := range log.keys {
		newest := tiering.Offset(-1)
		for _, at := range offsets {
			r := &log.records[at]
			if at < v.start || at >= to || r.removed != 0 {
				continue
			}
			b := &log.batches[r.batch]
			if end := log.ends[b.key]; b.transactional && !end.commit {
				a.w.fail("compaction", part, "offset %d is left at revision %d, of an aborted transaction; it is done up to %d", at, v.revision, to)
			}
			if newest >= 0 {
				a.w.fail("compaction", part, "offsets %d and %d of key %q are left at revision %d; it is done up to %d", newest, at, key, v.revision, to)
			}
			newest = at
		}
	}
}
