package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/agent/kafka/topicconfig"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
)

// The one place where Go errors become Kafka's codes. Which code it is decides what a
// client does next: retriable ones it repeats, others it hands to the application.
var codes = []struct {
	err  error
	kafk *kerr.Error
}{
	{catalogue.ErrTopicExists, kerr.TopicAlreadyExists},
	{catalogue.ErrTopicNotFound, kerr.UnknownTopicOrPartition},
	{catalogue.ErrInvalidTopic, kerr.InvalidTopicException},
	{catalogue.ErrInvalidPartitions, kerr.InvalidPartitions},
	{catalogue.ErrConfigTooLarge, kerr.InvalidConfig},
	{topicconfig.ErrInvalid, kerr.InvalidConfig},
	{ErrNotCoordinator, kerr.NotCoordinator},
	{metadata.ErrFenced, kerr.NotLeaderForPartition},
	{metadata.ErrConflict, kerr.RequestTimedOut}, // lost every race for one topic: as if there had been no time
	{context.DeadlineExceeded, kerr.RequestTimedOut},
	{context.Canceled, kerr.RequestTimedOut},
}

// refusal is a Kafka error with a text of its own for the client.
type refusal struct {
	kafk *kerr.Error
	text string
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.kafk }

// refuse returns an error that is answered with the given code and text.
func refuse(kafk *kerr.Error, format string, args ...any) error {
	return &refusal{kafk, fmt.Sprintf(format, args...)}
}

// kafkaError returns the Kafka error that answers err.
func kafkaError(err error) *kerr.Error {
	var k *kerr.Error
	if errors.As(err, &k) {
		return k
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.kafk
		}
	}
	return kerr.UnknownServerError
}

// code returns the code that answers err; 0 for nil.
func code(err error) int16 {
	if err == nil {
		return 0
	}
	return kafkaError(err).Code
}

// message returns the text that goes with code(err): nil where err is nil. What went
// wrong inside is for the agent's log, not for clients.
func message(err error) *string {
	if err == nil {
		return nil
	}
	text := err.Error()
	if k := kafkaError(err); k == kerr.UnknownServerError || k == kerr.RequestTimedOut {
		text = k.Description
	}
	return &text
}

// codeText returns Kafka's text for a code: nil for 0.
func codeText(code int16) *string {
	if k := kerr.TypedErrorForCode(code); k != nil {
		return &k.Description
	}
	return nil
}

// dataCode is code for Produce, Fetch and offset requests. What is the agent's trouble,
// not the client's, becomes KAFKA_STORAGE_ERROR: all clients repeat that after they
// refreshed their metadata, while consumers stop at codes that they do not expect.
func dataCode(err error) int16 {
	c := code(err)
	if c == kerr.UnknownServerError.Code || c == kerr.RequestTimedOut.Code {
		return kerr.KafkaStorageError.Code
	}
	return c
}

// metadataCode is code for Metadata requests, to which LEADER_NOT_AVAILABLE says that
// asking again will help.
func metadataCode(err error) int16 {
	c := code(err)
	if c == kerr.UnknownServerError.Code || c == kerr.RequestTimedOut.Code {
		return kerr.LeaderNotAvailable.Code
	}
	return c
}

// coordinatorCode is code for requests to a coordinator. To COORDINATOR_NOT_AVAILABLE all
// clients look for the coordinator and ask it again, as they do to NOT_COORDINATOR.
func coordinatorCode(err error) int16 {
	switch c := code(err); c {
	case kerr.UnknownServerError.Code, kerr.RequestTimedOut.Code:
		return kerr.CoordinatorNotAvailable.Code
	case kerr.NotLeaderForPartition.Code:
		return kerr.NotCoordinator.Code
	case kerr.InvalidTopicException.Code: // there is no topic of such a name
		return kerr.UnknownTopicOrPartition.Code
	default:
		return c
	}
}
