//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/floelog/floe/integration/torture/check"
)

const (
	// mostUnnamed is the greatest share of the bucket's bytes that nothing may name at rest.
	mostUnnamed = 0.01
	// auditLimit is how long the sweeper may take to get there, and one check to be made.
	auditLimit = 2 * time.Minute
	auditEvery = 3 * time.Second
)

// stores is what of floe fsck's report a run looks at.
type stores struct {
	Clean    bool              `json:"clean"`
	Damage   int               `json:"damage"`
	Warnings int               `json:"warnings"`
	Unnamed  []amount          `json:"unnamed"`
	Bucket   amount            `json:"bucket"`
	Findings []json.RawMessage `json:"findings"`
}

type amount struct {
	Name    string `json:"name"`
	Objects int64  `json:"objects"`
	Bytes   int64  `json:"bytes"`
}

func (s *stores) unnamed() float64 {
	sum := int64(0)
	for _, a := range s.Unnamed {
		sum += a.Bytes
	}
	return float64(sum) / float64(max(1, s.Bucket.Bytes))
}

// fsck has the cluster's own command check what the stores hold, past all proxies.
func (a *attempt) fsck(ctx context.Context, deep bool) (*stores, error) {
	ctx, cancel := context.WithTimeout(ctx, a.patience(auditLimit))
	defer cancel()
	args, env := a.cluster.DirectArgs()
	args = append([]string{"fsck", "--json"}, args...)
	if deep {
		args = append(args, "--deep")
	}
	cmd := exec.CommandContext(ctx, a.cluster.Floe(), args...)
	cmd.Env = append(os.Environ(), env...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	failed := cmd.Run()
	s := &stores{}
	if err := json.Unmarshal(out.Bytes(), s); err != nil {
		return nil, fmt.Errorf("floe fsck: %w, %w: %s", failed, err, said.String())
	}
	return s, nil // damage is in the report
}

// audit waits until little is left in the bucket that nothing names, and has every byte
// checked. What it finds goes into the history.
func (a *attempt) audit(ctx context.Context, rec *check.Recorder) error {
	begun := time.Now()
	for {
		s, err := a.fsck(ctx, false)
		if err != nil {
			return err
		}
		if s.unnamed() < mostUnnamed {
			break
		}
		if limit := a.patience(auditLimit); time.Since(begun) > limit {
			rec.Anomaly(check.Orphans, "fsck", "%.2f %% of the bucket's %d bytes have no name %v after everything came to rest: %+v", 100*s.unnamed(), s.Bucket.Bytes, limit, s.Unnamed)
			break
		}
		select {
		case <-time.After(auditEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s, err := a.fsck(ctx, true)
	if err != nil {
		return err
	}
	for _, f := range s.Findings {
		rec.Anomaly(check.Fsck, "fsck", "%s", f)
	}
	a.say("fsck --deep: damage %d, warnings %d, %d objects of %d bytes, without a name %.3f %%", s.Damage, s.Warnings, s.Bucket.Objects, s.Bucket.Bytes, 100*s.unnamed())
	return nil
}
