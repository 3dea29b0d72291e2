// Package objstoretest is the suite that every object store, and every decorator of
// one, has to pass: the contract of package objstore as tests.
package objstoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/floelog/floe/tiering/objstore"
)

// Run holds the stores that newStore makes to the contract. Each test gets a store of
// its own, which must be empty.
func Run(t *testing.T, newStore func(t *testing.T) objstore.Store) {
	tests := []struct {
		name string
		run  func(t *testing.T, s objstore.Store)
	}{
		{"put creates and never overwrites", testCreateOnly},
		{"of concurrent puts one wins", testRace},
		{"bodies of every shape come back", testShapes},
		{"a body is not kept", testBodyNotKept},
		{"ranges are exact", testRanges},
		{"reads up to the end tell where it is", testUpTo},
		{"a result belongs to the caller", testResultOwned},
		{"head describes", testHead},
		{"what is missing is not found", testMissing},
		{"list is ordered and bounded", testList},
		{"list pages see every key once", testListPages},
		{"delete removes, twice as well", testDelete},
		{"delete takes thousands", testDeleteMany},
		{"a bad key is refused", testBadKeys},
		{"a context that ended is heeded", testCanceled},
		{"concurrent use", testConcurrent},
		{"a store has a name", func(t *testing.T, s objstore.Store) {
			if s.String() == "" {
				t.Error("String is empty")
			}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, newStore(t)) })
	}
}

// Body returns n pseudo-random bytes in slices of at most part bytes, the same for the
// same arguments.
func Body(seed uint64, n, part int) objstore.Body {
	data := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	_, _ = rng.Read(data) // never fails
	return slices.Collect(slices.Chunk(data, part))
}

func put(t *testing.T, s objstore.Store, key string, body objstore.Body) {
	t.Helper()
	if err := s.Put(t.Context(), key, body); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

func wantObject(t *testing.T, s objstore.Store, key string, want []byte) {
	t.Helper()
	got, err := s.GetRange(t.Context(), key, 0, int64(len(want)))
	if err != nil {
		t.Errorf("get %s: %v", key, err)
	} else if !bytes.Equal(got, want) {
		t.Errorf("get %s: other bytes than were put", key)
	}
}

func testCreateOnly(t *testing.T, s objstore.Store) {
	first, second := Body(1, 1000, 100), Body(2, 1500, 100)
	put(t, s, "a/b/c", first)
	wantErr(t, "second put", s.Put(t.Context(), "a/b/c", second), objstore.ErrExists)
	wantErr(t, "put of nothing", s.Put(t.Context(), "a/b/c", nil), objstore.ErrExists)
	wantObject(t, s, "a/b/c", first.Bytes())
	if info, err := s.Head(t.Context(), "a/b/c"); err != nil || info.Size != 1000 {
		t.Errorf("head after refused puts: %+v, %v; want size 1000", info, err)
	}
}

func testRace(t *testing.T, s objstore.Store) {
	const writers = 8
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() { errs[i] = s.Put(t.Context(), "race", Body(uint64(i), 1<<16, 1000)) })
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner < 0:
			winner = i
		case err == nil:
			t.Errorf("writers %d and %d both created the object", winner, i)
		case !errors.Is(err, objstore.ErrExists):
			// S3 may refuse with 409 while another upload runs: not created, either.
			t.Logf("writer %d: %v", i, err)
		}
	}
	if winner < 0 {
		t.Fatal("no writer created the object")
	}
	wantObject(t, s, "race", Body(uint64(winner), 1<<16, 1000).Bytes())
}

func testShapes(t *testing.T, s objstore.Store) {
	bodies := map[string]objstore.Body{
		"nil":          nil,
		"empty-parts":  {{}, nil, {}},
		"one-byte":     {{7}},
		"holes":        {{}, {1, 2}, nil, {3}, {}},
		"many-slices":  Body(3, 100_000, 37),
		"odd-sizes":    {Body(4, 1<<20-1, 1<<20)[0], {9}, Body(5, 1<<20+1, 1<<21)[0]},
		"8MiB-in-1KiB": Body(6, 8<<20, 1024),
	}
	for name, body := range bodies {
		put(t, s, "shape/"+name, body)
		wantObject(t, s, "shape/"+name, body.Bytes())
		info, err := s.Head(t.Context(), "shape/"+name)
		if err != nil || info.Size != body.Size() || !info.HasCRC || info.CRC32C != body.CRC32C() {
			t.Errorf("%s: head %+v, %v; want size %d, CRC-32C %08x", name, info, err, body.Size(), body.CRC32C())
		}
	}
}

func testBodyNotKept(t *testing.T, s objstore.Store) {
	body := Body(7, 10_000, 3000)
	want := body.Copy()
	put(t, s, "kept", body)
	if !bytes.Equal(body.Copy(), want) {
		t.Error("put changed the body")
	}
	for _, part := range body {
		clear(part)
	}
	wantObject(t, s, "kept", want)
}

func testRanges(t *testing.T, s objstore.Store) {
	body := Body(8, 5000, 700)
	all := body.Bytes()
	put(t, s, "r", body)
	for _, r := range [][2]int64{{0, 1}, {0, 5000}, {4999, 1}, {1234, 2345}, {699, 2}, {0, 0}, {5000, 0}, {17, 0}} {
		got, err := s.GetRange(t.Context(), "r", r[0], r[1])
		if err != nil || !bytes.Equal(got, all[r[0]:r[0]+r[1]]) {
			t.Errorf("range %v: %d bytes, %v", r, len(got), err)
		}
	}
	for _, r := range [][2]int64{{0, 5001}, {4999, 2}, {5000, 1}, {6000, 1}, {6000, 0}} {
		got, err := s.GetRange(t.Context(), "r", r[0], r[1])
		wantErr(t, fmt.Sprintf("range %v beyond the end (%d bytes)", r, len(got)), err, objstore.ErrCorrupt)
	}
	for _, r := range [][2]int64{{-1, 1}, {0, -1}, {1, 1<<63 - 1}} {
		_, err := s.GetRange(t.Context(), "r", r[0], r[1])
		wantErr(t, fmt.Sprintf("range %v", r), err, objstore.ErrInvalid)
	}
}

func testUpTo(t *testing.T, s objstore.Store) {
	body := Body(17, 5000, 700)
	all := body.Bytes()
	put(t, s, "u", body)
	put(t, s, "empty", nil)
	for _, r := range [][2]int64{{0, 1}, {0, 4999}, {0, 5000}, {0, 5001}, {4999, 1}, {4999, 2}, {1234, 1 << 30}, {699, 2}, {1, 1<<63 - 2}} {
		got, size, err := s.GetUpTo(t.Context(), "u", r[0], r[1])
		if err != nil || size != 5000 || !bytes.Equal(got.Copy(), all[r[0]:min(r[1], 5000-r[0])+r[0]]) {
			t.Errorf("up to %v: %d bytes of %d, %v", r, got.Size(), size, err)
		}
		for _, p := range got {
			clear(p)
		}
	}
	large := Body(18, 3*objstore.SliceSize+77, 1<<20)
	put(t, s, "large", large)
	got, size, err := s.GetUpTo(t.Context(), "large", 77, 1<<30)
	if err != nil || size != large.Size() || !bytes.Equal(got.Copy(), large.Bytes()[77:]) {
		t.Errorf("a large object: %d bytes of %d, %v", got.Size(), size, err)
	}
	for _, p := range got {
		if len(p) > objstore.SliceSize*3/2 || cap(p) != len(p) {
			t.Errorf("a slice of %d bytes, with room for %d", len(p), cap(p))
		}
	}
	wantObject(t, s, "u", all)
	for _, r := range []struct {
		key    string
		off, n int64
		want   error
	}{
		{"u", 5000, 1, objstore.ErrBeyond},
		{"u", 6000, 10, objstore.ErrBeyond},
		{"u", 5000, 1, objstore.ErrCorrupt},
		{"empty", 0, 1, objstore.ErrBeyond},
		{"none", 0, 1, objstore.ErrNotFound},
		{"u", 0, 0, objstore.ErrInvalid},
		{"u", 0, -1, objstore.ErrInvalid},
		{"u", -1, 1, objstore.ErrInvalid},
		{"u", 1, 1<<63 - 1, objstore.ErrInvalid},
		{"a b", 0, 1, objstore.ErrInvalid},
	} {
		got, _, err := s.GetUpTo(t.Context(), r.key, r.off, r.n)
		wantErr(t, fmt.Sprintf("%+v: %d bytes", r, got.Size()), err, r.want)
	}
}

func testResultOwned(t *testing.T, s objstore.Store) {
	body := Body(9, 4096, 4096)
	want := body.Copy()
	put(t, s, "owned", body)
	got, err := s.GetRange(t.Context(), "owned", 0, 4096)
	if err != nil {
		t.Fatal(err)
	}
	clear(got)
	wantObject(t, s, "owned", want)
}

func testHead(t *testing.T, s objstore.Store) {
	body := Body(10, 12345, 1000)
	put(t, s, "h/x", body)
	info, err := s.Head(t.Context(), "h/x")
	if err != nil {
		t.Fatal(err)
	}
	if info.Key != "h/x" || info.Size != 12345 || !info.HasCRC || info.CRC32C != body.CRC32C() {
		t.Errorf("got %+v, want h/x, 12345 bytes, CRC-32C %08x", info, body.CRC32C())
	}
	// Clocks of test and store are the same machine's; HTTP dates have whole seconds.
	if d := time.Since(info.Modified); d < -time.Minute || d > time.Minute {
		t.Errorf("modified %v, %v ago", info.Modified, d)
	}
}

func testMissing(t *testing.T, s objstore.Store) {
	put(t, s, "dir/object", Body(11, 10, 10))
	for _, key := range []string{"nothing", "dir", "dir/other", "dir/object2", "no/such/dir"} {
		_, err := s.GetRange(t.Context(), key, 0, 1)
		wantErr(t, "get "+key, err, objstore.ErrNotFound)
		_, err = s.GetRange(t.Context(), key, 0, 0)
		wantErr(t, "get nothing of "+key, err, objstore.ErrNotFound)
		_, err = s.Head(t.Context(), key)
		wantErr(t, "head "+key, err, objstore.ErrNotFound)
	}
}

// listKeys are in byte order: '-' < '.' < '/' < digits < capitals < '_' < letters.
var listKeys = []string{
	"b/x", "l/a-b", "l/a.b", "l/a/a", "l/a/b/c", "l/a/b0", "l/a/z", "l/a0", "l/aB", "l/a_b", "l/ab", "l/b/a", "m", "z/y",
}

func putList(t *testing.T, s objstore.Store) {
	for i, key := range slices.Backward(listKeys) {
		put(t, s, key, Body(uint64(i), i, 5))
	}
}

func testList(t *testing.T, s objstore.Store) {
	putList(t, s)
	for _, test := range []struct {
		prefix, after string
		limit         int
		want          []string
	}{
		{"", "", 100, listKeys},
		{"", "", len(listKeys), listKeys},
		{"", "", 3, listKeys[:3]},
		{"", "l/a/b/c", 2, listKeys[5:7]},
		{"l/", "", 100, listKeys[1:12]},
		{"l/a", "", 100, listKeys[1:11]},
		{"l/a/", "", 100, listKeys[3:7]},
		{"l/a/b", "", 100, listKeys[4:6]},
		{"l/a", "l/a/a", 3, listKeys[4:7]},
		{"l/a/", "l/a/b", 100, listKeys[4:7]},
		{"l/a", "l/a/b/c", 100, listKeys[5:11]},
		{"l/a", "a", 2, listKeys[1:3]},
		{"l/a", "l/b", 100, nil},
		{"l/", "z", 100, nil},
		{"m", "", 100, listKeys[12:13]},
		{"m", "m", 100, nil},
		{"m/", "", 100, nil},
		{"none", "", 100, nil},
		{"no/ne", "", 100, nil},
		{"l/a", "", 0, nil},
	} {
		infos, err := s.List(t.Context(), test.prefix, test.after, test.limit)
		if got := keysOf(infos); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("list %q after %q limit %d: %q, %v; want %q", test.prefix, test.after, test.limit, got, err, test.want)
		}
		for _, info := range infos {
			if i := slices.Index(listKeys, info.Key); i >= 0 && (info.Size != int64(i) || info.Modified.IsZero()) {
				t.Errorf("list: %+v, want size %d and a time", info, i)
			}
		}
	}
	for _, prefix := range []string{"a b", "../", "a/../b", "a//b", "/"} {
		_, err := s.List(t.Context(), prefix, "", 1)
		wantErr(t, "list of "+prefix, err, objstore.ErrInvalid)
	}
}

func testListPages(t *testing.T, s objstore.Store) {
	putList(t, s)
	for limit := 1; limit <= 4; limit++ {
		var got []string
		for after := ""; ; after = got[len(got)-1] {
			infos, err := s.List(t.Context(), "", after, limit)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, keysOf(infos)...)
			if len(infos) < limit || len(got) > len(listKeys) {
				break
			}
		}
		if !slices.Equal(got, listKeys) {
			t.Errorf("pages of %d: %q", limit, got)
		}
	}
}

func keysOf(infos []objstore.Info) []string {
	var keys []string
	for _, info := range infos {
		keys = append(keys, info.Key)
	}
	return keys
}

func testDelete(t *testing.T, s objstore.Store) {
	for _, key := range []string{"d/a", "d/b", "d/c"} {
		put(t, s, key, Body(12, 100, 100))
	}
	for range 2 {
		if err := s.Delete(t.Context(), "d/a", "d/none", "d/c", "d"); err != nil {
			t.Fatal(err)
		}
		infos, err := s.List(t.Context(), "d/", "", 10)
		if got := keysOf(infos); err != nil || !slices.Equal(got, []string{"d/b"}) {
			t.Errorf("left after delete: %q, %v; want d/b", got, err)
		}
		_, err = s.GetRange(t.Context(), "d/a", 0, 1)
		wantErr(t, "get of a deleted object", err, objstore.ErrNotFound)
	}
	if err := s.Delete(t.Context()); err != nil {
		t.Errorf("delete of nothing: %v", err)
	}
}

func testDeleteMany(t *testing.T, s objstore.Store) {
	keys := make([]string, 2100)
	for i := range keys {
		keys[i] = fmt.Sprintf("many/%04d", i)
	}
	real := []int{0, 999, 1000, 1999, 2000, 2099} // the ends of batches of 1000
	for _, i := range real {
		put(t, s, keys[i], Body(13, 10, 10))
	}
	put(t, s, "many/kept", nil)
	if err := s.Delete(t.Context(), keys...); err != nil {
		t.Fatal(err)
	}
	infos, err := s.List(t.Context(), "many/", "", 100)
	if got := keysOf(infos); err != nil || !slices.Equal(got, []string{"many/kept"}) {
		t.Errorf("left after delete: %q, %v; want many/kept", got, err)
	}
}

func testBadKeys(t *testing.T, s objstore.Store) {
	put(t, s, "good", Body(14, 10, 10))
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a b", "a\x00", "ä", "a~", "a\\b", "a?b", "a%2e",
		string(bytes.Repeat([]byte("k"), objstore.MaxKey+1)),
		string(bytes.Repeat([]byte("k"), 256)),
	} {
		wantErr(t, "put "+key, s.Put(t.Context(), key, Body(15, 1, 1)), objstore.ErrInvalid)
		_, err := s.GetRange(t.Context(), key, 0, 1)
		wantErr(t, "get "+key, err, objstore.ErrInvalid)
		_, err = s.Head(t.Context(), key)
		wantErr(t, "head "+key, err, objstore.ErrInvalid)
		wantErr(t, "delete "+key, s.Delete(t.Context(), "good", key), objstore.ErrInvalid)
	}
	wantObject(t, s, "good", Body(14, 10, 10).Bytes())
}

func testCanceled(t *testing.T, s objstore.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantErr(t, "put", s.Put(ctx, "c", Body(16, 10, 10)), context.Canceled)
	_, err := s.GetRange(ctx, "c", 0, 1)
	wantErr(t, "get", err, context.Canceled)
	_, _, err = s.GetUpTo(ctx, "c", 0, 1)
	wantErr(t, "get up to", err, context.Canceled)
	_, err = s.Head(ctx, "c")
	wantErr(t, "head", err, context.Canceled)
	_, err = s.List(ctx, "", "", 1)
	wantErr(t, "list", err, context.Canceled)
	wantErr(t, "delete", s.Delete(ctx, "c"), context.Canceled)
}

func testConcurrent(t *testing.T, s objstore.Store) {
	const workers, rounds = 8, 6
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				key := fmt.Sprintf("con/%d/%d", i, w)
				body := Body(uint64(w*rounds+i), 20_000, 999)
				if err := s.Put(t.Context(), key, body); err != nil {
					t.Errorf("put %s: %v", key, err)
					return
				}
				wantObject(t, s, key, body.Bytes())
				if _, err := s.List(t.Context(), "con/", "", 5); err != nil {
					t.Errorf("list: %v", err)
				}
				if i%2 == 0 {
					if err := s.Delete(t.Context(), key); err != nil {
						t.Errorf("delete %s: %v", key, err)
					}
				}
			}
		})
	}
	wg.Wait()
	infos, err := s.List(t.Context(), "con/", "", 1000)
	if err != nil || len(infos) != workers*rounds/2 {
		t.Errorf("%d objects left, %v; want %d", len(infos), err, workers*rounds/2)
	}
}
