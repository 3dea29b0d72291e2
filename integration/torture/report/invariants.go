package report

import (
	"github.com/floelog/floe/integration/history"
	"github.com/floelog/floe/integration/torture/check"
)

// invariants are those of the project that a run from outside judges, by the kinds of
// anomalies that break them; those without are the simulation's (integration/sim).
func invariants() []Invariant {
	k := func(kinds ...history.Kind) []history.Kind { return kinds }
	return []Invariant{
		{ID: "I1", Text: "what is acknowledged is readable at its offset, byte by byte", Kinds: k(history.LostWrite, history.Unseen, history.Corrupt)},
		{ID: "I2", Text: "an offset has one value, whoever is asked", Kinds: k(history.InconsistentOffsets)},
		{ID: "I3", Text: "offsets are contiguous", Kinds: k(history.IntPollSkip, history.Gap)},
		{ID: "I4", Text: "a producer's records are in its order", Kinds: k(history.NonmonotonicSend)},
		{ID: "I5", Text: "an idempotent producer's record is there once", Kinds: k(history.Duplicate)},
		{ID: "I6", Text: "sequence numbers have no gaps, epochs are fenced", Kinds: k(check.SequenceLost)},
		{ID: "I7", Text: "nothing that was aborted, or is open, is read as committed", Kinds: k(history.AbortedRead, history.PrecommittedRead)},
		{ID: "I8", Text: "transactions are atomic, with their offsets", Kinds: k(history.Torn, check.TornOffsets, check.Reprocessed, check.Unprocessed)},
		{ID: "I9", Text: "watermarks are in order and never go back", Kinds: k(history.WatermarkBack, history.StaleWatermark, check.Trimmed)},
		{ID: "I10", Text: "read_committed ends at the last stable offset", Kinds: k(history.PrecommittedRead, history.ReadAhead)},
		{ID: "I11", Text: "no circle of transactions that read from each other", Kinds: k(history.Cycle)},
		{ID: "I12", Text: "a former leader's commits have no effect"},
		{ID: "I13", Text: "epochs are issued once"},
		{ID: "I14", Text: "no acknowledgement before the commit is known"},
		{ID: "I15", Text: "what is named exists, as it is named", Kinds: k(check.Fsck)},
		{ID: "I16", Text: "nothing that is named is deleted", Kinds: k(check.Fsck)},
		{ID: "I17", Text: "nothing stays that is not named", Kinds: k(check.Orphans)},
		{ID: "I18", Text: "objects are written once"},
		{ID: "I19", Text: "committed offsets never go back, unknown is never 0", Kinds: k(check.OffsetBack, check.OffsetUnknown)},
		{ID: "I20", Text: "a stale commit of offsets has no effect", Kinds: k(check.StaleCommit, check.OffsetPhantom)},
		{ID: "I21", Text: "a partition has one member in a generation", Kinds: k(check.TwoOwners)},
		{ID: "I22", Text: "no offset is out of range that is in range", Kinds: k(check.FetchError)},
		{ID: "I23", Text: "consumers skip nothing and go back never", Kinds: k(history.PollSkip, history.NonmonotonicPoll, history.IntNonmonotonicPoll)},
		{ID: "I24", Text: "after healing all is seen and everybody goes on", Kinds: k(history.Unseen, check.Stuck)},
		{ID: "I25", Text: "damage is detected, never served", Kinds: k(history.Corrupt, history.Phantom)},
		{ID: "I26", Text: "nothing of a deleted topic is in its successor", Kinds: k(history.Resurrected)},
	}
}

func judge(found map[history.Kind]*history.Anomaly) []Invariant {
	all := invariants()
	for i := range all {
		for _, kind := range all[i].Kinds {
			if a := found[kind]; a != nil {
				all[i].Found += a.Count
			}
		}
	}
	return all
}
