package objstore

import "context"

// Purpose says what a request to the object store is made for, so that the bill can be told
// by what caused it.
type Purpose uint8

// The purposes.
const (
	Other    Purpose = iota // what nobody has named
	Produce                 // flushes of the produce path
	Fetch                   // reads of consumers
	Rollup                  // inline batches moved into segments
	Merge                   // small segments merged into larger ones, manifests
	Clean                   // log compaction
	Metadata                // snapshots and the catalogue's copy
	Sweep                   // listing and deleting what nothing names
	Check                   // fsck and recovery
	Carry                   // journal records that no segment took along in time
	numPurposes
)

var purposeNames = [numPurposes]string{"other", "produce", "fetch", "rollup", "merge", "clean", "metadata", "sweep", "check", "carry"}

func (p Purpose) String() string { return purposeNames[p] }

// Purposes returns all purposes, in order.
func Purposes() []Purpose {
	out := make([]Purpose, numPurposes)
	for i := range out {
		out[i] = Purpose(i)
	}
	return out
}

type purposeKey struct{}

// WithPurpose returns a context whose requests are counted under p.
func WithPurpose(ctx context.Context, p Purpose) context.Context {
	return context.WithValue(ctx, purposeKey{}, p)
}

// PurposeOf returns the purpose that ctx carries, Other if none.
func PurposeOf(ctx context.Context) Purpose {
	p, _ := ctx.Value(purposeKey{}).(Purpose)
	return p
}
