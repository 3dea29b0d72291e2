package protocol_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/floelog/floe/protocol"
)

func TestBudget(t *testing.T) {
	t.Run("more than there is", func(t *testing.T) {
		b := protocol.NewBudget(100)
		for _, n := range []int64{101, -1} {
			if _, err := b.Acquire(t.Context(), n); err == nil {
				t.Errorf("%d bytes of 100 were granted", n)
			}
		}
	})
	t.Run("first come, first served", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := protocol.NewBudget(100)
			held, err := b.Acquire(t.Context(), 60)
			if err != nil {
				t.Fatal(err)
			}
			var order []string
			take := func(name string, n int64) {
				go func() {
					c, err := b.Acquire(t.Context(), n)
					if err != nil {
						t.Error(err)
					}
					order = append(order, name)
					c.Release()
				}()
				synctest.Wait()
			}
			take("large", 90)
			take("small", 10) // would fit, but waits its turn
			if len(order) != 0 || b.InUse() != 60 {
				t.Fatalf("%v served, %d in use", order, b.InUse())
			}
			held.Release()
			synctest.Wait()
			if len(order) != 2 || b.InUse() != 0 || b.Size() != 100 {
				t.Errorf("%v served, %d in use", order, b.InUse())
			}
		})
	})
	t.Run("growing never waits", func(t *testing.T) {
		b := protocol.NewBudget(100)
		held, err := b.Acquire(t.Context(), 60)
		if err != nil {
			t.Fatal(err)
		}
		if held.TryGrow(41) || held.TryGrow(-1) || !held.TryGrow(40) || held.Bytes() != 100 || b.InUse() != 100 {
			t.Errorf("%d bytes are held, %d in use", held.Bytes(), b.InUse())
		}
		held.Shrink(70)
		if held.Release(); b.InUse() != 0 || held.Bytes() != 0 {
			t.Errorf("%d bytes are in use", b.InUse())
		}
		if again, err := b.Acquire(t.Context(), 100); err != nil || again.TryGrow(1) {
			t.Errorf("the whole budget is not free again, or more: %v", err)
		}
		var none *protocol.Charge
		if !none.TryGrow(1) {
			t.Error("what is of no budget cannot grow")
		}
	})
	t.Run("giving up", func(t *testing.T) {
		b := protocol.NewBudget(100)
		held, err := b.Acquire(t.Context(), 100)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.Acquire(ctx, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		held.Release()
		held.Release()
		if again, err := b.Acquire(t.Context(), 100); err != nil || again.Bytes() != 100 || b.InUse() != 100 {
			t.Errorf("the whole budget is not free again: %v", err)
		}
		var none *protocol.Charge
		if none.Release(); none.Bytes() != 0 {
			t.Error("no charge holds something")
		}
	})
}

func TestChargesShrink(t *testing.T) {
	b := protocol.NewBudget(100)
	c, ok := b.TryAcquire(80)
	if _, again := b.TryAcquire(21); !ok || again {
		t.Fatal("80 of 100 bytes must be granted, 21 more not")
	}
	for _, step := range []struct{ to, left int64 }{{90, 80}, {30, 30}, {50, 30}, {-1, 0}, {10, 0}} {
		if c.Shrink(step.to); c.Bytes() != step.left || b.InUse() != step.left {
			t.Errorf("after Shrink(%d): %d bytes held, %d in use; want %d", step.to, c.Bytes(), b.InUse(), step.left)
		}
	}
	c.Release()
	if all, ok := b.TryAcquire(100); !ok || all.Bytes() != 100 {
		t.Error("the whole budget is not free again")
	}
	if _, ok := b.TryAcquire(-1); ok {
		t.Error("a negative amount was granted")
	}
}

func TestPendingIsResolvedOnce(t *testing.T) {
	p := protocol.NewPending()
	if !p.Resolve(answer("first")) {
		t.Error("the first answer was refused")
	}
	released := false
	if p.Resolve(protocol.Response{Release: func() { released = true }}) || !released {
		t.Error("the second answer was taken or kept")
	}
	<-p.Done()
	if got := string(p.Response().Buffers[0]); got != "first" {
		t.Errorf("answer %q", got)
	}
	if protocol.Answer(answer("x")).Resolve(answer("y")) {
		t.Error("an answered Pending took another answer")
	}
}
