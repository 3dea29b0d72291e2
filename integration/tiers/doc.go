// Package tiers holds the tests, under the build tag integration, of what happens to records
// after they were acknowledged: merging, archiving, log compaction, retention and deletion,
// thousands of times faster than by default, under a mixed load, while agents end and the
// object store fails. An independent history says what must be there and what must not,
// floe fsck and floe gc say what the bucket holds.
//
//	go test -tags integration -v ./integration/tiers -args -tiers.duration=10m -tiers.seed=7 -tiers.trace=trace.txt
//
// It has no code outside its tests.
package tiers
