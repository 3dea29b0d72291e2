//go:build race

package batch_test

// raceDetector says that the race detector is built in, under which pools lose what they hold
// by chance, so that what is allocated says nothing.
const raceDetector = true
