package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// startTxns starts a node with the transactional ids open (producer 7, in pay:0), done
// (producer 8), and in pay:0 and pay:1 open transactions of producers 7 and 9. No
// coordinator knows of 9.
func startTxns(t *testing.T) *scripted {
	t.Helper()
	s := startScripted(t)
	began := time.Now().Add(-time.Hour)
	answer(s, func(req *kmsg.ListTransactionsRequest, resp *kmsg.ListTransactionsResponse) {
		for i, id := range []string{"open", "done"} {
			ts := kmsg.NewListTransactionsResponseTransactionState()
			ts.TransactionalID, ts.ProducerID, ts.TransactionState = id, int64(7+i), []string{"Ongoing", "CompleteCommit"}[i]
			if (len(req.StateFilters) == 0 || slices.Contains(req.StateFilters, ts.TransactionState)) &&
				(len(req.ProducerIDFilters) == 0 || slices.Contains(req.ProducerIDFilters, ts.ProducerID)) {
				resp.TransactionStates = append(resp.TransactionStates, ts)
			}
		}
	})
	answer(s, func(req *kmsg.DescribeTransactionsRequest, resp *kmsg.DescribeTransactionsResponse) {
		for _, id := range req.TransactionalIDs {
			ts := kmsg.NewDescribeTransactionsResponseTransactionState()
			ts.TransactionalID, ts.TimeoutMillis, ts.StartTimestamp = id, 60_000, -1
			switch id {
			case "open":
				ts.State, ts.ProducerID, ts.ProducerEpoch, ts.StartTimestamp = "Ongoing", 7, 2, 1_700_000_000_000
				topic := kmsg.NewDescribeTransactionsResponseTransactionStateTopic()
				topic.Topic, topic.Partitions = "pay", []int32{0}
				ts.Topics = append(ts.Topics, topic)
			case "done":
				ts.State, ts.ProducerID = "CompleteCommit", 8
			default:
				ts.ErrorCode = kerr.TransactionalIDNotFound.Code
			}
			resp.TransactionStates = append(resp.TransactionStates, ts)
		}
	})
	answer(s, func(req *kmsg.DescribeProducersRequest, resp *kmsg.DescribeProducersResponse) {
		for _, topic := range req.Topics {
			rt := kmsg.NewDescribeProducersResponseTopic()
			rt.Topic = topic.Topic
			for _, id := range topic.Partitions {
				rp := kmsg.NewDescribeProducersResponseTopicPartition()
				rp.Partition = id
				for producer, start := range map[int64]int64{7: 40, 9: 50, 11: -1} {
					ap := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
					ap.ProducerID, ap.ProducerEpoch, ap.LastTimestamp, ap.CoordinatorEpoch, ap.CurrentTxnStartOffset = producer, 3, began.UnixMilli(), 4, start
					if topic.Topic == "pay" && (producer != 7 || id == 0) {
						rp.ActiveProducers = append(rp.ActiveProducers, ap)
					}
				}
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
	})
	return s
}

func TestTxnList(t *testing.T) {
	s := startTxns(t)
	s.mustPrint(t, "txn list", `
TRANSACTIONAL ID  STATE           PRODUCER ID  COORDINATOR
done              CompleteCommit            8            1
open              Ongoing                   7            1
`)
	s.mustPrint(t, "txn list --state ongoing --producer-id 7,9 --running-longer-than 5m", `
TRANSACTIONAL ID  STATE    PRODUCER ID  COORDINATOR
open              Ongoing            7            1
`)
	asked := requests[*kmsg.ListTransactionsRequest](s)
	if last := asked[len(asked)-1]; last.DurationFilterMillis != 300_000 {
		t.Errorf("asked for transactions of %d ms, want 5 minutes", last.DurationFilterMillis)
	}
	s.mustPrint(t, "txn list --producer-id 5", "no transactions\n")
	s.mustPrint(t, "txn list --producer-id 8 --json", `
{
  "transactions": [
    {
      "transactionalId": "done",
      "state": "CompleteCommit",
      "producerId": 8,
      "coordinator": 1
    }
  ]
}
`)
}

func TestTxnDescribe(t *testing.T) {
	s := startTxns(t)
	s.mustPrint(t, "txn describe done", `
TRANSACTIONAL ID  STATE           PRODUCER ID  EPOCH  TIMEOUT  STARTED  RUNNING  COORDINATOR  PARTITIONS
done              CompleteCommit            8      0  1m0s     -        -                  1  -
`)
	s.mustPrint(t, "txn describe open --json", `
{
  "transactions": [
    {
      "transactionalId": "open",
      "state": "Ongoing",
      "producerId": 7,
      "producerEpoch": 2,
      "timeoutMs": 60000,
      "started": "2023-11-14T22:13:20Z",
      "coordinator": 1,
      "partitions": [
        {
          "topic": "pay",
          "partitions": [
            0
          ]
        }
      ]
    }
  ]
}
`)
	if stdout := s.mustFail(t, "txn describe lost", "transactional id lost: there is no such id"); stdout != "" {
		t.Errorf("of an id that there is not, it prints %q", stdout)
	}
	if stdout := s.mustFail(t, "txn describe lost open", "transactional id lost"); !strings.Contains(stdout, "pay:0") {
		t.Errorf("of the id that there is, it prints %q", stdout)
	}
}

func TestTxnHanging(t *testing.T) {
	s := startTxns(t)
	hangs := func(line string, want ...string) {
		t.Helper()
		code, stdout, stderr := s.ask(t, line)
		var got []string
		for _, row := range strings.Split(strings.TrimSpace(stdout), "\n")[1:] {
			got = append(got, strings.Join(strings.Fields(row)[:6], " "))
		}
		if code != exitOK || stderr != "" || !slices.Equal(got, want) {
			t.Errorf("floe %s: exit code %d, standard error %q, found %q, want %q", line, code, stderr, got, want)
		}
	}
	hangs("txn hanging", "pay 0 9 3 4 50", "pay 1 9 3 4 50")
	hangs("txn hanging --topic pay:1", "pay 1 9 3 4 50")
	s.mustPrint(t, "txn hanging --topic events", "no hanging transactions\n")
	s.mustPrint(t, "txn hanging --older-than 2h", "no hanging transactions\n")
	s.mustPrint(t, "txn hanging --topic events --json", "{\n  \"hanging\": []\n}\n")
	s.mustFail(t, "txn hanging --topic lost", "there is no topic lost")
	// Unless the coordinators have answered, nothing is known to hang.
	answer(s, func(_ *kmsg.ListTransactionsRequest, resp *kmsg.ListTransactionsResponse) {
		resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
	})
	if stdout := s.mustFail(t, "txn hanging", "listing the transactions of node 1"); stdout != "" {
		t.Errorf("it prints %q", stdout)
	}
}

func TestTxnAbortByID(t *testing.T) {
	s := startTxns(t)
	var tries atomic.Int32
	answer(s, func(_ *kmsg.InitProducerIDRequest, resp *kmsg.InitProducerIDResponse) {
		if tries.Add(1) < 3 { // the coordinator is writing markers
			resp.ErrorCode = kerr.ConcurrentTransactions.Code
		}
	})
	s.mustFail(t, "txn abort --id done --execute", "transactional id done: no transaction is open, its state is CompleteCommit")
	s.mustFail(t, "txn abort --id lost --execute", "transactional id lost: there is no such id")
	code, stdout, stderr := s.ask(t, "txn abort --id open")
	if code != exitOK || stderr != "" || !strings.Contains(stdout, "pay:0") || !strings.HasSuffix(stdout, dryRun+"\n") {
		t.Errorf("a dry run: exit code %d, standard error %q, standard output %q", code, stderr, stdout)
	}
	if tries.Load() != 0 {
		t.Fatal("a dry run fences")
	}
	s.mustPrint(t, "txn abort --id open --execute --json", `
{
  "executed": true,
  "transactionalId": "open",
  "producerId": 7,
  "producerEpoch": 2,
  "coordinatorEpoch": null,
  "startOffset": null,
  "partitions": [
    {
      "topic": "pay",
      "partitions": [
        0
      ]
    }
  ]
}
`)
	asked := requests[*kmsg.InitProducerIDRequest](s)
	if len(asked) != 3 || *asked[2].TransactionalID != "open" || asked[2].ProducerID != -1 || asked[2].ProducerEpoch != -1 || asked[2].TransactionTimeoutMillis != 60_000 {
		t.Errorf("asked %d times, %+v", len(asked), asked)
	}
}

func TestFenceGivesUp(t *testing.T) {
	s := startTxns(t)
	ctx, cancel := context.WithCancel(t.Context())
	var tries atomic.Int32
	answer(s, func(_ *kmsg.InitProducerIDRequest, resp *kmsg.InitProducerIDResponse) {
		if resp.ErrorCode = kerr.ConcurrentTransactions.Code; tries.Add(1) == 3 {
			cancel()
		}
	})
	r := &remote{}
	if err := r.connect(ctx, []string{s.addr.String()}, time.Minute); err != nil {
		t.Fatal(err)
	}
	defer r.client.Close()
	err := r.fence(ctx, txn{TransactionalID: "open"})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "its producer is fenced, but the transaction has not ended yet") {
		t.Errorf("got %v", err)
	}
}

func TestAbortable(t *testing.T) {
	for state, want := range map[string]string{"Ongoing": "", "PrepareCommit": "being committed", "PrepareAbort": "being aborted already",
		"PrepareEpochFence": "being aborted already", "Empty": "no transaction is open", "CompleteAbort": "no transaction is open"} {
		err := abortable(txn{TransactionalID: "x", State: state})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", state, err, want)
		}
	}
}

func TestTxnAbortByPartition(t *testing.T) {
	s := startTxns(t)
	var code atomic.Int32
	answer(s, func(req *kmsg.WriteTxnMarkersRequest, resp *kmsg.WriteTxnMarkersResponse) {
		for _, m := range req.Markers {
			rm := kmsg.NewWriteTxnMarkersResponseMarker()
			rm.ProducerID = m.ProducerID
			for _, topic := range m.Topics {
				rt := kmsg.NewWriteTxnMarkersResponseMarkerTopic()
				rt.Topic = topic.Topic
				for _, id := range topic.Partitions {
					rp := kmsg.NewWriteTxnMarkersResponseMarkerTopicPartition()
					rp.Partition, rp.ErrorCode = id, int16(code.Load())
					rt.Partitions = append(rt.Partitions, rp)
				}
				rm.Topics = append(rm.Topics, rt)
			}
			resp.Markers = append(resp.Markers, rm)
		}
	})
	s.mustFail(t, "txn abort --topic pay --partition 0 --producer-id 7 --execute", "the transaction does not hang", "floe txn abort --id open")
	s.mustFail(t, "txn abort --topic pay --partition 0 --producer-id 11 --execute", "producer 11 has no open transaction in pay:0")
	s.mustFail(t, "txn abort --topic pay --partition 0 --start-offset 51 --execute", "no open transaction starts at 51 in pay:0")
	s.mustFail(t, "txn abort --topic pay --partition 2 --start-offset 50 --execute", "topic pay has no partition 2")
	exit, stdout, stderr := s.ask(t, "txn abort --topic pay --partition 1 --start-offset 50")
	if exit != exitOK || stderr != "" || !strings.HasSuffix(stdout, dryRun+"\n") {
		t.Errorf("a dry run: exit code %d, standard error %q, standard output %q", exit, stderr, stdout)
	}
	if n := len(requests[*kmsg.WriteTxnMarkersRequest](s)); n != 0 {
		t.Fatalf("%d markers where none may be written", n)
	}
	for i, which := range []string{"--start-offset 50", "--producer-id 9"} {
		exit, stdout, stderr = s.ask(t, "txn abort --topic pay --partition 1 --execute "+which)
		if exit != exitOK || stderr != "" || !strings.HasSuffix(stdout, "Aborted.\n") {
			t.Errorf("%s: exit code %d, standard error %q, standard output %q", which, exit, stderr, stdout)
		}
		asked := requests[*kmsg.WriteTxnMarkersRequest](s)
		if len(asked) != i+1 {
			t.Fatalf("%d requests, want %d", len(asked), i+1)
		}
		m := asked[i].Markers[0]
		if got := fmt.Sprintf("%d %d %t %d %s %d", m.ProducerID, m.ProducerEpoch, m.Committed, m.CoordinatorEpoch, m.Topics[0].Topic, m.Topics[0].Partitions); got != "9 3 false 4 pay [1]" {
			t.Errorf("%s: the marker is %s", which, got)
		}
	}
	code.Store(int32(kerr.InvalidProducerEpoch.Code))
	s.mustFail(t, "txn abort --topic pay --partition 1 --producer-id 9 --execute", "pay:1 from offset 50", "the transaction has ended, or its producer goes on")
}
