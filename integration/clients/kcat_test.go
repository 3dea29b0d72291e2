//go:build integration && unix

package clients

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/integration/fixture"
)

// kcat is the client of the shell, made of the librdkafka that the system ships.
type kcat struct{}

func (kcat) name() string { return "kcat" }

func (kcat) version(t *testing.T) string {
	for line := range strings.Lines(fixture.Kcat(t, "", "-V")) {
		if rest, ok := strings.CutPrefix(line, "Version "); ok {
			v, _, _ := strings.Cut(rest, " ")
			return v
		}
	}
	t.Fatal("kcat -V names no version")
	return ""
}

// produce cannot set times, nor headers for each record: all records get those of the
// first. Keys and values may have no tab and no line end; an empty one is sent as null.
func (kcat) produce(t *testing.T, addrs []string, topic, codec string, records []record) []record {
	t.Helper()
	var in bytes.Buffer
	for _, r := range records {
		fmt.Fprintf(&in, "%s\t%s\n", r.key, r.value)
	}
	args := []string{"-P", "-b", strings.Join(addrs, ","), "-t", topic, "-p", fmt.Sprint(records[0].partition), "-K", "\t", "-Z", "-z", codec,
		"-X", "enable.idempotence=true"}
	for _, h := range records[0].headers {
		args = append(args, "-H", h.name+"="+string(h.value))
	}
	fixture.Kcat(t, in.String(), args...)
	out := make([]record, len(records))
	for i := range records {
		out[i] = records[i]
		out[i].offset, out[i].headers = int64(i), records[0].headers
	}
	return out
}

// kcatSamples are records that kcat can write.
func kcatSamples(partition int32) []record {
	records := []record{{key: []byte("with headers"), value: []byte("one"), headers: []header{{"name", []byte("value")}, {"name", []byte("again")}}},
		{value: []byte("no key")}, {key: []byte("tombstone")}, {key: []byte("größe"), value: []byte("\x01\x02\xff")},
		{key: []byte("large"), value: bytes.Repeat([]byte("large "), 4000)}}
	for i := range records {
		records[i].partition = partition
	}
	return records
}

func (k kcat) consume(t *testing.T, addrs []string, topic string, _, records int) []record {
	t.Helper()
	out := k.read(t, addrs, topic, "-o", "beginning") // all partitions, to their ends
	if len(out) < records {
		t.Errorf("kcat: read %d of %d records", len(out), records)
	}
	return out
}

// read consumes to the end, with the given arguments.
func (kcat) read(t *testing.T, addrs []string, topic string, args ...string) []record {
	t.Helper()
	// The lengths let keys and values hold any byte. kcat prints a header's value up to
	// its first zero byte, and nothing tells a null from the word NULL.
	text := fixture.Kcat(t, "", append([]string{"-C", "-q", "-e", "-b", strings.Join(addrs, ","), "-t", topic,
		"-f", `%p %o %T %K %S %h\n%k%s\n`}, args...)...)
	records, err := parseKcat(text)
	if err != nil {
		t.Fatalf("kcat: %v", err)
	}
	return records
}

func parseKcat(text string) ([]record, error) {
	var out []record
	for text != "" {
		line, rest, _ := strings.Cut(text, "\n")
		f := strings.SplitN(line, " ", 6)
		if len(f) != 6 {
			return nil, fmt.Errorf("line %q", line)
		}
		var n [5]int64
		for i := range n {
			var err error
			if n[i], err = strconv.ParseInt(f[i], 10, 64); err != nil {
				return nil, fmt.Errorf("line %q: %w", line, err)
			}
		}
		r := record{partition: int32(n[0]), offset: n[1], timestamp: n[2]}
		for i, at := range []*[]byte{&r.key, &r.value} {
			size := n[3+i]
			if size > int64(len(rest)) {
				return nil, fmt.Errorf("line %q: %d bytes follow", line, len(rest))
			}
			if size >= 0 {
				*at = []byte(rest[:size])
				rest = rest[size:]
			} // -1: null, for which nothing is printed
		}
		for h := range strings.SplitSeq(f[5], ",") {
			if name, value, ok := strings.Cut(h, "="); ok {
				v := []byte(value)
				if value == "NULL" {
					v = nil
				}
				r.headers = append(r.headers, header{name, v})
			}
		}
		out = append(out, r)
		text = strings.TrimPrefix(rest, "\n")
	}
	return out, nil
}

// testKcat runs what operators type.
func testKcat(t *testing.T, e *env) {
	addrs := e.floe.Addrs()
	list := strings.Join(addrs, ",")
	topic := topicName(t)
	createTopic(t, addrs, topic, 2)

	var text string
	eventually(t, "kcat -L tells of "+topic, func() (bool, string) { // any agent is asked
		text = fixture.Kcat(t, "", "-L", "-b", list)
		return strings.Contains(text, fmt.Sprintf("topic %q with 2 partitions:", topic)), text
	})
	for _, want := range []string{fmt.Sprintf("%d brokers:", len(addrs)), "(controller)"} {
		if !strings.Contains(text, want) {
			t.Errorf("kcat -L does not say %q:\n%s", want, text)
		}
	}
	for _, addr := range addrs {
		if !strings.Contains(text, " at "+addr) {
			t.Errorf("kcat -L does not name the agent on %s:\n%s", addr, text)
		}
	}
	if text := fixture.Kcat(t, "", "-L", "-b", addrs[0], "-t", topic, "-J"); !strings.Contains(text, `"partitions":[{"partition":0`) {
		t.Errorf("kcat -L -J of one topic:\n%s", text)
	}

	// Times in seconds apart, written by a client that can set them.
	start := time.Now().Add(-time.Hour).Truncate(time.Second)
	var records []record
	for i := range 10 {
		records = append(records, record{timestamp: start.Add(time.Duration(i) * time.Second).UnixMilli(), value: fmt.Appendf(nil, "%d", i)})
	}
	records = franz{}.produce(t, addrs, topic, "none", records)
	for _, tt := range []struct {
		name string
		args []string
		want []record
	}{
		{"from a time", []string{"-o", fmt.Sprintf("s@%d", records[4].timestamp)}, records[4:]},
		{"between times", []string{"-o", fmt.Sprintf("s@%d", records[4].timestamp-1), "-o", fmt.Sprintf("e@%d", records[7].timestamp)}, records[4:7]},
		{"from an offset", []string{"-o", "8"}, records[8:]},
		{"the last ones", []string{"-o", "-3"}, records[7:]},
		{"a number of them", []string{"-o", "beginning", "-c", "2"}, records[:2]},
	} {
		got := kcat{}.read(t, addrs, topic, append([]string{"-p", "0"}, tt.args...)...)
		compare(t, "kcat, "+tt.name, got, tt.want)
	}
	if got := fixture.Kcat(t, "", "-Q", "-b", list, "-t", fmt.Sprintf("%s:0:%d", topic, records[6].timestamp)); !strings.Contains(got, "[0] offset 6") {
		t.Errorf("kcat -Q of a time: %q", got)
	}

	// A topic that does not exist is created by the first record, on every agent's word.
	auto := topicName(t, "auto")
	fixture.Kcat(t, "first\n", "-P", "-b", list, "-t", auto)
	for _, addr := range addrs {
		if got := fixture.Kcat(t, "", "-C", "-q", "-e", "-b", addr, "-t", auto); got != "first\n" {
			t.Errorf("through %s: %q", addr, got)
		}
	}
}
