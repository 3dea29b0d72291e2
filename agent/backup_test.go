package agent_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/tiering/objstore"
)

// A topic that is created while the last agent drains is in the bucket's copy of the catalogue:
// if the metadata store is lost then, nothing else tells its name.
func TestTheLastCopyOfTheCatalogueHasWhatWasCreatedWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a := c.start("a", 1, c.objects)
		c.ready(a)
		topic := c.topic(a, "x")
		time.Sleep(10 * time.Second) // its copy is stored
		slow := func(ctx context.Context) error {
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		a.hooked.appends.Store(&slow)
		_, done := c.send(a, topic, 0)
		time.Sleep(100 * time.Millisecond)
		a.stop()
		time.Sleep(100 * time.Millisecond) // it drains, and waits for the append
		c.topic(a, "late")
		<-done
		<-a.ended
		objects, err := c.objects.List(t.Context(), catalogue.CopyPrefix, "", 100)
		if err != nil {
			t.Fatal(err)
		}
		newest := slices.MaxFunc(objects, func(a, b objstore.Info) int { return a.Modified.Compare(b.Modified) })
		data, err := c.objects.GetRange(t.Context(), newest.Key, 0, newest.Size)
		if err != nil {
			t.Fatal(err)
		}
		last, err := catalogue.DecodeCopy(data)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, topic := range last.Topics {
			names = append(names, topic.Name)
		}
		if !slices.Equal(names, []string{"late", "x"}) {
			t.Errorf("the last copy, of %d, has the topics %v", len(objects), names)
		}
		c.end(a)
	})
}
