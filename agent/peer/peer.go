// Package peer carries submissions between agents: an agent that took batches for a shard
// led elsewhere sends what is to be sequenced to that shard's leader, over gRPC.
//
// The messages are Floe's own binary forms, not protocol buffers: a submission is encoded
// once, for this.
//
//	request   version 1 | shard 4 BE | submission (shard.Submission.Encode)
//	answer    status 1 | for OK: outcomes (shard.EncodeOutcomes) | otherwise: text for people
//
// Invariant: an answer is definite. Any other end of a call (a lost connection, a time-out)
// leaves the outcome unknown, and the caller repeats the same submission until it hears an
// answer; the shard recognises repetitions.
package peer

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

const (
	protocolVersion = 1

	// maxMessage bounds a message: a submission fits into a journal record of 1 MiB, and its
	// wire form is less than four times as large.
	maxMessage = 4 << 20

	serviceName    = "floe.Peer"
	sequenceMethod = "Sequence"
)

type status byte

// The numbers are part of the protocol between agents of different versions.
const (
	statusOK          status = 0
	statusFenced      status = 1
	statusSessionDead status = 2
	statusInvalid     status = 3
	statusStale       status = 4
)

var statusErrors = map[status]error{
	statusFenced:      metadata.ErrFenced,
	statusSessionDead: metadata.ErrSessionDead,
	statusInvalid:     metadata.ErrInvalid,
	statusStale:       shard.ErrStaleSubmission,
}

func encodeRequest(id tiering.ShardID, s *shard.Submission) []byte {
	b := binary.BigEndian.AppendUint32([]byte{protocolVersion}, uint32(id))
	return s.Encode(b)
}

func decodeRequest(b []byte) (tiering.ShardID, *shard.Submission, error) {
	if len(b) < 5 || b[0] != protocolVersion {
		return 0, nil, fmt.Errorf("%w: not a request of protocol version %d", metadata.ErrInvalid, protocolVersion)
	}
	s, err := shard.DecodeSubmission(b[5:])
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", metadata.ErrInvalid, err)
	}
	if s.Session.IsZero() {
		return 0, nil, fmt.Errorf("%w: the submission names no session", metadata.ErrInvalid)
	}
	for i := range s.Parts {
		if seg := s.Parts[i].Segment; !seg.IsZero() && seg.Session != s.Session {
			return 0, nil, fmt.Errorf("%w: the submission of session %s names segment %s", metadata.ErrInvalid, s.Session, seg)
		}
	}
	return tiering.ShardID(binary.BigEndian.Uint32(b[1:])), s, nil
}

func encodeAnswer(out []shard.Outcome, err error) []byte {
	if err == nil {
		return shard.EncodeOutcomes([]byte{byte(statusOK)}, out)
	}
	st := statusFenced // any other trouble: ask again
	for s, e := range statusErrors {
		if errors.Is(err, e) {
			st = s
		}
	}
	return append([]byte{byte(st)}, err.Error()...)
}

func decodeAnswer(b []byte) ([]shard.Outcome, error) {
	if len(b) == 0 {
		return nil, errors.New("empty answer from another agent")
	}
	if st := status(b[0]); st != statusOK {
		kind := statusErrors[st]
		if kind == nil {
			return nil, fmt.Errorf("answer of unknown status %d from another agent: %s", st, b[1:])
		}
		return nil, fmt.Errorf("%w, says the leader: %s", kind, b[1:])
	}
	return shard.DecodeOutcomes(b[1:])
}

// rawCodec passes messages through as they are.
type rawCodec struct{}

var _ encoding.CodecV2 = rawCodec{}

func (rawCodec) Name() string { return "floe" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("peer: cannot send a %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("peer: cannot receive a %T", v)
	}
	*b = data.Materialize()
	return nil
}
