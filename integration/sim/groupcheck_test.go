package sim

import (
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/tiering"
)

func offsetOf(count int64) tiering.Offset { return tiering.Offset(count) }

// checkGroups: invariant 7, over what clients of groups were told.
func (w *world) checkGroups() {
	for _, try := range w.tries {
		w.checkCommit(try)
	}
	for i := range w.fetches {
		w.checkFetch(&w.fetches[i])
	}
	w.checkStale()
}

// checkCommit: what was acknowledged is committed, and what was refused is not.
func (w *world) checkCommit(try *commitTry) {
	switch {
	case try.txn != nil: // see checkFate
	case try.acked != 0 && (try.applied == 0 || try.applied > try.acked):
		w.fail("durability", nil, "%s of %q was acknowledged in group %s at revision %d and committed at revision %d", try.name, try.member, try.group, try.acked, try.applied)
	case try.refused != 0 && !again(try.refused) && try.applied != 0 && !try.copied:
		w.fail("offsets", nil, "%s of %q was refused in group %s (%v) and is committed at revision %d", try.name, try.member, try.group, kerr.ErrorForCode(try.refused), try.applied)
	}
}

// checkFetch: the answer was true at some time between question and answer.
func (w *world) checkFetch(f *offsetFetch) {
	possible := w.audit.group(f.group).during(f.part.TopicPartition, f.from, f.to)
	for _, was := range possible {
		switch {
		case f.got.Code == kerr.UnstableOffsetCommit.Code && f.stable && was.unstable:
			return
		case f.got.Code == 0 && f.got.Offset == was.offset && f.got.Metadata == was.name && !(f.stable && was.unstable):
			return
		}
	}
	w.fail("committed offset", f.part, "%s was told by %s that group %s is at %d (%q, code %d, stable %v) between revisions %d and %d; it was at %+v",
		f.client, f.agent, f.group, f.got.Offset, f.got.Metadata, f.got.Code, f.stable, f.from, f.to, possible)
}

// checkStale: what was asked for under an epoch after a newer one had been told has no effect.
func (w *world) checkStale() {
	for _, try := range w.tries {
		if try.applied == 0 || try.member == "" {
			continue
		}
		for _, t := range w.told {
			if t.group == try.group && (t.member == "" || t.member == try.member) && t.epoch > try.epoch && t.at < try.began {
				w.fail("stale commit", nil, "%s of %q with epoch %d is committed at revision %d, asked for after epoch %d was told", try.name, try.member, try.epoch, try.applied, t.epoch)
				break
			}
		}
	}
}
