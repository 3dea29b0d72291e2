package txn

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
)

// maxGroupBytes bounds the names of a transaction's groups. A transaction has one group, in
// all but strange programs; this is room for three names of the greatest length.
const maxGroupBytes = 96 << 10

// enlist makes partitions and groups part of a transaction, or says whether they are.
func (m *machine) enlist(e *entry, req Enlist) verdict {
	refuse := func(code int16) verdict { return verdict{body: Enlisted{Code: code}, proven: true} }
	switch {
	case req.ID == "":
		return verdict{body: Enlisted{Code: kerr.InvalidRequest.Code}}
	case e == nil || !e.known:
		return refuse(kerr.InvalidProducerIDMapping.Code)
	case req.ProducerID == e.producer && req.Epoch < e.epoch:
		return refuse(kerr.ProducerFenced.Code)
	case e.status.prepared():
		// Before the other checks: the producer may have its next id already. A question
		// about the transaction that ends needs no wait: its answer could only be no.
		return verdict{body: Enlisted{Code: kerr.ConcurrentTransactions.Code}, wait: req.Add}
	case req.ProducerID != e.producer:
		return refuse(kerr.InvalidProducerIDMapping.Code)
	case req.Epoch != e.epoch:
		return refuse(kerr.ProducerFenced.Code)
	case !req.Add:
		return e.verify(req)
	}
	return m.add(e, req)
}

// verify says which of what a request names is part of the open transaction. Where none is
// open, nothing is.
func (e *entry) verify(req Enlist) verdict {
	for _, g := range req.Groups {
		if _, ok := e.hasGroup(g.Name); !ok {
			return verdict{body: Enlisted{Code: kerr.TransactionAbortable.Code}, proven: true}
		}
	}
	out := Enlisted{Number: e.number}
	for i, p := range req.Partitions {
		if _, ok := e.hasPartition(p.TopicPartition); !ok {
			if out.Codes == nil {
				out.Codes = make([]int16, len(req.Partitions))
			}
			out.Codes[i] = kerr.TransactionAbortable.Code
		}
	}
	return verdict{body: out, proven: out.Codes != nil}
}

// add makes what a request names part of the open transaction, or of a new one.
func (m *machine) add(e *entry, req Enlist) verdict {
	fresh, bytes := 0, 0
	for _, p := range req.Partitions {
		if p.Partition < 0 {
			return verdict{body: Enlisted{Code: kerr.InvalidRequest.Code}}
		}
		if _, ok := e.hasPartition(p.TopicPartition); !ok {
			fresh++
		}
	}
	for _, g := range req.Groups {
		if _, ok := e.hasGroup(g.Name); !ok {
			fresh++
			bytes += len(g.Name)
		}
	}
	if fresh == 0 {
		return verdict{body: Enlisted{Number: e.number}}
	}
	for _, g := range e.groups {
		bytes += len(g.Name)
	}
	if len(e.partitions)+len(e.groups)+fresh > m.settings.MaxPartitions || bytes > maxGroupBytes {
		// A batch that is refused so fails its transaction; the client names the policy.
		return verdict{body: Enlisted{Code: kerr.PolicyViolation.Code}, proven: true}
	}
	for _, p := range req.Partitions {
		if i, ok := e.hasPartition(p.TopicPartition); !ok {
			e.partitions = slices.Insert(e.partitions, i, p)
		}
	}
	for _, g := range req.Groups {
		if i, ok := e.hasGroup(g.Name); !ok {
			e.groups = slices.Insert(e.groups, i, g)
		}
	}
	if e.status != ongoing {
		e.status, e.started = ongoing, m.millis()
		e.number++
	}
	e.version = 1
	if req.Version >= 2 {
		e.version = 2
	}
	m.change(e)
	return verdict{body: Enlisted{Number: e.number}}
}
