// Package planted is the bugs by which the torture rig proves that it finds bugs. Each stands at a
// port of the agent, so that the code of the product knows nothing of them; all of it but this table
// is behind the build tag planted. The environment variable FLOE_PLANTED of a binary that was built
// with the tag names the bug that its agents have. Without the tag there is nothing to choose:
// settings refuse the variable.
//
// A Plant's methods may be called concurrently, and so may those of everything that it puts in between.
package planted

import (
	"fmt"
	"strings"
	"time"
)

// Variable is the environment variable that names the bug.
const Variable = "FLOE_PLANTED"

// Bug is a bug and how it is provoked and found.
type Bug struct {
	Name   string
	Text   string   // what it is
	Kinds  []string // of anomalies; any of them catches it
	Faults []string // that provoke it, by their numbers; none: the load is enough
	// AtEnd says that it shows when everything has been healed and is read, so that faults are fired
	// for this long only; 0: it shows while the load goes on.
	AtEnd time.Duration
}

// Bugs returns all of them.
func Bugs() []Bug {
	k := func(kinds ...string) []string { return kinds }
	f := k
	const end = 20 * time.Second
	return []Bug{
		// Appends.
		{"ack-of-failure", "a refused batch is acknowledged", k("lost-write", "inconsistent-offsets", "unseen", "stale-watermark"), f("F1", "F2", "F4"), 0},
		{"ack-early", "some batches are acknowledged before they are committed, at the offset that is expected", k("inconsistent-offsets", "lost-write"), f(), 0},
		{"answers-swapped", "two batches of a request hear each other's answers", k("inconsistent-offsets", "lost-write", "nonmonotonic-send", "stale-watermark"), f(), 0},
		{"duplicates-accepted", "sequence numbers are not looked at", k("duplicate", "nonmonotonic-send"), f("F6", "F2"), 0},
		{"gaps-accepted", "a batch whose predecessor was refused is stored", k("nonmonotonic-send", "duplicate"), f(), 0},
		{"zombies-accepted", "batches of a fenced producer are stored", k("G1a", "torn-transaction", "precommitted-read", "nonmonotonic-send", "duplicate"), f("F35"), 0},
		{"producer-id-reused", "a producer id is handed out to several producers", k("sequence-lost", "inconsistent-offsets", "lost-write", "nonmonotonic-send"), f(), 0},
		// Journals.
		{"unknown-as-committed", "an append without an answer counts as committed", k("lost-write", "unseen", "stuck", "inconsistent-offsets"), f("F4", "F7"), 0},
		{"refused-as-committed", "an append that was refused counts as committed", k("lost-write", "stale-watermark", "unseen", "stuck", "inconsistent-offsets"), f("F2", "F4"), 0},
		{"head-from-memory", "questions for offsets are answered from a view that may be old", k("stale-watermark", "watermark-back", "fetch-error"), f("F11"), 0},
		// Reading.
		{"stable-is-high", "the last stable offset is the high watermark", k("precommitted-read", "G1a"), f(), 0},
		{"aborted-cut-short", "the last aborted transaction is not told of", k("G1a"), f(), 0},
		{"aborted-too-long", "aborted transactions begin at offset 0", k("poll-skip", "int-poll-skip", "unprocessed"), f(), 0},
		{"watermark-back", "some fetches tell of older watermarks", k("watermark-back", "stale-watermark"), f(), 0},
		{"bit-flipped", "bytes are not verified: some records have a wrong bit", k("corrupt"), f(), 0},
		{"place-mixed-up", "two partitions of an answer have each other's records", k("inconsistent-offsets", "poll-skip", "int-poll-skip", "phantom"), f(), 0},
		{"batch-left-out", "a batch in the middle of an answer is missing", k("int-poll-skip", "poll-skip"), f(), 0},
		// Transactions.
		{"markers-forgotten", "a new coordinator does not conclude what is prepared", k("stuck"), f("F1", "F28"), end},
		{"marker-aborts", "a committed transaction is aborted in one partition of several", k("torn-transaction", "lost-write", "poll-skip"), f(), 0},
		{"end-answered-early", "EndTxn is answered before the decision is made", k("lost-write", "torn-transaction", "poll-skip", "unseen", "committed-offset-back", "reprocessed"), f(), 0},
		{"epoch-not-raised", "the next transaction has the epoch of the one before, which a late EndTxn ends", k("torn-transaction", "lost-write", "G1a", "precommitted-read"), f("F33"), 0},
		{"aborted-offsets-applied", "offsets of aborted transactions count", k("committed-offset-phantom", "unprocessed", "poll-skip"), f(), 0},
		// Groups.
		{"offsets-from-memory", "committed offsets are answered from memory", k("committed-offset-back", "committed-offset-unknown"), f(), 0},
		{"offset-unknown", "a committed offset is said not to be there", k("committed-offset-unknown"), f(), 0},
		{"one-for-all", "all members of a generation get the same partitions", k("double-assignment"), f(), 0},
		// Objects and jobs.
		{"producers-not-restored", "a snapshot is loaded without its producers", k("sequence-lost", "duplicate", "nonmonotonic-send"), f("F1", "F3"), 0},
		{"merge-loses-batch", "a merge loses the last batch of a run", k("lost-write", "poll-skip", "int-poll-skip", "unseen"), f(), 0},
		{"rollup-loses-extent", "a roll-up loses what was inline", k("lost-write", "poll-skip", "int-poll-skip", "unseen"), f(), 0},
		{"trim-too-far", "retention deletes what is to be kept", k("trimmed"), f(), 0},
	}
}

// None is the name of the control: an agent that was built with the tag and has no bug, in which
// nothing may be found.
const None = "none"

func control() Bug {
	return Bug{Name: None, Text: "no bug: the control", Faults: []string{"F1", "F28"}, AtEnd: 20 * time.Second}
}

// Find returns the named bugs; of the name all, all and the control.
func Find(names ...string) ([]Bug, error) {
	var out []Bug
	for _, name := range names {
		found := false
		for _, b := range append(Bugs(), control()) {
			if b.Name == name || name == "all" {
				out, found = append(out, b), true
			}
		}
		if !found {
			return nil, fmt.Errorf("no planted bug is called %q (they are in cmd/floe/planted/table.go)", name)
		}
	}
	return out, nil
}

// Markdown returns the table of docs/testing.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| planted bug | what it is | faults | found as one of |\n|---|---|---|---|\n")
	for _, p := range Bugs() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", p.Name, p.Text, strings.Join(p.Faults, " "), strings.Join(p.Kinds, ", "))
	}
	return b.String()
}
