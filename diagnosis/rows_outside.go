package diagnosis

// because puts a reason behind a subject.
func because(subject, reason string) string {
	if reason == "" {
		return subject
	}
	return subject + ": " + reason
}

var outsideRows = []Kind{
	{
		Name: "etcd_unreachable", Outside: true, Severity: Critical, Title: "etcd does not answer", Unit: Yes, Bound: 0,
		Measures: "whether no member that etcd names answers floe doctor",
		Why:      "Without etcd nothing is acknowledged, and no agent can start.",
		Settings: []string{"etcd", "etcd-ca", "etcd-cert", "etcd-user"}, Advice: "see whether its members run and reach each other, and whether etcd is right", Runbook: "FloeEtcdNoLeader",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if o := s.Outside; o != nil && o.Metadata {
				reading(because("etcd", o.MetadataErr), yes(o.MetadataErr != ""))
			}
		},
	},
	{
		Name: "store_unreachable", Outside: true, Severity: Critical, Title: "the object store fails its test", Unit: Yes, Bound: 0,
		Measures: "whether floe doctor could put, read, list and delete an object there",
		Why:      "Agents need all of it, and do not start without.",
		Settings: []string{"store"}, Advice: "see the store's status and the credentials; deploy/iam/policy.json has the rights", Runbook: "FloeStoreErrors",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if o := s.Outside; o != nil && o.Store {
				reading(because("object store", o.StoreErr), yes(o.StoreErr != ""))
			}
		},
	},
	{
		Name: "store_slow", Outside: true, Severity: Warning, Title: "the object store is slow", Unit: Seconds, Bound: 5,
		Measures: "time that the test of the object store takes, some fifteen requests one after the other",
		Why:      "Every batch that is not committed through etcd waits for it.",
		Settings: []string{"store", "uploads-in-flight"}, Advice: "use a bucket in the region of the agents; look at the network", Runbook: "FloeUploadsSlow",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if o := s.Outside; o != nil && o.Store && o.StoreErr == "" {
				reading("object store", seconds(o.StoreTook))
			}
		},
	},
	{
		Name: "agents_none", Outside: true, Severity: Critical, Title: "no agent is registered", Unit: Number, Bound: 1, Below: true,
		Measures: "agents that etcd knows in the cluster",
		Why:      "Clients can neither produce nor fetch. Nothing is lost: whatever was acknowledged is in the stores.",
		Settings: []string{"cluster"}, Advice: "start agents; see whether cluster is the name that they have", Runbook: "FloeGone",
		measure: func(s *Snapshot, reading func(string, float64)) {
			if o := s.Outside; o != nil && o.Agents {
				reading("", o.Registered)
			}
		},
	},
}
