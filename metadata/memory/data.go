package memory

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/floelog/floe/metadata"
)

// data is the store's content as a plain value: no locks, no clock.
//
// Invariants: keys holds the keys of items in order; log holds every change since
// revision compacted (inclusive) in revision order; a key of an item with a lease is in
// that lease's set.
type data struct {
	revision  int64 // of the last change; an empty store is at 1, as etcd is
	compacted int64 // what is older can neither be read nor watched
	items     map[string]item
	keys      []string
	log       []change
	leases    map[metadata.LeaseID]map[string]struct{} // the keys bound to each
}

// item is a key's current value, which is never modified.
type item struct {
	value    []byte
	revision int64
	lease    metadata.LeaseID
}

// change is one event and what was there before, so that it can be undone for reads at
// an older revision.
type change struct {
	event  metadata.Event
	before item // revision 0: there was none
}

func newData() data {
	return data{
		revision: 1,
		items:    make(map[string]item),
		leases:   make(map[metadata.LeaseID]map[string]struct{}),
	}
}

func (d *data) clone() data {
	c := *d
	c.items = maps.Clone(d.items)
	c.keys = slices.Clone(d.keys)
	c.log = slices.Clone(d.log)
	c.leases = make(map[metadata.LeaseID]map[string]struct{}, len(d.leases))
	for id, keys := range d.leases {
		c.leases[id] = maps.Clone(keys)
	}
	return c
}

func (d *data) get(key string) metadata.KV {
	it := d.items[key]
	return metadata.KV{Key: key, Value: it.value, Revision: it.revision}
}

func (d *data) holds(c metadata.Condition) bool {
	it, ok := d.items[c.Key]
	switch c.Kind {
	case metadata.KeyAbsent:
		return !ok
	case metadata.KeyPresent:
		return ok
	default:
		return ok && bytes.Equal(it.value, c.Value)
	}
}

// txn applies a valid transaction.
func (d *data) txn(t metadata.Txn) (metadata.TxnResult, error) {
	for _, c := range t.If {
		if d.holds(c) {
			continue
		}
		res := metadata.TxnResult{Revision: d.revision}
		for _, key := range t.Else {
			res.Else = append(res.Else, d.get(key))
		}
		return res, nil
	}
	for _, op := range t.Then {
		if _, ok := d.leases[op.Lease]; op.Lease != 0 && !ok {
			return metadata.TxnResult{}, fmt.Errorf("put %q with lease %x: %w", op.Key, int64(op.Lease), metadata.ErrLeaseLost)
		}
	}
	next := d.revision + 1
	for _, op := range t.Then {
		switch {
		case !op.Delete:
			d.put(op, next)
		case op.End == "":
			d.remove(op.Key, next)
		default:
			for _, key := range slices.Clone(d.between(op.Key, op.End)) {
				d.remove(key, next)
			}
		}
	}
	return metadata.TxnResult{Succeeded: true, Revision: d.revision}, nil
}

func (d *data) put(op metadata.Op, revision int64) {
	before, existed := d.items[op.Key]
	if existed {
		d.unbind(op.Key, before.lease)
	} else {
		i, _ := slices.BinarySearch(d.keys, op.Key)
		d.keys = slices.Insert(d.keys, i, op.Key)
	}
	it := item{bytes.Clone(op.Value), revision, op.Lease}
	if it.value == nil {
		it.value = []byte{}
	}
	d.items[op.Key] = it
	if op.Lease != 0 {
		d.leases[op.Lease][op.Key] = struct{}{}
	}
	d.revision = revision
	d.log = append(d.log, change{metadata.Event{KV: metadata.KV{Key: op.Key, Value: it.value, Revision: revision}}, before})
}

func (d *data) remove(key string, revision int64) {
	before, existed := d.items[key]
	if !existed {
		return
	}
	d.unbind(key, before.lease)
	delete(d.items, key)
	i, _ := slices.BinarySearch(d.keys, key)
	d.keys = slices.Delete(d.keys, i, i+1)
	d.revision = revision
	d.log = append(d.log, change{metadata.Event{KV: metadata.KV{Key: key, Revision: revision}, Deleted: true}, before})
}

func (d *data) unbind(key string, lease metadata.LeaseID) {
	if lease != 0 {
		delete(d.leases[lease], key)
	}
}

// endLease removes a lease and, in one revision, its keys.
func (d *data) endLease(id metadata.LeaseID) {
	next := d.revision + 1
	for _, key := range slices.Sorted(maps.Keys(d.leases[id])) {
		d.remove(key, next)
	}
	delete(d.leases, id)
}

// between returns the keys in [from, end), as a part of d.keys.
func (d *data) between(from, end string) []string {
	return keysBetween(d.keys, from, end)
}

func keysBetween(keys []string, from, end string) []string {
	i, _ := slices.BinarySearch(keys, from)
	if end == metadata.RangeToEnd {
		return keys[i:]
	}
	j, _ := slices.BinarySearch(keys, end)
	return keys[i:max(i, j)]
}

// page reads up to limit keys of [from, end) at a revision, 0 being the newest.
func (d *data) page(from, end string, revision int64, limit int) (metadata.Page, error) {
	keys, items := d.keys, d.items
	switch {
	case revision == 0 || revision == d.revision:
		revision = d.revision
	case revision > d.revision:
		return metadata.Page{}, fmt.Errorf("read at revision %d of a store at %d: %w", revision, d.revision, metadata.ErrInvalid)
	case revision < d.compacted:
		return metadata.Page{}, fmt.Errorf("read at revision %d: %w", revision, metadata.ErrCompacted)
	default:
		keys, items = d.at(revision)
	}
	p := metadata.Page{Revision: revision}
	for _, key := range keysBetween(keys, from, end) {
		if limit > 0 && len(p.KVs) == limit {
			p.More = true
			break
		}
		it := items[key]
		p.KVs = append(p.KVs, metadata.KV{Key: key, Value: it.value, Revision: it.revision})
	}
	return p, nil
}

// at rebuilds the content as of an older revision by undoing what came after it.
func (d *data) at(revision int64) (keys []string, items map[string]item) {
	items = maps.Clone(d.items)
	for i := len(d.log) - 1; i >= 0 && d.log[i].event.Revision > revision; i-- {
		c := d.log[i]
		if c.before.revision == 0 {
			delete(items, c.event.Key)
		} else {
			items[c.event.Key] = c.before
		}
	}
	return slices.Sorted(maps.Keys(items)), items
}

// since returns the changes from revision on.
func (d *data) since(revision int64) []change {
	i := sort.Search(len(d.log), func(i int) bool { return d.log[i].event.Revision >= revision })
	return d.log[i:]
}

// compact forgets the history before revision.
func (d *data) compact(revision int64) error {
	if revision > d.revision {
		return fmt.Errorf("compact to revision %d of a store at %d: %w", revision, d.revision, metadata.ErrInvalid)
	}
	if revision > d.compacted {
		d.compacted = revision
		d.log = slices.Clone(d.since(revision))
	}
	return nil
}

// touches reports whether any of the changes is of a key with the prefix.
func touches(changes []change, prefix string) bool {
	return slices.ContainsFunc(changes, func(c change) bool { return strings.HasPrefix(c.event.Key, prefix) })
}
