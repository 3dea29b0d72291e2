package diagnosis_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/diagnosis"
)

// healthy is an agent with work to do and nothing to complain about.
func healthy() *diagnosis.Snapshot {
	busy := diagnosis.Counts{
		Flushes: 360, FlushedBytes: 360 << 20, Appends: 6000, AppendP99: 0.004, Uploads: 240, UploadP99: 0.15,
		StoreRequests: 600, StoreThrottled: 1, StoreFailed: 2, TailBytes: 1 << 30, LaggingBytes: 1 << 28, StoreFetchBytes: 700 << 20,
		CacheHits: 9000, CacheMisses: 50, CacheEvicted: 1 << 28, LaggingReads: 100, LaggingTired: 1, Takeovers: 64,
	}
	return &diagnosis.Snapshot{
		Node: 2, Zone: "a", Version: "1.2.3", Window: time.Minute, Recent: busy, Lately: busy,
		Levels: diagnosis.Levels{
			MemoryShare: 0.2, Connections: 100, MaxConnections: 10000, Files: 200, MaxFiles: 1024,
			LiveBytes: 10 << 30, StoredBytes: 18 << 30, ExtentsMax: 380, JournalMax: 2400, SnapshotRecords: 2000,
			SnapshotWait: 4 * time.Minute, SnapshotAge: 5 * time.Minute, CarryWait: 4 * time.Second, CarryAge: 5 * time.Second,
			Shards: 64, Led: 32, Leading: 2, LeaseTTL: 3 * time.Second, LeaseMargin: 2400 * time.Millisecond, LeaseMeasured: true,
			Partitions: 400, StoreSkew: time.Second, StoreSkewMeasured: true, FlushBytes: 8 << 20,
		},
		Clients:    []diagnosis.Client{{ID: "good", Batches: 6000, Bytes: 6000 * 64 << 10}, {ID: "quiet", Batches: 60, Bytes: 6000}},
		Partitions: []diagnosis.Partition{{Topic: "t", Index: 1, Bytes: 60 << 20, Of: 12, Total: 300 << 20}},
		Groups:     []diagnosis.Group{{Name: "g", Rebalances: 2}},
		Open:       []diagnosis.Transaction{{Partition: "t-1", ProducerID: 4, Age: 3 * time.Second}},
		Agents:     []diagnosis.Agent{{Node: 1, Zone: "b", Version: "1.2.3", Asked: true, Skew: -time.Second}, {Node: 2, Zone: "a", Version: "1.2.3"}},
		Members:    []diagnosis.Member{{Name: "e:1", Latency: time.Millisecond, Bytes: 1e9, Quota: 2e9}},
		Certs:      []diagnosis.Certificate{{Setting: "etcd-cert", Left: 1000 * time.Hour}},
		Troubles:   []diagnosis.Trouble{{Name: "object store: puts", For: 2 * time.Second}},
		Outside:    &diagnosis.Outside{Metadata: true, Store: true, StoreTook: time.Second, Agents: true, Registered: 2},
	}
}

// Of a healthy agent nothing is found, though every kind has something to measure.
func TestHealthy(t *testing.T) {
	d := diagnosis.Of(healthy())
	for _, f := range d.Findings {
		t.Errorf("%s: %s %s", f.Name, f.Subject, f.Measured)
	}
	for _, k := range diagnosis.Kinds() {
		if _, ok := d.Worst[k.Name]; !ok && k.Name != "settings_doubtful" {
			t.Errorf("%s measured nothing", k.Name)
		}
	}
	if d := diagnosis.Of(&diagnosis.Snapshot{}); len(d.Findings) != 0 {
		t.Errorf("of nothing, %+v was found", d.Findings)
	}
}

// Each kind is found just beyond its bound and not at it, and says of what.
func TestBounds(t *testing.T) {
	type change = func(s *diagnosis.Snapshot)
	tests := map[string]struct {
		good, bad change // at the bound, and just beyond it
		subject   string
	}{
		"small_batches": {
			func(s *diagnosis.Snapshot) {
				s.Clients = []diagnosis.Client{{"rare", 1200, 1200}, {"large", 1300, 1300 * 4096}}
			},
			func(s *diagnosis.Snapshot) { s.Clients = []diagnosis.Client{{"many", 1201, 1201 * 4095}} }, "client.id many",
		},
		"hot_partition": {
			func(s *diagnosis.Snapshot) {
				s.Partitions = []diagnosis.Partition{{"t", 3, 60 * 16 << 20, 1, 60 * 16 << 20}}
			},
			func(s *diagnosis.Snapshot) {
				s.Partitions = []diagnosis.Partition{{"t", 3, 60*16<<20 + 1, 1, 60*16<<20 + 1}}
			}, "t-3",
		},
		"skewed_topic": {
			func(s *diagnosis.Snapshot) { s.Partitions = []diagnosis.Partition{{"t", 3, 32 << 20, 4, 32 << 20}} },
			func(s *diagnosis.Snapshot) { s.Partitions = []diagnosis.Partition{{"t", 3, 32 << 20, 5, 32 << 20}} }, "t-3",
		},
		"many_partitions":     {func(s *diagnosis.Snapshot) { s.Levels.Partitions = 20000 }, func(s *diagnosis.Snapshot) { s.Levels.Partitions = 20001 }, ""},
		"group_rebalances":    {func(s *diagnosis.Snapshot) { s.Groups[0].Rebalances = 10 }, func(s *diagnosis.Snapshot) { s.Groups[0].Rebalances = 11 }, "group g"},
		"transaction_open":    {func(s *diagnosis.Snapshot) { s.Open[0].Age = time.Minute }, func(s *diagnosis.Snapshot) { s.Open[0].Age = 61 * time.Second }, "t-1 by producer id 4"},
		"clients_throttled":   {func(s *diagnosis.Snapshot) { s.Levels.ThrottleSeconds = 0.05 }, func(s *diagnosis.Snapshot) { s.Levels.ThrottleSeconds = 0.06 }, ""},
		"batches_refused":     {func(s *diagnosis.Snapshot) { s.Recent.BatchesRefused = 0 }, func(s *diagnosis.Snapshot) { s.Recent.BatchesRefused = 1 }, ""},
		"store_trouble":       {func(s *diagnosis.Snapshot) { s.Troubles[0].For = 30 * time.Second }, func(s *diagnosis.Snapshot) { s.Troubles[0].For = 31 * time.Second }, "object store: puts"},
		"flushes_small":       {func(s *diagnosis.Snapshot) { s.Recent.Flushes, s.Recent.FlushedBytes = 300, 300 }, func(s *diagnosis.Snapshot) { s.Recent.Flushes, s.Recent.FlushedBytes = 301, 301*65536-1 }, ""},
		"server_errors":       {func(s *diagnosis.Snapshot) { s.Lately.ServerErrors = 0 }, func(s *diagnosis.Snapshot) { s.Lately.ServerErrors = 1 }, ""},
		"store_throttles":     {func(s *diagnosis.Snapshot) { s.Recent.StoreThrottled = 6 }, func(s *diagnosis.Snapshot) { s.Recent.StoreThrottled = 7 }, ""},
		"store_errors":        {func(s *diagnosis.Snapshot) { s.Recent.StoreFailed = 30 }, func(s *diagnosis.Snapshot) { s.Recent.StoreFailed = 31 }, ""},
		"store_denied":        {func(s *diagnosis.Snapshot) { s.Recent.StoreDenied = 0 }, func(s *diagnosis.Snapshot) { s.Recent.StoreDenied = 1 }, ""},
		"uploads_slow":        {func(s *diagnosis.Snapshot) { s.Recent.Uploads, s.Recent.UploadP99 = 19, 9 }, func(s *diagnosis.Snapshot) { s.Recent.UploadP99 = 2.1 }, ""},
		"uploads_fail":        {func(s *diagnosis.Snapshot) { s.Lately.UploadsFailed = 0 }, func(s *diagnosis.Snapshot) { s.Lately.UploadsFailed = 1 }, ""},
		"reads_amplified":     {func(s *diagnosis.Snapshot) { s.Recent.StoreFetchBytes = 3 * (1<<30 + 1<<28) }, func(s *diagnosis.Snapshot) { s.Recent.StoreFetchBytes = 3*(1<<30+1<<28) + 1e6 }, ""},
		"objects_lost":        {func(s *diagnosis.Snapshot) { s.Levels.LostObjects = 0 }, func(s *diagnosis.Snapshot) { s.Levels.LostObjects = 1 }, ""},
		"deletion_frozen":     {func(s *diagnosis.Snapshot) { s.Levels.Frozen = false }, func(s *diagnosis.Snapshot) { s.Levels.Frozen = true }, ""},
		"dead_bytes":          {func(s *diagnosis.Snapshot) { s.Levels.StoredBytes = 40 << 30 }, func(s *diagnosis.Snapshot) { s.Levels.StoredBytes = 41 << 30 }, ""},
		"corrupt_reads":       {func(s *diagnosis.Snapshot) { s.Lately.CorruptReads = 0 }, func(s *diagnosis.Snapshot) { s.Lately.CorruptReads = 1 }, ""},
		"etcd_quota":          {func(s *diagnosis.Snapshot) { s.Members[0].Bytes = 1.2e9 }, func(s *diagnosis.Snapshot) { s.Members[0].Bytes = 1.3e9 }, "etcd e:1"},
		"etcd_alarm":          {func(s *diagnosis.Snapshot) { s.Members[0].Alarms = nil }, func(s *diagnosis.Snapshot) { s.Members[0].Alarms = []string{"NOSPACE"} }, "etcd e:1, NOSPACE"},
		"etcd_member_silent":  {func(s *diagnosis.Snapshot) { s.Members[0].Failed = "" }, func(s *diagnosis.Snapshot) { s.Members[0].Failed = "refused" }, "etcd e:1: refused"},
		"etcd_slow":           {func(s *diagnosis.Snapshot) { s.Recent.AppendP99 = 0.25 }, func(s *diagnosis.Snapshot) { s.Recent.AppendP99 = 0.26 }, ""},
		"outcomes_unknown":    {func(s *diagnosis.Snapshot) { s.Recent.UnknownOutcomes = 10 }, func(s *diagnosis.Snapshot) { s.Recent.UnknownOutcomes = 11 }, ""},
		"lease_margin":        {func(s *diagnosis.Snapshot) { s.Levels.LeaseMargin = 1200 * time.Millisecond }, func(s *diagnosis.Snapshot) { s.Levels.LeaseMargin = 1199 * time.Millisecond }, ""},
		"session_lost":        {func(s *diagnosis.Snapshot) { s.Lately.SessionsLost = 0 }, func(s *diagnosis.Snapshot) { s.Lately.SessionsLost = 1 }, ""},
		"journal_long":        {func(s *diagnosis.Snapshot) { s.Levels.JournalMax = 20000 }, func(s *diagnosis.Snapshot) { s.Levels.JournalMax = 20001 }, ""},
		"snapshot_late":       {func(s *diagnosis.Snapshot) { s.Levels.SnapshotWait = 15 * time.Minute }, func(s *diagnosis.Snapshot) { s.Levels.SnapshotWait = 16 * time.Minute }, ""},
		"carry_late":          {func(s *diagnosis.Snapshot) { s.Levels.CarryWait = 65 * time.Second }, func(s *diagnosis.Snapshot) { s.Levels.CarryWait = 66 * time.Second }, ""},
		"memory_full":         {func(s *diagnosis.Snapshot) { s.Levels.MemoryShare = 0.8 }, func(s *diagnosis.Snapshot) { s.Levels.MemoryShare = 0.81 }, ""},
		"connections_many":    {func(s *diagnosis.Snapshot) { s.Levels.Connections = 8000 }, func(s *diagnosis.Snapshot) { s.Levels.Connections = 8001 }, ""},
		"files_many":          {func(s *diagnosis.Snapshot) { s.Levels.Files = 819 }, func(s *diagnosis.Snapshot) { s.Levels.Files = 820 }, ""},
		"cache_small":         {func(s *diagnosis.Snapshot) { s.Recent.CacheHits, s.Recent.CacheMisses = 80, 20 }, func(s *diagnosis.Snapshot) { s.Recent.CacheHits, s.Recent.CacheMisses = 79, 21 }, ""},
		"disk_cache_failed":   {func(s *diagnosis.Snapshot) { s.Levels.DiskCacheGivenUp = false }, func(s *diagnosis.Snapshot) { s.Levels.DiskCacheGivenUp = true }, ""},
		"catch_up_waits":      {func(s *diagnosis.Snapshot) { s.Recent.LaggingTired = 20 }, func(s *diagnosis.Snapshot) { s.Recent.LaggingTired = 21 }, ""},
		"merges_behind":       {func(s *diagnosis.Snapshot) { s.Levels.ExtentsMax = 2000 }, func(s *diagnosis.Snapshot) { s.Levels.ExtentsMax = 2001 }, ""},
		"jobs_fail":           {func(s *diagnosis.Snapshot) { s.Lately.JobFailures = 3 }, func(s *diagnosis.Snapshot) { s.Lately.JobFailures = 4 }, ""},
		"settings_doubtful":   {func(s *diagnosis.Snapshot) { s.Doubts = nil }, func(s *diagnosis.Snapshot) { s.Doubts = []diagnosis.Doubt{{"gc-grace", "short"}} }, "gc-grace: short"},
		"certificate_expires": {func(s *diagnosis.Snapshot) { s.Certs[0].Left = 14 * 24 * time.Hour }, func(s *diagnosis.Snapshot) { s.Certs[0].Left = 13 * 24 * time.Hour }, "etcd-cert"},
		"clock_skew":          {func(s *diagnosis.Snapshot) { s.Agents[0].Skew = -5 * time.Second }, func(s *diagnosis.Snapshot) { s.Agents[0].Skew = -6 * time.Second }, "against agent 1"},
		"clock_in_doubt":      {func(s *diagnosis.Snapshot) { s.Levels.ClockInDoubt = false }, func(s *diagnosis.Snapshot) { s.Levels.ClockInDoubt = true }, ""},
		"agent_silent":        {func(s *diagnosis.Snapshot) { s.Agents[1].Silent = true }, func(s *diagnosis.Snapshot) { s.Agents[0].Silent = true }, "agent 1"},
		"versions_mixed":      {func(s *diagnosis.Snapshot) { s.Agents[0].Version = "" }, func(s *diagnosis.Snapshot) { s.Agents[0].Version = "1.2.4" }, "1.2.3, 1.2.4"},
		"zones_incomplete":    {func(s *diagnosis.Snapshot) { s.Agents[0].Zone, s.Agents[1].Zone = "", "" }, func(s *diagnosis.Snapshot) { s.Agents[0].Zone = "" }, "agent 1"},
		"leadership_uneven":   {func(s *diagnosis.Snapshot) { s.Levels.Led = 64 }, func(s *diagnosis.Snapshot) { s.Levels.Led, s.Levels.Leading = 64, 3 }, ""},
		"leadership_unsteady": {func(s *diagnosis.Snapshot) { s.Lately.Takeovers = 3 * 64 }, func(s *diagnosis.Snapshot) { s.Lately.Takeovers = 3*64 + 1 }, ""},
		"etcd_unreachable":    {func(s *diagnosis.Snapshot) { s.Outside.MetadataErr = "" }, func(s *diagnosis.Snapshot) { s.Outside.MetadataErr = "refused" }, "etcd: refused"},
		"store_unreachable":   {func(s *diagnosis.Snapshot) { s.Outside.StoreErr = "" }, func(s *diagnosis.Snapshot) { s.Outside.StoreErr = "denied" }, "object store: denied"},
		"store_slow":          {func(s *diagnosis.Snapshot) { s.Outside.StoreTook = 5 * time.Second }, func(s *diagnosis.Snapshot) { s.Outside.StoreTook = 6 * time.Second }, "object store"},
		"agents_none":         {func(s *diagnosis.Snapshot) { s.Outside.Registered = 1 }, func(s *diagnosis.Snapshot) { s.Outside.Registered = 0 }, ""},
		"shards_leaderless":   {func(s *diagnosis.Snapshot) { s.Levels.Leaderless = 0 }, func(s *diagnosis.Snapshot) { s.Levels.Leaderless = 1 }, ""},
	}
	find := func(change change, name string) []diagnosis.Finding {
		s := healthy()
		change(s)
		d := diagnosis.Of(s)
		return slices.DeleteFunc(d.Findings, func(f diagnosis.Finding) bool { return f.Name != name })
	}
	for _, k := range diagnosis.Kinds() {
		tt, ok := tests[k.Name]
		if !ok {
			t.Errorf("%s has no test", k.Name)
			continue
		}
		t.Run(k.Name, func(t *testing.T) {
			if got := find(tt.good, k.Name); len(got) != 0 {
				t.Errorf("found at its bound: %+v", got)
			}
			got := find(tt.bad, k.Name)
			if len(got) != 1 {
				t.Fatalf("found %d times beyond its bound: %+v", len(got), got)
			}
			f := got[0]
			if f.Subject != tt.subject || f.Severity != k.Severity || !slices.Equal(f.Agents, []int32{2}) || f.Bound != k.Bound || f.Measured == "" {
				t.Errorf("found %+v", f)
			}
		})
	}
	if len(tests) != len(diagnosis.Kinds()) {
		t.Errorf("%d tests of %d kinds", len(tests), len(diagnosis.Kinds()))
	}
}

// Each row of the table says what a person needs, each name is there once.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range diagnosis.Kinds() {
		if seen[k.Name] || k.Name != strings.ToLower(k.Name) || strings.ContainsAny(k.Name, " -") {
			t.Errorf("%q is there twice, or is no name for a metric's label", k.Name)
		}
		seen[k.Name] = true
		for what, text := range map[string]string{"Title": k.Title, "Measures": k.Measures, "Why": k.Why, "Advice": k.Advice, "Runbook": k.Runbook} {
			if text == "" || strings.ContainsAny(text, "\n|") {
				t.Errorf("%s: %s is %q", k.Name, what, text)
			}
		}
		if !slices.Contains([]diagnosis.Severity{diagnosis.Info, diagnosis.Warning, diagnosis.Critical}, k.Severity) {
			t.Errorf("%s: severity %q", k.Name, k.Severity)
		}
	}
}

// A fleet of bad clients does not fill the page, and the worst come first.
func TestManySubjects(t *testing.T) {
	s := healthy()
	s.Clients = nil
	for i := range 40 {
		s.Clients = append(s.Clients, diagnosis.Client{ID: string(rune('A' + i)), Batches: 6000, Bytes: float64(6000 * (4000 - 100*i))})
	}
	d := diagnosis.Of(s)
	if len(d.Findings) != 5 || d.Findings[0].Value != 100 || d.Worst["small_batches"] != 100 {
		t.Errorf("found %d: %+v", len(d.Findings), d.Findings)
	}
}

func TestMerge(t *testing.T) {
	of := func(node int32, change func(s *diagnosis.Snapshot)) []diagnosis.Finding {
		s := healthy()
		s.Node = node
		change(s)
		return diagnosis.Of(s).Findings
	}
	first := of(1, func(s *diagnosis.Snapshot) { s.Members[0].Bytes, s.Levels.MemoryShare = 1.3e9, 0.9 })
	second := of(2, func(s *diagnosis.Snapshot) {
		s.Members[0].Bytes, s.Levels.MemoryShare, s.Levels.Frozen, s.Recent.StoreDenied = 1.4e9, 0.95, true, 1
	})
	unknown := diagnosis.Finding{Name: "of_a_newer_version", Severity: diagnosis.Info, Agents: []int32{3}}
	got := diagnosis.Merge(second, first, []diagnosis.Finding{unknown})
	var names []string
	for _, f := range got {
		names = append(names, f.Name)
	}
	want := []string{"store_denied", "deletion_frozen", "etcd_quota", "memory_full", "memory_full", "of_a_newer_version"}
	if !slices.Equal(names, want) {
		t.Fatalf("merged %v, want %v", names, want)
	}
	if q := got[2]; !slices.Equal(q.Agents, []int32{1, 2}) || q.Value != 0.7 {
		t.Errorf("what both see: %+v", q)
	}
	if diagnosis.Worst(got) != diagnosis.Critical || diagnosis.Worst(got[1:]) != diagnosis.Warning || diagnosis.Worst(nil) != "" {
		t.Error("the worst severity is another")
	}
}

func TestFormat(t *testing.T) {
	tests := []struct {
		unit  diagnosis.Unit
		value float64
		want  string
	}{
		{diagnosis.Bytes, 812, "812B"},
		{diagnosis.Bytes, 4096, "4KiB"},
		{diagnosis.Bytes, 1.5 * (1 << 30), "1.5GiB"},
		{diagnosis.Bytes, 3 << 50, "3072TiB"},
		{diagnosis.Rate, 16 << 20, "16MiB/s"},
		{diagnosis.Share, 0.6345, "63.5%"},
		{diagnosis.Share, 1, "100%"},
		{diagnosis.Seconds, 0.2503, "250.3ms"},
		{diagnosis.Seconds, 61.24, "1m1.2s"},
		{diagnosis.Yes, 1, "yes"},
		{diagnosis.Yes, 0, "no"},
		{diagnosis.Number, 2.345, "2.3"},
		{diagnosis.Number, 20001, "20001"},
	}
	for _, tt := range tests {
		if got := tt.unit.Format(tt.value); got != tt.want {
			t.Errorf("%v as %q: %q, want %q", tt.value, tt.unit, got, tt.want)
		}
	}
}
