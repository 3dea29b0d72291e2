package recovery

import (
	"fmt"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// Report says what a recovery found, what it writes, and what could not be known.
type Report struct {
	Cluster       string        `json:"cluster"`
	ClusterID     string        `json:"clusterId"`
	Catalogue     string        `json:"catalogue"`     // where the topics come from
	CatalogueTime int64         `json:"catalogueTime"` // when the store had that copy, milliseconds
	Topics        int           `json:"topics"`
	Renamed       []string      `json:"renamedTopics"` // topics whose names are not known
	Deleted       []string      `json:"deletedTopics"` // ids of topics that have records and were deleted
	ProducerID    int64         `json:"producerId"`    // the next that is handed out
	Objects       int           `json:"segments"`      // in the bucket
	Shards        []ShardReport `json:"shards"`
	Open          int           `json:"openTransactions"` // in partitions; their coordinators end them
	LastTime      int64         `json:"lastTime"`         // of the newest record that is known, by its leader's clock
	Problems      []string      `json:"problems"`
	Unknown       []string      `json:"unknown"` // what could not be known
	Executed      bool          `json:"executed"`

	replaced []string // keys of topics in the metadata store
}

// ShardReport is the part of one shard.
type ShardReport struct {
	Shard      tiering.ShardID     `json:"shard"`
	Base       string              `json:"base"` // snapshot that it starts from; empty: none
	BaseSeq    uint64              `json:"baseSeq"`
	Records    int                 `json:"records"` // journal records applied to it
	Seq        uint64              `json:"seq"`     // of the last one
	Epoch      tiering.LeaderEpoch `json:"epoch"`
	LastTime   int64               `json:"lastTime"`
	Forks      int                 `json:"forks"`     // records of which there are several
	Missing    uint64              `json:"missing"`   // records that are lost before others that are known
	Salvaged   int                 `json:"salvaged"`  // records behind those that were applied all the same
	Unapplied  int                 `json:"unapplied"` // records behind those of which some could not be applied
	Partitions int                 `json:"partitions"`
	Groups     int                 `json:"groups"`

	Holes           []Adopted `json:"holes"`           // offsets that were given out, nobody knows to what
	Filled          []Adopted `json:"filled"`          // such offsets that flushes of one session fill exactly
	Memberships     int       `json:"memberships"`     // changes of groups' members that were left out
	Proven          []Adopted `json:"proven"`          // taken up from merged segments, which hold their offsets
	Adopted         []Adopted `json:"adopted"`         // taken up without proof
	Duplicates      int       `json:"duplicates"`      // batches of flushes that were there already
	Refused         int       `json:"refused"`         // of producers that had moved on
	OutOfOrder      int       `json:"outOfOrder"`      // that do not follow their producer's last one
	InTransactions  int       `json:"inTransactions"`  // of Adopted, batches of transactions that are open
	OfNoTransaction int       `json:"ofNoTransaction"` // left out: their transaction is not known
	OfNoTopic       int       `json:"ofNoTopic"`       // left out: their topic was deleted

	NewSeq   uint64              `json:"newSeq"`
	NewEpoch tiering.LeaderEpoch `json:"newEpoch"`
	Problems []string            `json:"problems"`
}

// Adopted is a run of offsets that was given to batches that no record names.
type Adopted struct {
	Topic     string         `json:"topic"`
	Partition int32          `json:"partition"`
	From      tiering.Offset `json:"from"`
	To        tiering.Offset `json:"to"`
	Object    string         `json:"object"` // the first one; empty: none
}

func (r *Report) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

func (r *Report) unknown(format string, args ...any) {
	r.Unknown = append(r.Unknown, fmt.Sprintf(format, args...))
}

// conclude gathers what the shards have, and puts into words what could not be known.
func (p *Plan) conclude() {
	r := &p.Report
	var missing, unapplied, lost, filled, adopted, outOfOrder, noTransaction int
	for _, s := range p.shards {
		r.Shards = append(r.Shards, s.report)
		r.LastTime = max(r.LastTime, s.report.LastTime)
		missing += int(s.report.Missing)
		unapplied += s.report.Unapplied
		outOfOrder += s.report.OutOfOrder
		noTransaction += s.report.OfNoTransaction
		lost += offsets(s.report.Holes)
		filled += offsets(s.report.Filled)
		adopted += offsets(s.report.Adopted)
		r.Open += open(s.state)
	}
	r.unknown("what was committed through etcd alone (small batches, group offsets, memberships, transactions) after the last record that each shard's agent stored in the bucket; agents do so every carry-age, and at once when etcd does not answer")
	if missing > 0 {
		r.unknown("%d journal records are missing in between; of %d after them some changes could not be applied: group memberships (members join again), offsets of transactions, markers. What ended among the missing may still be open, and group offsets may be older than the last that were committed", missing, unapplied)
	}
	if lost > 0 {
		r.unknown("%d offsets in front of records that are known were given to records, or markers, that are lost: they are holes, listed by partition", lost)
	}
	if filled > 0 {
		r.unknown("%d offsets in front of records that are known were given to flushes that fit there exactly: no record proves it", filled)
	}
	if adopted > 0 {
		r.unknown("%d records were taken up from flushes without proof of their offsets: they were stored, and may or may not have been acknowledged", adopted)
	}
	if outOfOrder > 0 {
		r.unknown("%d batches do not follow the last one of their producer that is known: one before them is lost", outOfOrder)
	}
	if noTransaction > 0 {
		r.unknown("%d batches are of transactions that are not known to be open: they are left out, as if aborted", noTransaction)
	}
	for _, name := range r.Renamed {
		r.unknown("the name of the topic that is called %s now, and its configs", name)
	}
}

// offsets counts the offsets of runs.
func offsets(runs []Adopted) (n int) {
	for _, a := range runs {
		n += int(a.To - a.From)
	}
	return n
}

// open counts the transactions that are open in partitions.
func open(s *shard.State) (n int) {
	for _, tp := range s.Partitions() {
		n += len(s.Partition(tp).Open())
	}
	return n
}
