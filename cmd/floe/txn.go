package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func txnCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "txn",
		Short: "List, describe and abort transactions of a running cluster",
		Long: "List, describe and abort transactions of a running cluster.\n" +
			"The commands speak Kafka's protocol to the agents that --bootstrap names.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(txnListCommand(p), txnDescribeCommand(p), txnHangingCommand(p), txnAbortCommand(p))
	return cmd
}

// The states of a transactional id.
const txnOngoing = "Ongoing"

var txnStates = []string{"Empty", txnOngoing, "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort", "PrepareEpochFence", "Dead"}

// listedTxn is one transactional id of floe txn list.
type listedTxn struct {
	TransactionalID string `json:"transactionalId"`
	State           string `json:"state"`
	ProducerID      int64  `json:"producerId"`
	Coordinator     int32  `json:"coordinator"`
}

// durationFilterVersion is the first version of ListTransactions with a filter by age (KIP-994).
const durationFilterVersion = 1

func txnListCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List transactional ids with the state of their transactions",
		Example: "  floe txn list --state Ongoing --running-longer-than 5m",
		Args:    noArgs,
	}
	states := cmd.Flags().StringSlice("state", nil, "only in these `states`: "+strings.Join(txnStates, ", "))
	producers := cmd.Flags().Int64Slice("producer-id", nil, "only of these producer `ids`")
	longer := cmd.Flags().Duration("running-longer-than", 0, "only transactions that have been open for this `time`")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) (err error) {
		if cmd.Flags().Changed("running-longer-than") && *longer <= 0 {
			return usageError{fmt.Errorf("--running-longer-than: %v is no time (write 5m)", *longer)}
		}
		*states, err = oneOf("--state", *states, txnStates)
		return err
	}
	return remoteCommand(p, cmd, func(ctx context.Context, r *remote, _ []string) error {
		req := kmsg.NewPtrListTransactionsRequest()
		req.StateFilters, req.ProducerIDFilters = *states, *producers
		if *longer > 0 {
			if !r.serves(req, durationFilterVersion) {
				return errors.New("--running-longer-than: this cluster cannot tell (leave it out; floe txn describe tells when a transaction started)")
			}
			req.DurationFilterMillis = longer.Milliseconds()
		}
		txns, failed := r.listTxns(ctx, req)
		if failed != nil && len(txns) == 0 {
			return failed
		}
		shape := struct {
			Transactions []listedTxn `json:"transactions"`
		}{txns}
		return errors.Join(r.print(shape, func(w io.Writer) error {
			t := newTable("TRANSACTIONAL ID", "STATE", "PRODUCER ID", "COORDINATOR")
			for _, x := range txns {
				t.add(x.TransactionalID, x.State, x.ProducerID, x.Coordinator)
			}
			return t.print(w, "no transactions")
		}), failed)
	})
}

// listTxns asks every node and returns what some said even when others did not answer.
func (r *remote) listTxns(ctx context.Context, req *kmsg.ListTransactionsRequest) (txns []listedTxn, failed error) {
	txns = []listedTxn{}
	for _, shard := range r.client.RequestSharded(ctx, req) {
		err := shard.Err
		if err == nil {
			err = kerr.ErrorForCode(shard.Resp.(*kmsg.ListTransactionsResponse).ErrorCode)
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("listing the transactions of node %d: %w", shard.Meta.NodeID, err))
			continue
		}
		for _, x := range shard.Resp.(*kmsg.ListTransactionsResponse).TransactionStates {
			txns = append(txns, listedTxn{x.TransactionalID, x.TransactionState, x.ProducerID, shard.Meta.NodeID})
		}
	}
	slices.SortFunc(txns, func(a, b listedTxn) int { return strings.Compare(a.TransactionalID, b.TransactionalID) })
	return txns, failed
}

// txn is one transactional id of floe txn describe.
type txn struct {
	TransactionalID string            `json:"transactionalId"`
	State           string            `json:"state"`
	ProducerID      int64             `json:"producerId"`
	ProducerEpoch   int16             `json:"producerEpoch"`
	TimeoutMs       int32             `json:"timeoutMs"`
	Started         *time.Time        `json:"started"` // nil: no transaction is open
	Coordinator     int32             `json:"coordinator"`
	Partitions      []topicPartitions `json:"partitions"`
}

func txnDescribeCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "describe ID...",
		Short:   "Show state, producer, start and partitions of transactional ids",
		Example: "  floe txn describe orders-1",
		Args:    someArgs("ID"),
	}
	return remoteCommand(p, cmd, func(ctx context.Context, r *remote, args []string) error {
		txns, failed := r.describeTxns(ctx, args)
		if failed != nil && len(txns) == 0 {
			return failed
		}
		shape := struct {
			Transactions []txn `json:"transactions"`
		}{txns}
		return errors.Join(r.print(shape, func(w io.Writer) error { return printTxns(w, txns, r.now) }), failed)
	})
}

// describeTxns describes transactional ids in their order; those that there are not make
// the error.
func (r *remote) describeTxns(ctx context.Context, ids []string) (txns []txn, failed error) {
	txns = []txn{}
	described, err := r.admin.DescribeTransactions(ctx, ids...)
	if err != nil && len(described) == 0 {
		return txns, fmt.Errorf("describing transactions: %w", told(err))
	}
	for _, id := range slices.Compact(slices.Sorted(slices.Values(ids))) {
		d, ok := described[id]
		if !ok {
			d.Err = noAnswer(told(err))
		}
		if d.Err != nil {
			failed = errors.Join(failed, txnRefusal(id, d.Err))
			continue
		}
		txns = append(txns, txnOf(d))
	}
	return txns, failed
}

func txnOf(d kadm.DescribedTransaction) txn {
	x := txn{TransactionalID: d.TxnID, State: d.State, ProducerID: d.ProducerID, ProducerEpoch: d.ProducerEpoch,
		TimeoutMs: d.TimeoutMillis, Coordinator: d.Coordinator, Partitions: sorted(d.Topics)}
	if d.StartTimestamp >= 0 {
		started := time.UnixMilli(d.StartTimestamp).UTC()
		x.Started = &started
	}
	return x
}

func printTxns(w io.Writer, txns []txn, now time.Time) error {
	t := newTable("TRANSACTIONAL ID", "STATE", "PRODUCER ID", "EPOCH", "TIMEOUT", "STARTED", "RUNNING", "COORDINATOR", "PARTITIONS")
	for _, x := range txns {
		var running *time.Duration
		if x.Started != nil {
			d := max(0, now.Sub(*x.Started))
			running = &d
		}
		partitions, _ := joined(x.Partitions)
		t.add(x.TransactionalID, x.State, x.ProducerID, x.ProducerEpoch, time.Duration(x.TimeoutMs)*time.Millisecond, x.Started, running, x.Coordinator, partitions)
	}
	return t.print(w, "no transactions")
}

// txnRefusal says in a line why a transactional id did not allow something, and what to do.
func txnRefusal(id string, err error) error {
	var why string
	switch {
	case errors.Is(err, kerr.TransactionalIDNotFound):
		why = "there is no such id, or it has expired (floe txn list lists those that there are)"
	case errors.Is(err, kerr.TransactionalIDAuthorizationFailed):
		why = "the cluster does not allow it to this client"
	default:
		return fmt.Errorf("transactional id %s: %w", id, told(err))
	}
	return fmt.Errorf("transactional id %s: %s", id, why)
}
