package retry_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/metadata/retry"
)

var errDown = errors.New("store is down")

// script answers calls with errors in turn, then passes them on.
type script struct {
	metadata.Store
	errs  []error
	calls int
}

func (s *script) next(ctx context.Context) error {
	if s.calls++; s.calls > len(s.errs) {
		return nil
	}
	if err := s.errs[s.calls-1]; !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	<-ctx.Done() // a member that hangs
	return ctx.Err()
}

func (s *script) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	if err := s.next(ctx); err != nil {
		return metadata.TxnResult{}, err
	}
	return s.Store.Txn(ctx, txn)
}

func (s *script) Get(ctx context.Context, keys ...string) ([]metadata.KV, int64, error) {
	if err := s.next(ctx); err != nil {
		return nil, 0, err
	}
	return s.Store.Get(ctx, keys...)
}

func TestTxn(t *testing.T) {
	for name, tc := range map[string]struct {
		errs       []error
		err        error
		calls      int
		unanswered bool
	}{
		"at once":       {nil, nil, 1, false},
		"after errors":  {[]error{errDown, errDown, errDown}, nil, 4, true},
		"after hanging": {[]error{context.DeadlineExceeded}, nil, 2, true},
		"invalid":       {[]error{fmt.Errorf("no: %w", metadata.ErrInvalid)}, metadata.ErrInvalid, 1, false},
		"lease lost":    {[]error{errDown, metadata.ErrLeaseLost}, metadata.ErrLeaseLost, 2, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := memory.New()
				defer srv.Close()
				s := &script{Store: srv.Client("test"), errs: tc.errs}
				res, unanswered, err := retry.Txn(t.Context(), s, retry.NewPacer(rand.Reader), metadata.Txn{Then: []metadata.Op{metadata.Put("a", nil)}})
				if !errors.Is(err, tc.err) || res.Succeeded != (tc.err == nil) || unanswered != tc.unanswered || s.calls != tc.calls {
					t.Errorf("succeeded %v, unanswered %v, error %v after %d calls; want %+v", res.Succeeded, unanswered, err, s.calls, tc)
				}
			})
		})
	}
}

func TestGivesUpWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		errs := make([]error, 1000)
		for i := range errs {
			errs[i] = errDown
		}
		s := &script{Store: srv.Client("test"), errs: errs}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		_, unanswered, err := retry.Txn(ctx, s, retry.NewPacer(rand.Reader), metadata.Txn{Then: []metadata.Op{metadata.Put("a", nil)}})
		if !errors.Is(err, context.DeadlineExceeded) || !unanswered || time.Since(began) != time.Minute {
			t.Errorf("error %v after %v", err, time.Since(began))
		}
		if s.calls < 50 || s.calls > 130 {
			t.Errorf("%d attempts in a minute, want one every half second or second", s.calls)
		}
		if _, _, err := retry.Get(ctx, s, retry.NewPacer(rand.Reader), "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a read after the end: %v", err)
		}
	})
}

func TestGet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memory.New()
		defer srv.Close()
		s := &script{Store: srv.Client("test"), errs: []error{errDown}}
		kvs, rev, err := retry.Get(t.Context(), s, retry.NewPacer(rand.Reader), "a")
		if err != nil || len(kvs) != 1 || kvs[0].Exists() || rev != srv.Revision() || s.calls != 2 {
			t.Errorf("read %v at %d, %v after %d calls", kvs, rev, err, s.calls)
		}
	})
}
