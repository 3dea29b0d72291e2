package fsck_test

import (
	"testing"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/repair/fsck"
	"github.com/floelog/floe/tiering/objstore"
)

// Whatever byte of the objects that are named is another one, and whatever key of a shard is gone, a
// deep check finds it.
func TestEveryByteAndEveryKeyCounts(t *testing.T) {
	w := loaded(t)
	merged(t, w)
	archived(t, w)
	clean := func() bool {
		r, err := fsck.Run(t.Context(), fsck.Config{Name: "repaired", Meta: w.Meta, Objects: w.Objects, Deep: true})
		return err == nil && r.Clean
	}
	if !clean() {
		t.Fatal("the cluster is damaged before anything was done to it")
	}
	objects, err := w.Objects.List(t.Context(), "", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, o := range objects {
		b, err := w.Objects.GetRange(t.Context(), o.Key, 0, o.Size)
		if err != nil {
			t.Fatal(err)
		}
		put := func(b []byte) {
			if err := w.Objects.Delete(t.Context(), o.Key); err != nil {
				t.Fatal(err)
			}
			if err := w.Objects.Put(t.Context(), o.Key, objstore.Body{b}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Objects.Delete(t.Context(), o.Key); err != nil {
			t.Fatal(err)
		}
		if clean() { // nothing names it
			put(b)
			continue
		}
		named++
		put(b[:len(b)-1])
		if clean() {
			t.Errorf("%s lacks its last byte", o.Key)
		}
		for i := range b {
			w.Damage(o.Key, int64(i))
			if clean() {
				t.Errorf("%s: byte %d of %d is another one", o.Key, i, len(b))
			}
			put(b)
		}
	}
	if named < 5 {
		t.Errorf("%d objects are named", named)
	}
	page, err := w.Meta.Range(t.Context(), w.Keys.Shard(0), metadata.PrefixEnd(w.Keys.Shard(1)), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range page.KVs {
		if _, err := w.Meta.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Delete(kv.Key)}}); err != nil {
			t.Fatal(err)
		}
		if clean() {
			t.Errorf("%s is gone", kv.Key)
		}
		w.Put(kv.Key, kv.Value)
	}
}
