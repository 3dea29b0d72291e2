// Package produce takes validated record batches to the journal: a batch joins the open
// flush, the flush is uploaded as one segment, and each shard's part of it is sequenced by
// the shard's leader; small parts skip the upload and travel inside the journal record.
//
//	Append -> open flush -> upload (several at a time) -> lane of each shard -> sequencer
//	      \-> inline ------------------------------------^   (in order of arrival)
//
// Invariants:
//  1. A batch is answered only by the commit that holds it, or by its definite failure;
//     no shared "flushed" state exists.
//  2. Batches of one partition are sequenced in the order in which Append took them: a lane
//     is a queue, and its head waits for its upload.
//  3. A lane has one submission under way and repeats it until its outcome is known
//     (shard.Submission).
//  4. A segment's number is used for one upload only, whatever becomes of it.
//
// A Pipeline belongs to one session of the agent. All exported methods may be called
// concurrently. The bytes of batches must not change after Append.
package produce

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

// Batch is one record batch on its way. The producer of it sets the upper half, the
// pipeline the lower, before the done function that was given to Append is called.
type Batch struct {
	Partition tiering.TopicPartition
	Shard     tiering.ShardID
	Data      []byte // one validated batch
	Meta      shard.Batch

	Base tiering.Offset // where Code is 0
	Code int16          // Kafka's error code

	group *group
}

// group is what one call of Append brought: its done is called when the last batch has
// its result.
type group struct {
	mu   sync.Mutex
	left int
	done func()
}

func (g *group) resolve(n int) {
	g.mu.Lock()
	g.left -= n
	last := g.left == 0
	g.mu.Unlock()
	if last {
		g.done()
	}
}

// Sequencer commits submissions: on this agent or, by RPC, on the shard's leader. It
// returns only with a definite outcome: the answers, or an error that says that the
// submission is not committed and never will be by a repetition of this call.
type Sequencer interface {
	Sequence(ctx context.Context, id tiering.ShardID, s *shard.Submission) ([]shard.Outcome, error)
}

// Tail is offered each uploaded segment, to serve recent reads from memory. held is what
// the body keeps from being freed.
type Tail interface {
	Offer(id tiering.SegmentID, body objstore.Body, held int64)
}

// Carrier keeps journal records until a segment carries them.
type Carrier interface {
	Take() []segment.JournalRecord
	GiveBack(records []segment.JournalRecord) // of a segment that was not stored
}

// Observer hears what happened, for metrics. Its methods must return quickly.
type Observer interface {
	Flushed(bytes int64, batches int, age time.Duration, reason string)
	Uploaded(bytes int64, took time.Duration, err error)
	Inlined(bytes int, batches int)
	Sequenced(batches int, took time.Duration)
	Refused(batches int)
}

// Config bounds a Pipeline.
type Config struct {
	FlushBytes int64         // a flush closes at this size
	FlushAge   time.Duration // a flush closes at this age at the latest
	FlushIdle  bool          // a flush closes at once while no upload is under way
	Uploads    int           // uploads under way at a time
	UploadTime time.Duration // an upload that takes longer, with all its retries, has failed
	InlineMax  int           // bytes of a request's part for one shard that may be committed inline; 0: none
	InlineRate float64       // bytes per second to the metadata store, over all shards
	ClusterID  [16]byte
}

// Parts are the components that a Pipeline works with.
type Parts struct {
	Objects  objstore.Store
	Sequence Sequencer
	Tail     Tail
	Session  tiering.SessionID
	Shards   uint32
	Now      func() time.Time
	Log      *slog.Logger
	Observe  Observer
	// Carrier has the journal records that this agent committed since it was asked last, to
	// travel in the next segment's header; nil: none.
	Carrier Carrier
	// InlineRoom says whether a shard may take more inline bytes before its roll-up; nil:
	// always. It is called under the pipeline's lock.
	InlineRoom func(id tiering.ShardID) bool
	// StoreDown says whether nothing can be stored at the moment; nil: never. Small batches then pass
	// by flushes of other partitions that wait for it. Shed says whether batches that would have to be
	// kept are to be refused; nil: never. Both are called under the pipeline's lock.
	StoreDown, Shed func() bool
}

const (
	// maxFlushBatches closes a flush of very small batches, so that a shard's submission
	// fits into one journal record (about 40 bytes of it for each batch).
	maxFlushBatches = 8192
	// maxInlineSubmission bounds the inline bytes of one submission, so that several fit
	// into a record and no record is slow to commit.
	maxInlineSubmission = 256 << 10
	// quietTime is how long nothing may have arrived before a flush of at least quietBytes
	// closes although uploads are under way: its producers all wait for answers, so waiting
	// longer gathers nothing. A flush of quietBytes is worth its request.
	quietTime  = 4 * time.Millisecond
	quietBytes = 512 << 10
)

// Pipeline is the produce path of one session.
type Pipeline struct {
	cfg   Config
	parts Parts
	lanes []*lane
	slots chan struct{} // uploads under way

	ctx    context.Context // of everything the pipeline does; it ends when Close gives up waiting
	cancel context.CancelFunc
	work   sync.WaitGroup // uploads and submissions
	inline *bucket

	mu        sync.Mutex // guards the following and all lanes' queues
	open      *flush
	nextSeg   uint64
	uploading int
	undone    map[uint64]struct{} // segments whose outcome is not known everywhere yet
	closed    bool
	lastAdd   time.Time
	timer     *time.Timer
	waiting   int           // batches without a result
	drained   chan struct{} // closed when closed and waiting is 0
}

// New returns a running Pipeline; Close ends it.
func New(cfg Config, parts Parts) *Pipeline {
	// The pipeline's goroutines outlive the calls that start them, so they run under a
	// context of its own, which Close ends.
	ctx, cancel := context.WithCancel(context.Background())
	p := &Pipeline{
		cfg: cfg, parts: parts,
		lanes:   make([]*lane, parts.Shards),
		slots:   make(chan struct{}, max(1, cfg.Uploads)),
		ctx:     ctx,
		cancel:  cancel,
		inline:  newBucket(cfg.InlineRate, parts.Now()),
		undone:  map[uint64]struct{}{},
		nextSeg: 1,
		drained: make(chan struct{}),
	}
	for i := range p.lanes {
		p.lanes[i] = &lane{p: p, id: tiering.ShardID(i)}
	}
	return p
}

// Append takes batches over, in this order. It does not block: the caller bounds the
// bytes that are under way. done is called once, from another goroutine, when every
// batch has its result.
func (p *Pipeline) Append(batches []*Batch, done func()) {
	if len(batches) == 0 {
		done()
		return
	}
	g := &group{left: len(batches), done: done}
	for _, b := range batches {
		b.group = g
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		go failAll(batches, kerr.NotLeaderForPartition.Code)
		return
	}
	p.waiting += len(batches)
	p.lastAdd = p.parts.Now()
	rest := p.takeInlineLocked(batches)
	switch {
	case len(rest) == 0:
	case p.parts.Shed != nil && p.parts.Shed():
		p.refuseLocked(rest)
	default:
		p.addLocked(rest)
	}
	p.mu.Unlock()
}

// refuseLocked answers batches for which there is no memory while nothing can be stored. Nothing
// of them is committed, and clients try again without asking for new metadata.
func (p *Pipeline) refuseLocked(batches []*Batch) {
	p.parts.Observe.Refused(len(batches))
	p.work.Go(func() {
		failAll(batches, kerr.NotEnoughReplicas.Code)
		p.resolved(len(batches))
	})
}

// resolved counts batches that have their results.
func (p *Pipeline) resolved(n int) {
	p.mu.Lock()
	p.waiting -= n
	if p.closed && p.waiting == 0 {
		close(p.drained)
	}
	p.mu.Unlock()
}

// LowWatermark returns the smallest segment number that may still be submitted: all
// smaller ones of this session are either named by a shard or never will be.
func (p *Pipeline) LowWatermark() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	low := p.nextSeg
	for seq := range p.undone {
		low = min(low, seq)
	}
	return low
}

// NextSegment reserves a segment number for an upload outside the produce path. done
// must be called when no submission or record of it can follow any more.
func (p *Pipeline) NextSegment() (id tiering.SegmentID, done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	seq := p.takeSegmentLocked()
	return tiering.SegmentID{Session: p.parts.Session, Seq: seq}, func() {
		p.mu.Lock()
		delete(p.undone, seq)
		p.mu.Unlock()
	}
}

func (p *Pipeline) takeSegmentLocked() uint64 {
	seq := p.nextSeg
	p.nextSeg++
	p.undone[seq] = struct{}{}
	return seq
}

// Close refuses new batches, closes the open flush and waits until every batch has its
// result or ctx ends; then it abandons the rest, whose outcome stays unknown to their
// producers, and waits for the pipeline's goroutines.
func (p *Pipeline) Close(ctx context.Context) error {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		if p.open != nil {
			p.closeFlushLocked("close")
		}
		if p.waiting == 0 {
			close(p.drained)
		}
	}
	if p.timer != nil {
		p.timer.Stop()
	}
	p.mu.Unlock()
	var err error
	select {
	case <-p.drained:
	case <-ctx.Done():
		err = ctx.Err()
	}
	p.cancel()
	p.work.Wait()
	return err
}

// failAll answers batches that cannot be committed.
func failAll(batches []*Batch, code int16) {
	for _, b := range batches {
		b.Code, b.Base = code, -1
		b.group.resolve(1)
	}
}
