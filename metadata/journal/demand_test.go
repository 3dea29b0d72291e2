package journal_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/journal"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// demand proposes a mark that only a value of the session's key lets through.
func demand(l *journal.Leader, s tiering.SessionID, value string, n int64) <-chan answer {
	done := make(chan answer, 2) // room for a second answer, which must never come
	l.Propose(&journal.Proposal{
		Session: s, Value: []byte(value), Size: 32,
		Draft: func(d *shard.Draft) error { d.Add(mark(n)); return nil },
		Done:  func(seq uint64, err error) { done <- answer{seq, err} },
	})
	return done
}

// What demands a value that the session's key has no more is refused, at whatever time it comes,
// and what shares its record goes through.
func TestAProposalMayDemandTheSessionsValue(t *testing.T) {
	for _, unknown := range []bool{false, true} {
		t.Run(fmt.Sprintf("after an unknown outcome: %v", unknown), func(t *testing.T) {
			bubble(t, 1, func(w *world) {
				a := w.start(1)
				l := a.acquire(0)
				id := tiering.SessionID{0xee}
				w.put(keys.Session(id), []byte("one"))
				if got := <-demand(l, id, "one", 1); got.err != nil || got.seq != 1 {
					t.Errorf("with the value that is there: %+v", got)
				}
				var late []metadata.Txn
				gate, held := make(chan struct{}), true
				a.store.hookTxn(func(txn metadata.Txn, apply func() (metadata.TxnResult, error)) (metadata.TxnResult, error) {
					if isAppend(txn) && held {
						held = false
						<-gate
					} else if isAppend(txn) && unknown && len(late) == 0 {
						late = append(late, txn)
						w.put(keys.Session(id), []byte("two")) // between the attempt that is lost and the next
						return metadata.TxnResult{}, errLost
					}
					return apply()
				})
				first := propose(l, tiering.SessionID{}, 2)
				synctest.Wait()
				old, older := demand(l, id, "one", 3), demand(l, id, "nil", 4)
				any, none := propose(l, id, 5), propose(l, tiering.SessionID{}, 6)
				if !unknown {
					w.put(keys.Session(id), []byte("two"))
				}
				close(gate)
				if got := <-first; got.err != nil {
					t.Error(got)
				}
				for _, done := range []<-chan answer{old, older} {
					if got := <-done; !errors.Is(got.err, metadata.ErrConflict) {
						t.Errorf("of an older value: %+v, want ErrConflict", got)
					}
				}
				for _, done := range []<-chan answer{any, none} {
					if got := <-done; got.err != nil || got.seq != 3 {
						t.Errorf("of what demands no value: %+v, want record 3", got)
					}
				}
				for _, txn := range late { // the lost attempt arrives at last
					if res, err := w.admin.Txn(w.ctx, txn); err != nil || res.Succeeded {
						t.Errorf("a record that demands an older value was applied: %+v, %v", res, err)
					}
				}
				if got := <-demand(l, id, "two", 7); got.err != nil {
					t.Errorf("with the newer value: %+v", got)
				}
				for n, want := range map[int64]int{1: 1, 2: 1, 3: 0, 4: 0, 5: 1, 6: 1, 7: 1} {
					if got := w.count(0, n); got != want {
						t.Errorf("mark %d is in the journal %d times, want %d", n, got, want)
					}
				}
			})
		})
	}
}
