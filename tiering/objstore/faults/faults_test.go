package faults_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/faults"
	"github.com/floelog/floe/tiering/objstore/memory"
	"github.com/floelog/floe/tiering/objstore/objstoretest"
)

func rng() *rand.Rand { return rand.New(rand.NewPCG(7, 11)) }

func TestConformanceWithoutFaults(t *testing.T) {
	objstoretest.Run(t, func(t *testing.T) objstore.Store {
		s := faults.New(memory.New(), rng(), faults.Plan{})
		t.Cleanup(func() {
			s.Close()
			for fault, n := range s.Fired() {
				if n != 0 {
					t.Errorf("%s fired %d times without a plan", fault, n)
				}
			}
		})
		return s
	})
}

var body = objstoretest.Body(1, 1000, 77)

// always returns a store with the faults of every request, over a store with object "k".
func always(t *testing.T, r faults.Rates) (*faults.Store, *memory.Store) {
	t.Helper()
	inner := memory.New()
	if err := inner.Put(t.Context(), "k", body); err != nil {
		t.Fatal(err)
	}
	s := faults.New(inner, rng(), faults.Plan{Put: r, Get: r, Head: r, List: r, Delete: r})
	t.Cleanup(s.Close)
	return s, inner
}

func wantFired(t *testing.T, s *faults.Store, f faults.Fault, want int) {
	t.Helper()
	if got := s.Fired()[f]; got != want {
		t.Errorf("%s fired %d times, want %d", f, got, want)
	}
}

func requests(ctx context.Context, s objstore.Store) map[string]error {
	_, get := s.GetRange(ctx, "k", 0, 1000)
	_, head := s.Head(ctx, "k")
	_, list := s.List(ctx, "", "", 10)
	return map[string]error{
		"get": get, "head": head, "list": list, "put": s.Put(ctx, "new", body), "delete": s.Delete(ctx, "k"),
	}
}

func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		fault faults.Fault
		rates faults.Rates
		want  error
		done  bool // puts and deletes are carried out all the same
	}{
		{faults.Throttled, faults.Rates{Throttled: 1}, objstore.ErrThrottled, false},
		{faults.Failed, faults.Rates{Failed: 1}, faults.ErrInjected, false},
		{faults.LostReply, faults.Rates{LostReply: 1}, faults.ErrInjected, true},
	} {
		t.Run(string(test.fault), func(t *testing.T) {
			s, inner := always(t, test.rates)
			for what, err := range requests(t.Context(), s) {
				if !errors.Is(err, test.want) {
					t.Errorf("%s: %v, want %v", what, err, test.want)
				}
			}
			wantFired(t, s, test.fault, 5)
			_, put := inner.Head(t.Context(), "new")
			_, deleted := inner.Head(t.Context(), "k")
			if done := put == nil; done != test.done {
				t.Errorf("put carried out: %v", done)
			}
			if done := errors.Is(deleted, objstore.ErrNotFound); done != test.done {
				t.Errorf("delete carried out: %v", done)
			}
		})
	}
}

func TestReadFaults(t *testing.T) {
	want := body.Bytes()
	for fault, test := range map[faults.Fault]struct {
		rates faults.Rates
		check func(data []byte, err error) bool
	}{
		faults.Truncated: {faults.Rates{Truncated: 1}, func(_ []byte, err error) bool { return errors.Is(err, objstore.ErrCorrupt) }},
		faults.Missing:   {faults.Rates{Missing: 1}, func(_ []byte, err error) bool { return errors.Is(err, objstore.ErrNotFound) }},
		faults.Short: {faults.Rates{Short: 1}, func(data []byte, err error) bool {
			return err == nil && len(data) < len(want) && bytes.HasPrefix(want, data)
		}},
		faults.Flipped: {faults.Rates{Flipped: 1}, func(data []byte, err error) bool {
			return err == nil && len(data) == len(want) && !bytes.Equal(data, want)
		}},
	} {
		s, inner := always(t, test.rates)
		data, err := s.GetRange(t.Context(), "k", 0, 1000)
		if !test.check(data, err) {
			t.Errorf("%s: %d bytes, %v", fault, len(data), err)
		}
		wantFired(t, s, fault, 1)
		body, _, err := s.GetUpTo(t.Context(), "k", 0, 2000)
		if !test.check(body.Copy(), err) {
			t.Errorf("%s up to the end: %d bytes, %v", fault, body.Size(), err)
		}
		wantFired(t, s, fault, 2)
		if stored, err := inner.GetRange(t.Context(), "k", 0, 1000); err != nil || !bytes.Equal(stored, want) {
			t.Errorf("%s changed what is stored: %v", fault, err)
		}
	}
}

func TestMissingHead(t *testing.T) {
	s, _ := always(t, faults.Rates{Missing: 1})
	if _, err := s.Head(t.Context(), "k"); !errors.Is(err, objstore.ErrNotFound) {
		t.Errorf("head: %v", err)
	}
	s.SetPlan(faults.Plan{})
	if _, err := s.Head(t.Context(), "k"); err != nil {
		t.Errorf("head after the plan changed: %v", err)
	}
	wantFired(t, s, faults.Missing, 1)
}

func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := always(t, faults.Rates{Slow: 1, SlowMin: time.Second, SlowMax: 3 * time.Second})
		start := time.Now()
		if _, err := s.Head(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < time.Second || took > 3*time.Second {
			t.Errorf("took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		start = time.Now()
		if _, err := s.Head(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 500*time.Millisecond {
			t.Errorf("returned after %v with %v", time.Since(start), err)
		}
		wantFired(t, s, faults.Slow, 2)
	})
}

func TestLatePutIsHeldUntilReleased(t *testing.T) {
	s, inner := always(t, faults.Rates{Late: 1})
	mine := objstore.Body{body.Copy()}
	for _, key := range []string{"late", "k"} {
		if err := s.Put(t.Context(), key, mine); !errors.Is(err, faults.ErrInjected) {
			t.Fatalf("put %s: %v", key, err)
		}
	}
	clear(mine[0]) // the caller's again
	if _, err := inner.Head(t.Context(), "late"); !errors.Is(err, objstore.ErrNotFound) {
		t.Fatalf("carried out before its time: %v", err)
	}
	if n := s.Release(t.Context()); n != 2 {
		t.Errorf("released %d", n)
	}
	info, err := inner.Head(t.Context(), "late")
	if err != nil || info.CRC32C != body.CRC32C() {
		t.Errorf("after release: %+v, %v", info, err)
	}
	wantFired(t, s, faults.Late, 2)
	wantFired(t, s, faults.LateDone, 1)
	wantFired(t, s, faults.LateRefused, 1)
}

func TestLatePutComesAfterTheCallerGaveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inner := always(t, faults.Rates{Late: 1, LateGiveUp: 10 * time.Second, LateMin: time.Minute, LateMax: 2 * time.Minute})
		start := time.Now()
		if err := s.Put(t.Context(), "late", body); !errors.Is(err, faults.ErrInjected) {
			t.Fatal(err)
		}
		if gaveUp := time.Since(start); gaveUp != 10*time.Second {
			t.Errorf("gave up after %v", gaveUp)
		}
		time.Sleep(time.Minute - time.Millisecond)
		synctest.Wait()
		if _, err := inner.Head(t.Context(), "late"); !errors.Is(err, objstore.ErrNotFound) {
			t.Errorf("carried out too early: %v", err)
		}
		time.Sleep(time.Minute + time.Millisecond)
		synctest.Wait()
		if info, err := inner.Head(t.Context(), "late"); err != nil || info.CRC32C != body.CRC32C() {
			t.Errorf("not carried out in time: %+v, %v", info, err)
		}
		wantFired(t, s, faults.LateDone, 1)
	})
}

func TestLatePutOutlivesTheCallersContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inner := always(t, faults.Rates{Late: 1, LateGiveUp: time.Hour, LateMin: time.Second, LateMax: time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Put(ctx, "late", body); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if _, err := inner.Head(t.Context(), "late"); err != nil {
			t.Errorf("never carried out: %v", err)
		}
	})
}

func TestCloseDropsLatePuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inner := always(t, faults.Rates{Late: 1, LateMin: time.Hour, LateMax: time.Hour})
		_ = s.Put(t.Context(), "timed", body)
		s.SetPlan(faults.Plan{Put: faults.Rates{Late: 1}})
		_ = s.Put(t.Context(), "held", body)
		s.Close()
		s.Close() // is allowed
		wantFired(t, s, faults.Late, 2)
		wantFired(t, s, faults.LateDropped, 2)
		if err := s.Put(t.Context(), "after", body); err != nil {
			t.Errorf("put after close: %v", err)
		}
		infos, err := inner.List(t.Context(), "", "", 10)
		if err != nil || len(infos) != 2 || infos[0].Key != "after" || infos[1].Key != "k" {
			t.Errorf("stored: %+v, %v; want after and k", infos, err)
		}
	})
}

func TestSameSeedSameFaults(t *testing.T) {
	play := func() (log string) {
		r := faults.Rates{Throttled: 0.2, Failed: 0.2, LostReply: 0.2, Late: 0.1, Flipped: 0.2, Missing: 0.1}
		s := faults.New(memory.New(), rng(), faults.Plan{Put: r, Get: r})
		defer s.Close()
		for i := range 200 {
			put := s.Put(t.Context(), fmt.Sprint(i), body)
			data, get := s.GetRange(t.Context(), fmt.Sprint(i), 0, 1000)
			log += fmt.Sprintln(i, put, get, objstore.Body{data}.CRC32C())
		}
		return log + fmt.Sprint(s.Fired())
	}
	if a, b := play(), play(); a != b {
		t.Errorf("two runs of one seed differ:\n%s\n%s", a, b)
	}
}
