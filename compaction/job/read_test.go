package job_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/floelog/floe/compaction/job"
	"github.com/floelog/floe/protocol/batch"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/segment"
)

// misplaced answers with the bytes of another place until it was told often enough.
type misplaced struct {
	bad, good []byte
	renewals  int // after which it has the right ones
}

func (m *misplaced) Read(_ context.Context, _ cache.Range, dst [][]byte) ([][]byte, error) {
	if m.renewals > 0 {
		return append(dst, m.bad), nil
	}
	return append(dst, m.good), nil
}

func (m *misplaced) Renew(cache.Range) { m.renewals-- }

func TestJobsReadBytesOfAnotherPlaceAgain(t *testing.T) {
	at := func(base int64) []byte {
		b := batch.NewBuilder(batch.PlainFields(1))
		b.Add(batch.Record{Value: []byte("v")})
		out, err := b.AppendTo(nil)
		if err != nil {
			t.Fatal(err)
		}
		batch.Patch(out, base, 1)
		return out
	}
	good := bytes.Join([][]byte{at(40), at(41)}, nil)
	bad := bytes.Join([][]byte{at(40), at(7)}, nil)
	got, err := job.Read(t.Context(), &misplaced{bad, good, 1}, cache.Range{}, 40)
	if err != nil || len(got) != 1 || !bytes.Equal(got[0], good) {
		t.Errorf("read %x, %v", got, err)
	}
	if got, err := job.Read(t.Context(), &misplaced{bad, good, 2}, cache.Range{}, 40); !errors.Is(err, segment.ErrCorrupt) {
		t.Errorf("bytes of another place were taken: %x, %v", got, err)
	}
	flush := bytes.Join([][]byte{at(0), at(0)}, nil)
	if _, err := job.Read(t.Context(), &misplaced{nil, flush, 0}, cache.Range{}, 40); err != nil {
		t.Errorf("a flush has no offsets: %v", err)
	}
}
