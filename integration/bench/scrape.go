//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/floelog/floe/cmd/floe/bill"
)

// scrape gives the metrics that a URL answers with to read.
func scrape(ctx context.Context, url string, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("metrics: %s answers %s", url, resp.Status)
	}
	return read(resp.Body)
}

// scrapeSum adds up all series of one metric.
func scrapeSum(ctx context.Context, url, name string) (sum float64, err error) {
	err = scrape(ctx, url, func(r io.Reader) (err error) {
		sum, err = sumOf(bufio.NewScanner(r), name)
		return err
	})
	return sum, err
}

// scrapeBill reads what an agent has counted since its start, as `floe cost` does.
func scrapeBill(ctx context.Context, url string) (c bill.Counts, err error) {
	err = scrape(ctx, url, func(r io.Reader) (err error) {
		c, err = bill.Parse(r, time.Now())
		return err
	})
	return c, err
}

// objectRequests returns how many requests an agent has made to its object store.
func objectRequests(ctx context.Context, metrics string) (float64, error) {
	return scrapeSum(ctx, metrics, "floe_objstore_requests_total")
}
