package nemesis_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/floelog/floe/integration/nemesis"
)

// objects is a store that is honest.
type objects struct {
	mu   sync.Mutex
	held map[string][]byte
	put  chan string
}

func (o *objects) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case r.Method == http.MethodPut:
		b, _ := io.ReadAll(r.Body)
		o.held[r.URL.Path] = b
		o.put <- r.Host
	case r.URL.Query().Has("list-type"):
		fmt.Fprint(w, "<List>")
		for key := range o.held {
			fmt.Fprintf(w, "<Contents><Key>%s</Key></Contents>", key)
		}
		fmt.Fprint(w, "</List>")
	default:
		_, _ = w.Write(o.held[r.URL.Path])
	}
}

// rig is a proxy before an honest store.
type rig struct {
	*testing.T
	store   *nemesis.Store
	objects *objects
	client  http.Client
}

func newRig(t *testing.T) *rig {
	t.Helper()
	o := &objects{held: map[string][]byte{}, put: make(chan string, 100)}
	back := httptest.NewServer(o)
	t.Cleanup(back.Close)
	s, err := nemesis.NewStore(strings.TrimPrefix(back.URL, "http://"), 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	// Without connections that are kept, a lost reply is not tried again by the client itself.
	return &rig{T: t, store: s, objects: o, client: http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
}

func (r *rig) do(method, path string, body []byte) (status int, got []byte, err error) {
	r.Helper()
	req, err := http.NewRequestWithContext(r.Context(), method, "http://"+r.store.Addr()+path, bytes.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	got, err = io.ReadAll(resp.Body)
	return resp.StatusCode, got, err
}

func (r *rig) always(f nemesis.Fault) {
	r.store.Set(map[nemesis.Fault]float64{f: 1}, time.Millisecond)
}

func TestWithoutFaultsNothingChanges(t *testing.T) {
	r := newRig(t)
	body := bytes.Repeat([]byte("0123456789"), 100_000)
	if status, _, err := r.do("PUT", "/b/k", body); status != 200 || err != nil {
		t.Fatal(status, err)
	}
	if host := <-r.objects.put; host != r.store.Addr() {
		t.Errorf("the store is asked as %s, which the client did not sign", host)
	}
	if status, got, err := r.do("GET", "/b/k", nil); status != 200 || err != nil || !bytes.Equal(got, body) {
		t.Error(status, len(got), err)
	}
	if n := r.store.Requests(); n["PUT"] != 1 || n["GET"] != 1 || len(r.store.Fired()) != 0 {
		t.Error(n, r.store.Fired())
	}
}

func TestEveryFaultHappens(t *testing.T) {
	body := bytes.Repeat([]byte{'x'}, 1000)
	body[2] = 'y'
	for _, f := range nemesis.Faults() {
		t.Run(string(f), func(t *testing.T) {
			r := newRig(t)
			if _, _, err := r.do("PUT", "/b/k", body); err != nil {
				t.Fatal(err)
			}
			<-r.objects.put
			r.always(f)
			method, path := "GET", "/b/k"
			switch f {
			case nemesis.LostReply, nemesis.LatePut:
				method, path = "PUT", "/b/new"
			case nemesis.ListMissing, nemesis.ListExtra:
				path = "/b?list-type=2"
			}
			status, got, err := r.do(method, path, body)
			ok := map[nemesis.Fault]bool{
				nemesis.Slow:        status == 200 && err == nil,
				nemesis.Error:       status == 500,
				nemesis.SlowDown:    status == 503,
				nemesis.Denied:      status == 403,
				nemesis.NotFound:    status == 404,
				nemesis.Cut:         err != nil,
				nemesis.NoBucket:    status == 404 && bytes.Contains(got, []byte("NoSuchBucket")),
				nemesis.WrongRange:  status == 200 && len(got) == len(body) && got[2] == body[1] && got[3] == body[2],
				nemesis.ListExtra:   status == 200 && bytes.Count(got, []byte("<Contents>")) == 2 && bytes.Contains(got, []byte("<Key>/b/k0</Key>")),
				nemesis.LostReply:   err != nil,
				nemesis.LatePut:     status == 500,
				nemesis.Truncated:   err != nil || len(got) < len(body),
				nemesis.Flipped:     status == 200 && len(got) == len(body) && !bytes.Equal(got, body),
				nemesis.ListMissing: status == 200 && !bytes.Contains(got, []byte("Contents")),
			}[f]
			if !ok {
				t.Errorf("status %d, %d bytes, %v", status, len(got), err)
			}
			if method == "PUT" {
				<-r.objects.put // it was done all the same
			}
			if r.store.Fired()[f] != 1 {
				t.Errorf("counted %v", r.store.Fired())
			}
		})
	}
}

func TestImpositionsOverlap(t *testing.T) {
	r := newRig(t)
	broken := r.store.Impose(map[nemesis.Fault]float64{nemesis.Error: 1}, 0)
	also := r.store.Impose(map[nemesis.Fault]float64{nemesis.Error: 0.5, nemesis.Denied: 0}, 0)
	if status, _, err := r.do("GET", "/b/k", nil); status != 500 || err != nil {
		t.Error(status, err)
	}
	if n := also.Lift(); n != 1 {
		t.Errorf("the second imposition fired %d times, want 1", n)
	}
	if status, _, err := r.do("GET", "/b/k", nil); status != 500 || err != nil {
		t.Error(status, err)
	}
	if n := broken.Lift(); n != 2 {
		t.Errorf("the first imposition fired %d times, want 2", n)
	}
	if status, _, err := r.do("GET", "/b/k", nil); status != 200 || err != nil {
		t.Error(status, err)
	}
}
