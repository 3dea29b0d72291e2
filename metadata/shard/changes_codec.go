package shard

import (
	"fmt"
)

// changesVersion is the oldest version of the journal record format whose changes
// DecodeChanges reads.
//
//	version 1 byte | changes as in a record of that version: count uvarint, then each: kind 1 byte,
//	    fields as in the change's encode
const changesVersion = 3

// EncodeChanges returns the form in which an agent sends what a job of compaction wants
// changed to the shard's leader. Only Replace, Archive and Trim may travel so: everything else is
// the leader's own to decide. ErrCorrupt for any other change, and for one that Check would
// refuse. version is that of records at the cluster's level, as in Record.EncodeAs.
func EncodeChanges(changes []Change, version byte) ([]byte, error) {
	e := encoder{[]byte{version}}
	e.uint(uint64(len(changes)))
	for _, c := range changes {
		if err := offered(c); err != nil {
			return nil, fmt.Errorf("encoding changes: %w: %w", ErrCorrupt, err)
		}
		e.b = append(e.b, byte(c.kind()))
		c.encode(&e)
	}
	return e.b, nil
}

// DecodeChanges reads what EncodeChanges wrote, and refuses, as ErrCorrupt, what that would;
// inline bytes alias b.
func DecodeChanges(b []byte) ([]Change, error) {
	d := decoder{b: b}
	d.readVersion("changes", RecordVersion)
	if d.err == nil && d.version < changesVersion {
		d.fail(fmt.Sprintf("changes of version %d", d.version))
	}
	var out []Change
	if n := d.count(2, "change"); n > 0 {
		out = make([]Change, 0, n)
	}
	for range cap(out) {
		c := d.change()
		if d.err != nil {
			break
		}
		if err := offered(c); err != nil {
			d.fail(err.Error())
			break
		}
		out = append(out, c)
	}
	if d.err == nil && len(d.b) > 0 {
		d.fail("trailing bytes")
	}
	if d.err != nil {
		return nil, fmt.Errorf("decoding changes: %w", d.err)
	}
	return out, nil
}

// offered reports why a leader must not take a change from an agent that asks for it.
func offered(c Change) error {
	switch c.(type) {
	case Replace, Archive, Trim:
		return new(checker).change(c)
	}
	return fmt.Errorf("a change of type %T is not for agents to ask for", c)
}
