package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// defaultHangingAge is the longest time-out that coordinators allow by default
// (transaction.max.timeout.ms). Shorter: transactions that are merely slow are looked at.
// Longer: those that hold read_committed consumers up are found later.
const defaultHangingAge = 15 * time.Minute

// openTxn is a transaction that is open in one partition, as the partition's leader says.
type openTxn struct {
	Topic            string    `json:"topic"`
	Partition        int32     `json:"partition"`
	ProducerID       int64     `json:"producerId"`
	ProducerEpoch    int16     `json:"producerEpoch"`
	CoordinatorEpoch int32     `json:"coordinatorEpoch"` // -1: no transaction of this producer has ended there
	StartOffset      int64     `json:"startOffset"`
	LastWrite        time.Time `json:"lastWrite"`
}

func (o openTxn) String() string {
	return fmt.Sprintf("%s:%d from offset %d", o.Topic, o.Partition, o.StartOffset)
}

func txnHangingCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hanging",
		Short: "Find transactions that are open in partitions and that no coordinator knows of",
		Long: "Find transactions that are open in partitions and that no coordinator knows of: nobody\n" +
			"will end them, and read_committed consumers wait. floe txn abort --topic ends one.",
		Example: "  floe txn hanging --topic events",
		Args:    noArgs,
	}
	topics := cmd.Flags().StringArray("topic", nil, "look only at `TOPIC[:P,P...]`; may be repeated")
	older := cmd.Flags().Duration("older-than", defaultHangingAge, "only those that were not written to for this `time`")
	var selected []selection
	cmd.PreRunE = func(*cobra.Command, []string) (err error) {
		if *older < 0 {
			return usageError{fmt.Errorf("--older-than: %v is no time (write 15m)", *older)}
		}
		selected, err = parseSelections("--topic", *topics)
		return err
	}
	return remoteCommand(p, cmd, func(ctx context.Context, r *remote, _ []string) error {
		open, failed := r.openIn(ctx, selected)
		open = slices.DeleteFunc(open, func(o openTxn) bool { return r.now.Sub(o.LastWrite) < *older })
		known, err := r.knownTxns(ctx, open)
		if err != nil {
			return err // without this, whatever is open would seem to hang
		}
		hanging := []openTxn{}
		for _, o := range open {
			if ownerOf(o, known) == nil {
				hanging = append(hanging, o)
			}
		}
		shape := struct {
			Hanging []openTxn `json:"hanging"`
		}{hanging}
		return errors.Join(r.print(shape, func(w io.Writer) error { return printOpen(w, hanging, r.now) }), failed)
	})
}

func printOpen(w io.Writer, open []openTxn, now time.Time) error {
	t := newTable("TOPIC", "PARTITION", "PRODUCER ID", "EPOCH", "COORDINATOR EPOCH", "START OFFSET", "LAST WRITE", "AGE")
	for _, o := range open {
		t.add(o.Topic, o.Partition, o.ProducerID, o.ProducerEpoch, o.CoordinatorEpoch, o.StartOffset, o.LastWrite, max(0, now.Sub(o.LastWrite)))
	}
	return t.print(w, "no hanging transactions")
}

// openIn returns the transactions that are open in the selected partitions, or in all. The
// error tells of partitions that could not be looked at.
func (r *remote) openIn(ctx context.Context, selected []selection) (open []openTxn, failed error) {
	there, err := r.topics(ctx, topicNames(selected)...)
	if err != nil {
		return nil, err
	}
	look := there
	if len(selected) > 0 {
		partitions, err := among(selected, there)
		if err != nil {
			return nil, err
		}
		look = kadm.TopicsSet{}
		for _, p := range partitions {
			look.Add(p.topic, p.id)
		}
	}
	if len(look) == 0 { // none would stand for all
		return nil, nil
	}
	described, err := r.admin.DescribeProducers(ctx, look)
	if err != nil {
		failed = fmt.Errorf("describing producers: %w", told(err))
	}
	described.EachPartition(func(p kadm.DescribedProducersPartition) {
		if p.Err != nil {
			failed = errors.Join(failed, fmt.Errorf("describing the producers of %s:%d: %w", p.Topic, p.Partition, p.Err))
		}
	})
	described.EachProducer(func(d kadm.DescribedProducer) {
		if d.CurrentTxnStartOffset >= 0 {
			open = append(open, openTxn{d.Topic, d.Partition, d.ProducerID, d.ProducerEpoch, d.CoordinatorEpoch,
				d.CurrentTxnStartOffset, time.UnixMilli(d.LastTimestamp).UTC()})
		}
	})
	slices.SortFunc(open, func(a, b openTxn) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.StartOffset, b.StartOffset))
	})
	return open, failed
}

// knownTxns asks the coordinators what they know of the producers of open transactions.
func (r *remote) knownTxns(ctx context.Context, open []openTxn) ([]txn, error) {
	if len(open) == 0 {
		return nil, nil
	}
	req := kmsg.NewPtrListTransactionsRequest()
	for _, o := range open {
		req.ProducerIDFilters = append(req.ProducerIDFilters, o.ProducerID)
	}
	slices.Sort(req.ProducerIDFilters)
	req.ProducerIDFilters = slices.Compact(req.ProducerIDFilters)
	listed, err := r.listTxns(ctx, req)
	if err != nil || len(listed) == 0 {
		return nil, err
	}
	ids := make([]string, len(listed))
	for i, l := range listed {
		ids[i] = l.TransactionalID
	}
	described, err := r.admin.DescribeTransactions(ctx, ids...)
	if err != nil {
		return nil, fmt.Errorf("describing transactions: %w", told(err))
	}
	var known []txn
	for _, d := range described.Sorted() {
		switch {
		case errors.Is(d.Err, kerr.TransactionalIDNotFound): // it has expired since
		case d.Err != nil:
			return nil, txnRefusal(d.TxnID, d.Err)
		default:
			known = append(known, txnOf(d))
		}
	}
	return known, nil
}

// ownerOf returns the coordinator's transaction that will end an open one, nil if none
// will: it is of the same producer and has the partition. A transaction of the producer
// that began later ends it too, for markers do not tell them apart.
func ownerOf(o openTxn, known []txn) *txn {
	for i := range known {
		if known[i].ProducerID != o.ProducerID {
			continue
		}
		for _, t := range known[i].Partitions {
			if t.Topic == o.Topic && slices.Contains(t.Partitions, o.Partition) {
				return &known[i]
			}
		}
	}
	return nil
}
