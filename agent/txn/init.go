package txn

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// InitProducerId (KIP-98; KIP-360 for a producer that names the id and epoch it had). The
// fields of two-phase commit (KIP-939) come with version 6, which is not known here.

func initAnswer(req *kmsg.InitProducerIDRequest, code int16, producer int64, epoch int16) *kmsg.InitProducerIDResponse {
	resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
	resp.ErrorCode, resp.ProducerID, resp.ProducerEpoch = code, producer, epoch
	return resp
}

// checkInit refuses what no state can make right.
func (m *machine) checkInit(req *kmsg.InitProducerIDRequest) (verdict, bool) {
	timeout := time.Duration(req.TransactionTimeoutMillis) * time.Millisecond
	var code int16
	switch {
	case req.TransactionalID == nil || *req.TransactionalID == "":
		code = kerr.InvalidRequest.Code
	case req.Version >= 3 && (req.ProducerID == -1) != (req.ProducerEpoch == -1):
		code = kerr.InvalidRequest.Code
	case timeout <= 0 || timeout > m.settings.MaxTimeout:
		code = kerr.InvalidTransactionTimeout.Code
	default:
		return verdict{}, true
	}
	return verdict{body: initAnswer(req, code, -1, -1)}, false
}

func (m *machine) initProducerID(e *entry, req *kmsg.InitProducerIDRequest) verdict {
	wait := func(code int16) verdict { return verdict{body: initAnswer(req, code, -1, -1), wait: true} }
	fenced := verdict{body: initAnswer(req, producerFenced(4, req.Version), -1, -1), proven: true}
	resumes := req.Version >= 3 && req.ProducerID != -1
	switch {
	case !e.known:
		if !m.needID(e) {
			return wait(kerr.CoordinatorLoadInProgress.Code)
		}
		e.row = row{producer: e.takeID(), previous: -1, next: -1, last: -1}
		e.known = true
	case e.status.prepared():
		return wait(kerr.ConcurrentTransactions.Code)
	case e.status == ongoing:
		// Kafka lets even a stale producer abort the transaction of the one that fenced it,
		// and refuses it afterwards; here a late repetition does no harm.
		if resumes && (req.ProducerID != e.producer || req.ProducerEpoch != e.epoch) {
			return fenced
		}
		m.prepare(e, false, true)
		return wait(kerr.ConcurrentTransactions.Code)
	case resumes && m.repeatsInit(e, req):
		// The epoch was raised for this producer already and nobody has come between.
	case resumes && (req.ProducerID != e.producer || req.ProducerEpoch != e.epoch):
		return fenced
	case e.epoch >= lastEpoch:
		if !m.needID(e) {
			return wait(kerr.CoordinatorLoadInProgress.Code)
		}
		e.previous, e.producer, e.epoch, e.last = e.producer, e.takeID(), 0, e.lastFor(resumes)
	default:
		e.last = e.lastFor(resumes)
		e.previous = -1
		e.epoch++
	}
	e.status, e.timeout, e.started = empty, req.TransactionTimeoutMillis, -1
	m.change(e)
	return verdict{body: initAnswer(req, 0, e.producer, e.epoch)}
}

// lastFor returns the epoch that may be named again when a request is repeated: the one that
// a resuming producer had. A producer that starts afresh fences all others.
func (e *entry) lastFor(resumes bool) int16 {
	if resumes {
		return e.epoch
	}
	return -1
}

// repeatsInit reports whether a producer resumes from the identity before the present one,
// which was made for it: by its own request, whose answer it did not hear, or by the end of
// its transaction.
func (m *machine) repeatsInit(e *entry, req *kmsg.InitProducerIDRequest) bool {
	if e.last < 0 || req.ProducerEpoch != e.last {
		return false
	}
	if e.previous >= 0 {
		return req.ProducerID == e.previous
	}
	return req.ProducerID == e.producer
}
