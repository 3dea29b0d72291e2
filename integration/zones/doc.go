// Package zones holds the tests, under the build tag integration, that run a cluster in
// several zones with clients in each, and count what crosses from one to another: no record
// batch, and with inline-across-zones=false none on its way to a shard's leader either.
//
// It has no code outside its tests.
package zones
