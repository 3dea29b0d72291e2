package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/floelog/floe/cmd/floe/bill"
)

const (
	defaultAdmin = "127.0.0.1:9644" // where the first agent of floe dev serves metrics
	// scrapePatience bounds one question for metrics: an agent with very many topics takes
	// some tenths of a second.
	scrapePatience = 10 * time.Second
	// maxMetrics bounds what is read of one agent: a thousand topics have some 0.5 MiB.
	maxMetrics = 64 << 20
)

func costCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cost",
		Short: "What the object store costs a month, by requests, topics and bytes, and what makes it dear",
		Long: "What the object store costs a month, by requests, topics and bytes, and what makes it dear.\n" +
			"The command reads the metrics of running agents: name all of them, or the rest is not counted.",
		Example: "  floe cost --over 1m\n  floe cost --admin 10.0.0.1:9644,10.0.0.2:9644 --prices prices.yaml --json",
		Args:    noArgs,
	}
	admins := cmd.Flags().StringSlice("admin", []string{defaultAdmin}, "admin addresses of all agents, as `HOST:PORT[,...]`")
	over := cmd.Flags().Duration("over", 0, "count for this `time` from now on; 0: since the agents' start")
	file := cmd.Flags().String("prices", "", "YAML `file` with dollars per 1,000 put, get, list, head, delete, per GiB-month of storage, per GiB of transfer")
	asJSON := cmd.Flags().Bool("json", false, "as JSON")
	cmd.PreRunE = func(*cobra.Command, []string) error { return checkCost(*admins, *over) }
	cmd.RunE = func(*cobra.Command, []string) error {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
		defer stop()
		prices, err := readPrices(*file)
		if err != nil {
			return err
		}
		counts, err := countRequests(ctx, *admins, *over)
		if err != nil {
			return err
		}
		b := bill.Of(counts, prices)
		if *asJSON {
			enc := json.NewEncoder(p.stdout)
			enc.SetIndent("", "  ")
			return enc.Encode(b)
		}
		return printBill(p.stdout, b)
	}
	return cmd
}

func checkCost(admins []string, over time.Duration) error {
	if len(admins) == 0 {
		return usageError{errors.New("--admin: no address is given (write --admin HOST:PORT)")}
	}
	for i, addr := range admins {
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			return usageError{fmt.Errorf("--admin: %q is not HOST:PORT (write %s)", addr, defaultAdmin)}
		}
		if slices.Contains(admins[:i], addr) {
			return usageError{fmt.Errorf("--admin: %s is named twice, and would be counted twice", addr)}
		}
	}
	if over < 0 || over > 0 && over < time.Second {
		return usageError{fmt.Errorf("--over: %v is too short to tell anything (write 1m)", over)}
	}
	return nil
}

// readPrices reads a table of prices; what it leaves out is free.
func readPrices(file string) (bill.Prices, error) {
	if file == "" {
		return bill.DefaultPrices(), nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return bill.Prices{}, usageError{fmt.Errorf("--prices: %w", err)}
	}
	var prices bill.Prices
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&prices); err != nil && !errors.Is(err, io.EOF) {
		return bill.Prices{}, usageError{fmt.Errorf("--prices: %s: %w (known keys: put, get, list, head, delete, storage, transfer)", file, err)}
	}
	for name, v := range map[string]float64{"put": prices.Put, "get": prices.Get, "list": prices.List, "head": prices.Head,
		"delete": prices.Delete, "storage": prices.Storage, "transfer": prices.Transfer} {
		if v < 0 {
			return bill.Prices{}, usageError{fmt.Errorf("--prices: %s: %s is %g: a price is not negative", file, name, v)}
		}
	}
	return prices, nil
}

// countRequests asks all agents, twice if something is to be counted over a time.
func countRequests(ctx context.Context, admins []string, over time.Duration) (bill.Counts, error) {
	first, err := scrapeAll(ctx, admins)
	if err != nil || over == 0 {
		sum := bill.New()
		for _, c := range first {
			sum.Add(c)
		}
		return sum, err
	}
	start := time.Now()
	t := time.NewTimer(over)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return bill.Counts{}, fmt.Errorf("counting: %w", context.Cause(ctx))
	}
	second, err := scrapeAll(ctx, admins)
	if err != nil {
		return bill.Counts{}, err
	}
	sum, took := bill.New(), time.Since(start)
	for i, c := range second {
		sum.Add(c.Since(first[i], took))
	}
	return sum, nil
}

func scrapeAll(ctx context.Context, admins []string) ([]bill.Counts, error) {
	out := make([]bill.Counts, len(admins))
	for i, addr := range admins {
		c, err := scrape(ctx, addr)
		if err != nil {
			return nil, fmt.Errorf("agent at %s: %w", addr, err)
		}
		out[i] = c
	}
	return out, nil
}

func scrape(ctx context.Context, addr string) (bill.Counts, error) {
	ctx, cancel := context.WithTimeout(ctx, scrapePatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return bill.Counts{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return bill.Counts{}, fmt.Errorf("%w (is it the admin address of a running agent?)", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return bill.Counts{}, fmt.Errorf("/metrics answers %s", resp.Status)
	}
	return bill.Parse(io.LimitReader(resp.Body, maxMetrics), time.Now())
}

// printBill writes the bill for people.
func printBill(w io.Writer, b bill.Bill) error {
	requests := newTable("KIND", "PURPOSE", "REQUESTS/MONTH", "GIB/MONTH", "USD/MONTH")
	for _, l := range b.Lines {
		requests.add(l.Kind, l.Purpose, rounded(l.Requests), amount(l.GiB), dollars(l.Dollars))
	}
	topics := newTable("TOPIC", "PARTITIONS", "STORED GIB", "IN GIB/MONTH", "OUT GIB/MONTH", "STORAGE USD/MONTH")
	for _, l := range b.Topics {
		topics.add(l.Topic, rounded(l.Partitions), amount(l.StoredGiB), amount(l.InGiB), amount(l.OutGiB), dollars(l.Dollars))
	}
	var text strings.Builder
	fmt.Fprintf(&text, "A month (730 h) that is like the %s that were counted:\n\n", b.Counted.Round(time.Second))
	if err := requests.print(&text, "No request was made."); err != nil {
		return err
	}
	text.WriteByte('\n')
	if err := topics.print(&text, "No topic holds anything."); err != nil {
		return err
	}
	fmt.Fprintf(&text, "\nrequests %s + storage %s + transfer %s = USD %s a month\n", dollars(b.Requests), dollars(b.Storage), dollars(b.Transfer), dollars(b.Total))
	if b.Counted < bill.Enough {
		fmt.Fprintf(&text, "\nThat is little to tell a month by: what agents do at their start weighs too much. Count longer, with --over 5m.\n")
	}
	for _, f := range b.Findings {
		fmt.Fprintf(&text, "\nwarning: %s (about USD %s a month)\n  %s: %s\n", f.What, dollars(f.Dollars), f.Setting, f.Remedy)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func rounded(n float64) int64   { return int64(n + 0.5) }
func amount(n float64) decimal  { return decimal(fmt.Sprintf("%.3f", n)) }
func dollars(n float64) decimal { return decimal(fmt.Sprintf("%.2f", n)) }
