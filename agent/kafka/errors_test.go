package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/floelog/floe/agent/kafka/topicconfig"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
)

func TestCodes(t *testing.T) {
	secret := errors.New("dial etcd-3.internal: refused")
	for _, c := range []struct {
		err                    error
		code, data, ofMetadata *kerr.Error
		shown                  bool // the client sees the error's own text
	}{
		{kerr.InvalidRecord, kerr.InvalidRecord, kerr.InvalidRecord, kerr.InvalidRecord, true},
		{refuse(kerr.InvalidPartitions, "-1 of them"), kerr.InvalidPartitions, kerr.InvalidPartitions, kerr.InvalidPartitions, true},
		{catalogue.ErrTopicExists, kerr.TopicAlreadyExists, kerr.TopicAlreadyExists, kerr.TopicAlreadyExists, true},
		{catalogue.ErrTopicNotFound, kerr.UnknownTopicOrPartition, kerr.UnknownTopicOrPartition, kerr.UnknownTopicOrPartition, true},
		{catalogue.ErrInvalidTopic, kerr.InvalidTopicException, kerr.InvalidTopicException, kerr.InvalidTopicException, true},
		{catalogue.ErrConfigTooLarge, kerr.InvalidConfig, kerr.InvalidConfig, kerr.InvalidConfig, true},
		{topicconfig.Validate(map[string]string{"x": "y"}, nil), kerr.InvalidConfig, kerr.InvalidConfig, kerr.InvalidConfig, true},
		{metadata.ErrFenced, kerr.NotLeaderForPartition, kerr.NotLeaderForPartition, kerr.NotLeaderForPartition, true},
		{metadata.ErrConflict, kerr.RequestTimedOut, kerr.KafkaStorageError, kerr.LeaderNotAvailable, false},
		{context.DeadlineExceeded, kerr.RequestTimedOut, kerr.KafkaStorageError, kerr.LeaderNotAvailable, false},
		{secret, kerr.UnknownServerError, kerr.KafkaStorageError, kerr.LeaderNotAvailable, false},
		{catalogue.ErrIncomplete, kerr.UnknownServerError, kerr.KafkaStorageError, kerr.LeaderNotAvailable, false},
	} {
		err := fmt.Errorf("topic %q: %w", "t", c.err)
		if got := [3]int16{code(err), dataCode(err), metadataCode(err)}; got != [3]int16{c.code.Code, c.data.Code, c.ofMetadata.Code} {
			t.Errorf("%v: codes %v, want %v, %v and %v", err, got, c.code, c.data, c.ofMetadata)
		}
		if m := message(err); m == nil || c.shown != strings.Contains(*m, c.err.Error()) {
			t.Errorf("%v: message %v", err, *m)
		}
	}
	if code(nil) != 0 || dataCode(nil) != 0 || metadataCode(nil) != 0 || message(nil) != nil {
		t.Error("no error has a code or a text")
	}
}

func TestCoordinatorCodes(t *testing.T) {
	for err, want := range map[error]*kerr.Error{
		ErrNotCoordinator: kerr.NotCoordinator, metadata.ErrFenced: kerr.NotCoordinator, metadata.ErrConflict: kerr.CoordinatorNotAvailable,
		context.Canceled: kerr.CoordinatorNotAvailable, errors.New("of its own"): kerr.CoordinatorNotAvailable,
		catalogue.ErrInvalidTopic: kerr.UnknownTopicOrPartition, kerr.InvalidGroupID: kerr.InvalidGroupID,
	} {
		wrapped := fmt.Errorf("group %q: %w", "g", err)
		if got := coordinatorCode(wrapped); got != want.Code {
			t.Errorf("%v: code %d, want %d", err, got, want.Code)
		}
		if m := coordinatorMessage(wrapped); m == nil || strings.Contains(*m, "of its own") {
			t.Errorf("%v: message %v", err, m)
		}
	}
	if coordinatorCode(nil) != 0 || coordinatorMessage(nil) != nil {
		t.Error("no error has a code or a text")
	}
}

func TestSettingsAreChecked(t *testing.T) {
	if err := DefaultSettings().Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Settings){
		"num.partitions":             func(s *Settings) { s.NumPartitions = 0 },
		"default.replication.factor": func(s *Settings) { s.ReplicationFactor = 0 },
		"max partitions":             func(s *Settings) { s.MaxPartitions = catalogue.MaxPartitions + 1 },
		"fetch.max.bytes":            func(s *Settings) { s.FetchMaxBytes = 1 },
		"longest fetch wait":         func(s *Settings) { s.FetchMaxWait = 0 },
		"fetch session":              func(s *Settings) { s.MaxFetchSessions = -1 },
		"offset.metadata.max.bytes":  func(s *Settings) { s.OffsetMetadataMax = -1 },
		"session timeout":            func(s *Settings) { s.ConsumerSession = Between{time.Second, time.Second, time.Second} },
		"heartbeat interval":         func(s *Settings) { s.ConsumerHeartbeat = Between{Default: 5, Least: 6, Most: 7} },
		"retention.ms":               func(s *Settings) { s.TopicDefaults = map[string]string{"retention.ms": "x"} },
	} {
		s := DefaultSettings()
		change(&s)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want one about %s", err, want)
		}
		if _, err := New(Parts{}, Config{Settings: s}); err == nil {
			t.Errorf("a handler with a wrong %s", want)
		}
	}
	if _, err := New(Parts{}, Config{Settings: DefaultSettings()}); err == nil {
		t.Error("a handler without parts")
	}
}
