//go:build integration && unix

package clients

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/integration/fixture"
)

// java is Apache Kafka's own clients and console tools, in one virtual machine. Its
// methods are for one goroutine.
type java struct {
	in  io.Writer
	out *bufio.Reader
}

// javaProject names the jars that the classes in the folder java need.
const javaProject = "integration/clients/java/pom.xml"

// compileJava compiles files of the folder java and returns the folder of their classes.
func compileJava(t *testing.T, jvm fixture.JVM, files ...string) string {
	t.Helper()
	classes := t.TempDir()
	args := []string{"-cp", jvm.ClassPath, "-d", classes}
	for _, name := range files {
		args = append(args, filepath.Join(fixture.RepoRoot(t), "integration", "clients", "java", name))
	}
	if out, err := exec.Command(jvm.Javac, args...).CombinedOutput(); err != nil {
		t.Fatalf("javac: %v\n%s", err, out)
	}
	return classes
}

// jvmFlags start a virtual machine soon, with compiled classes and all jars.
func jvmFlags(jvm fixture.JVM, classes string) []string {
	return []string{"-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xmx512m",
		"-cp", classes + string(os.PathListSeparator) + jvm.ClassPath}
}

// startJava compiles java/Driver.java and runs it until the test ends.
func startJava(t *testing.T) *java {
	t.Helper()
	jvm := fixture.Java(t, javaProject)
	cmd := exec.Command(jvm.Java, append(jvmFlags(jvm, compileJava(t, jvm, "Driver.java")), "Driver")...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr // what the virtual machine itself says; tools have streams of their own
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close() // ends the loop over requests
		kill := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("java: %v", err)
		}
	})
	return &java{in: in, out: bufio.NewReader(out)}
}

// call runs a command of the driver, or the main method of a class.
func (j *java) call(t *testing.T, command, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var words []string
	for _, w := range append([]string{command, stdin}, args...) {
		words = append(words, base64.StdEncoding.EncodeToString([]byte(w)))
	}
	if _, err := fmt.Fprintln(j.in, strings.Join(words, " ")); err != nil {
		t.Fatalf("java: %v", err)
	}
	line, err := j.out.ReadString('\n')
	if err != nil {
		t.Fatalf("java ended: %v", err)
	}
	f := strings.Split(strings.TrimSuffix(line, "\n"), " ")
	if len(f) != 3 {
		t.Fatalf("java answered %q", line)
	}
	if code, err = strconv.Atoi(f[0]); err != nil {
		t.Fatalf("java answered %q", line)
	}
	return code, string(decode(t, f[1])), string(decode(t, f[2]))
}

// run is call of what must do well.
func (j *java) run(t *testing.T, command, stdin string, args ...string) string {
	t.Helper()
	code, stdout, stderr := j.call(t, command, stdin, args...)
	if code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s%s", command, strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

func decode(t *testing.T, word string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(word)
	if err != nil {
		t.Fatalf("java answered %q: %v", word, err)
	}
	return b
}

// encode is bytes as the driver wants them: "-" for null.
func encode(b []byte) string {
	if b == nil {
		return "-"
	}
	return base64.StdEncoding.EncodeToString(b)
}

func decodeBytes(t *testing.T, word string) []byte {
	t.Helper()
	if word == "-" {
		return nil
	}
	return append([]byte{}, decode(t, word)...)
}

func (j *java) name() string { return "Apache Kafka (Java)" }

func (j *java) version(t *testing.T) string { return strings.TrimSpace(j.run(t, "version", "")) }

func (j *java) produce(t *testing.T, addrs []string, topic, codec string, records []record) []record {
	t.Helper()
	return j.produceWith(t, addrs, topic, records, "compression.type="+codec)
}

func (j *java) produceWith(t *testing.T, addrs []string, topic string, records []record, settings ...string) []record {
	t.Helper()
	var in strings.Builder
	for _, r := range records {
		fmt.Fprintf(&in, "%d\t%s\t%s", r.timestamp, encode(r.key), encode(r.value))
		for _, h := range r.headers {
			fmt.Fprintf(&in, "\t%s\t%s", encode([]byte(h.name)), encode(h.value))
		}
		in.WriteByte('\n')
	}
	args := append([]string{topic, fmt.Sprint(records[0].partition), "bootstrap.servers=" + strings.Join(addrs, ",")}, settings...)
	out := make([]record, 0, len(records))
	for line := range strings.Lines(j.run(t, "produce", in.String(), args...)) {
		offset, timestamp, _ := strings.Cut(strings.TrimSpace(line), "\t")
		r := records[len(out)]
		r.offset, r.timestamp = number(t, offset), number(t, timestamp)
		out = append(out, r)
	}
	return out
}

func number(t *testing.T, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (j *java) consume(t *testing.T, addrs []string, topic string, partitions, records int) []record {
	t.Helper()
	text := j.run(t, "consume", "", topic, fmt.Sprint(partitions), fmt.Sprint(records),
		"bootstrap.servers="+strings.Join(addrs, ","), "enable.auto.commit=false", "auto.offset.reset=none")
	var out []record
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		r := record{partition: int32(number(t, f[0])), offset: number(t, f[1]), timestamp: number(t, f[2]),
			key: decodeBytes(t, f[3]), value: decodeBytes(t, f[4])}
		for i := 5; i+1 < len(f); i += 2 {
			r.headers = append(r.headers, header{string(decode(t, f[i])), decodeBytes(t, f[i+1])})
		}
		out = append(out, r)
	}
	return out
}

// testJava runs the clients' ways of asking for offsets, and the producer's settings.
func testJava(t *testing.T, e *env) {
	addrs := e.floe.Addrs()
	topic := topicName(t)
	createTopic(t, addrs, topic, 1)
	records := e.java.produceWith(t, addrs, topic, samples(0), "linger.ms=0", "batch.size=1000")
	compare(t, "small batches", e.java.consume(t, addrs, topic, 1, len(records)), records)

	newest, at := records[0], int64(-1) // the first with the greatest time
	const asked = 1_700_000_000_003
	for _, r := range records {
		if r.timestamp > newest.timestamp {
			newest = r
		}
		if at < 0 && r.timestamp >= asked {
			at = r.offset
		}
	}
	got := strings.Fields(e.java.run(t, "offsets", "", topic, fmt.Sprint(asked), "bootstrap.servers="+strings.Join(addrs, ",")))
	n := int64(len(records))
	want := strings.Fields(fmt.Sprintln(0, n, at, newest.offset, 0, n, at))
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("offsets are %q, want %q", got, want)
	}

	for _, settings := range [][]string{
		{"acks=1", "enable.idempotence=false"},
		{"acks=0", "enable.idempotence=false"},
		{"acks=all", "enable.idempotence=false", "max.in.flight.requests.per.connection=20"},
	} {
		topic := topicName(t, settings[0])
		createTopic(t, addrs, topic, 1)
		sent := e.java.produceWith(t, addrs, topic, samples(0), settings...)
		for i := range sent {
			sent[i].offset = int64(i) // not told with acks=0
		}
		compare(t, settings[0], e.java.consume(t, addrs, topic, 1, len(sent)), sent)
	}
}
