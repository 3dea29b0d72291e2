package membership

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/mirror"
	"github.com/floelog/floe/metadata/retry"
	"github.com/floelog/floe/tiering"
)

// Pin keeps a shard with an agent, because of the shards' loads.
type Pin struct {
	Node NodeID

	// At and Load say when the pin was made and what the shard's load was then, in bytes per
	// second as Load counts. They are for people, and for the pause before a shard moves
	// again.
	At   time.Time
	Load float64
}

// Pins are the shards that load has placed; Place takes them. Who holds one never changes
// it.
type Pins map[tiering.ShardID]Pin

// pinsValue is the value of the placement key, in JSON, by ascending shard.
type pinsValue struct {
	Version int        `json:"version"`
	Pins    []pinValue `json:"pins"`
}

type pinValue struct {
	Shard tiering.ShardID `json:"shard"`
	Node  NodeID          `json:"node"`
	AtMs  int64           `json:"at_ms"`
	Load  float64         `json:"load"`
}

// Encode returns the value of the placement key.
func (p Pins) Encode() ([]byte, error) {
	v := pinsValue{Version: recordVersion, Pins: make([]pinValue, 0, len(p))}
	for _, s := range slices.Sorted(maps.Keys(p)) {
		v.Pins = append(v.Pins, pinValue{s, p[s].Node, p[s].At.UnixMilli(), p[s].Load})
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding the placement of shards: %w", err)
	}
	return b, nil
}

// DecodePins reads the value of the placement key.
func DecodePins(value []byte) (Pins, error) {
	var v pinsValue
	if err := decodeRecord(value, &v, &v.Version); err != nil {
		return nil, fmt.Errorf("placement of shards: %w", err)
	}
	pins := make(Pins, len(v.Pins))
	for _, p := range v.Pins {
		if p.Node < 1 {
			return nil, fmt.Errorf("placement of shards: shard %d is pinned to agent %d: want 1 or more", p.Shard, p.Node)
		}
		pins[p.Shard] = Pin{p.Node, time.UnixMilli(p.AtMs), p.Load}
	}
	return pins, nil
}

// Placement is a local copy of the pins.
type Placement struct {
	store  metadata.Store
	key    string
	mirror *mirror.Mirror[placed, placed]
}

// placed is the pins and the value that they were read from; nil for no key.
type placed struct {
	value []byte
	pins  Pins
}

// NewPlacement returns a copy that is empty until Run has loaded it. A value that cannot be
// read counts as no pins, on all agents alike: no agent may go on with older ones while
// another, that has just started, knows none.
func NewPlacement(store metadata.Store, keys metadata.Keys, cfg AgentsConfig) *Placement {
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Placement{store, keys.Placement(), mirror.New(mirror.Config[placed, placed]{
		Store: store, Prefix: keys.Placement(), Name: "placement of shards",
		Decode: func(key string, value []byte) (placed, error) {
			if key != "" {
				return placed{}, fmt.Errorf("placement of shards: key %q is not known", key)
			}
			pins, err := DecodePins(value)
			if err != nil {
				cfg.Log.Warn("shards are placed without regard to their load", "err", err)
			}
			return placed{slices.Clone(value), pins}, nil
		},
		Fold:  foldPlaced,
		Pacer: retry.NewPacer(cfg.Random), Log: cfg.Log, Reconcile: cfg.Reconcile,
	})}
}

func foldPlaced(old placed, changes []mirror.Change[placed]) placed {
	for _, c := range changes {
		switch {
		case c.Key != "":
		case c.New == nil:
			old = placed{}
		default:
			old = *c.New
		}
	}
	return old
}

// Run keeps the copy until ctx ends, whose error it returns.
func (p *Placement) Run(ctx context.Context) error { return p.mirror.Run(ctx) }

// WaitRevision is Agents.WaitRevision for the pins.
func (p *Placement) WaitRevision(ctx context.Context, rev int64) error {
	return p.mirror.WaitRevision(ctx, rev)
}

// PlacementView is the pins at one revision of the store.
type PlacementView struct{ v *mirror.View[placed] }

// View returns the newest copy.
func (p *Placement) View() PlacementView { return PlacementView{p.mirror.View()} }

// Pins returns the pins, which must not be modified.
func (v PlacementView) Pins() Pins { return v.v.State.pins }

// Changed returns a channel that is closed when a newer copy differs from this one.
func (v PlacementView) Changed() <-chan struct{} { return v.v.Changed() }

// Put replaces the pins of view by others, if the store still holds those and the given
// conditions hold. It returns metadata.ErrConflict if not; after any other error, it may
// have happened, now or later, which does no harm: it is advice, and the next Put compares
// what it has read.
func (p *Placement) Put(ctx context.Context, view PlacementView, pins Pins, conditions ...metadata.Condition) error {
	value, err := pins.Encode()
	if err != nil {
		return err
	}
	old := view.v.State.value
	if bytes.Equal(old, value) {
		return nil
	}
	unchanged := metadata.Absent(p.key)
	if old != nil {
		unchanged = metadata.Equals(p.key, old)
	}
	res, err := p.store.Txn(ctx, metadata.Txn{
		If:   append([]metadata.Condition{unchanged}, conditions...),
		Then: []metadata.Op{metadata.Put(p.key, value)},
	})
	if err != nil {
		return fmt.Errorf("writing the placement of shards: %w", err)
	}
	if !res.Succeeded {
		return fmt.Errorf("writing the placement of shards: %w", metadata.ErrConflict)
	}
	return nil
}
