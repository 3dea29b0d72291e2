package catalogue_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/catalogue"
	"github.com/floelog/floe/metadata/memory"
)

func TestAllAgentsHaveOneSecret(t *testing.T) {
	srv := memory.New()
	defer srv.Close()
	s := srv.Client("test")
	first, err := catalogue.EnsureSecret(t.Context(), s, keys)
	if err != nil || len(first) != 32 {
		t.Fatalf("%d bytes, %v", len(first), err)
	}
	if again, err := catalogue.EnsureSecret(t.Context(), srv.Client("other"), keys); err != nil || !bytes.Equal(again, first) {
		t.Errorf("the second agent has another secret, %v", err)
	}
	if other, err := catalogue.EnsureSecret(t.Context(), s, metadata.NewKeys("other")); err != nil || bytes.Equal(other, first) {
		t.Errorf("another cluster has the same secret, or none: %v", err)
	}
}

// TestASecretThatWasLostIsStoredAgain restores a store from a backup that has no secret yet.
func TestASecretThatWasLostIsStoredAgain(t *testing.T) {
	srv := memory.New()
	defer srv.Close()
	s := srv.Client("test")
	secret, err := catalogue.EnsureSecret(t.Context(), s, keys)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Txn(t.Context(), metadata.Txn{Then: []metadata.Op{metadata.Delete(keys.RPCSecret())}}); err != nil {
		t.Fatal(err)
	}
	if same, err := catalogue.KeepSecret(t.Context(), s, keys, secret); err != nil || !same {
		t.Errorf("kept: %v, %v", same, err)
	}
	if now, err := catalogue.EnsureSecret(t.Context(), s, keys); err != nil || !bytes.Equal(now, secret) {
		t.Errorf("an agent that starts has another secret, %v", err)
	}
	if same, err := catalogue.KeepSecret(t.Context(), s, keys, make([]byte, 32)); err != nil || same {
		t.Errorf("another secret is taken for the same: %v, %v", same, err)
	}
}

// TestABadSecretIsNotRepeated looks for what is stored in the error.
func TestABadSecretIsNotRepeated(t *testing.T) {
	for _, value := range []string{`{"version":1,"secret":"canary"}`, `{"version":2,"secret":"canary"}`, `{"version":1,"secret":"00ca11a7"}`, `canary`} {
		srv := memory.New()
		s := srv.Client("test")
		put(t, s, keys.RPCSecret(), value)
		_, err := catalogue.EnsureSecret(t.Context(), s, keys)
		if err == nil || strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "00ca11a7") {
			t.Errorf("%s: %v", value, err)
		}
		srv.Close()
	}
}
