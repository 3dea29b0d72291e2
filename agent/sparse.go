package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/floelog/floe/agent/peer"
	"github.com/floelog/floe/compaction"
	"github.com/floelog/floe/compaction/sweep"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/tiering"
)

// sparseKind is the question by which the agent that sweeps tells the others which segments are
// mostly dead, the worst first:
//
//	(session 16 | seq 8 BE) ...      answer: nothing
//
// Such a segment stays what it is, so that it does no harm if a list comes late, or is lost: the
// next one says the same.
const sparseKind = "sparse"

// sparseID is how many bytes one segment takes.
const sparseID = len(tiering.SessionID{}) + 8

// sparseAges is how many times longer than merging waits a segment is left to it before it can be
// called sparse. Less: what merging is about to move anyway is written once more. More: dead
// bytes are kept for longer.
const sparseAges = 3

// answerSparse hears which segments are mostly dead.
func answerSparse(_ context.Context, q *questions, _ tiering.ShardID, body []byte) ([]byte, error) {
	if len(body)%sparseID != 0 || len(body) > sweep.MaxSparse*sparseID {
		return nil, fmt.Errorf("%w: a list of sparse segments of %d bytes", metadata.ErrInvalid, len(body))
	}
	ids := make([]tiering.SegmentID, 0, len(body)/sparseID)
	for ; len(body) > 0; body = body[sparseID:] {
		var id tiering.SegmentID
		id.Seq = binary.BigEndian.Uint64(body[copy(id.Session[:], body):])
		ids = append(ids, id)
	}
	q.sparse.Store(compaction.NewSparse(ids))
	return nil, nil
}

// sparseNews is what the agent that sweeps has to tell the others. It belongs to one goroutine.
type sparseNews struct {
	list []byte
	told map[tiering.SessionID]bool // lives of agents that have heard of it
}

// learn takes what a sweep found.
func (n *sparseNews) learn(found []sweep.Sparse) {
	list := make([]byte, 0, len(found)*sparseID)
	for _, s := range found {
		list = append(list, s.ID.Session[:]...)
		list = binary.BigEndian.AppendUint64(list, s.ID.Seq)
	}
	if !bytes.Equal(list, n.list) {
		n.list, n.told = list, map[tiering.SessionID]bool{}
	}
}

// spread tells every agent that has not heard of it yet. What fails is tried again next time.
func (n *sparseNews) spread(ctx context.Context, a *Agent) {
	if n.told == nil {
		return // nothing was ever sparse
	}
	for _, other := range a.agents.View().All() {
		if n.told[other.Session] {
			continue
		}
		if err := n.tell(ctx, a, int32(other.NodeID), other.RPCAddress); err != nil {
			a.parts.Log.Debug("telling an agent of sparse segments", "agent", other.NodeID, "err", err)
			continue
		}
		n.told[other.Session] = true
	}
}

func (n *sparseNews) tell(ctx context.Context, a *Agent, node int32, addr string) (err error) {
	if node == a.node.Load() {
		_, err = answerSparse(ctx, a.questions, 0, n.list)
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	_, err = a.parts.Peers.Ask(ctx, addr, peer.Question{Kind: sparseKind, Body: n.list})
	return err
}
