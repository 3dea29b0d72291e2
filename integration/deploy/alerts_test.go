//go:build integration

package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const runbooks = "docs/runbooks.md"

var heading = regexp.MustCompile(`(?m)^## (\w+)$`)

// Every alert says what is wrong and links to a heading of the runbooks, and every heading
// is an alert's.
func TestAlertsHaveRunbooks(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, runbooks))
	if err != nil {
		t.Fatal(err)
	}
	var headings []string
	for _, m := range heading.FindAllStringSubmatch(string(page), -1) {
		headings = append(headings, m[1])
	}
	seen := map[string]bool{}
	for _, a := range alertsOf(t) {
		if seen[a.name] {
			t.Errorf("%s is there twice", a.name)
		}
		seen[a.name] = true
		if !slices.Contains(headings, a.name) {
			t.Errorf("%s has no heading in %s", a.name, runbooks)
		}
		if want := "https://github.com/floelog/floe/blob/main/" + runbooks + "#" + strings.ToLower(a.name); a.annotations["runbook_url"] != want {
			t.Errorf("%s links to %s, want %s", a.name, a.annotations["runbook_url"], want)
		}
		if a.annotations["summary"] == "" || a.annotations["description"] == "" || !slices.Contains([]string{"critical", "warning", "info"}, a.labels["severity"]) {
			t.Errorf("%s: severity %q, annotations %v", a.name, a.labels["severity"], a.annotations)
		}
	}
	for _, h := range headings {
		if !seen[h] {
			t.Errorf("%s has a heading %s, which is no alert", runbooks, h)
		}
	}
}

// story is what an alert must fire for, and what it must not fire for.
type story struct{ bad, good []string }

func one(series ...string) []string { return series }

// slow is a histogram all of whose observations lie between two bounds.
func slow(name, labels, below, above string) []string {
	if labels != "" {
		labels += ","
	}
	return []string{
		name + `_bucket{` + labels + `le="` + below + `"} 0x60`,
		name + `_bucket{` + labels + `le="` + above + `"} 0+60x60`,
		name + `_bucket{` + labels + `le="+Inf"} 0+60x60`,
	}
}

var stories = map[string]story{
	"FloeGone":          {one(`up{job="floe",instance="a"} 0x10`), one(`up{job="floe",instance="a"} 0x10`, `up{job="floe",instance="b"} 1x10`)},
	"FloeNoAgentReady":  {one(`floe_ready{instance="a"} 0x10`, `floe_ready{instance="b"} 0x10`), one(`floe_ready{instance="a"} 0x10`, `floe_ready{instance="b"} 1x10`)},
	"FloeAgentDown":     {one(`up{job="floe"} 0x10`), one(`up{job="floe"} 1x10`, `up{job="other"} 0x10`)},
	"FloeAgentNotReady": {one(`floe_ready 0x10`), one(`floe_ready 1x10`)},
	"FloeAgentRestarts": {one(`process_start_time_seconds{job="floe"} 1x20 2x10 3x10 4x10 5x5`), one(`process_start_time_seconds{job="floe"} 1x50 2x10`)},
	"FloeShardsWithoutLeader": {
		one(`floe_shards_led{instance="a"} 32x300`, `floe_shards_led{instance="b"} 32x295 0x4`),
		// A failover in which both counted the shards for a while, and one that is over.
		one(`floe_shards_led{instance="a"} 32x200 64x100`, `floe_shards_led{instance="b"} 32x203 0x97`),
	},
	"FloeLeadershipUnsteady": {one(`floe_takeovers_total 0+20x60`, `floe_shards_led 64x60`), one(`floe_takeovers_total 0x50 64x10`, `floe_shards_led 64x60`)},
	"FloeServerErrors":       {one(`floe_requests_total{api="Fetch",code="-1"} 0+1x10`), one(`floe_requests_total{api="Fetch",code="-1"} 3x10`, `floe_requests_total{api="Fetch",code="6"} 0+9x10`)},
	"FloePeersRefused":       {one(`floe_peer_refused_total{instance="a",reason="cluster"} 0+1x10`, `floe_peer_refused_total{instance="b",reason="cluster"} 3x10`), one(`floe_peer_refused_total{instance="a",reason="cluster"} 3x10`)},
	"FloeStoreInTrouble": {
		one(`floe_store_state{store="object",kind="put",state="denied",instance="a"} 0x5`, `floe_store_state{store="object",kind="put",state="denied",instance="b"} 1x5`),
		one(`floe_store_state{store="object",kind="put",state="denied"} 0x5`, `floe_store_state{store="object",kind="put",state="throttled"} 1x5`, `floe_store_state{store="metadata",kind="read",state="slow"} 1x5`),
	},
	"FloeProduceRefused":    {one(`floe_produce_refused_total{instance="a"} 0+5x10`, `floe_produce_refused_total{instance="b"} 0x10`), one(`floe_produce_refused_total{instance="a"} 50x10`)},
	"FloeAppendsSlow":       {slow("floe_append_seconds", "", "0.256", "0.512"), slow("floe_append_seconds", "", "0.002", "0.004")},
	"FloeOutcomesUnknown":   {one(`floe_unknown_outcomes_total 0+60x10`), one(`floe_unknown_outcomes_total 0x5 20x50`)},
	"FloeJournalLong":       {one(`floe_journal_records{shard="3"} 0+5000x10`), one(`floe_journal_records{shard="3"} 2100x10`)},
	"FloeTransactionsStuck": {one(`floe_coordinator_calls_repeated_total{kind="transactions"} 0+3x10`), one(`floe_coordinator_calls_repeated_total{kind="transactions"} 7x10`)},
	"FloeStoreErrors": {
		one(`floe_objstore_requests_total{kind="get",outcome="ok"} 0+100x10`, `floe_objstore_requests_total{kind="get",outcome="timeout"} 0+10x10`),
		one(`floe_objstore_requests_total{kind="get",outcome="ok"} 0+100x10`, `floe_objstore_requests_total{kind="get",outcome="not_found"} 0+90x10`, `floe_objstore_requests_total{kind="get",outcome="error"} 0+1x10`),
	},
	"FloeStoreDenied":        {one(`floe_objstore_requests_total{kind="put",outcome="denied"} 0+1x10`), one(`floe_objstore_requests_total{kind="put",outcome="denied"} 1x10`)},
	"FloeStoreThrottled":     {one(`floe_objstore_requests_total{outcome="throttled"} 0+120x10`), one(`floe_objstore_requests_total{outcome="throttled"} 0+30x10`)},
	"FloeUploadsFail":        {one(`floe_upload_seconds_count{outcome="failed"} 0+1x10`), one(`floe_upload_seconds_count{outcome="ok"} 0+1x10`, `floe_upload_seconds_count{outcome="failed"} 2x10`)},
	"FloeUploadsSlow":        {slow("floe_upload_seconds", `outcome="ok"`, "2.048", "4.096"), slow("floe_upload_seconds", `outcome="ok"`, "0.064", "0.128")},
	"FloeCorruptReads":       {one(`floe_cache_corrupt_total{instance="a"} 0x55 1x5`), one(`floe_cache_corrupt_total{instance="a"} 1x60`)},
	"FloeObjectsLost":        {one(`floe_gc_lost_objects{instance="a"} 2x5`, `floe_gc_lost_objects{instance="b"} 0x5`), one(`floe_gc_lost_objects 0x5`)},
	"FloeDeletionFrozen":     {one(`floe_gc_frozen 1x60`), one(`floe_gc_frozen 0x60`)},
	"FloeClockInDoubt":       {one(`floe_retention_clock_in_doubt{instance="a"} 1x60`), one(`floe_retention_clock_in_doubt{instance="a"} 0x60`)},
	"FloeSweepsInDoubt":      {one(`floe_gc_sweeps_total{outcome="in doubt"} 0+0.1x130`, `floe_gc_sweeps_total{outcome="complete"} 9x130`), one(`floe_gc_sweeps_total{outcome="in doubt"} 0+0.1x130`, `floe_gc_sweeps_total{outcome="complete"} 0+0.02x130`)},
	"FloeGarbageGrows":       {one(`floe_gc_bytes{kind="segment",verdict="grace"} 60e9x5`, `floe_segments_live_bytes 100e9x5`), one(`floe_gc_bytes{kind="segment",verdict="grace"} 9e9x5`, `floe_gc_bytes{kind="segment",verdict="named"} 99e9x5`, `floe_segments_live_bytes 10e9x5`)},
	"FloeExtentsPileUp":      {one(`floe_partition_extents_max 5000x5`), one(`floe_partition_extents_max 420x5`)},
	"FloeMergesFail":         {one(`floe_merge_failures_total 0+1x60`), one(`floe_merge_failures_total 3x60`)},
	"FloeCompactionFails":    {one(`floe_clean_failures_total 0+1x60`), one(`floe_clean_failures_total 3x60`)},
	"FloeMemoryFull":         {one(`floe_memory_used_bytes{instance="a"} 95x5`, `floe_memory_budget_bytes{instance="a"} 100x5`), one(`floe_memory_used_bytes{instance="a"} 50x5`, `floe_memory_budget_bytes{instance="a"} 100x5`)},
	"FloeConnectionsRefused": {one(`floe_connections_refused_total{instance="a"} 0+1x10`), one(`floe_connections_refused_total{instance="a"} 1x10`)},
	"FloeCatchUpWaits": {
		one(`floe_fetch_lagging_wait_seconds_count{outcome="gave up"} 0+5x20`, `floe_fetch_lagging_wait_seconds_count{outcome="read"} 0+5x20`),
		one(`floe_fetch_lagging_wait_seconds_count{outcome="gave up"} 0+1x20`, `floe_fetch_lagging_wait_seconds_count{outcome="read"} 0+99x20`),
	},
	"FloeDiskCacheGivenUp": {one(`floe_cache_disk_given_up 1x5`), one(`floe_cache_disk_given_up 0x5`)},
	"FloeFindingCritical": {
		one(`floe_finding{finding="store_denied",severity="critical",instance="a"} 0x5`, `floe_finding{finding="store_denied",severity="critical",instance="b"} 1x5`),
		one(`floe_finding{finding="store_denied",severity="critical"} 0x5`, `floe_finding{finding="small_batches",severity="warning"} 1x5`),
	},
	"FloeFinding": {
		one(`floe_finding{finding="small_batches",severity="warning",instance="a"} 1x5`, `floe_finding{finding="small_batches",severity="warning",instance="b"} 1x5`),
		one(`floe_finding{finding="small_batches",severity="warning"} 0x5`, `floe_finding{finding="flushes_small",severity="info"} 1x5`),
	},
	"FloeFlushesSmall": {
		one(`floe_flushed_bytes_total 0+12e6x70`, `floe_flush_bytes_count 0+1200x70`),
		one(`floe_flushed_bytes_total 0+12e5x70`, `floe_flush_bytes_count 0+120x70`), // small, and few
	},
	"FloeReadsAmplified": {
		one(`floe_objstore_purpose_bytes_total{kind="get",purpose="fetch"} 0+12e9x70`, `floe_fetch_bytes_total{lane="lagging"} 0+1e9x70`),
		one(`floe_objstore_purpose_bytes_total{kind="get",purpose="fetch"} 0+12e9x70`, `floe_fetch_bytes_total{lane="lagging"} 0+9e9x70`),
	},
	"FloeEtcdMemberDown":    {one(`up{job="etcd"} 0x5`), one(`up{job="etcd"} 1x5`)},
	"FloeEtcdNoLeader":      {one(`etcd_server_has_leader 0x5`), one(`etcd_server_has_leader 1x5`)},
	"FloeEtcdDatabaseLarge": {one(`etcd_mvcc_db_total_size_in_bytes 1.6e9x5`, `etcd_server_quota_backend_bytes 2e9x5`), one(`etcd_mvcc_db_total_size_in_bytes 2e8x5`, `etcd_server_quota_backend_bytes 2e9x5`)},
	"FloeEtcdDiskSlow":      {slow("etcd_disk_wal_fsync_duration_seconds", "", "0.128", "0.256"), slow("etcd_disk_wal_fsync_duration_seconds", "", "0.002", "0.004")},
}

// Each alert's condition holds in the trouble that it is for, and not without it.
func TestAlertsFire(t *testing.T) {
	known := map[string]bool{}
	for _, a := range alertsOf(t) {
		known[a.name] = true
		s, ok := stories[a.name]
		if !ok {
			t.Errorf("%s has no story", a.name)
			continue
		}
		if got := fires(t, a.expr, s.bad); len(got) != 1 {
			t.Errorf("%s fires %d times for what it is for: %v", a.name, len(got), got)
		}
		if got := fires(t, a.expr, s.good); len(got) != 0 {
			t.Errorf("%s fires for nothing: %v", a.name, got)
		}
	}
	for name := range stories {
		if !known[name] {
			t.Errorf("there is a story of %s, which is no alert", name)
		}
	}
}
