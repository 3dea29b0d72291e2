package sim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// txnKey names a transaction as journals do.
type txnKey struct {
	producer int64
	number   int64
}

// truth is what became of a transaction, by the rows of its coordinator.
type truth struct {
	id       string
	enlisted map[tiering.TopicPartition]int64 // partitions, by the revision at which they joined
	groups   map[string]int64
	decided  int64 // revision of the decision, 0: none
	commit   bool
	client   *clientTxn // whose batches and offsets are in it
}

// txnRow is a transactional id's row, read without the code that wrote it; see the format in
// agent/txn.
type txnRow struct {
	status     byte // 0 empty, 1 ongoing, 2 and 3 prepared, 4 and 5 complete; odd ones above 1: abort
	producer   int64
	epoch      int64
	number     int64
	partitions []tiering.TopicPartition
	groups     []string
}

func (r *txnRow) prepared() bool { return r.status == 2 || r.status == 3 }
func (r *txnRow) complete() bool { return r.status >= 4 }
func (r *txnRow) commits() bool  { return r.status%2 == 0 && r.status > 1 }

// identityAt is who a transactional id's producer was from a revision on.
type identityAt struct {
	revision int64
	producer int64
	epoch    int64
}

// auditedTxns is what is known of all transactions.
type auditedTxns struct {
	rows       map[string]*txnRow
	identities map[string][]identityAt
	owners     map[int64]string // of producer ids
	truths     map[txnKey]*truth
}

func newAuditedTxns() auditedTxns {
	return auditedTxns{rows: map[string]*txnRow{}, identities: map[string][]identityAt{}, owners: map[int64]string{}, truths: map[txnKey]*truth{}}
}

func decodeTxnRow(b []byte) (r txnRow, err error) {
	if len(b) < 3 || b[0] != 1 {
		return r, fmt.Errorf("row %x is not of version 1", b)
	}
	r.status = b[1]
	in := bytes.NewReader(b[3:])
	signed := func() int64 {
		v, e := binary.ReadVarint(in)
		err = firstError(err, e)
		return v
	}
	unsigned := func() uint64 {
		v, e := binary.ReadUvarint(in)
		err = firstError(err, e)
		return min(v, uint64(len(b)))
	}
	r.producer = signed()
	_, _ = signed(), signed() // producer ids before and after
	r.epoch = signed()
	_, _ = signed(), signed() // epoch before, timeout
	r.number = signed()
	_, _ = signed(), signed() // times
	for range unsigned() {
		var tp tiering.TopicPartition
		_, e := in.Read(tp.Topic[:])
		err = firstError(err, e)
		for range unsigned() {
			tp.Partition = int32(unsigned())
			unsigned() // the shard
			r.partitions = append(r.partitions, tp)
		}
	}
	for range unsigned() {
		name := make([]byte, unsigned())
		_, e := in.Read(name)
		err = firstError(err, e)
		unsigned() // the shard
		r.groups = append(r.groups, string(name))
	}
	return r, err
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// coordinated replays what coordinators wrote in a record that has been applied.
func (a *auditor) coordinated(s *auditedShard, r shard.Record, revision int64) {
	for _, c := range r.Changes {
		switch c := c.(type) {
		case shard.PutRows:
			if c.Space == shard.Transactions && len(c.Rows) == 1 {
				a.txnRow(c.Name, c.Rows[0].Value, revision)
			}
		case shard.CommitOffsets:
			a.groupCommit(c, revision)
		case shard.ConcludeOffsets:
			a.groupConclude(c, revision)
		case shard.DeleteOffsets, shard.DropGroup:
			a.w.fail("offsets", nil, "%T at revision %d, which nobody asked for", c, revision)
		}
	}
	a.compareGroups(s, r, revision)
}

// txnRow takes the new row of a transactional id.
func (a *auditor) txnRow(id string, value []byte, revision int64) {
	t := &a.txns
	row, err := decodeTxnRow(value)
	if err != nil {
		a.w.fail("transactions", nil, "%s: %v", id, err)
		return
	}
	before := t.rows[id]
	if before == nil {
		before = &txnRow{producer: -1}
	}
	t.rows[id] = &row
	a.w.history.add("auditor", "txn row", nil, "%s status %d producer %d epoch %d number %d r%d", id, row.status, row.producer, row.epoch, row.number, revision)
	owner, known := t.owners[row.producer]
	switch {
	case known && owner != id, known && row.producer != before.producer:
		a.w.fail("epochs", nil, "%s: producer id %d was given to %s before", id, row.producer, owner)
	case row.producer == before.producer && row.epoch < before.epoch:
		a.w.fail("epochs", nil, "%s: epoch went from %d to %d at revision %d", id, before.epoch, row.epoch, revision)
	case row.number < before.number || row.number > before.number+1:
		a.w.fail("one decision", nil, "%s: transaction %d follows %d at revision %d", id, row.number, before.number, revision)
	case row.number > before.number && before.status == 1:
		a.w.fail("one decision", nil, "%s: transaction %d begins at revision %d before %d has ended (status %d)", id, row.number, revision, before.number, before.status)
	case row.number == before.number && before.status == 1 && (row.complete() || row.status == 0):
		a.w.fail("one decision", nil, "%s: transaction %d went from open to status %d at revision %d, without a decision", id, row.number, row.status, revision)
	}
	t.owners[row.producer] = id
	t.identities[id] = append(t.identities[id], identityAt{revision, row.producer, row.epoch})
	if row.number > 0 {
		a.transition(id, before, &row, revision)
	}
}

// truth returns what is known of a transaction.
func (a *auditor) truth(k txnKey) *truth {
	t := a.txns.truths[k]
	if t == nil {
		t = &truth{enlisted: map[tiering.TopicPartition]int64{}, groups: map[string]int64{}}
		a.txns.truths[k] = t
	}
	return t
}

// transition notes who takes part, what was decided and that it is done.
func (a *auditor) transition(id string, before, row *txnRow, revision int64) {
	// A step that completes a transaction may serve who waited for that, too.
	if before.prepared() && (!row.prepared() || row.number > before.number) {
		k := txnKey{before.producer, before.number}
		t := a.truth(k)
		if row.complete() && row.number == before.number && row.epoch == before.epoch && t.commit != row.commits() {
			a.w.fail("one decision", nil, "%s: what was decided about transaction %d (commit: %v) has changed at revision %d", id, row.number, t.commit, revision)
		}
		a.concluded(id, k, t, revision)
	}
	if row.status != 1 && !row.prepared() {
		return
	}
	t := a.truth(txnKey{row.producer, row.number})
	t.id = id
	for _, tp := range row.partitions {
		if _, ok := t.enlisted[tp]; !ok {
			t.enlisted[tp] = revision
		}
	}
	for _, g := range row.groups {
		if _, ok := t.groups[g]; !ok {
			t.groups[g] = revision
		}
	}
	switch {
	case row.status == 1 && t.decided > 0:
		a.w.fail("one decision", nil, "%s: transaction %d is open again at revision %d", id, row.number, revision)
	case row.prepared() && t.decided == 0:
		t.decided, t.commit = revision, row.commits()
	case row.prepared() && t.commit != row.commits():
		a.w.fail("one decision", nil, "%s: what was decided about transaction %d (commit: %v) has changed at revision %d", id, row.number, t.commit, revision)
	}
}

// concluded demands that a transaction that is said to be complete has ended everywhere.
func (a *auditor) concluded(id string, k txnKey, t *truth, revision int64) {
	for tp := range t.enlisted {
		part := a.w.find(tp)
		if part.gone.Load() {
			continue
		}
		if log := a.logs[tp]; log == nil || log.ends[k].revision == 0 {
			a.w.fail("torn transaction", part, "%s: transaction %d is complete at revision %d and has no marker", id, k.number, revision)
		}
	}
	for g := range t.groups {
		if a.group(g).ended[k.producer] < k.number {
			a.w.fail("torn transaction", nil, "%s: transaction %d is complete at revision %d and not concluded in group %s", id, k.number, revision, g)
		}
	}
}

// follows checks that the end of a transaction somewhere is what was decided before.
func (a *auditor) follows(where string, part *partition, k txnKey, commit bool, revision int64) {
	t := a.txns.truths[k]
	switch {
	case t == nil || t.decided == 0 || t.decided >= revision:
		a.w.fail("one decision", part, "transaction %d of producer %d ends in %s at revision %d, before it was decided", k.number, k.producer, where, revision)
	case t.commit != commit:
		a.w.fail("torn transaction", part, "transaction %d of producer %d (%s) ends in %s at revision %d with commit: %v, it was decided otherwise", k.number, k.producer, t.id, where, revision, commit)
	}
}

// transactional notes what a batch that was committed to a partition has to do with transactions.
func (a *auditor) transactional(part *partition, log *auditedLog, b *committed, marks map[tiering.Offset]shard.Mark, numbers map[tiering.Offset]int64) {
	if b.control {
		m, ok := marks[b.base]
		k := txnKey{m.Transaction.ProducerID, m.Transaction.Number}
		switch {
		case !ok || b.producer != m.Transaction.ProducerID || b.commit != m.Commit:
			a.w.fail("one decision", part, "offset %d holds a marker of producer %d (commit: %v) that no record speaks of", b.base, b.producer, b.commit)
			return
		case log.ends[k].revision != 0:
			a.w.fail("one decision", part, "transaction %d of producer %d ends a second time at offset %d", k.number, k.producer, b.base)
		}
		a.follows(part.name, part, k, m.Commit, b.revision)
		b.key = k
		if first, open := log.open[k.producer]; open && !m.Commit {
			log.aborts = append(log.aborts, auditedAbort{AbortedTransaction: shard.AbortedTransaction{ProducerID: k.producer, First: first, Last: b.base}})
		}
		log.ends[k] = txnEnd{b.revision, m.Commit}
		log.ended[k.producer] = max(log.ended[k.producer], k.number)
		delete(log.open, k.producer)
		return
	}
	if !b.transactional {
		return
	}
	b.key = txnKey{b.producer, numbers[b.base]}
	t := a.txns.truths[b.key]
	client := a.w.txnOf(b.digest)
	switch _, in := t.partition(part.TopicPartition); {
	case b.key.number == 0:
		a.w.fail("verification", part, "offset %d holds a batch of no transaction in particular", b.base)
		return
	case b.key.number <= log.ended[b.producer]:
		a.w.fail("late batch", part, "offset %d holds a batch of transaction %d of producer %d, which has ended here", b.base, b.key.number, b.producer)
	case !in:
		a.w.fail("verification", part, "offset %d holds a batch of transaction %d of producer %d, which this partition is not part of", b.base, b.key.number, b.producer)
	case t.client != nil && t.client != client:
		a.w.fail("zombie", part, "offset %d holds a batch of %s in transaction %d of producer %d, which is %s", b.base, client.describe(), b.key.number, b.producer, t.client.describe())
	}
	if t != nil && t.client == nil {
		t.client = client
	}
	if _, ok := log.open[b.producer]; !ok {
		log.open[b.producer] = b.base
	}
}

func (t *truth) partition(tp tiering.TopicPartition) (int64, bool) {
	if t == nil {
		return 0, false
	}
	revision, ok := t.enlisted[tp]
	return revision, ok
}

// stable returns the last stable offset of a log that ends at next.
func (l *auditedLog) stable(next tiering.Offset) tiering.Offset {
	for _, first := range l.open {
		next = min(next, first)
	}
	return next
}

// unfinished returns the transactions that are open or prepared.
func (a *auditor) unfinished() (out []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, row := range a.txns.rows {
		if row.status == 1 || row.prepared() {
			out = append(out, fmt.Sprintf("%s: transaction %d has status %d", id, row.number, row.status))
		}
	}
	for tp, log := range a.logs {
		if part := a.w.find(tp); len(log.open) > 0 && !part.gone.Load() {
			out = append(out, fmt.Sprintf("%s: %v", part.name, log.open))
		}
	}
	for name, g := range a.groups {
		if len(g.pending) > 0 {
			out = append(out, "group "+name)
		}
	}
	slices.Sort(out)
	return out
}
