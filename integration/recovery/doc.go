// Package recovery holds the drills, under the build tag integration, that rebuild a cluster
// with the real commands: etcd is lost under load, or replaced by an older backup, and after
// `floe recover` every acknowledged record is at its offset again.
//
// It has no code outside its tests.
package recovery
