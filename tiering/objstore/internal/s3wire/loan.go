package s3wire

import (
	"context"
	"io"
	"net/http"
	"sync"
)

// net/http may go on reading a request's body after it returned: when the answer came
// before the body was sent, or the context ended. A Put must not, for its caller uses
// the memory again. So a Put lends its body with Lend, the client's transport is a
// Transport (or calls Watch), and the Put waits for the body to be given back, which
// net/http promises for every request, and does as soon as the connection is closed.

// Lend returns a context for requests with a body, and a function that waits until no
// connection reads those bodies any more. It is to be called after the last response
// of these requests was closed.
func Lend(ctx context.Context) (context.Context, func()) {
	out := new(sync.WaitGroup)
	return context.WithValue(ctx, loanKey{}, out), out.Wait
}

type loanKey struct{}

// Watch returns req with its body watched, if its context is one of Lend.
func Watch(req *http.Request) *http.Request {
	out, ok := req.Context().Value(loanKey{}).(*sync.WaitGroup)
	if !ok || req.Body == nil || req.Body == http.NoBody {
		return req
	}
	watched := *req
	out.Add(1)
	watched.Body = &lentBody{ReadCloser: req.Body, giveBack: sync.OnceFunc(out.Done)}
	return &watched
}

type lentBody struct {
	io.ReadCloser
	giveBack func()
}

func (b *lentBody) Close() error {
	defer b.giveBack()
	return b.ReadCloser.Close()
}

// Transport watches the bodies of the requests that it passes on, and heeds Retry-After.
type Transport struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(Watch(req))
	if err == nil {
		NoteRetryAfter(req, resp)
	}
	return resp, err
}
