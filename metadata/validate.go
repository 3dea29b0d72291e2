package metadata

import (
	"cmp"
	"fmt"
	"slices"
)

// Validate reports, as ErrInvalid, why the transaction can never be applied. Every Store
// calls it first, so that all refuse the same.
func (t Txn) Validate() error {
	if n := max(len(t.If), len(t.Then), len(t.Else)); n > MaxTxnOps {
		return fmt.Errorf("%w: transaction has %d conditions, operations or reads, the limit is %d", ErrInvalid, n, MaxTxnOps)
	}
	size := 0
	for _, c := range t.If {
		if c.Key == "" {
			return fmt.Errorf("%w: condition on an empty key", ErrInvalid)
		}
		if c.Kind > KeyPresent {
			return fmt.Errorf("%w: condition on %q is of unknown kind %d", ErrInvalid, c.Key, c.Kind)
		}
		size += len(c.Key) + len(c.Value)
	}
	for _, op := range t.Then {
		if op.Key == "" {
			return fmt.Errorf("%w: operation on an empty key", ErrInvalid)
		}
		if !op.Delete && op.End != "" {
			return fmt.Errorf("%w: put of %q names the end of a range", ErrInvalid, op.Key)
		}
		if op.Delete && (op.Lease != 0 || len(op.Value) != 0) {
			return fmt.Errorf("%w: deletion of %q has a value or a lease", ErrInvalid, op.Key)
		}
		size += len(op.Key) + len(op.End) + len(op.Value)
	}
	for _, key := range t.Else {
		if key == "" {
			return fmt.Errorf("%w: read of an empty key", ErrInvalid)
		}
		size += len(key)
	}
	if size > MaxTxnBytes {
		return fmt.Errorf("%w: transaction has %d bytes, the limit is %d", ErrInvalid, size, MaxTxnBytes)
	}
	return t.validateOnce()
}

// validateOnce checks that no two operations touch the same key.
func (t Txn) validateOnce() error {
	if len(t.Then) < 2 {
		return nil
	}
	var few [8]Op // most transactions have no more: no allocation
	ops := append(few[:0], t.Then...)
	slices.SortFunc(ops, func(a, b Op) int { return cmp.Compare(a.Key, b.Key) })
	reach, last := "", "" // where the range that reaches farthest ends, and the last key
	for i, op := range ops {
		if op.Delete && op.End != "" && op.End != RangeToEnd && op.End <= op.Key {
			continue // an empty range touches nothing
		}
		if i > 0 && (op.Key == last || reach == RangeToEnd || op.Key < reach) {
			return fmt.Errorf("%w: transaction touches %q twice", ErrInvalid, op.Key)
		}
		last = op.Key
		if op.End == RangeToEnd || reach != RangeToEnd && op.End > reach && op.End > op.Key {
			reach = op.End
		}
	}
	return nil
}
