package fetch_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/floelog/floe/agent/fetch"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
)

// A store that answers with the bytes of another place: their checksums are right.
func TestBytesOfAnotherPlaceAreNotServed(t *testing.T) {
	withLog(t, func(l *log) {
		data := encode(t, rec{"elsewhere", 1})
		binary.BigEndian.PutUint64(data, 7) // as a merged segment holds it
		l.append(0, false, data)
		if got := askOne(l, 0); got != "KAFKA_STORAGE_ERROR" {
			t.Errorf("got %q, want KAFKA_STORAGE_ERROR", got)
		}
	})
}

func askOne(l *log, offset tiering.Offset) string {
	l.t.Helper()
	return l.fetch(fetch.Request{MaxBytes: 1 << 20, Partitions: []fetch.Partition{from(0, offset, 1<<20)}})[0]
}

// A bit of a base offset, which no checksum covers, may flip on the way, in memory or on the disk; the bytes of
// another place may have another shape. Both are gone with the next answer of the store.
func TestBytesOfAnotherPlaceAreReadAgain(t *testing.T) {
	good := encode(t, rec{"a", 1}, rec{"b", 1})
	other := encode(t, rec{"", 1})
	for len(other) < len(good) {
		other = encode(t, rec{strings.Repeat("c", len(good)-len(other)), 1})
	}
	if len(other) != len(good) {
		t.Fatalf("batches of %d and %d bytes", len(other), len(good))
	}
	for name, spoil := range map[string]func(first []byte){
		"a flipped bit of an offset": func(b []byte) { b[6] ^= 4 },
		"another place's batch":      func(b []byte) { copy(b, other) },
	} {
		t.Run(name, func(t *testing.T) {
			withLog(t, func(l *log) {
				l.append(0, false, good)
				part := l.state(0)
				gets := 0
				l.spoil = func(offset int64, b []byte) {
					if gets++; gets == 1 {
						spoil(b[int64(part.Extents[0].Position)-offset:])
					}
				}
				for range 2 {
					if got := askOne(l, 0); got != "0=a 1=b " {
						t.Errorf("got %q", got)
					}
				}
				if gets != 2 {
					t.Errorf("%d GETs, want one more than the bad one", gets)
				}
			})
		})
	}
}

// However the store fails, it is the store that a consumer hears of, not another leader.
func TestStoreThatFails(t *testing.T) {
	for name, err := range map[string]error{
		"no answer in time": fmt.Errorf("get: %w", context.DeadlineExceeded),
		"not available":     objstore.ErrUnavailable,
		"an error":          errors.New("InternalError"),
	} {
		t.Run(name, func(t *testing.T) {
			withLog(t, func(l *log) {
				l.append(0, false, encode(t, rec{"a", 1}))
				l.fails = err
				if got := askOne(l, 0); got != "KAFKA_STORAGE_ERROR" {
					t.Errorf("got %q", got)
				}
				l.fails = nil
				if got := askOne(l, 0); got != "0=a " {
					t.Errorf("once it is back: %q", got)
				}
			})
		})
	}
}
