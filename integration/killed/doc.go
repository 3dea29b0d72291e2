// Package killed holds the tests, under the build tag integration, that end the processes
// of a cluster in every way while clients produce and consume, and check the history of
// what the clients heard: nothing acknowledged is lost, nothing doubled, offsets are dense.
//
//	go test -tags integration -v ./integration/killed -args -killed.duration=10m -killed.seed=7 -killed.trace=trace.txt
//
// It has no code outside its tests.
package killed
