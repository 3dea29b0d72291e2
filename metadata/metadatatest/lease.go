package metadatatest

import (
	"time"

	"github.com/floelog/floe/metadata"
)

func (e *env) grant(ttl time.Duration) metadata.LeaseID {
	e.Helper()
	lease, err := e.Grant(e.ctx, ttl)
	if err != nil {
		e.Fatalf("grant: %v", err)
	}
	if lease == 0 {
		e.Fatal("grant returned lease 0, which is none")
	}
	return lease
}

// untilDeleted waits for the next event, a deletion of n keys in one revision.
func (w *watching) untilDeleted(n int) {
	w.e.Helper()
	for {
		b := w.next()
		if b.Err != nil {
			w.e.Fatal(b.Err)
		}
		w.check(b)
		if len(b.Events) == 0 {
			continue
		}
		for _, ev := range b.Events {
			if !ev.Deleted || ev.Revision != b.Events[0].Revision {
				w.e.Errorf("event %+v, want deletions in revision %d", ev, b.Events[0].Revision)
			}
		}
		if len(b.Events) != n {
			w.e.Errorf("%d keys deleted together, want %d", len(b.Events), n)
		}
		return
	}
}

func testLeaseExpires(e *env) {
	start := time.Now()
	lease := e.grant(e.ttl)
	res := e.apply(
		metadata.PutLeased(e.key("a"), []byte("1"), lease),
		metadata.PutLeased(e.key("b"), []byte("2"), lease),
		metadata.Put(e.key("c"), []byte("3")))
	e.want(e.key("a"), "1")
	w := e.watch(e.prefix, res.Revision+1)
	w.untilDeleted(2)
	if lived := time.Since(start); lived < e.ttl {
		e.Errorf("lease of %v lived for %v", e.ttl, lived)
	}
	e.want(e.key("a"), "-", e.key("b"), "-", e.key("c"), "3")
	e.wantErr("keep alive after expiry", e.KeepAlive(e.ctx, lease), metadata.ErrLeaseLost)
}

func testLeaseRenewed(e *env) {
	lease := e.grant(e.ttl)
	res := e.apply(metadata.PutLeased(e.key("a"), []byte("1"), lease))
	w := e.watch(e.prefix, res.Revision+1)
	var renewed time.Time
	tick := time.NewTicker(e.ttl / 3)
	defer tick.Stop()
	for begin := time.Now(); time.Since(begin) < 2*e.ttl; <-tick.C {
		renewed = time.Now()
		if err := e.KeepAlive(e.ctx, lease); err != nil {
			e.Fatalf("keep alive: %v", err)
		}
		e.want(e.key("a"), "1")
	}
	w.untilDeleted(1)
	if lived := time.Since(renewed); lived < e.ttl {
		e.Errorf("lease of %v lived for %v after its renewal", e.ttl, lived)
	}
}

func testLeaseRevoked(e *env) {
	lease, other := e.grant(time.Hour), e.grant(time.Hour)
	res := e.apply(
		metadata.PutLeased(e.key("a"), []byte("1"), lease),
		metadata.PutLeased(e.key("b"), []byte("2"), lease),
		metadata.PutLeased(e.key("c"), []byte("3"), other))
	w := e.watch(e.prefix, res.Revision+1)
	for range 2 {
		if err := e.Revoke(e.ctx, lease); err != nil {
			e.Errorf("revoke: %v", err)
		}
	}
	w.untilDeleted(2)
	e.want(e.key("a"), "-", e.key("b"), "-", e.key("c"), "3")
	e.wantErr("keep alive after revocation", e.KeepAlive(e.ctx, lease), metadata.ErrLeaseLost)
	if err := e.Revoke(e.ctx, other); err != nil {
		e.Errorf("revoke: %v", err)
	}
}

// testLeaseRebound checks that a key lives and dies with the lease of its last put.
func testLeaseRebound(e *env) {
	first, second := e.grant(time.Hour), e.grant(time.Hour)
	free, moved, again := e.key("free"), e.key("moved"), e.key("again")
	e.apply(metadata.PutLeased(free, nil, first), metadata.PutLeased(moved, nil, first), metadata.PutLeased(again, nil, first))
	e.apply(metadata.Put(free, []byte("1")), metadata.PutLeased(moved, []byte("2"), second), metadata.Delete(again))
	e.put(again, "3")
	if err := e.Revoke(e.ctx, first); err != nil {
		e.Fatal(err)
	}
	e.want(free, "1", moved, "2", again, "3")
	if err := e.Revoke(e.ctx, second); err != nil {
		e.Fatal(err)
	}
	e.want(free, "1", moved, "-", again, "3")
}

func testLeaseLost(e *env) {
	const unknown = metadata.LeaseID(0x7fffffff12345)
	e.wantErr("keep alive of an unknown lease", e.KeepAlive(e.ctx, unknown), metadata.ErrLeaseLost)
	if err := e.Revoke(e.ctx, unknown); err != nil {
		e.Errorf("revoke of an unknown lease: %v", err)
	}
	_, err := e.Txn(e.ctx, metadata.Txn{Then: []metadata.Op{
		metadata.Put(e.key("a"), nil), metadata.PutLeased(e.key("b"), nil, unknown),
	}})
	e.wantErr("put with an unknown lease", err, metadata.ErrLeaseLost)
	e.want(e.key("a"), "-", e.key("b"), "-")
	if _, err := e.Grant(e.ctx, 0); err == nil {
		e.Error("grant of no time succeeded")
	}
}
