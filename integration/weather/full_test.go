//go:build integration && unix

package weather

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// ask makes a request of etcd's own JSON gateway.
func (w *world) ask(path string, body, answer any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(w.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.server.Endpoints()[0]+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, said)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(said, answer)
}

// TestEtcdFull: somebody fills etcd up to its quota; writes wait, reads go on, and all goes on when
// there is room again.
func TestEtcdFull(t *testing.T) {
	w := newWorld(t, "--quota-backend-bytes", fmt.Sprint(16<<20))
	w.begin()
	known, writer := w.newKnown(), w.leader("small", 2)
	c := w.newCold()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	var err error
	key, value := base64.StdEncoding.EncodeToString([]byte("/filler")), base64.StdEncoding.EncodeToString(make([]byte, 512<<10))
	for n := 0; err == nil; n++ {
		if n > 200 {
			t.Fatal("etcd takes more than its quota")
		}
		err = w.ask("/v3/kv/put", map[string]any{"key": key, "value": value}, nil)
	}
	t.Logf("etcd says %v", err)
	acked := make(chan error, 1)
	w.client().Produce(t.Context(), &kgo.Record{Topic: "small", Partition: 2, Value: []byte("waits")}, func(_ *kgo.Record, err error) { acked <- err })
	page := w.says(writer, true, "degraded: metadata store: writes find no space")
	t.Logf("while etcd is full, /readyz says:\n%s", page)
	for node := int32(1); node <= agents; node++ {
		if n, err := w.fetch(ctx, node, "small", 1, known.Offset); err != nil || n == 0 {
			t.Errorf("reading what agent %d knows: %d bytes, %v", node, n, err)
		}
	}
	w.hold(5 * time.Second)
	w.bounded()
	select {
	case err := <-acked:
		t.Errorf("a record was acknowledged that etcd could not take (%v)", err)
	default:
	}
	// As the runbook says: compact, defragment, disarm.
	var head struct {
		Header struct {
			Revision string `json:"revision"`
		} `json:"header"`
	}
	var raised struct {
		Alarms []struct {
			Member string `json:"memberID"`
		} `json:"alarms"`
	}
	for _, step := range []struct {
		path         string
		body, answer any
	}{
		{"/v3/kv/range", map[string]any{"key": key, "keys_only": true}, &head},
		{"/v3/kv/compaction", &struct {
			Revision *string `json:"revision"`
			Physical bool    `json:"physical"`
		}{&head.Header.Revision, true}, nil},
		{"/v3/maintenance/defragment", map[string]any{}, nil},
		{"/v3/maintenance/alarm", map[string]any{"action": "GET", "alarm": "NOSPACE"}, &raised},
	} {
		if err := w.ask(step.path, step.body, step.answer); err != nil {
			t.Fatal(err)
		}
	}
	if len(raised.Alarms) == 0 {
		t.Fatal("etcd has raised no alarm")
	}
	for _, a := range raised.Alarms {
		if err := w.ask("/v3/maintenance/alarm", map[string]any{"action": "DEACTIVATE", "alarm": "NOSPACE", "memberID": a.Member}, nil); err != nil {
			t.Fatal(err)
		}
	}
	w.recovered("etcd full", time.Now(), c)
	if err := <-acked; err != nil {
		t.Errorf("the record that waited: %v", err)
	}
	w.fair()
	w.finish()
}
