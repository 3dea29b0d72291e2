package check

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/floelog/floe/integration/history"
)

// A file of events, all numbers varints (signed ones zigzag):
//
//	+----------+-------+-------+-----
//	| "FLHIST1"| event | event | ...
//	+----------+-------+-------+-----
//
//	event:  op (1 byte) | mask of fields | microseconds since the event before | fields of the mask, in order
//	string: index in the table of strings | if it is the next free index: length, bytes
//	seen:   count | per record: offset - (offset before + 1), value - (value before + 1), size << 2 | control << 1 | bad, if bad: string
//
// It is some 8 bytes for each record that is sent, acknowledged or read.
const magic = "FLHIST1"

// maxLine bounds a string of a file: more is a damaged file.
const maxLine = 1 << 20

// maxSeen bounds the records of one poll in a file.
const maxSeen = 1 << 24

const (
	hasWho = 1 << iota
	hasTopic
	hasPart
	hasGroup
	hasID
	hasA
	hasB
	hasC
	hasText
	hasSeen
)

// Encoder writes events.
type Encoder struct {
	w       *bufio.Writer
	strings map[string]uint64
	last    time.Duration
	buf     []byte
}

// NewEncoder begins a file.
func NewEncoder(w io.Writer) *Encoder {
	e := &Encoder{w: bufio.NewWriterSize(w, 1<<20), strings: map[string]uint64{}}
	_, _ = e.w.WriteString(magic) // the error stays for Flush
	return e
}

// Encode writes one event; events come in the order of their times.
func (e *Encoder) Encode(ev *Event) error {
	b := append(e.buf[:0], byte(ev.Op))
	b = binary.AppendUvarint(b, maskOf(ev))
	at := ev.At.Truncate(time.Microsecond)
	b = binary.AppendVarint(b, int64((at-e.last)/time.Microsecond))
	e.last = at
	if ev.Who != "" {
		b = e.string(b, ev.Who)
	}
	if ev.Part.Topic != "" {
		b = e.string(b, ev.Part.Topic)
	}
	if ev.Part.ID != 0 {
		b = binary.AppendVarint(b, int64(ev.Part.ID))
	}
	if ev.Group != "" {
		b = e.string(b, ev.Group)
	}
	if ev.ID != 0 {
		b = binary.AppendUvarint(b, ev.ID)
	}
	for _, n := range []int64{ev.A, ev.B, ev.C} {
		if n != 0 {
			b = binary.AppendVarint(b, n)
		}
	}
	if ev.Text != "" {
		b = appendText(b, ev.Text)
	}
	if len(ev.Seen) > 0 {
		b = appendSeen(b, ev.Seen)
	}
	e.buf = b
	_, err := e.w.Write(b)
	return err
}

// Flush hands everything to the writer below.
func (e *Encoder) Flush() error { return e.w.Flush() }

func maskOf(ev *Event) (mask uint64) {
	for i, has := range []bool{ev.Who != "", ev.Part.Topic != "", ev.Part.ID != 0, ev.Group != "", ev.ID != 0, ev.A != 0, ev.B != 0, ev.C != 0, ev.Text != "", len(ev.Seen) > 0} {
		if has {
			mask |= 1 << i
		}
	}
	return mask
}

func (e *Encoder) string(b []byte, s string) []byte {
	at, ok := e.strings[s]
	if ok {
		return binary.AppendUvarint(b, at)
	}
	at = uint64(len(e.strings))
	e.strings[s] = at
	return appendText(binary.AppendUvarint(b, at), s)
}

func appendText(b []byte, s string) []byte {
	s = s[:min(len(s), maxLine)]
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendSeen(b []byte, seen []history.Seen) []byte {
	b = binary.AppendUvarint(b, uint64(len(seen)))
	offset, value := int64(0), int64(0)
	for _, s := range seen {
		b = binary.AppendVarint(b, s.Offset-offset)
		b = binary.AppendVarint(b, int64(s.Value)-value)
		offset, value = s.Offset+1, int64(s.Value)+1
		size := uint64(s.Size) << 2
		if s.Control {
			size |= 2
		}
		if s.Bad != "" {
			size |= 1
		}
		b = binary.AppendUvarint(b, size)
		if s.Bad != "" {
			b = appendText(b, s.Bad)
		}
	}
	return b
}

// Decoder reads what an Encoder wrote.
type Decoder struct {
	r       *bufio.Reader
	strings []string
	last    time.Duration
	err     error
}

// NewDecoder begins to read a file.
func NewDecoder(r io.Reader) (*Decoder, error) {
	d := &Decoder{r: bufio.NewReaderSize(r, 1<<20)}
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(d.r, head); err != nil || string(head) != magic {
		return nil, errors.New("this is no history of a torture run")
	}
	return d, nil
}

// Decode returns the next event; io.EOF after the last. A file that was cut off in the
// middle of an event ends with io.ErrUnexpectedEOF.
func (d *Decoder) Decode() (Event, error) {
	op, err := d.r.ReadByte()
	if err != nil {
		return Event{}, err
	}
	ev := Event{Op: Op(op)}
	if ev.Op == 0 || ev.Op >= opEnd {
		return ev, fmt.Errorf("an event of the unknown kind %d", op)
	}
	mask := d.unsigned()
	d.last += time.Duration(d.signed()) * time.Microsecond
	ev.At = d.last
	d.fields(&ev, mask)
	if errors.Is(d.err, io.EOF) {
		d.err = io.ErrUnexpectedEOF
	}
	return ev, d.err
}

func (d *Decoder) fields(ev *Event, mask uint64) {
	if mask&hasWho != 0 {
		ev.Who = d.string()
	}
	if mask&hasTopic != 0 {
		ev.Part.Topic = d.string()
	}
	if mask&hasPart != 0 {
		ev.Part.ID = int32(d.signed())
	}
	if mask&hasGroup != 0 {
		ev.Group = d.string()
	}
	if mask&hasID != 0 {
		ev.ID = d.unsigned()
	}
	for i, n := range []*int64{&ev.A, &ev.B, &ev.C} {
		if mask&(hasA<<i) != 0 {
			*n = d.signed()
		}
	}
	if mask&hasText != 0 {
		ev.Text = d.text()
	}
	if mask&hasSeen != 0 {
		ev.Seen = d.seen()
	}
}

func (d *Decoder) unsigned() uint64 {
	if d.err != nil {
		return 0
	}
	n, err := binary.ReadUvarint(d.r)
	d.err = err
	return n
}

func (d *Decoder) signed() int64 {
	if d.err != nil {
		return 0
	}
	n, err := binary.ReadVarint(d.r)
	d.err = err
	return n
}

func (d *Decoder) string() string {
	at := d.unsigned()
	switch {
	case d.err != nil:
		return ""
	case at < uint64(len(d.strings)):
		return d.strings[at]
	case at > uint64(len(d.strings)):
		d.err = fmt.Errorf("string %d before string %d", at, len(d.strings))
		return ""
	}
	s := d.text()
	d.strings = append(d.strings, s)
	return s
}

func (d *Decoder) text() string {
	n := d.unsigned()
	if d.err == nil && n > maxLine {
		d.err = fmt.Errorf("a string of %d bytes", n)
	}
	if d.err != nil {
		return ""
	}
	b := make([]byte, n)
	_, d.err = io.ReadFull(d.r, b)
	return string(b)
}

func (d *Decoder) seen() []history.Seen {
	n := d.unsigned()
	if d.err == nil && n > maxSeen {
		d.err = fmt.Errorf("a poll of %d records", n)
	}
	var out []history.Seen // grows as there are bytes: n may be damaged
	offset, value := int64(0), int64(0)
	for i := uint64(0); i < n && d.err == nil; i++ {
		s := history.Seen{Offset: offset + d.signed()}
		v := value + d.signed()
		size := d.unsigned()
		s.Value, s.Size, s.Control = history.Value(v), int32(size>>2), size&2 != 0
		if size&1 != 0 {
			s.Bad = d.text()
		}
		offset, value = s.Offset+1, v+1
		out = append(out, s)
	}
	return out
}
