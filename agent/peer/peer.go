// Package peer carries what agents ask of each other, over gRPC: submissions of batches for a
// shard that is led elsewhere, questions to coordinators, and bytes of segments.
//
// The messages are Floe's own binary forms, not protocol buffers: a submission is encoded
// once, for this.
//
//	Sequence  version 1 | shard 4 BE | submission (shard.Submission.Encode)
//	Ask       version 1 | shard 4 BE | length of kind 1 | kind | body, as its kind says
//	Block     version 1 | purpose 1 | flags 1 | session 16 | seq 8 BE | position 8 BE | length 4 BE
//	answer    status 1 | for OK: outcomes (shard.EncodeOutcomes), or the body of an answer |
//	          otherwise: text for people
//
// The answer to Block is OK and the bytes; anything else is an error of gRPC, after which the
// bytes are in the object store all the same. An agent that does not know the method says
// Unimplemented, as it does of a message of a newer version: then nothing was done, and the caller
// says it in an older form, does without, or waits until another agent leads.
//
// Each call carries the id of the caller's cluster, a token that proves that the caller can
// read the cluster's metadata store, and the newest version of the protocol that it speaks
// (identity.go). A server refuses other clusters and wrong tokens always, and calls without
// a token once the cluster's level says that all agents send one.
//
// Invariant: an answer is definite. Any other end of a call (a lost connection, a time-out)
// leaves the outcome unknown, and the caller repeats the same message until it hears an
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
	askMethod      = "Ask"
	blockMethod    = "Block"
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

// Question is what an agent asks of a shard's leader.
type Question struct {
	Shard tiering.ShardID
	Kind  string // says what Body is; the agents know the kinds
	Body  []byte
}

func (q Question) encode() []byte {
	b := binary.BigEndian.AppendUint32([]byte{protocolVersion}, uint32(q.Shard))
	b = append(b, byte(len(q.Kind)))
	b = append(b, q.Kind...)
	return append(b, q.Body...)
}

func decodeQuestion(b []byte) (Question, error) {
	if len(b) < 6 || b[0] != protocolVersion || len(b) < 6+int(b[5]) {
		return Question{}, fmt.Errorf("%w: not a question of protocol version %d", metadata.ErrInvalid, protocolVersion)
	}
	kind := 6 + int(b[5])
	return Question{Shard: tiering.ShardID(binary.BigEndian.Uint32(b[1:])), Kind: string(b[6:kind]), Body: b[kind:]}, nil
}

func encodeAnswer(out []shard.Outcome, err error) []byte {
	if err == nil {
		return shard.EncodeOutcomes([]byte{byte(statusOK)}, out)
	}
	return encodeError(err)
}

func encodeError(err error) []byte {
	st := statusFenced // any other trouble: ask again
	for s, e := range statusErrors {
		if errors.Is(err, e) {
			st = s
		}
	}
	return append([]byte{byte(st)}, err.Error()...)
}

func decodeAnswer(b []byte) ([]shard.Outcome, error) {
	body, err := decodeStatus(b)
	if err != nil {
		return nil, err
	}
	return shard.DecodeOutcomes(body)
}

// decodeStatus returns what follows an answer's status, or the error that it says.
func decodeStatus(b []byte) ([]byte, error) {
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
	return b[1:], nil
}

// rawCodec passes messages through as they are.
type rawCodec struct{}

var _ encoding.CodecV2 = rawCodec{}

func (rawCodec) Name() string { return "floe" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	switch v := v.(type) {
	case *[]byte:
		return mem.BufferSlice{mem.SliceBuffer(*v)}, nil
	case *[][]byte:
		out := make(mem.BufferSlice, len(*v))
		for i, b := range *v {
			out[i] = mem.SliceBuffer(b)
		}
		return out, nil
	}
	return nil, fmt.Errorf("peer: cannot send a %T", v)
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("peer: cannot receive a %T", v)
	}
	*b = data.Materialize()
	return nil
}
