//go:build integration && unix

package clients

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

func (k kcat) write(t *testing.T, addrs []string, topic, codec string, partition int32, values []string) {
	t.Helper()
	k.produce(t, addrs, topic, codec, valuesOf(partition, values))
}

// kcatAssigned finds partitions in what kcat says of a rebalance.
var kcatAssigned = regexp.MustCompile(`\[(\d+)\]`)

func (kcat) join(t *testing.T, b *board, m membership) *member {
	t.Helper()
	return b.run(t, "member of kcat", func(ctx context.Context, tell *member) error {
		cmd := exec.CommandContext(ctx, "kcat", "-G", m.group, "-b", strings.Join(m.addrs, ","), "-u", "-f", `%p %o %s\n`,
			"-X", "auto.offset.reset=earliest", "-X", "auto.commit.interval.ms=100", "-X", "heartbeat.interval.ms=300",
			"-X", "fetch.wait.max.ms=100", m.topic)
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it commits and leaves
		cmd.WaitDelay = patience
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		said, err := cmd.StderrPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		heard := make(chan string, 1)
		go func() { heard <- kcatHear(said, tell) }()
		err = kcatRead(out, tell)
		text := <-heard
		if err := errors.Join(err, cmd.Wait()); err != nil && ctx.Err() == nil {
			return fmt.Errorf("kcat: %w\n%s", err, text)
		}
		return nil
	})
}

// kcatHear tells of assignments, and returns all that was said.
func kcatHear(from io.Reader, tell *member) string {
	var text strings.Builder
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		fmt.Fprintln(&text, lines.Text())
		_, change, ok := strings.Cut(lines.Text(), " rebalanced (")
		if !ok {
			continue
		}
		var has []int32
		if !strings.Contains(change, "): revoked:") {
			for _, found := range kcatAssigned.FindAllStringSubmatch(change, -1) {
				p, _ := strconv.Atoi(found[1]) // digits
				has = append(has, int32(p))
			}
		}
		tell.assign(sorted(has))
	}
	return text.String()
}

// kcatRead tells of records.
func kcatRead(from io.Reader, tell *member) error {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		f := strings.SplitN(lines.Text(), " ", 3)
		if len(f) != 3 {
			return fmt.Errorf("line %q", lines.Text())
		}
		p, err := strconv.Atoi(f[0])
		if err != nil {
			return err
		}
		o, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return err
		}
		tell.got(record{partition: int32(p), offset: o, value: []byte(f[2])})
	}
	return lines.Err()
}
