package agent

import (
	"testing"

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
