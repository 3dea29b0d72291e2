package recovery

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/retry"
	"github.com/floelog/floe/tiering/objstore"
)

// topicsAtOnce is how many topics one transaction writes: with values of up to 64 KiB it stays
// below what a transaction holds.
const topicsAtOnce = 12

// Execute writes what was prepared: topics and snapshots into the bucket, and the keys. Until the
// last of them no agent starts on the cluster.
func (p *Plan) Execute(ctx context.Context) error {
	ctx = objstore.WithPurpose(ctx, objstore.Check)
	if err := p.nobodyLives(ctx); err != nil { // Prepare may have taken hours
		return err
	}
	topics, err := p.storeTopics(ctx)
	if err != nil {
		return err
	}
	if err := p.begin(ctx, topics); err != nil {
		return err
	}
	if err := p.writeShards(ctx); err != nil {
		return err
	}
	if err := p.writeTopics(ctx); err != nil {
		return err
	}
	if err := p.txn(ctx, "writing the producer ids", metadata.Txn{Then: []metadata.Op{
		metadata.Put(p.keys.ProducerIDs(), strconv.AppendInt(nil, p.producerID, 10)),
	}}); err != nil {
		return err
	}
	if err := p.txn(ctx, "writing the cluster's identity", metadata.Txn{
		If:   []metadata.Condition{metadata.Equals(p.keys.Cluster(), p.cluster.Recovering())},
		Then: []metadata.Op{metadata.Put(p.keys.Cluster(), p.cluster.Store())},
	}); err != nil {
		return err
	}
	p.Report.Executed = true
	return nil
}

// begin stops deletion, and agents from starting.
func (p *Plan) begin(ctx context.Context, topics string) error {
	frozen, err := json.Marshal(freeze{By: "floe recover", Since: p.now, Catalogue: topics})
	if err != nil {
		return fmt.Errorf("encoding %s: %w", p.keys.GCFreeze(), err)
	}
	unmoved := metadata.Absent(p.keys.Cluster())
	if p.clusterKey.Exists() {
		unmoved = metadata.Equals(p.keys.Cluster(), p.clusterKey.Value)
	}
	return p.txn(ctx, "stopping deletion", metadata.Txn{
		If: []metadata.Condition{unmoved},
		Then: []metadata.Op{
			metadata.Put(p.keys.Cluster(), p.cluster.Recovering()),
			metadata.Put(p.keys.GCFreeze(), frozen),
		},
	})
}

// writeShards stores each shard's snapshot and lets the metadata store point to it. The journal
// that may be there goes with the same transaction.
func (p *Plan) writeShards(ctx context.Context) error {
	return each(ctx, p, "writing shards", p.shards, func(ctx context.Context, s *rebuilt) error {
		data := s.state.EncodeSnapshot(nil)
		name := journal.SnapshotName{Shard: s.id, Seq: s.state.Seq, Session: p.session}
		if err := p.cfg.Objects.Put(ctx, name.Key(), objstore.Body{data}); err != nil {
			return fmt.Errorf("storing %s: %w", name.Key(), err)
		}
		head := journal.Head{Epoch: s.state.Epoch, Session: p.session, Seq: s.state.Seq}
		pointer := journal.Pointer{Key: name.Key(), Size: int64(len(data)), Seq: s.state.Seq, Previous: s.base.Key}
		unmoved := metadata.Absent(p.keys.Head(s.id))
		if s.head.Exists() {
			unmoved = metadata.Equals(p.keys.Head(s.id), s.head.Value)
		}
		return p.txn(ctx, fmt.Sprintf("writing shard %d", s.id), metadata.Txn{
			If: []metadata.Condition{metadata.Absent(p.keys.Leader(s.id)), unmoved},
			Then: []metadata.Op{
				metadata.Put(p.keys.Head(s.id), head.Encode()),
				metadata.Put(p.keys.Snapshot(s.id), pointer.Encode()),
				metadata.DeleteRange(p.keys.Journal(s.id), metadata.PrefixEnd(p.keys.Journal(s.id))),
			},
		})
	})
}

// writeTopics puts the topics, and deletes those that there are no more.
func (p *Plan) writeTopics(ctx context.Context) error {
	var ops []metadata.Op
	kept := map[string]bool{}
	for i := range p.topics {
		var change [16]byte
		if _, err := io.ReadFull(p.cfg.Random, change[:]); err != nil {
			return fmt.Errorf("drawing a change id: %w", err)
		}
		value, err := p.topics[i].Store(change)
		if err != nil {
			return err
		}
		key := p.keys.Topic(p.topics[i].Name)
		kept[key] = true
		ops = append(ops, metadata.Put(key, value))
	}
	for _, key := range p.Report.replaced {
		if !kept[key] {
			ops = append(ops, metadata.Delete(key))
		}
	}
	for len(ops) > 0 {
		n := min(len(ops), topicsAtOnce)
		if err := p.txn(ctx, "writing the topics", metadata.Txn{Then: ops[:n]}); err != nil {
			return err
		}
		ops = ops[n:]
	}
	return nil
}

// txn puts a transaction until its outcome is known. All of them may be put again: what they
// compare is what they have written, or was there before.
func (p *Plan) txn(ctx context.Context, what string, t metadata.Txn) error {
	for _, op := range t.Then {
		if !op.Delete {
			t.Else = append(t.Else, op.Key)
		}
	}
	res, _, err := retry.Txn(ctx, p.cfg.Meta, retry.NewPacer(p.cfg.Random), t)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if res.Succeeded {
		return nil
	}
	for i, kv := range res.Else { // an earlier attempt, whose answer was lost
		if string(kv.Value) != string(puts(t)[i]) {
			return fmt.Errorf("%s: %w at %s: stop whoever writes to it, and run the recovery again", what, ErrMoved, kv.Key)
		}
	}
	return nil
}

func puts(t metadata.Txn) (values [][]byte) {
	for _, op := range t.Then {
		if !op.Delete {
			values = append(values, op.Value)
		}
	}
	return values
}
