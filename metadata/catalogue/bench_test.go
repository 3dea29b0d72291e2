package catalogue_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/tiering"
)

func loaded(b *testing.B, n int) (*catalogue.Catalogue, []string, []tiering.TopicID) {
	b.Helper()
	srv := memory.New()
	b.Cleanup(srv.Close)
	c := newCatalogue(srv.Client("agent"), 1)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	b.Cleanup(func() { cancel(); <-done })
	var topics []catalogue.NewTopic
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("orders.region-%05d", i))
		topics = append(topics, catalogue.NewTopic{Name: names[i], Partitions: 1})
	}
	var ids []tiering.TopicID
	rev := int64(1)
	for _, got := range c.Create(ctx, topics) {
		if got.Err != nil {
			b.Fatal(got.Err)
		}
		ids = append(ids, got.Topic.ID)
		rev = max(rev, got.Revision)
	}
	if err := c.WaitRevision(ctx, rev); err != nil {
		b.Fatal(err)
	}
	return c, names, ids
}

func BenchmarkTopic(b *testing.B) {
	c, names, _ := loaded(b, 10_000)
	for i := 0; b.Loop(); i++ {
		if _, ok := c.Topic(names[i%len(names)]); !ok {
			b.Fatal("not found")
		}
	}
}

func BenchmarkTopicByID(b *testing.B) {
	c, _, ids := loaded(b, 10_000)
	for i := 0; b.Loop(); i++ {
		if _, ok := c.TopicByID(ids[i%len(ids)]); !ok {
			b.Fatal("not found")
		}
	}
}

// BenchmarkChange is one change until the copy of 10,000 topics shows it.
func BenchmarkChange(b *testing.B) {
	c, names, _ := loaded(b, 10_000)
	for i := 0; b.Loop(); i++ {
		got, err := c.AlterConfigs(b.Context(), names[i%len(names)], func(map[string]string) (map[string]string, error) {
			return map[string]string{"k": fmt.Sprint(i)}, nil
		})
		if err != nil {
			b.Fatal(err)
		}
		if err := c.WaitRevision(b.Context(), got.Revision); err != nil {
			b.Fatal(err)
		}
	}
}
