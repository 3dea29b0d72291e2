package txn_test

import "testing"

func TestInitProducerID(t *testing.T) {
	runScripts(t, []script{
		{"a new id begins at epoch 0, and every InitProducerId raises it", `
			init => 1000/0
			init => 1000/1
			describe => Empty 1000/1
		`},
		{"a producer that resumes raises the epoch, and may repeat that (KIP-360)", `
			init => 1000/0
			init 1000/0 => 1000/1
			init 1000/0 => 1000/1
			init 1000/1 => 1000/2
			init 1000/0 => PRODUCER_FENCED
			init 1000/0 v3 => INVALID_PRODUCER_EPOCH
			init 999/2 => PRODUCER_FENCED
			init 1000/3 => PRODUCER_FENCED
		`},
		{"a producer that starts afresh fences one that would resume", `
			init => 1000/0
			init 1000/0 => 1000/1
			init => 1000/2
			init 1000/1 => PRODUCER_FENCED
		`},
		{"a resuming producer of an id that was forgotten gets a new producer id", `
			init 77/5 => 1000/0
		`},
		{"timeouts out of bounds and halves of an identity are refused", `
			init 0s => INVALID_TRANSACTION_TIMEOUT
			init -1s => INVALID_TRANSACTION_TIMEOUT
			init 900s => 1000/0
			init 901s => INVALID_TRANSACTION_TIMEOUT
			init -1/4 => INVALID_REQUEST
			init 4/-1 => INVALID_REQUEST
			describe => Empty 1000/0
		`},
		{"an open transaction is aborted with a raised epoch first, and the request waits for that", `
			init => 1000/0
			add 1000/0 2 a0 g:q => #1
			init => waits
			describe => PrepareAbort 1000/1 a[0]
			calls => abort a0@0 1000/1 #1; abort g:q@40 1000/1 #1
			done => 1000/2
			add 1000/0 2 a0 => PRODUCER_FENCED
			add 1000/1 2 a0 => PRODUCER_FENCED
			add 1000/2 2 a0 => #2
		`},
		{"a producer that resumes in its open transaction is aborted and goes on with the epoch above", `
			init => 1000/0
			add 1000/0 1 a0 => #1
			init 1000/0 => waits
			done => 1000/1
			init 1000/0 => 1000/1
		`},
		{"who waits too long is told to come again", `
			init => 1000/0
			add 1000/0 1 a0 => #1
			init => waits
			after 1s => CONCURRENT_TRANSACTIONS
			init => waits
			done => 1000/2
		`},
		{"a stale producer that resumes does not abort the transaction of the one that fenced it", `
			init => 1000/0
			init => 1000/1
			add 1000/1 2 a0 => #1
			init 1000/0 => PRODUCER_FENCED
			describe => Ongoing 1000/1 a[0]
		`},
		{"two that take an id from each other get an epoch each, in order", `
			init => 1000/0
			add 1000/0 2 a0 => #1
			init => waits
			init => waits
			done => 1000/2; 1000/3
		`},
		{"without a producer id a new id waits, and its coordinator is loading", `
			hold
			init => waits
			calls => new id
			after 1s => COORDINATOR_LOAD_IN_PROGRESS
			init => waits
			calls => new id
			id => 1000/0
		`},
	})
}

func TestFirstProtocol(t *testing.T) {
	runScripts(t, []script{
		{"a transaction from begin to end keeps its epoch", `
			init => 1000/0
			add 1000/0 1 a0 b1 => #1
			add 1000/0 1 g:q => #1
			add 1000/0 1 a0 => #1
			describe => Ongoing 1000/0 a[0] b[1]
			commit 1000/0 v4 => ok
			calls => commit a0@0 1000/0 #1; commit b1@11 1000/0 #1; commit g:q@40 1000/0 #1
			describe => PrepareCommit 1000/0 a[0] b[1]
			done => 
			describe => CompleteCommit 1000/0
			add 1000/0 1 c3 => #2
			abort 1000/0 v4 => ok
			calls => abort c3@23 1000/0 #2
			done => 
			describe => CompleteAbort 1000/0
		`},
		{"the next transaction waits until the one before is concluded everywhere", `
			init => 1000/0
			add 1000/0 1 a0 b1 => #1
			commit 1000/0 v4 => ok
			add 1000/0 1 a0 => waits
			done 1 => 
			done => #2
			calls => 
			verify 1000/0 a0 => #2
		`},
		{"the next transaction is told to come again when that takes long", `
			init => 1000/0
			add 1000/0 1 a0 => #1
			abort 1000/0 v3 => ok
			add 1000/0 1 a0 => waits
			after 1s => CONCURRENT_TRANSACTIONS
		`},
		{"verification names what is not part of the open transaction (KIP-890)", `
			init => 1000/0
			verify 1000/0 a0 => #0 TRANSACTION_ABORTABLE
			add 1000/0 1 a0 a2 => #1
			verify 1000/0 a0 a1 a2 => #1 ok TRANSACTION_ABORTABLE ok
			verify 1000/0 a2 => #1
			verify 1000/0 g:q => TRANSACTION_ABORTABLE
			verify 1001/0 a0 => INVALID_PRODUCER_ID_MAPPING
			verify 1000/1 a0 => PRODUCER_FENCED
			commit 1000/0 v4 => ok
			verify 1000/0 a0 => CONCURRENT_TRANSACTIONS
			done => 
			verify 1000/0 a0 => #1 TRANSACTION_ABORTABLE
		`},
		{"a repeated EndTxn waits, and is answered as the first", `
			init => 1000/0
			add 1000/0 1 a0 => #1
			commit 1000/0 v4 => ok
			commit 1000/0 v4 => waits
			abort 1000/0 v4 => INVALID_TXN_STATE
			done => ok
			commit 1000/0 v4 => ok
			abort 1000/0 v4 => INVALID_TXN_STATE
			calls => 
		`},
		{"a repeated EndTxn is told to come again when the end takes long", `
			init => 1000/0
			add 1000/0 1 a0 => #1
			abort 1000/0 v4 => ok
			abort 1000/0 v4 => waits
			commit 1000/0 v4 => INVALID_TXN_STATE
			after 1s => CONCURRENT_TRANSACTIONS
			done => 
			abort 1000/0 v4 => ok
			commit 1000/0 v4 => INVALID_TXN_STATE
		`},
		{"without a transaction nothing can be ended", `
			commit 1000/0 v4 => INVALID_PRODUCER_ID_MAPPING
			init => 1000/0
			commit 1000/0 v4 => INVALID_TXN_STATE
			abort 1000/0 v4 => INVALID_TXN_STATE
			commit 1001/0 v4 => INVALID_PRODUCER_ID_MAPPING
			commit 1000/1 v4 => PRODUCER_FENCED
			commit 1000/1 v1 => INVALID_PRODUCER_EPOCH
		`},
		{"a transaction whose time is over is aborted with a raised epoch, and a late EndTxn is fenced", `
			init 10s => 1000/0
			add 1000/0 1 a0 => #1
			after 9999ms => 
			describe => Ongoing 1000/0 a[0]
			after 1ms => 
			calls => abort a0@0 1000/1 #1
			commit 1000/0 v4 => PRODUCER_FENCED
			abort 1000/0 v1 => INVALID_PRODUCER_EPOCH
			done => 
			describe => CompleteAbort 1000/1
			commit 1000/0 v4 => PRODUCER_FENCED
			abort 1000/0 v4 => PRODUCER_FENCED
			add 1000/0 1 a0 => PRODUCER_FENCED
			init 1000/0 => 1000/1
		`},
		{"the time begins with each transaction anew", `
			init 10s => 1000/0
			after 1m => 
			add 1000/0 1 a0 => #1
			after 9s => 
			add 1000/0 1 a1 => #1
			commit 1000/0 v4 => ok
			done => 
			add 1000/0 1 a0 => #2
			after 9s => 
			describe => Ongoing 1000/0 a[0]
			after 1s => 
			describe => PrepareAbort 1000/1 a[0]
		`},
	})
}

func TestSecondProtocol(t *testing.T) {
	runScripts(t, []script{
		{"every transaction raises the epoch; markers carry the raised one", `
			init => 1000/0
			add 1000/0 2 a0 g:q => #1
			commit 1000/0 v5 => ok, next 1000/1
			calls => commit a0@0 1000/1 #1; commit g:q@40 1000/1 #1
			add 1000/1 2 b1 => waits
			done => #2
			abort 1000/1 v5 => ok, next 1000/2
			calls => abort b1@11 1000/2 #2
			done => 
			describe => CompleteAbort 1000/2
		`},
		{"a repeated EndTxn hears the first answer, while the end is under way and after it", `
			init => 1000/0
			add 1000/0 2 a0 => #1
			commit 1000/0 v5 => ok, next 1000/1
			commit 1000/0 v5 => ok, next 1000/1
			abort 1000/0 v5 => INVALID_TXN_STATE
			done => 
			commit 1000/0 v5 => ok, next 1000/1
			abort 1000/0 v5 => INVALID_TXN_STATE
			add 1000/1 2 a0 => #2
			commit 1000/0 v5 => PRODUCER_FENCED
		`},
		{"an abort of nothing raises the epoch, a commit of nothing is refused", `
			init => 1000/0
			commit 1000/0 v5 => INVALID_TXN_STATE
			abort 1000/0 v5 => ok, next 1000/1
			calls => 
			describe => CompleteAbort 1000/1
			abort 1000/0 v5 => ok, next 1000/1
			commit 1000/1 v5 => INVALID_TXN_STATE
			abort 1000/1 v5 => ok, next 1000/2
			add 1000/2 2 a0 => #1
			commit 1000/2 v5 => ok, next 1000/3
			done => 
			abort 1000/3 v5 => ok, next 1000/4
			commit 1000/5 v5 => PRODUCER_FENCED
			abort 1001/4 v5 => INVALID_PRODUCER_ID_MAPPING
		`},
		{"KAFKA-18464: an abort of nothing right after a commit waits and is not fenced", `
			init => 1000/0
			add 1000/0 2 a0 => #1
			commit 1000/0 v5 => ok, next 1000/1
			abort 1000/1 v5 => waits
			done => ok, next 1000/2
		`},
		{"a timed out transaction: its producer's abort hears the raised epoch and goes on", `
			init 10s => 1000/0
			add 1000/0 2 a0 => #1
			after 10s => 
			calls => abort a0@0 1000/1 #1
			abort 1000/0 v5 => ok, next 1000/1
			add 1000/1 2 a0 => waits
			done => #2
		`},
		{"partitions and groups of any number of requests are one transaction", `
			init => 1000/0
			add 1000/0 2 b5 a7 => #1
			add 1000/0 2 a2 b5 => #1
			add 1000/0 2 g:z g:q => #1
			add 1000/0 2 c0 c0 => #1
			abort 1000/0 v5 => ok, next 1000/1
			calls => abort a2@2 1000/1 #1; abort a7@7 1000/1 #1; abort b5@15 1000/1 #1; abort c0@20 1000/1 #1; abort g:q@40 1000/1 #1; abort g:z@40 1000/1 #1
		`},
		{"a request in the first protocol's form ends a transaction without raising", `
			init => 1000/0
			add 1000/0 2 a0 => #1
			commit 1000/0 v4 => ok
			calls => commit a0@0 1000/0 #1
			done => 
			commit 1000/0 v5 => INVALID_TXN_STATE
			abort 1000/0 v5 => ok, next 1000/1
		`},
	})
}

func TestLateAndRacing(t *testing.T) {
	runScripts(t, []script{
		{"KAFKA-17754: in the second protocol a late commit or abort never meets the next transaction", `
			init => 1000/0
			add 1000/0 2 a0 => #1
			abort 1000/0 v5 => ok, next 1000/1
			done => 
			add 1000/1 2 a0 => #2
			commit 1000/0 v5 => PRODUCER_FENCED
			abort 1000/0 v5 => PRODUCER_FENCED
			commit 1000/0 v4 => PRODUCER_FENCED
			describe => Ongoing 1000/1 a[0]
			commit 1000/1 v5 => ok, next 1000/2
			calls => commit a0@0 1000/2 #2
		`},
		{"KAFKA-17754: in the first protocol transactions of one epoch differ in their number", `
			init => 1000/0
			add 1000/0 1 a0 => #1
			abort 1000/0 v4 => ok
			calls => abort a0@0 1000/0 #1
			done => 
			add 1000/0 1 a0 => #2
			commit 1000/0 v4 => ok
			calls => commit a0@0 1000/0 #2
		`},
		{"KAFKA-20785: a commit that races the coordinator's abort is fenced, second protocol", `
			init 10s => 1000/0
			add 1000/0 2 a0 => #1
			after 10s => 
			commit 1000/0 v5 => PRODUCER_FENCED
			done => 
			commit 1000/0 v5 => PRODUCER_FENCED
			init 1000/0 => 1000/1
			commit 1000/0 v5 => PRODUCER_FENCED
		`},
		{"KAFKA-20785: a commit that races the coordinator's abort is fenced, first protocol", `
			init 10s => 1000/0
			add 1000/0 1 a0 => #1
			after 10s => 
			commit 1000/0 v4 => PRODUCER_FENCED
			done => 
			commit 1000/0 v4 => PRODUCER_FENCED
		`},
		{"KAFKA-20785: a commit that races an abort with an exhausted epoch is fenced", `
			init 10s => 1000/0
			raise 1000/0 to 32766 => ok, next 1000/32766
			add 1000/32766 2 a0 => #1
			after 10s => 
			commit 1000/32766 v5 => PRODUCER_FENCED
			done => 
			describe => CompleteAbort 1001/0
			commit 1000/32766 v5 => PRODUCER_FENCED
			commit 1000/32765 v5 => INVALID_PRODUCER_ID_MAPPING
		`},
		{"KAFKA-20785: a commit that races the abort of a new instance is fenced", `
			init => 1000/0
			add 1000/0 2 a0 => #1
			init => waits
			commit 1000/0 v5 => PRODUCER_FENCED
			done => 1000/2
			commit 1000/0 v5 => PRODUCER_FENCED
		`},
		{"KAFKA-18660: the epoch does not overflow, the next transaction has a new producer id", `
			init => 1000/0
			raise 1000/0 to 32766 => ok, next 1000/32766
			add 1000/32766 2 a0 => #1
			commit 1000/32766 v5 => ok, next 1001/0
			calls => commit a0@0 1000/32767 #1
			commit 1000/32766 v5 => ok, next 1001/0
			// the next transaction may come before the markers are written
			add 1001/0 2 b0 => waits
			done => #2
			commit 1000/32766 v5 => INVALID_PRODUCER_ID_MAPPING
			commit 1001/0 v5 => ok, next 1001/1
			calls => commit b0@10 1001/1 #2
		`},
		{"KAFKA-18660: a repeated EndTxn after the overflow hears the new producer id", `
			init => 1000/0
			raise 1000/0 to 32766 => ok, next 1000/32766
			add 1000/32766 2 a0 => #1
			abort 1000/32766 v5 => ok, next 1001/0
			done => 
			abort 1000/32766 v5 => ok, next 1001/0
			init 1000/32766 => 1001/0
			init 1001/0 => 1001/1
			init 1000/32766 => PRODUCER_FENCED
		`},
		{"KAFKA-18660: an abort of nothing does not overflow the epoch", `
			init => 1000/0
			raise 1000/0 to 32766 => ok, next 1000/32766
			abort 1000/32766 v5 => ok, next 1001/0
			abort 1000/32766 v5 => ok, next 1001/0
			abort 1001/0 v5 => ok, next 1001/1
		`},
		{"KAFKA-20090: the coordinator's abort does not overflow the epoch", `
			init 10s => 1000/0
			raise 1000/0 to 32766 => ok, next 1000/32766
			add 1000/32766 1 a0 => #1
			after 10s => 
			calls => abort a0@0 1000/32767 #1
			abort 1000/32766 v5 => ok, next 1001/0
			done => 
			describe => CompleteAbort 1001/0
		`},
		{"an exhausted epoch gives InitProducerId a new producer id, and a repetition the same", `
			init => 1000/0
			raise 1000/0 to 32766 => ok, next 1000/32766
			init 1000/32766 => 1001/0
			init 1000/32766 => 1001/0
			init => 1001/1
			init 1000/32766 => PRODUCER_FENCED
		`},
		{"an exhausted epoch and an open transaction: a fresh InitProducerId gets the new id, raised once more", `
			init => 1000/0
			raise 1000/0 to 32766 => ok, next 1000/32766
			add 1000/32766 1 a0 => #1
			init => waits
			calls => abort a0@0 1000/32767 #1
			done => 1001/1
		`},
		{"a transaction of the first protocol may end with the last epoch", `
			init => 1000/0
			raise 1000/0 to 32766 => ok, next 1000/32766
			add 1000/32766 1 a0 => #1
			commit 1000/32766 v4 => ok
			calls => commit a0@0 1000/32766 #1
			done => 
			init => 1001/0
		`},
		{"a delayed EndTxn of a fenced producer changes nothing", `
			init => 1000/0
			add 1000/0 1 a0 => #1
			init => waits
			done => 1000/2
			commit 1000/0 v4 => PRODUCER_FENCED
			abort 1000/0 v5 => PRODUCER_FENCED
			add 1000/2 2 a0 => #2
			commit 1000/1 v5 => PRODUCER_FENCED
			commit 1000/0 v5 => PRODUCER_FENCED
			describe => Ongoing 1000/2 a[0]
		`},
		{"a replayed AddPartitions is fenced by the epoch in the second protocol", `
			init => 1000/0
			add 1000/0 2 a0 => #1
			commit 1000/0 v5 => ok, next 1000/1
			add 1000/0 2 a0 => PRODUCER_FENCED
			done => 
			add 1000/0 2 a0 => PRODUCER_FENCED
			describe => CompleteCommit 1000/1
		`},
		{"a replayed AddPartitions of the first protocol hangs nothing: its transaction times out", `
			init 10s => 1000/0
			add 1000/0 1 a0 => #1
			commit 1000/0 v4 => ok
			done => 
			add 1000/0 1 a0 => #2
			after 10s => 
			calls => abort a0@0 1000/1 #2
			done => 
			describe => CompleteAbort 1000/1
		`},
	})
}

func TestProducerIDsThatCome(t *testing.T) {
	runScripts(t, []script{
		{"a commit at the last epoch waits for a producer id", `
			init => 1000/0
			raise 1000/0 to 32766 => ok, next 1000/32766
			add 1000/32766 2 a0 => #1
			hold
			commit 1000/32766 v5 => waits
			calls => new id
			describe => Ongoing 1000/32766 a[0]
			commit 1000/32766 v5 => waits
			calls => new id
			id => ok, next 1001/0; ok, next 1001/0
			calls => commit a0@0 1000/32767 #1
		`},
		{"a commit that waits for a producer id goes before the timeout that comes meanwhile", `
			init 10s => 1000/0
			raise 1000/0 to 32766 => ok, next 1000/32766
			add 1000/32766 2 a0 => #1
			hold
			after 9500ms => 
			commit 1000/32766 v5 => waits
			after 600ms => 
			id => ok, next 1001/0
			calls => commit a0@0 1000/32767 #1
		`},
		{"a timeout that waits for a producer id happens when it comes", `
			init 10s => 1000/0
			raise 1000/0 to 32766 => ok, next 1000/32766
			add 1000/32766 2 a0 => #1
			hold
			after 1h => 
			calls => new id
			id => 
			calls => abort a0@0 1000/32767 #1
		`},
		{"who waits for a producer id too long is told to come again", `
			init => 1000/0
			raise 1000/0 to 32766 => ok, next 1000/32766
			hold
			abort 1000/32766 v5 => waits
			init => waits
			after 1s => CONCURRENT_TRANSACTIONS; COORDINATOR_LOAD_IN_PROGRESS
		`},
	})
}
