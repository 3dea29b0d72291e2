package agent

import (
	"context"
	"fmt"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// marker ends transactions in partitions that this agent leads.
type marker struct {
	set    *journal.Set
	topics *catalogue.Catalogue
}

// mark commits markers in one record and returns a code for each. Markers of topics that are
// proved to be deleted are answered UNKNOWN_TOPIC_OR_PARTITION.
func (m *marker) mark(ctx context.Context, id tiering.ShardID, markers []shard.Marker) ([]int16, error) {
	l := m.set.Leader(id)
	if l == nil {
		return nil, fmt.Errorf("shard %d is not led here: %w", id, metadata.ErrFenced)
	}
	gone, err := m.deleted(ctx, markers)
	if err != nil {
		return nil, err
	}
	type result struct {
		codes []int16
		err   error
	}
	done := make(chan result, 1)
	var codes []int16
	l.Propose(&journal.Proposal{
		Size: 256 * len(markers),
		Draft: func(d *shard.Draft) error {
			for _, topic := range gone {
				d.Refuse(topic)
			}
			codes = make([]int16, len(markers))
			for i := range markers {
				codes[i] = int16(d.Mark(markers[i]).Code)
			}
			return nil
		},
		Done: func(_ uint64, err error) { done <- result{codes, err} },
	})
	select {
	case r := <-done:
		return r.codes, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the leader's answer: %w", ctx.Err())
	}
}

func (m *marker) deleted(ctx context.Context, markers []shard.Marker) ([]tiering.TopicID, error) {
	var missing []tiering.TopicID
	view := m.topics.View()
	for i := range markers {
		if _, ok := view.TopicByID(markers[i].Partition.Topic); !ok {
			missing = append(missing, markers[i].Partition.Topic)
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	gone, err := m.topics.Gone(ctx, missing)
	if err != nil {
		return nil, fmt.Errorf("looking for the topics of markers: %w", err)
	}
	return gone, nil
}
