// Package weather holds the tests, under the build tag integration, of what clients meet with
// while the object store or etcd is down, slow, throttling, read-only or full, and of how soon
// all goes on when that ends: a load runs throughout, and its history is checked.
//
//	go test -tags integration -v ./integration/weather -args -weather.outage=5m
//
// It has no code outside its tests.
package weather
