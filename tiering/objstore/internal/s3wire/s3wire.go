// Package s3wire is what the drivers that speak S3 have in common: the meaning of
// statuses and error codes, the check of a ranged answer, and the connection pool.
// It has no state; everything may be called concurrently.
package s3wire

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/floelog/floe/tiering/objstore"
)

// MaxKeys is how many keys S3 takes in a DeleteObjects and returns in a list.
const MaxKeys = 1000

// DefaultConnections is the default bound on connections to the store. Not smaller:
// reads of a catch-up must not stand in line behind each other. Not larger: a store
// throttles by then, and every connection holds 128 KiB of buffers.
const DefaultConnections = 256

// Tune makes of t a pool of at most connections connections, all of which may stay open
// while idle: a TLS handshake costs more than a PUT. HTTP/1.1 only, for large bodies of
// one HTTP/2 connection would wait for each other.
func Tune(t *http.Transport, connections int) {
	if connections <= 0 {
		connections = DefaultConnections
	}
	t.Proxy = http.ProxyFromEnvironment
	t.DialContext = (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	t.MaxIdleConns = connections
	t.MaxIdleConnsPerHost = connections
	t.MaxConnsPerHost = connections
	t.IdleConnTimeout = 90 * time.Second
	t.TLSHandshakeTimeout = 5 * time.Second
	t.WriteBufferSize = 64 << 10
	t.ReadBufferSize = 64 << 10
	t.DisableCompression = true // a body must come as it is stored
	t.ForceAttemptHTTP2 = false
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
}

// Op is what a request wanted, for errors that mean different things.
type Op int

// The requests that differ. Write is a PUT, Read anything else.
const (
	Read Op = iota
	Write
)

// Error returns err with the contract's meaning of an answer with this HTTP status and
// S3 error code, both of which may be unknown (0, "").
func Error(op Op, status int, code string, err error) error {
	if meaning := meaning(op, status, code); meaning != nil {
		return fmt.Errorf("%w: %w", meaning, err)
	}
	return err
}

func meaning(op Op, status int, code string) error {
	switch code {
	case "NoSuchBucket", "AllAccessDisabled", "AccessDenied", "ExpiredToken", "InvalidToken", "TokenRefreshRequired",
		"InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed", "PermanentRedirect", "InvalidBucketName":
		return objstore.ErrDenied
	case "SlowDown", "SlowDownRead", "SlowDownWrite", "TooManyRequests", "Throttling", "ThrottlingException",
		"RequestLimitExceeded", "ServiceUnavailable", "XMinioServerNotInitialized":
		return objstore.ErrThrottled
	case "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "InsufficientStorage":
		return objstore.ErrFull
	case "PreconditionFailed":
		return objstore.ErrExists
	case "InvalidRange":
		return objstore.ErrBeyond
	}
	switch status {
	case http.StatusPreconditionFailed:
		return objstore.ErrExists
	case http.StatusConflict:
		// ConditionalRequestConflict: another request for this key is under way and
		// may yet fail. To be retried, so none of the final errors.
		return nil
	case http.StatusNotFound:
		if op == Write {
			return nil // a deletion came between; S3 asks to send the PUT again
		}
		return objstore.ErrNotFound
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusMovedPermanently:
		return objstore.ErrDenied
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return objstore.ErrThrottled
	case http.StatusInsufficientStorage:
		return objstore.ErrFull
	case http.StatusRequestedRangeNotSatisfiable:
		return objstore.ErrBeyond
	}
	return nil
}

// NoteRetryAfter tells who waits for this answer how long the store wants to be left alone, by
// either form that the header has.
func NoteRetryAfter(req *http.Request, resp *http.Response) {
	if resp.StatusCode != http.StatusServiceUnavailable && resp.StatusCode != http.StatusTooManyRequests {
		return
	}
	after := resp.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(after); err == nil {
		objstore.NoteRetryAfter(req.Context(), time.Duration(min(seconds, maxRetryAfter))*time.Second)
	} else if at, err := http.ParseTime(after); err == nil {
		objstore.NoteRetryAfter(req.Context(), time.Until(at))
	}
}

// maxRetryAfter keeps a number of seconds from overflowing; objstore bounds it to far less.
const maxRetryAfter = 3600

// maxNamed is how many keys an error names: enough to see what is wrong, where a whole
// batch of 1000 would bury it.
const maxNamed = 10

// KeyErrors joins what went wrong with the keys of a Delete, nil for nothing.
func KeyErrors(errs []error) error {
	if more := len(errs) - maxNamed; more > 0 {
		errs = append(errs[:maxNamed:maxNamed], fmt.Errorf("and %d more", more))
	}
	return errors.Join(errs...)
}

// RangeHeader asks for n > 0 bytes from position off.
func RangeHeader(off, n int64) string { return fmt.Sprintf("bytes=%d-%d", off, off+n-1) }

// ReadRange reads the answer to RangeHeader(off, n), whose headers said length and
// contentRange: exactly the n bytes that were asked for, or ErrCorrupt. It allocates
// only after the headers promised n bytes.
func ReadRange(body io.Reader, length int64, contentRange string, off, n int64) ([]byte, error) {
	first, last, _, err := parseContentRange(contentRange)
	if err != nil {
		return nil, err
	}
	if first != off || last != off+n-1 || length != n {
		return nil, fmt.Errorf("%w: asked for bytes %d-%d, the answer has %q and %d bytes",
			objstore.ErrCorrupt, off, off+n-1, contentRange, length)
	}
	data := make([]byte, n)
	if err := readFull(body, data); err != nil {
		return nil, err
	}
	if err := ended(body); err != nil {
		return nil, err
	}
	return data, nil
}

// ReadUpTo reads the answer to RangeHeader(off, n) where the object may end before: as many
// bytes as the headers promised, if these end where the range does or the object, and the size
// of the object. It allocates only after that, and no more than n bytes.
func ReadUpTo(body io.Reader, length int64, contentRange string, off, n int64) (data objstore.Body, size int64, err error) {
	first, last, size, err := parseContentRange(contentRange)
	if err != nil {
		return nil, 0, err
	}
	if size < 0 {
		return nil, 0, fmt.Errorf("%w: the answer does not tell the object's size: Content-Range %q", objstore.ErrCorrupt, contentRange)
	}
	if first != off || last != min(off+n, size)-1 || length != last-first+1 {
		return nil, 0, fmt.Errorf("%w: asked for bytes %d-%d or up to the end, the answer has %q and %d bytes",
			objstore.ErrCorrupt, off, off+n-1, contentRange, length)
	}
	data, err = objstore.ReadSlices(length, func(_ int64, p []byte) error { return readFull(body, p) })
	if err == nil {
		err = ended(body)
	}
	if err != nil {
		return nil, 0, err
	}
	return data, size, nil
}

func readFull(body io.Reader, p []byte) error {
	k, err := io.ReadFull(body, p)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: the last %d bytes and more are missing", objstore.ErrCorrupt, len(p)-k)
	}
	return err
}

// ended reads to the end of a body, of which all that was promised has come, so that the
// connection can be used again.
func ended(body io.Reader) error {
	var more [1]byte
	if k, err := body.Read(more[:]); k > 0 {
		return fmt.Errorf("%w: more bytes came than were promised", objstore.ErrCorrupt)
	} else if err != nil && err != io.EOF {
		return err
	}
	return nil
}

// parseContentRange reads "bytes FIRST-LAST/SIZE"; the size is negative where it is "*".
func parseContentRange(s string) (first, last, size int64, err error) {
	bad := fmt.Errorf("%w: the answer is no range: Content-Range %q", objstore.ErrCorrupt, s)
	span, ok := strings.CutPrefix(s, "bytes ")
	if !ok {
		return 0, 0, 0, bad
	}
	span, of, ok := strings.Cut(span, "/")
	from, to, dash := strings.Cut(span, "-")
	if !ok || !dash {
		return 0, 0, 0, bad
	}
	if first, err = strconv.ParseInt(from, 10, 64); err != nil || first < 0 {
		return 0, 0, 0, bad
	}
	if last, err = strconv.ParseInt(to, 10, 64); err != nil || last < first {
		return 0, 0, 0, bad
	}
	if of == "*" {
		return first, last, -1, nil
	}
	if size, err = strconv.ParseInt(of, 10, 64); err != nil || size <= last {
		return 0, 0, 0, bad
	}
	return first, last, size, nil
}

// EncodeSum renders a CRC-32C as S3 does: base64 of the big-endian number.
func EncodeSum(sum uint32) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum))
}

// DecodeSum reads what EncodeSum wrote. It refuses sums of multipart uploads ("...-3"),
// which are not sums of the object.
func DecodeSum(s string) (uint32, bool) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}

// Prefix brings a store's own key prefix into the form "" or "a/b/", and checks it.
func Prefix(s string) (string, error) {
	s = strings.Trim(s, "/")
	if s == "" {
		return "", nil
	}
	if err := objstore.CheckKey(s); err != nil {
		return "", fmt.Errorf("prefix: %w", err)
	}
	return s + "/", nil
}
