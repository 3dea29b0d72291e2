package agent

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

// networkFile is where Linux tells what the network interfaces have moved: those of the
// process's network namespace, which in Kubernetes is the pod's.
const networkFile = "/proc/self/net/dev"

// networkBytes returns the bytes that all interfaces but loopback have received and sent.
func networkBytes() (in, out int64, ok bool) {
	b, err := os.ReadFile(networkFile)
	if err != nil {
		return 0, 0, false
	}
	return parseNetwork(b)
}

// parseNetwork reads the kernel's table: two lines of headings, then a line for each interface,
// "name: received bytes, 7 more numbers, sent bytes, ...".
func parseNetwork(table []byte) (in, out int64, ok bool) {
	for line := range bytes.Lines(table) {
		name, rest, found := strings.Cut(string(line), ":")
		f := strings.Fields(rest)
		if !found || strings.TrimSpace(name) == "lo" || len(f) < 9 {
			continue
		}
		received, err := strconv.ParseInt(f[0], 10, 64)
		if err != nil {
			continue
		}
		sent, err := strconv.ParseInt(f[8], 10, 64)
		if err != nil {
			continue
		}
		in, out, ok = in+received, out+sent, true
	}
	return in, out, ok
}
