package catalogue

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/retry"
)

// secretBytes is the length of a cluster's secret: that of the hash it is used with.
const secretBytes = 32

// secretValue is the value of the secret's key, in JSON.
type secretValue struct {
	Version int    `json:"version"` // of this value: 1
	Secret  string `json:"secret"`  // in hex
}

// EnsureSecret returns the secret by which the agents of a cluster know each other, and draws one if
// there is none. Only what can read the metadata store can know it: it must not be logged.
//
// Like EnsureCluster it creates what is never changed: putting it again does no harm.
func EnsureSecret(ctx context.Context, store metadata.Store, keys metadata.Keys) ([]byte, error) {
	fresh := make([]byte, secretBytes)
	if _, err := rand.Read(fresh); err != nil {
		return nil, fmt.Errorf("drawing the agents' secret: %w", err)
	}
	return storeSecret(ctx, store, keys, fresh)
}

// KeepSecret stores the secret that agents have, if the store has lost it, as one that was restored from an older
// backup has, so that agents that start and those that live on know each other. It reports whether it is the one
// that the store has then.
func KeepSecret(ctx context.Context, store metadata.Store, keys metadata.Keys, secret []byte) (same bool, err error) {
	now, err := storeSecret(ctx, store, keys, secret)
	return bytes.Equal(now, secret), err
}

// storeSecret stores a secret if there is none, and returns the one that there is.
func storeSecret(ctx context.Context, store metadata.Store, keys metadata.Keys, fresh []byte) ([]byte, error) {
	value, err := json.Marshal(secretValue{1, hex.EncodeToString(fresh)})
	if err != nil {
		return nil, fmt.Errorf("encoding the agents' secret: %w", err)
	}
	key := keys.RPCSecret()
	res, _, err := retry.Txn(ctx, store, retry.NewPacer(rand.Reader), metadata.Txn{
		If:   []metadata.Condition{metadata.Absent(key)},
		Then: []metadata.Op{metadata.Put(key, value)},
		Else: []string{key},
	})
	if err != nil {
		return nil, fmt.Errorf("creating or reading %s: %w", key, err)
	}
	if !res.Succeeded {
		value = res.Else[0].Value
	}
	return decodeSecret(key, value)
}

// decodeSecret reads the value; its errors do not repeat it.
func decodeSecret(key string, value []byte) ([]byte, error) {
	var v secretValue
	if json.Unmarshal(value, &v) != nil || v.Version != 1 {
		return nil, fmt.Errorf("%s: %w", key, errors.New("not a secret of version 1: run a newer release of floe, or delete the key while no agent runs"))
	}
	secret, err := hex.DecodeString(v.Secret)
	if err != nil || len(secret) != secretBytes {
		return nil, fmt.Errorf("%s: want %d bytes in hex: delete the key while no agent runs", key, secretBytes)
	}
	return secret, nil
}
