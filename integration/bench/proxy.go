//go:build linux

package main

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// delays are how long a proxy holds answers back.
type delays struct{ put, get time.Duration }

func (d delays) of(method string) time.Duration {
	switch method {
	case http.MethodPut:
		return d.put
	case http.MethodGet:
		return d.get
	}
	return 0
}

// proxy stands before an object store and holds the answers of PUTs and GETs back.
type proxy struct {
	addr string
	srv  *http.Server
	wg   sync.WaitGroup
	err  error // of Serve, once wg is done
}

// startProxy serves on a free port until stop.
func startProxy(backend string, d delays) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	target := &url.URL{Scheme: "http", Host: backend}
	handler := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is part of what the client signed
		},
		ModifyResponse: func(r *http.Response) error {
			return hold(r.Request.Context(), d.of(r.Request.Method))
		},
		Transport:  &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true, WriteBufferSize: proxyBuffer, ReadBufferSize: proxyBuffer},
		BufferPool: &proxyBuffers{},
		ErrorLog:   log.New(io.Discard, "", 0), // agents give requests up on purpose: hedged ones, and at their end
	}
	p := &proxy{addr: l.Addr().String(), srv: &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}}
	p.wg.Go(func() {
		if err := p.srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			p.err = err
		}
	})
	return p, nil
}

// stop ends the proxy and reports what ended it before.
func (p *proxy) stop() error {
	err := p.srv.Close()
	p.wg.Wait()
	return errors.Join(err, p.err)
}

// hold waits for d, or for the end of ctx.
func hold(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// proxyBuffer is large, for the proxy must not be what limits a store.
const proxyBuffer = 256 << 10

// proxyBuffers lends the buffers that answers are copied through.
type proxyBuffers struct{ pool sync.Pool }

func (b *proxyBuffers) Get() []byte {
	if p, ok := b.pool.Get().(*[proxyBuffer]byte); ok {
		return p[:]
	}
	return new([proxyBuffer]byte)[:]
}

func (b *proxyBuffers) Put(p []byte) { b.pool.Put((*[proxyBuffer]byte)(p)) }
