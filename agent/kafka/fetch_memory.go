package kafka

import (
	"context"
	"time"

	"github.com/floelog/floe/protocol"
)

// What fetches hold, and the two budgets for it. A fetch holds of the first while it waits
// for the second; who holds of the second waits for the client to take its answer, and for
// nothing else. The frame's own charge is given back when the frame is decoded: a fetch
// waits for as long as its client likes, and must not hold what heartbeats need meanwhile.
const (
	// fetchState and fetchWantState are what a fetch that waits takes, by itself and for
	// each partition: here, in the reader, and in its register of who waits for what.
	fetchState, fetchWantState = 1 << 10, 512
	// waitingMemory bounds that. Larger: that much more memory beside the memory budget.
	// Smaller: 10,000 consumers of ten partitions each would not all fit, and some would
	// wait for their turn instead of their records.
	waitingMemory = 64 << 20
	// defaultFetchMemory is a quarter of the default memory budget.
	defaultFetchMemory = 128 << 20
	// grantWait is how long a fetch that has found records waits for memory to read them,
	// before it is answered without any. Shorter: it gives up its place in the line, and the
	// client asks again. Longer: near the 30 seconds after which clients give up.
	grantWait = 5 * time.Second
)

// waitCharge charges the state of a fetch of n partitions, and returns what is left of its
// time to wait for records. If there is no memory within that time, nothing is charged
// and nothing left: the fetch is answered with what there is.
func (h *Handler) waitCharge(ctx context.Context, n int, wait time.Duration) (*protocol.Charge, time.Duration) {
	need := min(fetchState+fetchWantState*int64(n), waitingMemory)
	if c, ok := h.waiting.TryAcquire(need); ok {
		return c, wait
	}
	if wait <= 0 {
		return nil, 0
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	c, err := h.waiting.Acquire(ctx, need)
	if err != nil {
		return nil, 0
	}
	// By the clock that ends the wait: the handler's own is the wall clock, which may be
	// set back, and a fetch that has waited for its turn would wait all over again.
	until, _ := ctx.Deadline()
	return c, max(0, time.Until(until))
}

// fetchBudgets bound the records of answers that clients have not taken: those near the ends
// of their logs, and those of partitions that lag, apart. A replay asks as fast as it is
// answered, and would have all there is.
type fetchBudgets [2]*protocol.Budget

// newFetchBudgets divides so many bytes, of which lagging are for partitions that lag; 0: half.
func newFetchBudgets(bytes, lagging int64) fetchBudgets {
	if lagging == 0 {
		lagging = bytes / 2
	}
	return fetchBudgets{protocol.NewBudget(bytes - lagging), protocol.NewBudget(lagging)}
}

// grant is the memory for the records of one answer.
type grant struct {
	budgets *fetchBudgets
	batch   int64 // the largest batch that the partitions may hold
	charges [2]*protocol.Charge
}

func lane(lagging bool) int {
	if lagging {
		return 1
	}
	return 0
}

// admit implements FetchRequest.Admit. As long as half of what is free is more than a batch,
// it takes no more than that: a few answers that nobody takes must not leave the others
// with a batch at a time.
func (g *grant) admit(ctx context.Context, lagging bool, bytes int) (limit int, ok bool) {
	budget, charge := g.budgets[lane(lagging)], &g.charges[lane(lagging)]
	batch := min(g.batch, budget.Size())
	want := min(max(int64(bytes), batch), budget.Size())
	n := min(want, max(batch, (budget.Size()-budget.InUse())/2))
	if *charge, ok = budget.TryAcquire(n); ok {
		return int(n), true
	}
	ctx, cancel := context.WithTimeout(ctx, grantWait)
	defer cancel()
	c, err := budget.Acquire(ctx, batch)
	if err != nil {
		return 0, false
	}
	*charge = c
	return int(batch), true
}

// settle keeps what the records take in the end.
func (g *grant) settle(results []fetchResponsePartition) {
	var total [2]int64
	for i := range results {
		for _, b := range results[i].Records {
			total[lane(results[i].Lagging)] += int64(len(b))
		}
	}
	for i, c := range g.charges {
		c.Shrink(total[i])
	}
}

// release gives all of it back.
func (g *grant) release() {
	for _, c := range g.charges {
		c.Release()
	}
}
