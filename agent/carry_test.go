package agent

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/memory"
	"github.com/floelog/floe/tiering/segment"
)

func TestCarriedRecordsGoIntoOneSegmentOnly(t *testing.T) {
	var c carrier
	c.committed(1, 5, []byte("a"))
	c.committed(2, 9, []byte("b"))
	first := c.Take()
	if len(first) != 2 || first[0].Seq != 5 || first[1].Shard != 2 {
		t.Fatalf("took %v", first)
	}
	if again := c.Take(); len(again) != 0 {
		t.Errorf("took %v twice", again)
	}
	c.committed(1, 6, []byte("c"))
	c.GiveBack(first)
	if all := c.Take(); len(all) != 3 || all[0].Seq != 5 || all[2].Seq != 6 {
		t.Errorf("after a segment failed its records are %v, want them first", all)
	}
}

func TestCarriedRecordsAreBoundedAndTheOldestGo(t *testing.T) {
	var c carrier
	record := make([]byte, 1<<20)
	for seq := range uint64(20) {
		c.committed(1, seq, record)
	}
	got, bytes := c.Take(), 0
	for _, r := range got {
		bytes += segment.CarrySize(r)
	}
	if bytes > maxCarried || bytes < maxCarried/2 || got[len(got)-1].Seq != 19 {
		t.Errorf("%d records of %d bytes are kept, up to seq %d", len(got), bytes, got[len(got)-1].Seq)
	}
}

func TestRecordsThatWaitAreDue(t *testing.T) {
	var c carrier
	now := time.Now()
	if c.due(now.Add(time.Hour), 0) {
		t.Error("an idle agent has something to store")
	}
	c.committed(1, 5, []byte("a"))
	if c.due(now, time.Minute) || !c.due(now.Add(2*time.Minute), time.Minute) {
		t.Error("a record is due before its time, or not at its time")
	}
	c.hurry()
	if !c.due(now, time.Hour) {
		t.Error("a metadata store in trouble does not make what waits due")
	}
	taken := c.Take()
	if c.due(now.Add(time.Hour), 0) {
		t.Error("what was taken is due")
	}
	c.GiveBack(taken)
	if !c.due(time.Now().Add(time.Minute), time.Minute) {
		t.Error("what was given back is never due")
	}
}

type numbers struct{ next, done uint64 }

func (n *numbers) NextSegment() (tiering.SegmentID, func()) {
	n.next++
	return tiering.SegmentID{Session: tiering.SessionID{1}, Seq: n.next}, func() { n.done++ }
}

// refusing is a store whose next put fails.
type refusing struct {
	objstore.Store
	err error
}

func (r *refusing) Put(ctx context.Context, key string, body objstore.Body) error {
	if err := r.err; err != nil {
		r.err = nil
		return err
	}
	return r.Store.Put(ctx, key, body)
}

func TestCarriedRecordsAreStoredInASegmentOfTheirOwn(t *testing.T) {
	store := &refusing{Store: memory.New(), err: errors.New("down")}
	a := &Agent{parts: Parts{Objects: store}, clusterID: [16]byte{7}}
	n := &numbers{}
	ctx := context.Background()
	if err := a.storeCarried(ctx, n); err != nil || n.next != 0 {
		t.Fatalf("nothing was stored as %d segments, %v", n.next, err)
	}
	a.carrier.committed(3, 9, []byte("record"))
	if err := a.storeCarried(ctx, n); err == nil {
		t.Fatal("a store that is down took the records")
	}
	a.carrier.committed(3, 10, []byte("another"))
	if err := a.storeCarried(ctx, n); err != nil {
		t.Fatal(err)
	}
	if n.next != 2 || n.done != 2 {
		t.Errorf("%d segment numbers taken, %d given up; want 2 and 2", n.next, n.done)
	}
	id := tiering.SegmentID{Session: tiering.SessionID{1}, Seq: 2}
	info, err := store.Head(ctx, id.Key())
	if err != nil {
		t.Fatal(err)
	}
	read := func(at tiering.Position, size int64) ([]byte, error) {
		return store.GetRange(ctx, id.Key(), int64(at), size)
	}
	seg, err := segment.Open(info.Size, read)
	if err != nil {
		t.Fatal(err)
	}
	h, err := seg.ReadHeader(read)
	if err != nil || h.Cluster != a.clusterID || len(h.Carry) != 2 || h.Carry[0].Seq != 9 || !bytes.Equal(h.Carry[1].Bytes, []byte("another")) {
		t.Errorf("the segment carries %+v, %v", h, err)
	}
}
