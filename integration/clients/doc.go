// Package clients holds Floe to what real Kafka clients expect of it: kcat, librdkafka,
// franz-go and Apache Kafka's own, each against floe dev, several agents in one process,
// and several processes on a real etcd cluster and MinIO. Its tests need the build tag
// integration; what they run is listed in docs/compatibility.md.
package clients
