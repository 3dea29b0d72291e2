package level

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Of returns the level that the value of a cluster's key names, known or not; 0 while the cluster
// is being recovered.
func Of(cluster []byte) (Level, error) {
	var v struct {
		Version *Level `json:"version"`
	}
	if err := json.Unmarshal(cluster, &v); err != nil {
		return 0, fmt.Errorf("reading the cluster's level: not JSON: %w", err)
	}
	if v.Version == nil || *v.Version < 0 {
		return 0, errors.New("reading the cluster's level: value names no format version")
	}
	return *v.Version, nil
}

// Intent is the value of the key that announces that the level is about to rise, JSON: agents that do
// not read Level replace it by one of the level that there is as they register, and then the level does not rise.
type Intent struct {
	Level Level
	Nonce uint64 // tells this announcement from any other
}

type intentValue struct {
	Version int    `json:"version"` // of this value: 1
	Level   Level  `json:"level"`
	Nonce   uint64 `json:"nonce"`
}

// Encode returns the value as it is stored.
func (i Intent) Encode() []byte {
	b, err := json.Marshal(intentValue{1, i.Level, i.Nonce})
	if err != nil {
		panic(err) // numbers always encode
	}
	return b
}

// ParseIntent reads what Encode wrote.
func ParseIntent(b []byte) (Intent, error) {
	var v intentValue
	if err := json.Unmarshal(b, &v); err != nil {
		return Intent{}, fmt.Errorf("reading the announcement of a level: %w", err)
	}
	if v.Version != 1 || v.Level < First {
		return Intent{}, fmt.Errorf("reading the announcement of a level %q: unknown form", b)
	}
	return Intent{v.Level, v.Nonce}, nil
}
