// Package s3wiretest holds the drivers that speak S3 to one reading of a store's
// answers, with a server that gives the rare ones: conflicts, throttling, wrong ranges.
package s3wiretest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/internal/s3wire"
	"github.com/floelog/floe/tiering/objstore/objstoretest"
)

// Bucket and Prefix are where the store of Run must keep its objects.
const (
	Bucket = "bucket"
	Prefix = "some/prefix"
)

// Run tests the store that newStore makes for the server at endpoint.
func Run(t *testing.T, newStore func(t *testing.T, endpoint string) objstore.Store) {
	serve := func(t *testing.T, h http.HandlerFunc) objstore.Store {
		server := httptest.NewServer(h)
		t.Cleanup(server.Close)
		return newStore(t, server.URL)
	}
	t.Run("errors", func(t *testing.T) { testErrors(t, serve) })
	t.Run("put", func(t *testing.T) { testPut(t, serve) })
	t.Run("a body is let go of", func(t *testing.T) { testLetGo(t, serve) })
	t.Run("ranges", func(t *testing.T) { testRanges(t, serve) })
	t.Run("ranges up to the end", func(t *testing.T) { testUpTo(t, serve) })
	t.Run("delete", func(t *testing.T) { testDelete(t, serve) })
	t.Run("checksums of parts", func(t *testing.T) { testPartSums(t, serve) })
}

type serveFunc func(*testing.T, http.HandlerFunc) objstore.Store

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	if code != "" {
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>for the test</Message></Error>", code)
	}
}

func testErrors(t *testing.T, serve serveFunc) {
	kinds := []error{objstore.ErrExists, objstore.ErrNotFound, objstore.ErrCorrupt, objstore.ErrThrottled, objstore.ErrDenied, objstore.ErrInvalid}
	for _, test := range []struct {
		status   int
		code     string
		put, get error // nil: an error of no kind, to be tried again
	}{
		{412, "PreconditionFailed", objstore.ErrExists, objstore.ErrExists},
		{409, "ConditionalRequestConflict", nil, nil},
		{409, "OperationAborted", nil, nil},
		{404, "NoSuchKey", nil, objstore.ErrNotFound},
		{404, "NoSuchBucket", objstore.ErrDenied, objstore.ErrDenied},
		{403, "AccessDenied", objstore.ErrDenied, objstore.ErrDenied},
		{403, "SignatureDoesNotMatch", objstore.ErrDenied, objstore.ErrDenied},
		{400, "ExpiredToken", objstore.ErrDenied, objstore.ErrDenied},
		{416, "InvalidRange", objstore.ErrCorrupt, objstore.ErrCorrupt},
		{503, "SlowDown", objstore.ErrThrottled, objstore.ErrThrottled},
		{503, "", objstore.ErrThrottled, objstore.ErrThrottled},
		{429, "TooManyRequests", objstore.ErrThrottled, objstore.ErrThrottled},
		{500, "InternalError", nil, nil},
		{502, "", nil, nil},
		{400, "BadDigest", nil, nil},
	} {
		t.Run(fmt.Sprint(test.status, test.code), func(t *testing.T) {
			var requests atomic.Int32
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				_, _ = io.Copy(io.Discard, r.Body)
				fail(w, test.status, test.code)
			})
			_, get := s.GetRange(t.Context(), "key", 0, 10)
			for _, c := range []struct {
				op        string
				err, want error
			}{{"put", s.Put(t.Context(), "key", objstoretest.Body(1, 10, 3)), test.put}, {"get", get, test.get}} {
				if c.err == nil {
					t.Errorf("%s worked", c.op)
				}
				for _, kind := range kinds {
					if got := errors.Is(c.err, kind); got != (kind == c.want) {
						t.Errorf("%s: %v: is %q: %v", c.op, c.err, kind, got)
					}
				}
			}
			if n := requests.Load(); n != 2 {
				t.Errorf("%d requests for one put and one get: the client retries", n)
			}
		})
	}
}

func testPut(t *testing.T, serve serveFunc) {
	body := objstoretest.Body(1, 3<<20, 1000)
	got := make(chan *http.Request, 1)
	content := make(chan []byte, 1)
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body) // a short body shows below
		got <- r
		content <- data
	})
	if err := s.Put(t.Context(), "a/b", body); err != nil {
		t.Fatal(err)
	}
	r := <-got
	if r.Method != http.MethodPut || r.URL.Path != "/"+Bucket+"/"+Prefix+"/a/b" {
		t.Errorf("%s %s", r.Method, r.URL.Path)
	}
	for header, want := range map[string]string{
		"If-None-Match":         "*",
		"X-Amz-Checksum-Crc32c": s3wire.EncodeSum(body.CRC32C()),
		"X-Amz-Content-Sha256":  "UNSIGNED-PAYLOAD",
		"Content-Encoding":      "",
		"Expect":                "",
	} {
		if got := r.Header.Get(header); got != want {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}
	if signed := r.Header.Get("Authorization"); !strings.Contains(signed, "x-amz-checksum-crc32c") {
		t.Errorf("the checksum is not signed: %s", signed)
	}
	if r.ContentLength != body.Size() || len(r.TransferEncoding) != 0 || string(<-content) != string(body.Bytes()) {
		t.Errorf("length %d, encoding %q, or other bytes than were put", r.ContentLength, r.TransferEncoding)
	}
}

// testLetGo writes to the body as soon as Put is back from a store that refused it
// without reading, or from a context that ended: the race detector then sees whether a
// connection still reads it.
func testLetGo(t *testing.T, serve serveFunc) {
	held := make(chan struct{})
	refuses := serve(t, func(w http.ResponseWriter, _ *http.Request) { fail(w, 412, "PreconditionFailed") })
	hangs := serve(t, func(http.ResponseWriter, *http.Request) { <-held })
	t.Cleanup(func() { close(held) }) // before the server waits for its handlers
	body := objstoretest.Body(1, 8<<20, 10_000)
	for range 5 {
		if err := refuses.Put(t.Context(), "key", body); err == nil {
			t.Error("a refused put worked")
		}
		overwrite(body)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := hangs.Put(ctx, "key", body); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("put with a deadline: %v", err)
		}
		cancel()
		overwrite(body)
	}
}

func overwrite(body objstore.Body) {
	for _, part := range body {
		clear(part)
	}
}

func testRanges(t *testing.T, serve serveFunc) {
	data := objstoretest.Body(1, 100, 100)[0]
	for name, test := range map[string]struct {
		status       int
		contentRange string
		body         []byte
		length       int // claimed
		want         error
	}{
		"what was asked for":       {206, "bytes 10-29/100", data[10:30], 20, nil},
		"size not known":           {206, "bytes 10-29/*", data[10:30], 20, nil},
		"range ignored":            {200, "", data, 100, objstore.ErrCorrupt},
		"no content range":         {206, "", data[10:30], 20, objstore.ErrCorrupt},
		"another place":            {206, "bytes 11-30/100", data[11:31], 20, objstore.ErrCorrupt},
		"object too short":         {206, "bytes 10-19/20", data[10:20], 10, objstore.ErrCorrupt},
		"too much":                 {206, "bytes 10-39/100", data[10:40], 30, objstore.ErrCorrupt},
		"length and range differ":  {206, "bytes 10-29/100", data[10:40], 30, objstore.ErrCorrupt},
		"cut on the way":           {206, "bytes 10-29/100", data[10:25], 20, objstore.ErrCorrupt},
		"malformed content range":  {206, "bytes ten-29/100", data[10:30], 20, objstore.ErrCorrupt},
		"content range of nothing": {206, "bytes */100", data[10:30], 20, objstore.ErrCorrupt},
		"other unit":               {206, "lines 10-29/100", data[10:30], 20, objstore.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get("Range"); got != "bytes=10-29" {
					t.Errorf("asked for %q", got)
				}
				w.Header().Set("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
				w.Header().Set("ETag", `"x"`)
				if test.contentRange != "" {
					w.Header().Set("Content-Range", test.contentRange)
				}
				w.Header().Set("Content-Length", strconv.Itoa(test.length))
				w.WriteHeader(test.status)
				_, _ = w.Write(test.body) // the client may have hung up
			})
			got, err := s.GetRange(t.Context(), "key", 10, 20)
			if !errors.Is(err, test.want) || test.want == nil && (err != nil || !slices.Equal(got, data[10:30])) {
				t.Errorf("got %d bytes, %v; want error %v", len(got), err, test.want)
			}
		})
	}
}

func testUpTo(t *testing.T, serve serveFunc) {
	data := objstoretest.Body(1, 100, 100)[0]
	for name, test := range map[string]struct {
		status       int
		contentRange string
		body         []byte
		length       int // claimed
		size         int64
		want         error
	}{
		"all of it":                   {206, "bytes 10-29/100", data[10:30], 20, 100, nil},
		"the object ends":             {206, "bytes 10-19/20", data[10:20], 10, 20, nil},
		"less, and it does not end":   {206, "bytes 10-19/100", data[10:20], 10, 0, objstore.ErrCorrupt},
		"cut on the way":              {206, "bytes 10-19/20", data[10:15], 10, 0, objstore.ErrCorrupt},
		"cut, and the length says so": {206, "bytes 10-19/20", data[10:15], 5, 0, objstore.ErrCorrupt},
		"size not known":              {206, "bytes 10-29/*", data[10:30], 20, 0, objstore.ErrCorrupt},
		"range ignored":               {200, "", data, 100, 0, objstore.ErrCorrupt},
		"another place":               {206, "bytes 11-19/20", data[11:20], 9, 0, objstore.ErrCorrupt},
		"too much":                    {206, "bytes 10-39/100", data[10:40], 30, 0, objstore.ErrCorrupt},
		"ends beyond its size":        {206, "bytes 10-29/25", data[10:30], 20, 0, objstore.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get("Range"); got != "bytes=10-29" {
					t.Errorf("asked for %q", got)
				}
				w.Header().Set("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
				w.Header().Set("ETag", `"x"`)
				if test.contentRange != "" {
					w.Header().Set("Content-Range", test.contentRange)
				}
				w.Header().Set("Content-Length", strconv.Itoa(test.length))
				w.WriteHeader(test.status)
				_, _ = w.Write(test.body) // the client may have hung up
			})
			got, size, err := s.GetUpTo(t.Context(), "key", 10, 20)
			want := data[10:min(30, max(test.size, 10))]
			if !errors.Is(err, test.want) || test.want == nil && (err != nil || size != test.size || !slices.Equal(got.Copy(), want)) {
				t.Errorf("got %d bytes of %d, %v; want error %v", got.Size(), size, err, test.want)
			}
			if errors.Is(err, objstore.ErrBeyond) {
				t.Errorf("a damaged answer is taken for the end: %v", err)
			}
		})
	}
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { fail(w, 416, "InvalidRange") })
	if _, _, err := s.GetUpTo(t.Context(), "key", 10, 20); !errors.Is(err, objstore.ErrBeyond) {
		t.Errorf("beyond the end: %v", err)
	}
}

func testDelete(t *testing.T, serve serveFunc) {
	var batches atomic.Int32
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		if n := strings.Count(string(data), "<Key>"); n > s3wire.MaxKeys {
			t.Errorf("a batch of %d keys", n)
		}
		if !r.URL.Query().Has("delete") || r.Method != http.MethodPost {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		batches.Add(1)
		fmt.Fprintf(w, `<DeleteResult><Error><Key>%[1]s/kept</Key><Code>AccessDenied</Code><Message>locked</Message></Error>`+
			`<Error><Key>%[1]s/slow</Key><Code>SlowDown</Code><Message>later</Message></Error>`+
			`<Error><Key>%[1]s/gone</Key><Code>NoSuchKey</Code><Message>none</Message></Error></DeleteResult>`, Prefix)
	})
	keys := make([]string, s3wire.MaxKeys)
	for i := range keys {
		keys[i] = fmt.Sprint("k", i)
	}
	err := s.Delete(t.Context(), keys...)
	if !errors.Is(err, objstore.ErrDenied) || !errors.Is(err, objstore.ErrThrottled) {
		t.Errorf("delete: %v, want both kinds", err)
	}
	for part, want := range map[string]bool{"delete kept:": true, "delete slow:": true, "gone": false, Prefix: false} {
		if err != nil && strings.Contains(err.Error(), part) != want {
			t.Errorf("%q in the error: %v: %v", part, !want, err)
		}
	}
	if n := batches.Load(); n != 1 {
		t.Errorf("%d batches for %d keys", n, len(keys))
	}
}

func testPartSums(t *testing.T, serve serveFunc) {
	for sum, want := range map[string]bool{"": false, "AAAAAA==-3": false, "AAAAAA==": true} {
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
			w.Header().Set("ETag", `"x"`)
			w.Header().Set("Content-Length", "5")
			if sum != "" {
				w.Header().Set("X-Amz-Checksum-Crc32c", sum)
			}
		})
		info, err := s.Head(t.Context(), "key")
		if err != nil || info.HasCRC != want || info.Size != 5 || info.Modified.Year() != 2015 {
			t.Errorf("sum %q: %+v, %v", sum, info, err)
		}
	}
}
