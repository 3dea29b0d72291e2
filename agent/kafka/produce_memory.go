package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/protocol"
	"github.com/floelog/floe/tiering"
)

// What a produce request costs beside the bytes of its frame.
const (
	// entryMemory is what one topic or partition of a request takes from its validation to
	// its answer: here, in the pipeline, and in the response.
	entryMemory = 512
	// entriesMemory bounds what all of them take, so that frames full of tiny batches do not
	// cost many times the produce budget. Smaller: the largest request that is allowed would
	// not fit, and agents that many producers send small batches to would make them wait.
	// Larger: that much more memory beyond the budget.
	entriesMemory = protocol.MaxProducePartitions * entryMemory
)

// entriesCharge waits until there is memory for the entries of a request. The frame's
// charge is held meanwhile, which cannot lock up: who has memory for its entries waits for
// nothing but its batches.
func (h *Handler) entriesCharge(ctx context.Context, req *protocol.ProduceRequest) (*protocol.Charge, error) {
	return h.entries.Acquire(ctx, min(int64(req.NumTopics+req.Partitions)*entryMemory, entriesMemory))
}

// errTwice refuses what a request sends to one partition twice. Kafka takes the last of
// them and drops the others without a word; but then a client whose request is answered
// believes records stored that are not.
var errTwice = refuse(kerr.InvalidRequest, "the request names this partition twice")

// refuseDoubles refuses all that is sent to a partition twice; batches has the partition
// of every part, or none where it does not exist.
func (p *production) refuseDoubles(batches []AppendBatch) {
	if len(p.parts) < 2 {
		return
	}
	first := make(map[tiering.TopicPartition]int, len(p.parts))
	found := false
	for i := range batches {
		tp := batches[i].Partition
		if tp.Topic == (tiering.TopicID{}) {
			continue
		}
		j, twice := first[tp]
		if !twice {
			first[tp] = i
			continue
		}
		found = true
		for _, k := range []int{i, j} {
			p.parts[k].err, p.parts[k].batch = errTwice, nil
		}
	}
	if found {
		p.keepAccepted()
	}
}

// keepAccepted lets go of the batches that were refused after they had been accepted.
func (p *production) keepAccepted() {
	p.accepted = p.accepted[:0]
	for i := range p.parts {
		if b := p.parts[i].batch; b != nil {
			p.accepted = append(p.accepted, b)
		}
	}
}

// releaseFrame lets go of a frame of which the accepted batches are less than half: they live
// on in flushes and caches, where nobody accounts for what else is in the frame.
func (p *production) releaseFrame(frame int) {
	held := 0
	for _, b := range p.accepted {
		held += len(b.Data)
	}
	if 2*held >= frame {
		return
	}
	own := make([]byte, 0, held)
	for _, b := range p.accepted {
		start := len(own)
		own = append(own, b.Data...)
		b.Data = own[start:len(own):len(own)]
	}
	p.charge.Shrink(int64(held))
}
