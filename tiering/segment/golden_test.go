package segment_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/floelog/floe/tiering/segment"
)

var update = flag.Bool("update", false, "write the golden file of a version that has none yet")

func goldenPath(version int) string {
	return filepath.Join("testdata", fmt.Sprintf("segment_v%d.golden", version))
}

// field is one line of a byte diagram: so many bytes, and what they are.
type field struct {
	n    int
	what string
}

// annotate prints the bytes with the fields of the diagrams in header.go, index.go and
// footer.go. Bytes without a field, or fields without bytes, fail the test.
func annotate(t *testing.T, object []byte, fields []field) string {
	t.Helper()
	var out strings.Builder
	at := 0
	for _, f := range fields {
		if at+f.n > len(object) {
			t.Fatalf("%s: %d bytes at %d, the object has %d", f.what, f.n, at, len(object))
		}
		for i := 0; i < f.n; i += 16 {
			what := f.what
			if i > 0 {
				what = "  ..."
			}
			fmt.Fprintf(&out, "%06d  %-32x  %s\n", at+i, object[at+i:at+min(i+16, f.n)], what)
		}
		at += f.n
	}
	if at != len(object) {
		t.Fatalf("%d bytes have no field", len(object)-at)
	}
	return out.String()
}

func goldenFields() []field {
	fs := []field{{8, "header: magic"}, {2, "version"}, {1, "level"}, {1, "reserved"}, {4, "header length"},
		{16, "cluster id"}, {16, "session"}, {8, "seq"}, {8, "created at"}, {4, "carried records"},
		{4, "carried 0: shard"}, {8, "seq"}, {4, "length"}, {12, "the record"},
		{4, "carried 1: shard"}, {8, "seq"}, {4, "length"}, {4, "CRC-32C of the header"},
		{61, "chunk 0: batch of 1 record"}, {64, "chunk 1: batch of 1 record"}, {69, "batch of 2 records"}, {87, "chunk 2: batch of 3 records"}}
	for i := range 3 {
		fs = append(fs, field{4, fmt.Sprintf("index entry %d: shard", i)}, field{16, "topic id"}, field{4, "partition"},
			field{8, "position"}, field{8, "length"}, field{8, "base offset"}, field{8, "min timestamp"}, field{8, "max timestamp"},
			field{8, "records"}, field{4, "batches"}, field{4, "CRC-32C of the chunk"})
	}
	return append(fs, field{8, "footer: index position"}, field{8, "index length"}, field{4, "CRC-32C of the index"},
		field{4, "header length"}, field{2, "version"}, field{2, "reserved"}, field{8, "magic"}, field{4, "CRC-32C of the footer"})
}

// The layout is what the golden file of the version says. A change of it needs a new
// version: -update never writes over a file.
func TestGolden(t *testing.T) {
	object := build(t, header(), chunks()).Body.Bytes()
	got := annotate(t, object, goldenFields())
	path := goldenPath(segment.Version)
	if *update {
		if _, err := os.Stat(path); err == nil {
			t.Fatalf("%s exists and stays as it is: raise segment.Version with a change of layout", path)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: write it with -update", err)
	}
	if got != string(want) {
		t.Errorf("the layout of version %d changed: raise segment.Version and keep the old decoder\ngot:\n%s\nwant:\n%s", segment.Version, got, want)
	}
}

// Segments of every version ever written stay readable.
func TestOldVersionsStayReadable(t *testing.T) {
	for version := 1; version <= segment.Version; version++ {
		text, err := os.ReadFile(goldenPath(version))
		if err != nil {
			t.Fatal(err)
		}
		var object []byte
		for line := range strings.Lines(string(text)) {
			b, err := hex.DecodeString(strings.Fields(line)[1])
			if err != nil {
				t.Fatal(err)
			}
			object = append(object, b...)
		}
		read := reader(object, nil)
		seg, err := segment.Open(int64(len(object)), read)
		if err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		h, err := seg.ReadHeader(read)
		want := header()
		want.Version = uint16(version)
		if err != nil || !reflect.DeepEqual(h, want) {
			t.Errorf("version %d: header %+v, %v", version, h, err)
		}
		cs := chunks()
		entries := build(t, header(), cs).Entries
		if len(seg.Entries) != len(cs) {
			t.Fatalf("version %d: %d chunks", version, len(seg.Entries))
		}
		for i, e := range seg.Entries {
			b, err := seg.ReadChunk(e, read)
			if err != nil || !bytes.Equal(b, bytes.Join(cs[i].Slices, nil)) || e.TopicPartition != entries[i].TopicPartition || e.Base != entries[i].Base {
				t.Errorf("version %d: chunk %d %+v, %v", version, i, e, err)
			}
		}
	}
}
