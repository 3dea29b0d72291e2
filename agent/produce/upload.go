package produce

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

// upload stores a flush and lets the lanes go on.
func (p *Pipeline) upload(f *flush) {
	built, err := p.store(f)
	if err != nil {
		p.parts.Log.Error("a flush failed; its producers are told to try again", "segment", f.seg, "bytes", f.bytes, "batches", len(f.batches), "err", err)
	} else {
		p.place(f, built)
	}
	p.mu.Lock()
	p.uploading--
	for id, it := range f.parts {
		it.ready, it.failed = true, err != nil
		p.lanes[id].kickLocked()
	}
	p.considerLocked()
	p.mu.Unlock()
}

// chunks gathers the batches of each partition, in order of arrival.
func (f *flush) chunks() []segment.Chunk {
	index := map[tiering.TopicPartition]int{}
	var chunks []segment.Chunk
	for _, b := range f.batches {
		i, ok := index[b.Partition]
		if !ok {
			i = len(chunks)
			index[b.Partition] = i
			chunks = append(chunks, segment.Chunk{Shard: b.Shard, TopicPartition: b.Partition})
		}
		chunks[i].Slices = append(chunks[i].Slices, b.Data)
	}
	return chunks
}

// store builds the flush's segment and puts it.
func (p *Pipeline) store(f *flush) (*segment.Built, error) {
	h := segment.Header{ID: f.seg, CreatedAt: f.opened.UnixMilli(), Cluster: p.cfg.ClusterID}
	if p.parts.Carrier != nil {
		h.Carry = p.parts.Carrier.Take()
	}
	built, err := segment.Build(h, f.chunks())
	if err != nil {
		err = fmt.Errorf("building segment %s: %w", f.seg, err)
	} else {
		err = p.put(f, built)
	}
	if err != nil && p.parts.Carrier != nil {
		p.parts.Carrier.GiveBack(h.Carry)
	}
	return built, err
}

func (p *Pipeline) put(f *flush, built *segment.Built) error {
	ctx, cancel := context.WithTimeout(p.ctx, p.cfg.UploadTime)
	defer cancel()
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return fmt.Errorf("waiting for an upload slot: %w", ctx.Err())
	}
	start := p.parts.Now()
	err := p.parts.Objects.Put(objstore.WithPurpose(ctx, objstore.Produce), f.seg.Key(), built.Body)
	p.parts.Observe.Uploaded(built.Size, p.parts.Now().Sub(start), err)
	return err
}

// place offers the segment to the tail cache and notes where each batch lies.
func (p *Pipeline) place(f *flush, built *segment.Built) {
	next := make(map[tiering.TopicPartition]tiering.Position, len(built.Entries))
	for _, e := range built.Entries {
		next[e.TopicPartition] = e.Position
	}
	p.parts.Tail.Offer(f.seg, built.Body, built.Size)
	for _, it := range f.parts {
		it.positions = make([]tiering.Position, len(it.batches))
		for i, b := range it.batches {
			it.positions[i] = next[b.Partition]
			next[b.Partition] += tiering.Position(len(b.Data))
		}
	}
}

// errStorage is what a producer hears of a flush that could not be stored: retriable,
// and nothing of it was committed.
var errStorage = kerr.KafkaStorageError.Code
