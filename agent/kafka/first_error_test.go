package kafka_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/agent/kafka"
)

// The metrics are told of an answer's first error, wherever in it that is.
func TestAnswersTellTheirFirstError(t *testing.T) {
	w := newWorld(t)
	topic := w.create("t", 1)
	w.offsets.code = kerr.NotLeaderForPartition.Code
	w.reader.answer = func(kafka.FetchPartition) kafka.FetchResult {
		return kafka.FetchResult{Code: kerr.OffsetOutOfRange.Code}
	}
	list := kmsg.NewPtrListOffsetsRequest()
	list.Version, list.Topics = 5, []kmsg.ListOffsetsRequestTopic{{Topic: "t", Partitions: []kmsg.ListOffsetsRequestTopicPartition{{Partition: 0, CurrentLeaderEpoch: -1, Timestamp: -1}}}}
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.Version, find.CoordinatorType, find.CoordinatorKeys = 4, 9, []string{"x"}
	metadata := kmsg.NewPtrMetadataRequest()
	metadata.Version = 9
	for _, name := range []string{"t", "none"} {
		metadata.Topics = append(metadata.Topics, kmsg.MetadataRequestTopic{Topic: kmsg.StringPtr(name)})
	}
	init := kmsg.NewPtrInitProducerIDRequest()
	init.TransactionalID = kmsg.StringPtr("")
	described := kmsg.NewPtrDescribeClusterRequest()
	versions := kmsg.NewPtrApiVersionsRequest()
	versions.Version, versions.ClientSoftwareName = 3, "not a name"
	for _, c := range []struct {
		req  kmsg.Request
		want int16
	}{
		{list, kerr.NotLeaderForPartition.Code}, // within a topic's partition
		{find, kerr.InvalidRequest.Code},        // within a list
		{metadata, kerr.UnknownTopicOrPartition.Code},
		{init, kerr.InvalidRequest.Code}, // on top
		{versions, kerr.InvalidRequest.Code},
		{described, 0},
		{fetchReq(12, fromPartition{topic, 0, -1}), kerr.OffsetOutOfRange.Code},
		{produceReq(9, 1, toPartition{topic, 0, nil}, toPartition{topic, 5, nil}), kerr.InvalidRecord.Code},
	} {
		p := w.start(c.req)
		if <-p.Done(); p.Response().ErrorCode != c.want {
			t.Errorf("%T: %d, want %d", c.req, p.Response().ErrorCode, c.want)
		}
	}
}
