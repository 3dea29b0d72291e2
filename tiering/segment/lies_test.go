package segment_test

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/floelog/floe/tiering/segment"
)

// layout are the parts of the segment of header() and chunks(), to be edited.
type layout struct{ header, index, footer []byte }

func parts(object []byte) layout {
	foot := object[len(object)-segment.FooterBytes:]
	index := binary.BigEndian.Uint64(foot)
	return layout{
		header: object[:binary.BigEndian.Uint32(object[12:])],
		index:  object[index : len(object)-segment.FooterBytes],
		footer: foot,
	}
}

// resign makes all checksums right again, so that only what they cover is wrong.
func (l layout) resign() {
	be := binary.BigEndian
	sum := func(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }
	be.PutUint32(l.header[len(l.header)-4:], sum(l.header[:len(l.header)-4]))
	be.PutUint32(l.footer[16:], sum(l.index))
	be.PutUint32(l.footer[36:], sum(l.footer[:36]))
}

// What contradicts itself is found even when the checksums are right.
func TestContradictionsAreFound(t *testing.T) {
	be := binary.BigEndian
	entry := func(l layout, i int) []byte { return l.index[i*80 : (i+1)*80] }
	for _, tc := range []struct {
		name string
		edit func(l layout)
		want string
	}{
		{"header version 0", func(l layout) { be.PutUint16(l.header[8:], 0) }, "header: version 0"},
		{"header reserved byte", func(l layout) { l.header[11] = 1 }, "reserved byte at 11"},
		{"more carried records than bytes", func(l layout) { be.PutUint32(l.header[64:], 1<<30) }, "cannot fit"},
		{"one carried record too few", func(l layout) { be.PutUint32(l.header[64:], 1) }, "16 bytes after the last carried record"},
		{"no carried record", func(l layout) { be.PutUint32(l.header[64:], 0) }, "belong to no carried record"},
		{"carried record too long", func(l layout) { be.PutUint32(l.header[80:], 29) }, "carried record 0 at 68 has 29 bytes, 28 are left"},
		{"carried record of 4 GiB", func(l layout) { be.PutUint32(l.header[80:], 1<<32-1) }, "carried record 0"},
		{"carried record cut off", func(l layout) { be.PutUint32(l.header[80:], 20) }, "carried record 1 at 104 is cut off"},
		{"footer version 0", func(l layout) { be.PutUint16(l.footer[24:], 0) }, "footer: version 0"},
		{"footer reserved bytes", func(l layout) { l.footer[27] = 1 }, "reserved bytes"},
		{"index before the chunks", func(l layout) { be.PutUint64(l.footer, 10) }, "index position 10"},
		{"index beyond the object", func(l layout) { be.PutUint64(l.footer, 1<<40) }, "index position"},
		{"negative index position", func(l layout) { be.PutUint64(l.footer, 1<<63) }, "index position -"},
		{"index does not reach the footer", func(l layout) { be.PutUint64(l.footer[8:], 160) }, "does not end at the footer"},
		{"huge index", func(l layout) { be.PutUint64(l.footer[8:], 1<<62) }, "does not end at the footer"},
		{"half an entry", func(l layout) {
			be.PutUint64(l.footer, be.Uint64(l.footer)+40)
			be.PutUint64(l.footer[8:], 200)
		}, "index length 200"},
		{"chunks without index", func(l layout) {
			be.PutUint64(l.footer, be.Uint64(l.footer)+240)
			be.PutUint64(l.footer[8:], 0)
		}, "no index for"},
		{"header length of the footer too small", func(l layout) { be.PutUint32(l.footer[20:], 5) }, "header length 5"},
		{"header length of the footer", func(l layout) { be.PutUint32(l.footer[20:], 115) }, "position 116, the header ends at 115"},
		{"first chunk in the header", func(l layout) { be.PutUint64(entry(l, 0)[24:], 100) }, "index entry 0: position 100"},
		{"gap between chunks", func(l layout) { be.PutUint64(entry(l, 1)[24:], 178) }, "index entry 1: position 178, the chunk before ends at 177"},
		{"gap before the index", func(l layout) { be.PutUint64(entry(l, 2)[32:], 86) }, "chunks end at 396"},
		{"chunk beyond the index", func(l layout) { be.PutUint64(entry(l, 2)[32:], 88) }, "index entry 2: length 88"},
		{"negative length", func(l layout) { be.PutUint64(entry(l, 0)[32:], 1<<63) }, "index entry 0: length -"},
		{"partitions out of order", func(l layout) { be.PutUint32(entry(l, 0)[20:], 6) }, "is not after"},
		{"the same partition twice", func(l layout) { be.PutUint32(entry(l, 0)[20:], 5) }, "is not after"},
		{"shards out of order", func(l layout) { be.PutUint32(entry(l, 0), 9) }, "is not after"},
		{"negative partition", func(l layout) { be.PutUint32(entry(l, 0)[20:], 1<<31) }, "partition -"},
		{"no batches", func(l layout) { be.PutUint32(entry(l, 0)[72:], 0) }, "0 batches"},
		{"more batches than fit", func(l layout) { be.PutUint32(entry(l, 0)[72:], 2) }, "2 batches in 61 bytes"},
		{"negative records", func(l layout) { be.PutUint64(entry(l, 0)[64:], 1<<63) }, "records in 1 batches"},
		{"negative base", func(l layout) { be.PutUint64(entry(l, 0)[40:], 1<<63) }, "base offset -"},
		{"wrong record count", func(l layout) { be.PutUint64(entry(l, 0)[64:], 5) }, "the index has 1, 5"},
		{"wrong batch count", func(l layout) { be.PutUint32(entry(l, 1)[72:], 1) }, "the index has 1, 3"},
		{"wrong min timestamp", func(l layout) { be.PutUint64(entry(l, 1)[48:], 901) }, "the index has 2, 3, 901 to 3000"},
		{"wrong max timestamp", func(l layout) { be.PutUint64(entry(l, 1)[56:], 3001) }, "the index has 2, 3, 900 to 3001"},
		{"wrong chunk checksum", func(l layout) { entry(l, 1)[76] ^= 1 }, "chunk at 177: CRC-32C"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			object := build(t, header(), chunks()).Body.Bytes()
			l := parts(object)
			tc.edit(l)
			l.resign()
			err := readAll(object)
			if !errors.Is(err, segment.ErrCorrupt) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want ErrCorrupt with %q", err, tc.want)
			}
		})
	}
}
