// Package fleet holds the tests, under the build tag integration, of what an operator does to a
// fleet of agents while clients work: restart them in turn, start more and end them, and put
// another release in their place. Clients have their libraries' default settings, and must hear
// of no error; what they sent and read is checked as a history. How long they stood still is
// reported.
//
//	go test -tags integration -v -run Restart ./integration/fleet -args -fleet.rate=50 -fleet.settle=10s -fleet.trace=trace.txt
//
// It has no code outside its tests.
package fleet
