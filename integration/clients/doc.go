// Package clients holds Floe to what real Kafka clients expect of it: kcat, librdkafka,
// franz-go and Apache Kafka's own, and for groups and transactions sarama, kafka-go,
// kafkajs and aiokafka too, each against floe dev, several agents in one process, and
// several processes on a real etcd cluster and MinIO. Its tests need the build tag
// integration; what they run is listed in docs/compatibility.md.
//
// Suites can be run on any cluster that runs already, on Apache Kafka itself for one, to
// see whether a test or Floe is at fault:
//
//	go test -tags integration ./integration/clients -run TestCoordination -args -bootstrap=host:port
package clients
