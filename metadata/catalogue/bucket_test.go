package catalogue_test

import (
	"errors"
	"testing"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	objmemory "github.com/floelog/floe/tiering/objstore/memory"
)

func TestABucketOfAnotherClusterIsRefused(t *testing.T) {
	ctx, keys, objects := t.Context(), metadata.NewKeys("c"), objmemory.New()
	server := memory.New()
	defer server.Close()
	store := server.Client("a")
	first, err := catalogue.Admit(ctx, store, objects, keys, catalogue.Want{Shards: 2})
	if err != nil {
		t.Fatal(err)
	}
	b, err := (&catalogue.Copy{Cluster: first}).Encode()
	if err == nil {
		err = objects.Put(ctx, catalogue.CopyKey(tiering.SessionID{1}, 1), objstore.Body{b})
	}
	if err == nil { // one that cannot be read says nothing
		err = objects.Put(ctx, catalogue.CopyKey(tiering.SessionID{2}, 1), objstore.Body{b[:20]})
	}
	if err != nil {
		t.Fatal(err)
	}
	if again, err := catalogue.Admit(ctx, store, objects, keys, catalogue.Want{}); err != nil || again != first {
		t.Errorf("the cluster itself: %+v, %v", again, err)
	}
	lost := memory.New()
	defer lost.Close()
	if _, err := catalogue.Admit(ctx, lost.Client("a"), objects, keys, catalogue.Want{}); !errors.Is(err, catalogue.ErrOtherBucket) {
		t.Errorf("the metadata store was lost: %v", err)
	}
	kvs, _, err := lost.Client("b").Get(ctx, keys.Cluster())
	if err != nil || kvs[0].Exists() {
		t.Errorf("a new cluster was founded all the same: %v, %v", kvs, err)
	}
	if _, err := catalogue.EnsureCluster(ctx, lost.Client("a"), keys, catalogue.Want{}); err != nil {
		t.Fatal(err)
	}
	if _, err := catalogue.Admit(ctx, lost.Client("a"), objects, keys, catalogue.Want{}); !errors.Is(err, catalogue.ErrOtherBucket) {
		t.Errorf("another cluster's metadata store: %v", err)
	}
}
