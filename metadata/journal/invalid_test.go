package journal_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/tiering"
)

// A record that the store can never take must be refused although an attempt before went
// without an answer: otherwise it is put for ever, and the shard with it.
func TestAnInvalidRecordIsRefusedAfterAnUnknownOutcome(t *testing.T) {
	bubble(t, 1, func(w *world) {
		a := w.start(1)
		l := a.acquire(0)
		attempts := 0
		a.store.hookTxn(func(txn metadata.Txn, apply func() (metadata.TxnResult, error)) (metadata.TxnResult, error) {
			if !isAppend(txn) {
				return apply()
			}
			if attempts++; attempts == 1 {
				return metadata.TxnResult{}, errors.New("connection reset")
			}
			return metadata.TxnResult{}, fmt.Errorf("request is too large: %w", metadata.ErrInvalid)
		})
		done := propose(l, tiering.SessionID{}, 1)
		select {
		case got := <-done:
			if !errors.Is(got.err, metadata.ErrInvalid) {
				t.Errorf("answered %v, want ErrInvalid", got.err)
			}
		case <-time.After(time.Minute):
			t.Errorf("no answer after a minute and %d attempts", attempts)
		}
		a.store.hookTxn(nil)
	})
}
