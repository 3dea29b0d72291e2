package metadatatest

import (
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/floelog/floe/metadata"
)

func testGetAtOneInstant(e *env) {
	a, b := e.key("a"), e.key("b")
	testOneInstant(e, a, b, func(s metadata.Store) ([]metadata.KV, error) {
		kvs, _, err := s.Get(e.ctx, b, a)
		return kvs, err
	})
}

// testGetManyKeys reads more keys than a transaction may.
func testGetManyKeys(e *env) {
	k := func(i int) string { return e.key("%04d", i) }
	n := 2*metadata.MaxTxnOps + 7
	for i := 0; i < n; i += 2 {
		e.put(k(i), strconv.Itoa(i))
	}
	keys := repeat(n, k)
	slices.Reverse(keys)
	for i, kv := range e.get(keys...) {
		want := "-"
		if j := n - 1 - i; j%2 == 0 {
			want = strconv.Itoa(j)
		}
		if kv.Key != keys[i] || show(kv) != want {
			e.Errorf("key %d is %s = %s, want %s = %s", i, kv.Key, show(kv), keys[i], want)
		}
	}
}

// testGetLinearizable checks that nobody reads less than what was acknowledged to anybody
// before the read began.
func testGetLinearizable(e *env) {
	const writes = 60
	key := e.key("a")
	e.put(key, "0")
	var acknowledged atomic.Int64
	e.each(4, func(i int, s metadata.Store) error {
		if i == 0 {
			defer acknowledged.Store(writes)
			for n := range int64(writes) {
				if _, err := s.Txn(e.ctx, metadata.Txn{Then: []metadata.Op{metadata.Put(key, []byte(strconv.FormatInt(n, 10)))}}); err != nil {
					return err
				}
				acknowledged.Store(n)
			}
			return nil
		}
		for {
			low := acknowledged.Load()
			if low == writes {
				return nil
			}
			kvs, revision, err := s.Get(e.ctx, key)
			if err != nil {
				return err
			}
			page, err := s.Range(e.ctx, key, metadata.PrefixEnd(key), 0, 1)
			if err != nil {
				return err
			}
			for _, kv := range append(kvs, page.KVs...) {
				if n, err := strconv.ParseInt(string(kv.Value), 10, 64); err != nil || n < low {
					return fmt.Errorf("read %q (%v) after %d was acknowledged", kv.Value, err, low)
				}
			}
			if revision < kvs[0].Revision || page.Revision < page.KVs[0].Revision {
				return fmt.Errorf("store at revision %d has a key of revision %d", revision, kvs[0].Revision)
			}
		}
	})
}

func testRangeBounds(e *env) {
	for _, s := range []string{"d", "b", "a", "c", "b/1", "b/2"} {
		e.put(e.key("%s", s), s)
	}
	for _, c := range []struct {
		from, end string
		limit     int
		want      []string
		more      bool
	}{
		{"a", "z", 0, []string{"a", "b", "b/1", "b/2", "c", "d"}, false},
		{"b", "d", 0, []string{"b", "b/1", "b/2", "c"}, false},
		{"b/", "b0", 0, []string{"b/1", "b/2"}, false},
		{"aa", "b", 0, nil, false},
		{"a", "a", 0, nil, false},
		{"c", "a", 0, nil, false},
		{"a", "z", 2, []string{"a", "b"}, true},
		{"a", "z", 5, []string{"a", "b", "b/1", "b/2", "c"}, true},
		{"a", "z", 6, []string{"a", "b", "b/1", "b/2", "c", "d"}, false},
		{"a", "z", 7, []string{"a", "b", "b/1", "b/2", "c", "d"}, false},
		{"x", "z", 1, nil, false},
	} {
		page, err := e.Range(e.ctx, e.key("%s", c.from), e.key("%s", c.end), 0, c.limit)
		if err != nil {
			e.Fatal(err)
		}
		var got []string
		for _, kv := range page.KVs {
			got = append(got, string(kv.Value))
			if kv.Key != e.key("%s", kv.Value) || !kv.Exists() {
				e.Errorf("key %q (revision %d) has value %q", kv.Key, kv.Revision, kv.Value)
			}
		}
		if !slices.Equal(got, c.want) || page.More != c.more || page.Revision == 0 {
			e.Errorf("[%s, %s) limit %d: %q, more %v, revision %d; want %q, more %v", c.from, c.end, c.limit, got, page.More, page.Revision, c.want, c.more)
		}
	}
	page, err := e.Range(e.ctx, e.key("c"), metadata.RangeToEnd, 0, 2)
	if err != nil || len(page.KVs) != 2 || page.KVs[1].Key != e.key("d") {
		e.Errorf("range to the end: %v, %v", page.KVs, err)
	}
	_, err = e.Range(e.ctx, e.key("c"), "", 0, 2)
	e.wantErr("range without an end", err, metadata.ErrInvalid)
	_, _, err = e.Get(e.ctx, "")
	e.wantErr("get of an empty key", err, metadata.ErrInvalid)
	_, _, err = e.Get(e.ctx, e.key("c"), "")
	e.wantErr("get of an empty key among others", err, metadata.ErrInvalid)
	page, err = e.Range(e.ctx, "", metadata.RangeToEnd, 0, 1)
	if err != nil || len(page.KVs) != 1 || page.KVs[0].Key > e.key("a") {
		e.Errorf("range of all keys: %v, %v", page.KVs, err)
	}
}

// testRangePinned pages through a range that changes meanwhile.
func testRangePinned(e *env) {
	k := func(i int) string { return e.key("%03d", i) }
	end := metadata.PrefixEnd(e.prefix)
	const n = 10
	for i := range n {
		e.put(k(i), "old")
	}
	from, revision, seen := e.prefix, int64(0), 0
	for {
		page, err := e.Range(e.ctx, from, end, revision, 3)
		if err != nil {
			e.Fatal(err)
		}
		if revision != 0 && page.Revision != revision {
			e.Errorf("page pinned to revision %d is of %d", revision, page.Revision)
		}
		revision = page.Revision
		for _, kv := range page.KVs {
			if kv.Key != k(seen) || string(kv.Value) != "old" {
				e.Errorf("key %d is %s = %s, want %s = old", seen, kv.Key, kv.Value, k(seen))
			}
			seen++
		}
		if !page.More {
			break
		}
		from = page.KVs[len(page.KVs)-1].Key + "\x00"
		e.put(k(seen), "new")
		e.put(k(n+seen), "new")
		e.apply(metadata.Delete(k(seen + 1)))
	}
	if seen != n {
		e.Errorf("pages had %d keys, want %d", seen, n)
	}
	page, err := e.Range(e.ctx, e.prefix, end, 0, 0)
	if err != nil {
		e.Fatal(err)
	}
	for _, kv := range page.KVs {
		if string(kv.Value) == "new" {
			return
		}
	}
	e.Error("newest range has nothing new")
}

func testRangeBadRevisions(e *env) {
	key, end := e.key("a"), metadata.PrefixEnd(e.prefix)
	first := e.put(key, "1")
	second := e.put(key, "2")
	e.put(key, "3")
	if err := e.Compact(e.ctx, second); err != nil {
		e.Fatal(err)
	}
	_, err := e.Range(e.ctx, key, end, first, 0)
	e.wantErr("range before the compaction", err, metadata.ErrCompacted)
	_, err = e.Range(e.ctx, key, end, e.revision()+1000, 0)
	e.wantErr("range in the future", err, metadata.ErrInvalid)
	page, err := e.Range(e.ctx, key, end, second, 0)
	if err != nil || len(page.KVs) != 1 || string(page.KVs[0].Value) != "2" {
		e.Errorf("range at the compaction: %v, %v", page.KVs, err)
	}
}

func testCompact(e *env) {
	a, b := e.key("a"), e.key("b")
	e.put(a, "1")
	e.put(b, "1")
	e.apply(metadata.Delete(b))
	revision := e.put(a, "2")
	for range 2 {
		if err := e.Compact(e.ctx, revision); err != nil {
			e.Errorf("compact: %v", err)
		}
	}
	if err := e.Compact(e.ctx, revision-1); err != nil {
		e.Errorf("compact to an older revision: %v", err)
	}
	e.want(a, "2", b, "-")
	e.wantErr("compact in the future", e.Compact(e.ctx, e.revision()+1000), metadata.ErrInvalid)
	e.put(b, "3")
	e.want(a, "2", b, "3")
}
