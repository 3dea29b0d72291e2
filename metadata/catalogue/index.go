package catalogue

import (
	"cmp"
	"hash/maphash"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/floelog/floe/metadata/mirror"
	"github.com/floelog/floe/tiering"
)

// index is all topics of one revision. It does not change, but shares most of its parts
// with the indexes before and after it. nil is an empty index.
type index struct {
	byName  parts[string, *Topic]
	byID    parts[tiering.TopicID, *Topic]
	clashes parts[string, string] // folded name -> a topic of that folded name

	once   sync.Once // guards sorted, which few need
	sorted []*Topic  // by name
}

func foldTopics(old *index, changes []mirror.Change[Topic]) *index {
	if old == nil {
		old = &index{}
	}
	byName, byID, clashes := old.byName.edit(), old.byID.edit(), old.clashes.edit()
	for _, c := range changes {
		if c.Old != nil {
			byName.delete(c.Old.Name)
			byID.delete(c.Old.ID)
			if f, ok := folded(c.Old.Name); ok {
				if name, _ := clashes.get(f); name == c.Old.Name {
					clashes.delete(f)
				}
			}
		}
		if c.New != nil {
			byName.set(c.New.Name, c.New)
			byID.set(c.New.ID, c.New)
			if f, ok := folded(c.New.Name); ok {
				clashes.set(f, c.New.Name)
			}
		}
	}
	return &index{byName: byName.parts, byID: byID.parts, clashes: clashes.parts}
}

func (x *index) topic(name string) (*Topic, bool) {
	if x == nil {
		return nil, false
	}
	return x.byName.get(name)
}

func (x *index) topicByID(id tiering.TopicID) (*Topic, bool) {
	if x == nil {
		return nil, false
	}
	return x.byID.get(id)
}

// clash returns a topic whose name differs from name only in '.' and '_'.
func (x *index) clash(name string) (other string, ok bool) {
	f, ok := folded(name)
	if !ok || x == nil {
		return "", false
	}
	other, ok = x.clashes.get(f)
	return other, ok && other != name
}

func (x *index) len() int {
	if x == nil {
		return 0
	}
	return x.byName.n
}

func (x *index) topics() iter.Seq[*Topic] {
	if x == nil {
		return func(func(*Topic) bool) {}
	}
	x.once.Do(func() {
		all := make([]*Topic, 0, x.byName.n)
		for t := range x.byName.values() {
			all = append(all, t)
		}
		slices.SortFunc(all, func(a, b *Topic) int { return cmp.Compare(a.Name, b.Name) })
		x.sorted = all
	})
	return slices.Values(x.sorted)
}

// numParts is how many small maps make up one. Fewer make each change copy more of 10,000
// topics; more make even a single change copy a long array.
const numParts = 512

// hashSeed spreads keys over parts, in this process only.
var hashSeed = maphash.MakeSeed()

// parts is a map that is copied in parts when it is edited, so that a lookup costs two
// array accesses and a change copies one part in 512, once for all changes that come
// together. The zero value is empty. A value is immutable once edited.
type parts[K comparable, V any] struct {
	part *[numParts]map[K]V
	n    int
}

func (p parts[K, V]) get(k K) (v V, ok bool) {
	if p.part == nil {
		return v, false
	}
	v, ok = p.part[place(k)][k]
	return v, ok
}

func (p parts[K, V]) values() iter.Seq[V] {
	return func(yield func(V) bool) {
		if p.part == nil {
			return
		}
		for _, m := range p.part {
			for _, v := range m {
				if !yield(v) {
					return
				}
			}
		}
	}
}

func place[K comparable](k K) uint64 { return maphash.Comparable(hashSeed, k) % numParts }

// editor changes a copy of parts; what it has copied once it changes in place.
type editor[K comparable, V any] struct {
	parts[K, V]
	own *[numParts]bool // nil: nothing copied yet
}

func (p parts[K, V]) edit() *editor[K, V] { return &editor[K, V]{parts: p} }

// writable returns the part of k, copied if it was not yet.
func (e *editor[K, V]) writable(k K) map[K]V {
	if e.own == nil {
		e.own = new([numParts]bool)
		all := new([numParts]map[K]V)
		if e.part != nil {
			*all = *e.part
		}
		e.part = all
	}
	i := place(k)
	if !e.own[i] {
		e.own[i] = true
		if e.part[i] == nil {
			e.part[i] = map[K]V{}
		} else {
			e.part[i] = maps.Clone(e.part[i])
		}
	}
	return e.part[i]
}

func (e *editor[K, V]) set(k K, v V) {
	m := e.writable(k)
	if _, ok := m[k]; !ok {
		e.n++
	}
	m[k] = v
}

func (e *editor[K, V]) delete(k K) {
	if _, ok := e.get(k); ok {
		delete(e.writable(k), k)
		e.n--
	}
}
