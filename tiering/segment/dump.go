package segment

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// Dump prints what the object of size bytes holds: header, carried journal records,
// index, and with batches also every batch. All of it is verified; damage is printed where
// it is found and the rest goes on as far as it can be read. The error is the first of
// w, or joins all damage found. For `floe inspect segment`.
func Dump(w io.Writer, size int64, read ReadFunc, batches bool) error {
	p := &printer{w: w}
	seg, err := Open(size, read)
	if err != nil {
		p.damage("", err)
		return p.result()
	}
	f := seg.Footer
	p.line("segment of %d bytes, version %d: header %d, chunks %d bytes in %d, index %d at %d",
		size, f.Version, f.HeaderLength, int64(f.IndexPosition)-int64(f.HeaderLength), len(seg.Entries), f.IndexLength, f.IndexPosition)
	if h, err := seg.ReadHeader(read); err != nil {
		p.damage("", err)
	} else {
		p.header(h)
	}
	for i, e := range seg.Entries {
		p.entry(i, e)
		b, err := seg.ReadChunk(e, read)
		if err != nil {
			p.damage("  ", err)
		}
		if batches && b != nil {
			p.batches(e, b)
		}
	}
	return p.result()
}

// printer keeps the first error of its writer, and the damage.
type printer struct {
	w        io.Writer
	err      error
	problems []error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func (p *printer) damage(indent string, err error) {
	p.line("%s!! %v", indent, err)
	p.problems = append(p.problems, err)
}

func (p *printer) result() error {
	if p.err != nil {
		return fmt.Errorf("dumping the segment: %w", p.err)
	}
	return errors.Join(p.problems...)
}

func (p *printer) header(h Header) {
	p.line("id %s  cluster %x  level %d  created %s", h.ID, h.Cluster, h.Level, when(h.CreatedAt))
	for _, r := range h.Carry {
		p.line("carries journal record: shard %d seq %d, %d bytes", r.Shard, r.Seq, len(r.Bytes))
	}
}

func (p *printer) entry(i int, e Entry) {
	base := "unassigned"
	if e.Base != Unassigned {
		base = fmt.Sprint(e.Base)
	}
	p.line("chunk %d: shard %d  %s  position %d  length %d  base %s  batches %d  records %d  time %s .. %s  crc %08x",
		i, e.Shard, e.TopicPartition, e.Position, e.Length, base, e.Batches, e.Records, when(e.MinTimestamp), when(e.MaxTimestamp), e.CRC)
}

func (p *printer) batches(e Entry, b []byte) {
	var s scanner
	s.reset([][]byte{b})
	for {
		ok, err := s.next()
		if err != nil {
			p.damage("  ", fmt.Errorf("chunk at %d: %w", e.Position, err))
		}
		if err != nil || !ok {
			return
		}
		first, greatest := s.times()
		p.line("  batch at %d: length %d  base %d  epoch %d  last delta %d  records %d  attributes %s  producer %d epoch %d sequence %d  time %s .. %s  crc %08x",
			int64(e.Position)+s.at, s.length, s.int64At(0), s.int32At(batchEpochAt), s.lastDelta(), s.records(), attributes(s.attributes()),
			s.int64At(batchProducerAt), int16(s.int32At(batchProdEpochAt)>>16), s.int32At(batchSequenceAt), when(first), when(greatest), s.crc())
		if err := s.verify(); err != nil {
			p.damage("  ", fmt.Errorf("chunk at %d: %w", e.Position, err))
		}
	}
}

func attributes(a uint16) string {
	codecs := [8]string{"none", "gzip", "snappy", "lz4", "zstd", "codec5", "codec6", "codec7"}
	out := codecs[a&7]
	for _, f := range []struct {
		bit  uint16
		name string
	}{{attrLogAppendTime, "append-time"}, {1 << 4, "transactional"}, {1 << 5, "control"}, {1 << 6, "delete-horizon"}} {
		if a&f.bit != 0 {
			out += "," + f.name
		}
	}
	return out
}

func when(ms int64) string {
	if ms < 0 {
		return "none"
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}
