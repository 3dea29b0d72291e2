package health_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/health"
	"github.com/floelog/floe/metadata/memory"
	"github.com/floelog/floe/metadata/metadatatest"
	"github.com/floelog/floe/tiering/weather"
)

// failing answers with an error while it has one.
type failing struct {
	metadata.Store
	err error
}

func (f *failing) Txn(ctx context.Context, txn metadata.Txn) (metadata.TxnResult, error) {
	if f.err != nil {
		return metadata.TxnResult{}, f.err
	}
	return f.Store.Txn(ctx, txn)
}

func (f *failing) KeepAlive(ctx context.Context, lease metadata.LeaseID) error {
	if f.err != nil {
		return f.err
	}
	return f.Store.KeepAlive(ctx, lease)
}

func TestObservedStoreKeepsTheContract(t *testing.T) {
	metadatatest.Run(t, metadatatest.Harness{TTL: 10 * time.Second, Bubble: synctest.Test, Open: func(t *testing.T, clients int) []metadata.Store {
		server := memory.New()
		t.Cleanup(server.Close)
		stores := make([]metadata.Store, clients)
		for i := range stores {
			stores[i] = health.Observe(server.Client("test"), time.Now)
		}
		return stores
	}})
}

func TestWeatherOfWritesAndReads(t *testing.T) {
	srv := memory.New()
	defer srv.Close()
	put := metadata.Txn{Then: []metadata.Op{metadata.Put("k", []byte("v"))}}
	for name, tc := range map[string]struct {
		err  error
		want weather.State
	}{
		"full":        {metadata.ErrFull, weather.Full},
		"no quorum":   {metadata.ErrNoQuorum, weather.NoQuorum},
		"denied":      {metadata.ErrDenied, weather.Denied},
		"hanging":     {context.DeadlineExceeded, weather.Hanging},
		"unreachable": {metadata.ErrUnreachable, weather.Unreachable},
		"else":        {errors.New("else"), weather.Failing},
		"invalid":     {metadata.ErrInvalid, weather.Fair},
		"lease lost":  {metadata.ErrLeaseLost, weather.Fair},
	} {
		t.Run(name, func(t *testing.T) {
			f := &failing{Store: srv.Client("test"), err: tc.err}
			s := health.Observe(f, time.Now)
			for range 5 {
				if _, err := s.Txn(t.Context(), put); !errors.Is(err, tc.err) {
					t.Fatal(err)
				}
			}
			if _, _, err := s.Get(t.Context(), "k"); err != nil {
				t.Fatal(err)
			}
			w := s.Weather()
			if w[0].Kind != "write" || w[0].State != tc.want {
				t.Errorf("writes: %+v, want %v", w[0], tc.want)
			}
			if w[1].Kind != "read" || w[1].State != weather.Fair {
				t.Errorf("reads: %+v", w[1])
			}
			for range 5 {
				if err := s.KeepAlive(t.Context(), 1); !errors.Is(err, tc.err) {
					t.Fatal(err)
				}
			}
			if w := s.Weather(); w[1].State != tc.want {
				t.Errorf("renewals: %+v, want %v", w[1], tc.want)
			}
			f.err = nil
			if _, err := s.Txn(t.Context(), put); err != nil {
				t.Fatal(err)
			}
			if w := s.Weather(); w[0].State != weather.Fair {
				t.Errorf("after a success: %+v", w[0])
			}
		})
	}
}

func TestACallerThatLeavesIsNoBadWeather(t *testing.T) {
	srv := memory.New()
	defer srv.Close()
	s := health.Observe(&failing{Store: srv.Client("test"), err: context.Canceled}, time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 10 {
		if err := s.KeepAlive(ctx, 1); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	if w := s.Weather(); w[1].State != weather.Fair {
		t.Errorf("%+v", w[1])
	}
}
