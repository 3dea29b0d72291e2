// Package nemesis stands between Floe and what it depends on and lets that fail: each type
// is a proxy that a test points the agents at. Faults are drawn from a seed, by the shares
// that the test sets and may change at any time, and counted: a fault that never fired has
// tested nothing.
//
// Everything may be called concurrently.
package nemesis

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Fault is something that an object store does wrong (RELIABILITY F5, F17 to F25).
type Fault string

// The faults of an object store.
const (
	Slow        Fault = "slow"         // the answer is late
	Error       Fault = "error"        // 500, nothing was done
	SlowDown    Fault = "slow-down"    // 503, nothing was done
	LostReply   Fault = "lost-reply"   // a PUT was done, the connection ends before the answer
	LatePut     Fault = "late-put"     // a PUT is refused with 500 and done later all the same
	Truncated   Fault = "truncated"    // a GET's body ends early
	Flipped     Fault = "flipped"      // a GET's body has a wrong bit
	NotFound    Fault = "not-found"    // 404 for an object that is there
	ListMissing Fault = "list-missing" // a LIST leaves an object out
	Denied      Fault = "denied"       // 403, as for expired credentials
	Cut         Fault = "cut"          // the connection ends, nothing was done
	WrongRange  Fault = "wrong-range"  // a GET brings what lies a byte before
	ListExtra   Fault = "list-extra"   // a LIST has an object that is not there
	NoBucket    Fault = "no-bucket"    // 404, the bucket is gone
)

// Faults are all of them.
func Faults() []Fault {
	return []Fault{Slow, Error, SlowDown, LostReply, LatePut, Truncated, Flipped, NotFound, ListMissing, Denied, Cut, WrongRange, ListExtra, NoBucket}
}

// maxBody bounds what is held of one request or answer: more than any segment has.
const maxBody = 256 << 20

// Store is a proxy before an S3-compatible object store.
type Store struct {
	target    string
	transport *http.Transport
	server    *http.Server
	listener  net.Listener
	work      sync.WaitGroup
	ctx       context.Context // ends with Close: late PUTs outlive the requests that brought them
	end       context.CancelFunc

	mu     sync.Mutex // guards the following
	rand   *rand.Rand
	shares map[Fault]float64
	delay  time.Duration
	lasts  map[*StoreImposition]bool
	fired  map[Fault]int
	seen   map[string]int
	err    error
}

// NewStore serves before the object store at target, HOST:PORT, until Close. Without shares
// it changes nothing.
func NewStore(target string, seed uint64) (*Store, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Store{
		target:    target,
		transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
		listener:  l, rand: rand.New(rand.NewPCG(seed, 0)), shares: map[Fault]float64{}, lasts: map[*StoreImposition]bool{}, fired: map[Fault]int{}, seen: map[string]int{},
	}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	s.work.Go(func() {
		if err := s.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.mu.Lock()
			s.err = err
			s.mu.Unlock()
		}
	})
	return s, nil
}

// Addr returns HOST:PORT of the proxy.
func (s *Store) Addr() string { return s.listener.Addr().String() }

// Close ends the proxy, and gives up PUTs that are late.
func (s *Store) Close() error {
	s.end()
	err := s.server.Close()
	s.work.Wait()
	s.transport.CloseIdleConnections()
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(err, s.err)
}

// Set replaces the shares of requests, 0 to 1, that faults happen to; delay is the longest
// time by which slow answers and late PUTs are late. A fault happens only where it can: a
// flipped bit to a GET, a lost reply to a PUT.
func (s *Store) Set(shares map[Fault]float64, delay time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shares, s.delay = maps.Clone(shares), delay
	if s.shares == nil {
		s.shares = map[Fault]float64{}
	}
}

// Fired returns how often each fault has happened.
func (s *Store) Fired() map[Fault]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.fired)
}

// Requests returns how many requests came, by kind: PUT, GET, HEAD, LIST, DELETE.
func (s *Store) Requests() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.seen)
}

// kindOf names what S3 bills a request as.
func kindOf(r *http.Request) string {
	q := r.URL.Query()
	switch {
	case r.Method == http.MethodGet && (q.Has("list-type") || q.Has("prefix")):
		return "LIST"
	case r.Method == http.MethodPost && q.Has("delete"):
		return "DELETE"
	}
	return r.Method
}

// applies are the faults that can happen to a kind of request; those that come first win.
var applies = map[string][]Fault{
	"PUT":    {Cut, Denied, NoBucket, Error, SlowDown, LatePut, LostReply},
	"GET":    {Cut, Denied, NoBucket, Error, SlowDown, NotFound, WrongRange, Truncated, Flipped},
	"HEAD":   {Cut, Denied, NoBucket, Error, SlowDown, NotFound},
	"LIST":   {Cut, Denied, NoBucket, Error, SlowDown, ListMissing, ListExtra},
	"DELETE": {Cut, Denied, NoBucket, Error, SlowDown},
}

// draw decides what happens to a request.
func (s *Store) draw(kind string) (fault Fault, late time.Duration, at float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[kind]++
	if share, delay := s.share(Slow); s.rand.Float64() < share {
		late = time.Duration(s.rand.Float64() * float64(delay))
		s.count(Slow)
	}
	for _, f := range applies[kind] {
		if share, _ := s.share(f); s.rand.Float64() < share {
			fault = f
			break
		}
	}
	return fault, late, s.rand.Float64()
}

// happened counts a fault once it has had its effect.
func (s *Store) happened(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count(f)
}

// ServeHTTP implements http.Handler.
func (s *Store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fault, late, at := s.draw(kindOf(r))
	if !hold(r.Context(), late) {
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		panic(http.ErrAbortHandler) // the client has gone
	}
	switch fault {
	case Cut:
		s.happened(fault)
		panic(http.ErrAbortHandler)
	case Denied, NoBucket, Error, SlowDown, NotFound:
		s.happened(fault)
		refuse(w, r, fault)
		return
	case LatePut:
		s.happened(fault)
		s.later(r, body, at)
		refuse(w, r, Error)
		return
	}
	resp, err := s.forward(r.Context(), r, body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	if fault == LostReply {
		_, _ = io.Copy(io.Discard, resp.Body) // the store has done it; nobody hears of it
		s.happened(fault)
		panic(http.ErrAbortHandler)
	}
	s.answer(w, resp, fault, at)
}

// later does a PUT that was refused, after some time.
func (s *Store) later(r *http.Request, body []byte, at float64) {
	s.mu.Lock()
	_, delay := s.share(LatePut)
	s.mu.Unlock()
	wait := time.Duration(at * float64(delay))
	again := r.Clone(s.ctx)
	s.work.Go(func() {
		if !hold(s.ctx, wait) {
			return
		}
		if resp, err := s.forward(s.ctx, again, body); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	})
}

// forward asks the store as the client did: the host is part of what it signed.
func (s *Store) forward(ctx context.Context, r *http.Request, body []byte) (*http.Response, error) {
	out := r.Clone(ctx)
	out.RequestURI, out.URL.Scheme, out.URL.Host = "", "http", s.target
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	out.TransferEncoding = nil
	if len(body) == 0 {
		out.Body = http.NoBody
	}
	return s.transport.RoundTrip(out)
}

// answer hands the store's answer on, with what is wrong in its body.
func (s *Store) answer(w http.ResponseWriter, resp *http.Response, fault Fault, at float64) {
	maps.Copy(w.Header(), resp.Header)
	if fault == "" || resp.StatusCode/100 != 2 {
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body) // the client may be gone
		return
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	cut := false
	switch n := int(at * float64(len(body))); {
	case fault == ListMissing || fault == ListExtra:
		other, ok := otherList(body, at, fault)
		if body = other; ok {
			s.happened(fault)
		}
		w.Header().Del("Content-Length")
	case len(body) == 0:
	case fault == WrongRange:
		copy(body[1:], body) // as if it began a byte earlier
		s.happened(fault)
	case fault == Flipped:
		body[n] ^= 1 << (n % 8)
		s.happened(fault)
	case fault == Truncated:
		body, cut = body[:n], true
		s.happened(fault)
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(body) // the client may be gone
	if cut {
		panic(http.ErrAbortHandler)
	}
}

// refuse answers as S3 does.
func refuse(w http.ResponseWriter, r *http.Request, f Fault) {
	status, code := http.StatusInternalServerError, "InternalError"
	switch f {
	case SlowDown:
		status, code = http.StatusServiceUnavailable, "SlowDown"
	case Denied:
		status, code = http.StatusForbidden, "ExpiredToken"
	case NotFound:
		status, code = http.StatusNotFound, "NoSuchKey"
	case NoBucket:
		status, code = http.StatusNotFound, "NoSuchBucket"
	}
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = io.Copy(w, strings.NewReader(`<?xml version="1.0" encoding="UTF-8"?><Error><Code>`+code+`</Code><Message>a fault of the test</Message></Error>`))
	}
}

// hold waits for d, and reports whether ctx lives.
func hold(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
