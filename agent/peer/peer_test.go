package peer

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// asked is a Leader that answers as it is told and keeps what it was asked.
type asked struct {
	question Question
	body     []byte
	id       tiering.ShardID
	sub      *shard.Submission
	out      []shard.Outcome
	err      error
	block    chan struct{}
	blocks   Blocks
}

func (a *asked) SequenceHere(ctx context.Context, id tiering.ShardID, s *shard.Submission) ([]shard.Outcome, error) {
	a.id, a.sub = id, s
	if a.block != nil {
		select {
		case <-a.block:
		case <-ctx.Done():
		}
	}
	return a.out, a.err
}

func (a *asked) AnswerHere(_ context.Context, q Question) ([]byte, error) {
	a.question = q
	return a.body, a.err
}

func serve(t *testing.T, a *asked) (addr string, c *Client) {
	t.Helper()
	return serveAs(t, a, Guard{}, Identity{})
}

// serveAs serves under a guard, and returns a client that asks as somebody.
func serveAs(t *testing.T, a *asked, g Guard, as Identity) (addr string, c *Client) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, ended := NewServer(a, a.blocks, g), make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	c = NewClient(as)
	t.Cleanup(func() {
		c.Close()
		s.Stop(t.Context())
		if err := <-ended; err != nil {
			t.Error("serving:", err)
		}
	})
	return l.Addr().String(), c
}

var submission = shard.Submission{
	Session: tiering.SessionID{1}, Seq: 7,
	Parts: []shard.Part{{
		Partition: tiering.TopicPartition{Topic: tiering.TopicID{2}, Partition: 3},
		Inline:    []byte("batch"),
		Batches:   []shard.Batch{{Length: 5, Count: 1, MaxTimestamp: 9, ProducerID: -1}},
	}},
}

func TestASubmissionArrivesWholeAndItsOutcomesComeBack(t *testing.T) {
	a := &asked{out: []shard.Outcome{{Code: shard.OK, Base: 42}, {Code: shard.OutOfOrderSequence, Base: -1}}}
	addr, c := serve(t, a)
	out, err := c.Sequence(t.Context(), addr, 5, &submission)
	if err != nil || !slices.Equal(out, a.out) {
		t.Errorf("answer %v, %v, want %v", out, err, a.out)
	}
	if a.id != 5 || !bytes.Equal(a.sub.Encode(nil), submission.Encode(nil)) {
		t.Errorf("shard %d got %+v", a.id, a.sub)
	}
}

func TestDefiniteErrorsKeepTheirMeaning(t *testing.T) {
	for _, want := range []error{metadata.ErrFenced, metadata.ErrSessionDead, metadata.ErrInvalid, shard.ErrStaleSubmission} {
		addr, c := serve(t, &asked{err: want})
		if _, err := c.Sequence(t.Context(), addr, 0, &submission); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

func TestWhatWasNotAnsweredIsNotDefinite(t *testing.T) {
	a := &asked{err: metadata.ErrSessionDead, block: make(chan struct{})}
	addr, c := serve(t, a)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Sequence(ctx, addr, 0, &submission)
	for _, definite := range []error{metadata.ErrFenced, metadata.ErrSessionDead, metadata.ErrInvalid, shard.ErrStaleSubmission} {
		if err == nil || errors.Is(err, definite) {
			t.Errorf("a call that was broken off returned %v", err)
		}
	}
}

func TestConnectionsOfAgentsThatLeftAreClosed(t *testing.T) {
	a := &asked{}
	addr, c := serve(t, a)
	if _, err := c.Sequence(t.Context(), addr, 0, &submission); err != nil {
		t.Fatal(err)
	}
	c.Keep(map[string]bool{"127.0.0.1:1": true})
	if n := len(c.conns); n != 0 {
		t.Errorf("%d connections are left, want none", n)
	}
	c.Close()
	if _, err := c.Sequence(t.Context(), addr, 0, &submission); err == nil {
		t.Error("a closed client still asks")
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add(encodeRequest(3, &submission))
	f.Add([]byte{protocolVersion, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		id, s, err := decodeRequest(b)
		if err != nil {
			if !errors.Is(err, metadata.ErrInvalid) {
				t.Fatalf("%v is not ErrInvalid", err)
			}
			return
		}
		if id2, s2, err := decodeRequest(encodeRequest(id, s)); err != nil || id2 != id || s2.NumBatches() != s.NumBatches() {
			t.Fatalf("a request does not survive encoding: %v", err)
		}
	})
}

func FuzzDecodeAnswer(f *testing.F) {
	f.Add(encodeAnswer([]shard.Outcome{{Code: shard.OK, Base: 1}}, nil))
	f.Add(encodeAnswer(nil, metadata.ErrFenced))
	f.Fuzz(func(t *testing.T, b []byte) {
		if out, err := decodeAnswer(b); err == nil {
			if again, err := decodeAnswer(encodeAnswer(out, nil)); err != nil || !slices.Equal(again, out) {
				t.Fatalf("%v became %v, %v", out, again, err)
			}
		}
	})
}

func TestAsk(t *testing.T) {
	a := &asked{body: []byte("because")}
	addr, c := serve(t, a)
	q := Question{Shard: 9, Kind: "why", Body: []byte("this")}
	got, err := c.Ask(t.Context(), addr, q)
	if err != nil || string(got) != "because" {
		t.Fatalf("answered %q, %v", got, err)
	}
	if a.question.Shard != 9 || a.question.Kind != "why" || string(a.question.Body) != "this" {
		t.Fatalf("asked %+v", a.question)
	}
	for _, want := range []error{metadata.ErrFenced, metadata.ErrInvalid} {
		a.err = want
		if _, err := c.Ask(t.Context(), addr, q); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	a.err = errors.New("some trouble")
	if _, err := c.Ask(t.Context(), addr, q); !errors.Is(err, metadata.ErrFenced) {
		t.Errorf("%v: trouble must be asked about again", err)
	}
	if _, err := c.Ask(t.Context(), addr, Question{Kind: string(make([]byte, 256))}); !errors.Is(err, metadata.ErrInvalid) {
		t.Errorf("a kind of 256 bytes: %v", err)
	}
}

func FuzzDecodeQuestion(f *testing.F) {
	f.Add(Question{Shard: 1, Kind: "mark", Body: []byte("{}")}.encode())
	f.Add([]byte{protocolVersion, 0, 0, 0, 1, 200})
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := decodeQuestion(b)
		if err != nil {
			if !errors.Is(err, metadata.ErrInvalid) {
				t.Fatalf("%v is not ErrInvalid", err)
			}
			return
		}
		if !bytes.Equal(q.encode(), b) {
			t.Fatalf("%x does not survive decoding", b)
		}
	})
}
