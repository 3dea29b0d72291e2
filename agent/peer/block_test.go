package peer

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/objstore"
)

// cached are Blocks that answer as they are told and keep what they were asked.
type cached struct {
	mu      sync.Mutex
	asked   cache.Range
	purpose objstore.Purpose
	out     [][]byte
	err     error
	hang    bool
}

func (c *cached) BlockHere(ctx context.Context, r cache.Range) ([][]byte, error) {
	c.mu.Lock()
	c.asked, c.purpose = r, objstore.PurposeOf(ctx)
	out, err, hang := c.out, c.err, c.hang
	c.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return out, err
}

var someRange = cache.Range{Segment: tiering.SegmentID{Session: tiering.SessionID{3}, Seq: 9}, Position: 1 << 40, Length: 7}

func TestBlock(t *testing.T) {
	b := &cached{out: [][]byte{[]byte("abc"), nil, []byte("defg")}}
	addr, c := serve(t, &asked{blocks: b})
	for _, cold := range []bool{false, true} {
		r := someRange
		r.Cold = cold
		got, err := c.Block(objstore.WithPurpose(t.Context(), objstore.Merge), addr, r)
		if err != nil || string(got) != "abcdefg" {
			t.Errorf("got %q, %v", got, err)
		}
		if b.asked.String() != r.String() || b.asked.Cold != cold || b.purpose != objstore.Merge {
			t.Errorf("asked for %+v, for %s", b.asked, b.purpose)
		}
	}
	large := someRange
	large.Length = MaxBlock
	b.out = [][]byte{bytes.Repeat([]byte{5}, MaxBlock)}
	if got, err := c.Block(t.Context(), addr, large); err != nil || !bytes.Equal(got, b.out[0]) {
		t.Errorf("the largest block: %d bytes, %v", len(got), err)
	}
	large.Length++
	if _, err := c.Block(t.Context(), addr, large); !errors.Is(err, metadata.ErrInvalid) {
		t.Errorf("larger than the largest: %v", err)
	}
	// Blocks have a connection of their own.
	if _, err := c.Ask(t.Context(), addr, Question{}); err != nil || len(c.conns) != 2 {
		t.Errorf("%d connections, %v", len(c.conns), err)
	}
	if c.Keep(nil); len(c.conns) != 0 {
		t.Errorf("%d connections are left", len(c.conns))
	}
}

func TestBlocksThatAreNotToBeHad(t *testing.T) {
	b := &cached{}
	addr, c := serve(t, &asked{blocks: b})
	b.err = cache.ErrBusy
	if _, err := c.Block(t.Context(), addr, someRange); !errors.Is(err, cache.ErrBusy) {
		t.Errorf("a busy agent: %v", err)
	}
	b.err = objstore.ErrNotFound
	if _, err := c.Block(t.Context(), addr, someRange); !errors.Is(err, ErrNotServed) {
		t.Errorf("an agent in trouble: %v", err)
	}
	b.err, b.out = nil, [][]byte{[]byte("short")}
	if _, err := c.Block(t.Context(), addr, someRange); !errors.Is(err, objstore.ErrCorrupt) {
		t.Errorf("too few bytes: %v", err)
	}
	b.hang = true
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Block(ctx, addr, someRange); err == nil {
		t.Error("an agent that does not answer did")
	}
	old, oldClient := serve(t, &asked{})
	if _, err := oldClient.Block(t.Context(), old, someRange); !errors.Is(err, ErrNoBlocks) {
		t.Errorf("an agent that does not know the method: %v", err)
	}
	if _, err := oldClient.Block(t.Context(), "127.0.0.1:1", someRange); err == nil || errors.Is(err, ErrNotServed) {
		t.Error("nobody answered")
	}
}

// Answers count until they are sent: as many as are allowed wait for a client that has not
// opened its window, and the next is refused; when they end, there is room again.
func TestBlocksUnderWayAreBounded(t *testing.T) {
	b := &cached{hang: true}
	addr, c := serve(t, &asked{blocks: b})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var busy atomic.Int64
	for range maxBlockCalls + 10 {
		wg.Go(func() {
			if _, err := c.Block(ctx, addr, someRange); errors.Is(err, cache.ErrBusy) {
				if busy.Add(1) == 10 {
					cancel() // the others hang
				}
			}
		})
	}
	wg.Wait()
	cancel()
	if n := busy.Load(); n != 10 {
		t.Errorf("%d of %d were refused, want 10", n, maxBlockCalls+10)
	}
	b.mu.Lock()
	b.hang, b.out = false, [][]byte{[]byte("abcdefg")}
	b.mu.Unlock()
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, err := c.Block(t.Context(), addr, someRange); err == nil {
			return
		} else if !errors.Is(err, cache.ErrBusy) || time.Now().After(deadline) {
			t.Fatalf("after all calls ended: %v", err)
		}
	}
}

func FuzzDecodeBlock(f *testing.F) {
	f.Add(encodeBlock(someRange, objstore.Fetch))
	f.Add(make([]byte, blockRequest))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, purpose, err := decodeBlock(b)
		if err != nil {
			if !errors.Is(err, metadata.ErrInvalid) {
				t.Fatalf("%v is not ErrInvalid", err)
			}
			return
		}
		again, p, err := decodeBlock(encodeBlock(r, purpose))
		if err != nil || p != purpose || again.String() != r.String() || again.Cold != r.Cold || r.Length < 1 || r.Length > MaxBlock || r.Position < 0 {
			t.Fatalf("%+v became %+v, %v", r, again, err)
		}
	})
}
