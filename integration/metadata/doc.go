// Package metadata holds the clients of etcd to the metadata contract against a real
// cluster, whose members are killed and paused. Its tests need the build tag integration.
package metadata
