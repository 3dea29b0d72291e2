package records

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"

	"github.com/floelog/floe/tiering"
)

// Keys knows the newest offset of each key that it was given, in memory that is fixed when
// it is made. A key is known by 128 bits of its SHA-256: two keys that share them would be
// taken for one, which nobody can bring about; at a million million keys it happens by
// chance in one of 10^15 logs.
//
//	slot: | 16 bytes of SHA-256(key) | offset + 1, 0: empty |    open addressing, linear probing
type Keys struct {
	slots []slot
	n     int
	most  int
}

type slot struct {
	a, b uint64
	next tiering.Offset // offset + 1
}

// SlotBytes is what one slot of a Keys takes.
const SlotBytes = 24

// fullAt is the share of slots, in percent, that are used. Fewer would waste memory; beyond,
// a search for a key that is not there soon takes dozens of steps.
const fullAt = 80

// minSlots lets the smallest Keys hold some keys at all.
const minSlots = 16

// NewKeys returns a Keys that takes at most bytes of memory, and less if no more than keys
// distinct keys are to come.
func NewKeys(bytes, keys int64) *Keys {
	slots := max(minSlots, bytes/SlotBytes)
	if need := keys + keys/3 + minSlots; need < slots {
		slots = need
	}
	return &Keys{slots: make([]slot, slots), most: int(slots * fullAt / 100)}
}

// Len returns the number of keys.
func (k *Keys) Len() int { return k.n }

// Cap returns the number of keys that there is room for.
func (k *Keys) Cap() int { return k.most }

// Sum is the SHA-256 of a key.
type Sum = [sha256.Size]byte

// find returns the slot of the key, or the empty one where it would be.
func (k *Keys) find(sum *Sum) (s *slot, a, b uint64) {
	a, b = binary.BigEndian.Uint64(sum[:]), binary.BigEndian.Uint64(sum[8:])
	at, _ := bits.Mul64(a, uint64(len(k.slots)))
	for {
		s = &k.slots[at]
		if s.next == 0 || s.a == a && s.b == b {
			return s, a, b
		}
		if at++; at == uint64(len(k.slots)) {
			at = 0
		}
	}
}

// Put remembers that key was written at offset at, which is not below any before. false: it
// is a new key, for which there is no room.
func (k *Keys) Put(key *Sum, at tiering.Offset) bool {
	s, a, b := k.find(key)
	if s.next == 0 {
		if k.n == k.most {
			return false
		}
		k.n++
	}
	*s = slot{a, b, at + 1}
	return true
}

// Newest returns the newest offset of the key, -1 if it was never put.
func (k *Keys) Newest(key *Sum) tiering.Offset {
	s, _, _ := k.find(key)
	return s.next - 1
}
