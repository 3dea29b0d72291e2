//go:build integration && unix

package tiers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/floelog/floe/integration/fixture"
)

// mostUnnamed is the greatest share of the bucket's bytes that nothing may name at the end.
const mostUnnamed = 0.01

// checked is what of floe fsck's report the test looks at.
type checked struct {
	Clean    bool    `json:"clean"`
	Deep     bool    `json:"deep"`
	Damage   int     `json:"damage"`
	Warnings int     `json:"warnings"`
	Frozen   bool    `json:"frozen"`
	Unnamed  []class `json:"unnamed"`
	Bucket   class   `json:"bucket"`
	Checked  struct {
		Partitions int   `json:"partitions"`
		Extents    int   `json:"extents"`
		Holes      int   `json:"holes"`
		Manifests  int   `json:"manifests"`
		Segments   int   `json:"segments"`
		Batches    int64 `json:"batches"`
		Bytes      int64 `json:"bytes"`
	} `json:"checked"`
	Findings []json.RawMessage `json:"findings"`
}

type class struct {
	Name    string `json:"name"`
	Objects int64  `json:"objects"`
	Bytes   int64  `json:"bytes"`
}

// collected is what of floe gc's report the test looks at.
type collected struct {
	DryRun  bool   `json:"dryRun"`
	Doubt   string `json:"doubt"`
	Garbage struct {
		Objects int64
		Bytes   int64
	} `json:"garbage"`
}

// command runs floe on the cluster as it is, past the store's faults, and decodes its answer.
func (c *cluster) command(into any, args ...string) error {
	args = append(args, "--json", "--cluster", fixture.Cluster, "--etcd", strings.Join(c.floe.Etcd.Endpoints(), ","), "--store", c.direct)
	code, out, said := fixture.RunWithin(c.t, patience, c.floe.StoreEnv, args...)
	err := json.Unmarshal([]byte(out), into)
	if code != 0 {
		err = errors.Join(err, fmt.Errorf("exit code %d: %s", code, said))
	}
	return err
}

// unnamed returns the share of bytes that nothing names, for whatever reason.
func (r *checked) unnamed() float64 {
	sum := int64(0)
	for _, class := range r.Unnamed {
		sum += class.Bytes
	}
	return float64(sum) / float64(r.Bucket.Bytes)
}

// sweeps returns how many complete sweeps there were.
func (c *cluster) sweeps() float64 { return c.meter.sum("floe_gc_sweeps_total", `outcome="complete"`) }

// audit waits until the sweeper has swept twice since everything came to rest, when there were
// that many sweeps, and little is left that nothing names; a cluster in which nothing changes
// is not swept again. Then it has every byte checked.
func (c *cluster) audit(swept float64) {
	c.t.Helper()
	var r checked
	c.await("two more sweeps, and less than 1 % of the bytes without a name", func(context.Context) error {
		r = checked{}
		if err := c.command(&r, "fsck"); err != nil {
			return fmt.Errorf("%w: %s", err, r.Findings)
		}
		if n := c.sweeps() - swept; n < 2 || r.unnamed() >= mostUnnamed {
			return fmt.Errorf("%.0f more sweeps; of %d bytes %.2f %% have no name: %+v", n, r.Bucket.Bytes, 100*r.unnamed(), r.Unnamed)
		}
		return nil
	})
	r = checked{}
	if err := c.command(&r, "fsck", "--deep"); err != nil {
		c.t.Errorf("floe fsck --deep: %v", err)
	}
	for _, f := range r.Findings {
		c.t.Errorf("floe fsck --deep: %s", f)
	}
	if !r.Clean || !r.Deep || r.Damage > 0 || r.Warnings > 0 || r.Frozen || r.Checked.Batches == 0 {
		c.t.Errorf("floe fsck --deep: %+v", r)
	}
	var g collected
	if err := c.command(&g, "gc", "--dry-run"); err != nil || g.Doubt != "" || !g.DryRun {
		c.t.Errorf("floe gc --dry-run: %+v, %v", g, err)
	}
	if share := float64(g.Garbage.Bytes) / float64(r.Bucket.Bytes); share >= mostUnnamed {
		c.t.Errorf("floe gc --dry-run: %d bytes of %d are garbage", g.Garbage.Bytes, r.Bucket.Bytes)
	}
	c.t.Logf("fsck --deep: %+v, %.3f %% of %d bytes in %d objects without a name %+v; gc: %d bytes of garbage",
		r.Checked, 100*r.unnamed(), r.Bucket.Bytes, r.Bucket.Objects, r.Unnamed, g.Garbage.Bytes)
	c.t.Logf("of the segments %.0f bytes are live, %.0f segments are not half live", c.meter.sum("floe_segments_live_bytes"), c.meter.sum("floe_segments_sparse"))
	c.need("runs of extents merged", "floe_merge_runs_total")
	c.need("extents merged", "floe_merge_extents_total")
	c.need("manifests stored", "floe_merge_manifests_total")
	c.need("extents archived", "floe_merge_archived_total")
	c.need("passes of log compaction", "floe_clean_passes_total")
	c.need("bytes that log compaction replaced", "floe_clean_in_bytes_total")
	c.need("offsets trimmed by retention", "floe_retention_records_total")
	c.need("objects deleted", "floe_gc_deleted_objects_total")
	c.need("bytes deleted", "floe_gc_deleted_bytes_total")
	c.need("snapshots", "floe_snapshots_total")
	c.need("wrong bytes noticed", "floe_cache_corrupt_total")
	c.t.Logf("sweeps: %s", c.meter.labelled("floe_gc_sweeps_total"))
}
