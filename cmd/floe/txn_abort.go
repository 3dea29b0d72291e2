package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// abortedShape is what floe txn abort prints as JSON.
type abortedShape struct {
	Executed         bool              `json:"executed"`        // false: a dry run
	TransactionalID  *string           `json:"transactionalId"` // nil: aborted in one partition
	ProducerID       int64             `json:"producerId"`
	ProducerEpoch    int16             `json:"producerEpoch"`
	CoordinatorEpoch *int32            `json:"coordinatorEpoch"` // nil: with a transactional id
	StartOffset      *int64            `json:"startOffset"`      // nil: with a transactional id
	Partitions       []topicPartitions `json:"partitions"`
}

// abort is what floe txn abort was asked to do.
type abort struct {
	id                      string
	topic                   string
	partition               int32
	producerID, startOffset int64
	execute                 bool
	flags                   *pflag.FlagSet
}

func txnAbortCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "abort",
		Short: "Abort a transaction; a dry run unless --execute is given",
		Long: "Abort a transaction. What would be aborted is printed; nothing is done unless --execute is given.\n" +
			"With --id, the open transaction of a transactional id: its producer is fenced and has to start\n" +
			"again. With --topic and --partition, a hanging one in a partition, which no coordinator knows of.",
		Example: "  floe txn abort --id orders-1 --execute\n" +
			"  floe txn abort --topic events --partition 3 --start-offset 1042 --execute",
		Args: noArgs,
	}
	x := &abort{flags: cmd.Flags()}
	x.flags.StringVar(&x.id, "id", "", "the transactional `id`")
	x.flags.StringVar(&x.topic, "topic", "", "the `topic` of a hanging transaction")
	x.flags.Int32Var(&x.partition, "partition", 0, "the `partition` of a hanging transaction")
	x.flags.Int64Var(&x.producerID, "producer-id", 0, "the producer `id` of a hanging transaction")
	x.flags.Int64Var(&x.startOffset, "start-offset", 0, "the `offset` at which a hanging transaction starts")
	x.flags.BoolVar(&x.execute, "execute", false, "do it; without this, only print what would be done")
	cmd.PreRunE = func(*cobra.Command, []string) error { return x.check() }
	return remoteCommand(p, cmd, func(ctx context.Context, r *remote, _ []string) error {
		if x.id != "" {
			return x.byID(ctx, r)
		}
		return x.byPartition(ctx, r)
	})
}

// check wants one of the two forms, whole.
func (x *abort) check() error {
	given := x.flags.Changed
	if given("id") {
		for _, name := range []string{"topic", "partition", "producer-id", "start-offset"} {
			if given(name) {
				return usageError{fmt.Errorf("--%s: does not go with --id (give --id alone, or --topic, --partition and --start-offset)", name)}
			}
		}
		if x.id == "" {
			return usageError{errors.New("--id: it is empty (floe txn list lists ids)")}
		}
		return nil
	}
	switch {
	case !given("topic") && !given("partition") && !given("producer-id") && !given("start-offset"):
		return usageError{errors.New("--id: nothing says what to abort (give --id, or --topic, --partition and --start-offset)")}
	case x.topic == "":
		return usageError{errors.New("--topic: it is missing (floe txn hanging prints topic, partition and start offset)")}
	case !given("partition") || x.partition < 0:
		return usageError{errors.New("--partition: it is missing or below 0 (floe txn hanging prints it)")}
	case given("producer-id") == given("start-offset"):
		return usageError{errors.New("--start-offset: exactly one of it and --producer-id says which transaction (floe txn hanging prints both)")}
	}
	return nil
}

// byID fences the producer of a transactional id, which aborts what it has open.
func (x *abort) byID(ctx context.Context, r *remote) error {
	found, err := r.describeTxns(ctx, []string{x.id})
	if err != nil {
		return err
	}
	t := found[0]
	if err := abortable(t); err != nil {
		return err
	}
	if x.execute {
		if err := r.fence(ctx, t); err != nil {
			return err
		}
	}
	shape := abortedShape{Executed: x.execute, TransactionalID: &t.TransactionalID, ProducerID: t.ProducerID,
		ProducerEpoch: t.ProducerEpoch, Partitions: t.Partitions}
	return r.print(shape, func(w io.Writer) error {
		if err := printTxns(w, []txn{t}, r.now); err != nil {
			return err
		}
		return printOutcome(w, x.execute, "Aborted; its producer is fenced.")
	})
}

// abortable says why a transaction cannot be aborted.
func abortable(t txn) error {
	switch t.State {
	case txnOngoing:
		return nil
	case "PrepareCommit":
		return fmt.Errorf("transactional id %s: its transaction is being committed, which is decided (wait; floe txn describe shows when it is done)", t.TransactionalID)
	case "PrepareAbort", "PrepareEpochFence":
		return fmt.Errorf("transactional id %s: its transaction is being aborted already (wait; floe txn describe shows when it is done)", t.TransactionalID)
	}
	return fmt.Errorf("transactional id %s: no transaction is open, its state is %s (floe txn list --state Ongoing lists open ones)", t.TransactionalID, t.State)
}

// fenceRetry is the time between two looks whether a transaction has ended: its markers
// take some milliseconds, or a coordinator that moves some seconds.
const fenceRetry = 100 * time.Millisecond

// fence takes the transactional id over from its producer and waits until the transaction
// has been aborted.
func (r *remote) fence(ctx context.Context, t txn) error {
	again := time.NewTicker(fenceRetry)
	defer again.Stop()
	for fenced := false; ; {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionalID = &t.TransactionalID
		req.TransactionTimeoutMillis = t.TimeoutMs // as it was: the id's next producer says its own
		req.ProducerID, req.ProducerEpoch = -1, -1
		resp, err := req.RequestWith(ctx, r.client)
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, kerr.ConcurrentTransactions):
			fenced = true
		case !fenced || ctx.Err() == nil:
			return txnRefusal(t.TransactionalID, err)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return fmt.Errorf("transactional id %s: its producer is fenced, but the transaction has not ended yet: %w", t.TransactionalID, ctx.Err())
		}
	}
}

// byPartition writes an abort marker into one partition.
func (x *abort) byPartition(ctx context.Context, r *remote) error {
	open, err := r.openIn(ctx, []selection{{x.topic, []int32{x.partition}}})
	if err != nil {
		return err
	}
	o, err := x.among(open)
	if err != nil {
		return err
	}
	known, err := r.knownTxns(ctx, []openTxn{o})
	if err != nil {
		return err
	}
	if owner := ownerOf(o, known); owner != nil {
		return fmt.Errorf("%s: the transaction does not hang: transactional id %s has it open (floe txn abort --id %s aborts it everywhere)", o, owner.TransactionalID, owner.TransactionalID)
	}
	if x.execute {
		if err := r.mark(ctx, o); err != nil {
			return err
		}
	}
	shape := abortedShape{Executed: x.execute, ProducerID: o.ProducerID, ProducerEpoch: o.ProducerEpoch, CoordinatorEpoch: &o.CoordinatorEpoch,
		StartOffset: &o.StartOffset, Partitions: []topicPartitions{{o.Topic, []int32{o.Partition}}}}
	return r.print(shape, func(w io.Writer) error {
		if err := printOpen(w, []openTxn{o}, r.now); err != nil {
			return err
		}
		return printOutcome(w, x.execute, "Aborted.")
	})
}

// among finds the transaction that the flags name among those that are open.
func (x *abort) among(open []openTxn) (openTxn, error) {
	byOffset := x.flags.Changed("start-offset")
	i := slices.IndexFunc(open, func(o openTxn) bool {
		return byOffset && o.StartOffset == x.startOffset || !byOffset && o.ProducerID == x.producerID
	})
	if i >= 0 {
		return open[i], nil
	}
	which := fmt.Sprintf("--producer-id: producer %d has no open transaction", x.producerID)
	if byOffset {
		which = fmt.Sprintf("--start-offset: no open transaction starts at %d", x.startOffset)
	}
	return openTxn{}, fmt.Errorf("%s in %s:%d (floe txn hanging --topic %s lists those that hang)", which, x.topic, x.partition, x.topic)
}

// mark ends an open transaction in its partition.
func (r *remote) mark(ctx context.Context, o openTxn) error {
	set := kadm.TopicsSet{}
	set.Add(o.Topic, o.Partition)
	answers, err := r.admin.WriteTxnMarkers(ctx, kadm.TxnMarkers{ProducerID: o.ProducerID, ProducerEpoch: o.ProducerEpoch,
		CoordinatorEpoch: max(0, o.CoordinatorEpoch), Topics: set})
	if err != nil {
		return fmt.Errorf("%s: writing the marker: %w", o, told(err))
	}
	answer, ok := answers[o.ProducerID].Topics[o.Topic].Partitions[o.Partition]
	switch {
	case !ok:
		return fmt.Errorf("%s: writing the marker: %w", o, noAnswer(nil))
	case errors.Is(answer.Err, kerr.InvalidProducerEpoch), errors.Is(answer.Err, kerr.TransactionCoordinatorFenced):
		return fmt.Errorf("%s: the transaction has ended, or its producer goes on: %w (floe txn hanging looks again)", o, answer.Err)
	case answer.Err != nil:
		return fmt.Errorf("%s: writing the marker: %w", o, answer.Err)
	}
	return nil
}

func printOutcome(w io.Writer, executed bool, done string) error {
	if !executed {
		done = dryRun
	}
	_, err := fmt.Fprintln(w, done)
	return err
}
