package metadatatest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/floelog/floe/metadata"
)

func testTxnConditions(e *env) {
	for _, c := range []struct {
		name  string
		state string // of the key, "-": absent
		cond  func(key string) metadata.Condition
		holds bool
	}{
		{"equals same", "a", equals("a"), true},
		{"equals other", "a", equals("b"), false},
		{"equals prefix", "ab", equals("a"), false},
		{"equals longer", "a", equals("ab"), false},
		{"equals absent", "-", equals("a"), false},
		{"equals empty", "", equals(""), true},
		{"empty equals absent", "-", equals(""), false},
		{"absent absent", "-", metadata.Absent, true},
		{"absent present", "a", metadata.Absent, false},
		{"absent empty", "", metadata.Absent, false},
		{"present present", "a", metadata.Present, true},
		{"present empty", "", metadata.Present, true},
		{"present absent", "-", metadata.Present, false},
	} {
		key, effect := e.key("%s/key", c.name), e.key("%s/effect", c.name)
		// The key exists for a while in any case: a deleted key is as absent as a new one.
		e.put(key, "before")
		e.apply(metadata.Delete(key))
		if c.state != "-" {
			e.put(key, c.state)
		}
		res := e.txn(metadata.Txn{
			If:   []metadata.Condition{c.cond(key)},
			Then: []metadata.Op{metadata.Put(effect, []byte("done"))},
		})
		if res.Succeeded != c.holds {
			e.Errorf("%s: succeeded is %v, want %v", c.name, res.Succeeded, c.holds)
		}
		want := "-"
		if c.holds {
			want = "done"
		}
		e.want(key, c.state, effect, want)
	}
}

func equals(value string) func(string) metadata.Condition {
	return func(key string) metadata.Condition { return metadata.Equals(key, []byte(value)) }
}

func testTxnNeedsAllConditions(e *env) {
	a, b, c, effect := e.key("a"), e.key("b"), e.key("c"), e.key("effect")
	e.apply(metadata.Put(a, []byte("1")), metadata.Put(b, []byte("2")))
	hold := []metadata.Condition{metadata.Equals(a, []byte("1")), metadata.Present(b), metadata.Absent(c)}
	fail := []metadata.Condition{metadata.Equals(a, []byte("x")), metadata.Absent(b), metadata.Present(c)}
	for i := range hold {
		conds := append([]metadata.Condition(nil), hold...)
		conds[i] = fail[i]
		res := e.txn(metadata.Txn{If: conds, Then: []metadata.Op{metadata.Put(effect, nil), metadata.Delete(a)}})
		if res.Succeeded {
			e.Errorf("succeeded although condition %d fails", i)
		}
	}
	e.want(effect, "-", a, "1")
	if res := e.txn(metadata.Txn{If: hold, Then: []metadata.Op{metadata.Put(effect, nil), metadata.Delete(a)}}); !res.Succeeded {
		e.Error("did not succeed although all conditions hold")
	}
	e.want(effect, "", a, "-")
	// Several conditions on one key are compared together.
	res := e.txn(metadata.Txn{If: []metadata.Condition{metadata.Present(b), equals("2")(b)}, Then: []metadata.Op{metadata.Put(b, []byte("3"))}})
	if !res.Succeeded {
		e.Error("did not succeed with two conditions on one key")
	}
	e.want(b, "3")
}

func testTxnOperations(e *env) {
	k := func(i int) string { return e.key("k%d", i) }
	e.apply(metadata.Put(k(0), nil), metadata.Put(k(1), []byte("1")), metadata.Put(k(2), []byte("2")),
		metadata.Put(k(3), []byte("3")), metadata.Put(k(4), []byte("4")))
	e.want(k(0), "", k(1), "1", k(4), "4")
	e.apply(metadata.Put(k(0), []byte("new")), metadata.Delete(k(1)), metadata.Delete(k(9)))
	e.want(k(0), "new", k(1), "-", k(9), "-")
	e.apply(metadata.DeleteRange(k(2), k(4)), metadata.Put(k(5), []byte("5")))
	e.want(k(2), "-", k(3), "-", k(4), "4", k(5), "5")
	e.apply(metadata.DeleteRange(k(4), k(4)), metadata.DeleteRange(k(9), k(0)), metadata.DeleteRange(k(6), k(8)))
	e.want(k(0), "new", k(4), "4", k(5), "5")
	e.apply(metadata.DeleteRange(e.prefix, metadata.PrefixEnd(e.prefix)))
	e.want(k(0), "-", k(4), "-", k(5), "-")
}

func testTxnRevisions(e *env) {
	a, b := e.key("a"), e.key("b")
	before := e.revision()
	res := e.apply(metadata.Put(a, nil), metadata.Put(b, nil))
	if res.Revision <= before {
		e.Errorf("revision %d after %d: did not rise", res.Revision, before)
	}
	for _, kv := range e.get(a, b) {
		if kv.Revision != res.Revision {
			e.Errorf("%s has revision %d, written at %d", kv.Key, kv.Revision, res.Revision)
		}
	}
	next := e.put(a, "same")
	if next <= res.Revision {
		e.Errorf("revision %d after %d: did not rise", next, res.Revision)
	}
	if again := e.put(a, "same"); again <= next {
		e.Errorf("revision %d after %d: did not rise with the same value", again, next)
	}
	if kv := e.get(b)[0]; kv.Revision != res.Revision {
		e.Errorf("%s has revision %d, written at %d", b, kv.Revision, res.Revision)
	}
	failed := e.txn(metadata.Txn{If: []metadata.Condition{metadata.Absent(a)}, Then: []metadata.Op{metadata.Put(b, nil)}})
	if now := e.revision(); failed.Revision > now || failed.Revision < next {
		e.Errorf("failed transaction at revision %d, store is at %d", failed.Revision, now)
	}
}

func testTxnElse(e *env) {
	a, b, c := e.key("a"), e.key("b"), e.key("c")
	revision := e.apply(metadata.Put(a, []byte("1")), metadata.Put(c, nil)).Revision
	txn := metadata.Txn{
		If:   []metadata.Condition{metadata.Absent(a)},
		Then: []metadata.Op{metadata.Put(b, []byte("2"))},
		Else: []string{c, b, a, c},
	}
	res := e.txn(txn)
	want := []metadata.KV{{Key: c, Revision: revision}, {Key: b}, {Key: a, Value: []byte("1"), Revision: revision}, {Key: c, Revision: revision}}
	if res.Succeeded || len(res.Else) != len(want) {
		e.Fatalf("succeeded is %v with %d keys read, want false with %d", res.Succeeded, len(res.Else), len(want))
	}
	for i, kv := range res.Else {
		if kv.Key != want[i].Key || kv.Revision != want[i].Revision || !bytes.Equal(kv.Value, want[i].Value) {
			e.Errorf("read %d is %+v, want %+v", i, kv, want[i])
		}
	}
	txn.If = []metadata.Condition{metadata.Present(a)}
	if res := e.txn(txn); !res.Succeeded || len(res.Else) != 0 {
		e.Errorf("succeeded is %v with %d keys read, want true with none", res.Succeeded, len(res.Else))
	}
}

func testTxnOneWinner(e *env) {
	const writers = 12
	for round := range 5 {
		key := e.key("round%d", round)
		won := make([]bool, writers)
		seen := make([]string, writers)
		e.each(writers, func(i int, s metadata.Store) error {
			me := strconv.Itoa(i)
			res, err := s.Txn(e.ctx, metadata.Txn{
				If:   []metadata.Condition{metadata.Absent(key)},
				Then: []metadata.Op{metadata.Put(key, []byte(me)), metadata.Put(key+"/"+me, nil)},
				Else: []string{key},
			})
			if err != nil {
				return err
			}
			if won[i], seen[i] = res.Succeeded, me; !res.Succeeded {
				seen[i] = string(res.Else[0].Value)
			}
			return nil
		})
		winners := 0
		for i := range writers {
			if won[i] {
				winners++
			}
			if seen[i] != seen[0] {
				e.Errorf("round %d: writer %d saw winner %s, writer 0 saw %s", round, i, seen[i], seen[0])
			}
		}
		page, err := e.Range(e.ctx, key+"/", metadata.PrefixEnd(key+"/"), 0, 0)
		if err != nil {
			e.Fatal(err)
		}
		if winners != 1 || len(page.KVs) != 1 {
			e.Errorf("round %d: %d winners, %d effects, want 1 of each", round, winners, len(page.KVs))
		}
	}
}

func testTxnIncrements(e *env) {
	const writers, increments = 6, 10
	a, b := e.key("a"), e.key("b")
	e.apply(metadata.Put(a, []byte("0")), metadata.Put(b, []byte("0")))
	e.each(writers, func(_ int, s metadata.Store) error {
		value := "0"
		for done := 0; done < increments; {
			n, err := strconv.Atoi(value)
			if err != nil {
				return err
			}
			next := []byte(strconv.Itoa(n + 1))
			res, err := s.Txn(e.ctx, metadata.Txn{
				If:   []metadata.Condition{equals(value)(a), equals(value)(b)},
				Then: []metadata.Op{metadata.Put(a, next), metadata.Put(b, next)},
				Else: []string{a, b},
			})
			switch {
			case err != nil:
				return err
			case res.Succeeded:
				done++
				value = string(next)
			default:
				if value = string(res.Else[0].Value); value != string(res.Else[1].Value) {
					return fmt.Errorf("half a transaction was seen: %v", res.Else)
				}
			}
		}
		return nil
	})
	total := strconv.Itoa(writers * increments)
	e.want(a, total, b, total)
}

func testTxnElseAtOneInstant(e *env) {
	a, b, never := e.key("a"), e.key("b"), e.key("never")
	testOneInstant(e, a, b, func(s metadata.Store) ([]metadata.KV, error) {
		res, err := s.Txn(e.ctx, metadata.Txn{If: []metadata.Condition{metadata.Present(never)}, Else: []string{b, a}})
		return res.Else, err
	})
}

// testOneInstant writes a and b together and checks that read never sees them differ.
func testOneInstant(e *env, a, b string, read func(metadata.Store) ([]metadata.KV, error)) {
	const writes = 60
	e.apply(metadata.Put(a, nil), metadata.Put(b, nil))
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	e.each(4, func(i int, s metadata.Store) error {
		if i == 0 {
			defer cancel()
			for n := range writes {
				v := []byte(strconv.Itoa(n))
				if _, err := s.Txn(e.ctx, metadata.Txn{Then: []metadata.Op{metadata.Put(a, v), metadata.Put(b, v)}}); err != nil {
					return err
				}
			}
			return nil
		}
		for ctx.Err() == nil {
			kvs, err := read(s)
			if err != nil {
				return err
			}
			if !bytes.Equal(kvs[0].Value, kvs[1].Value) || kvs[0].Revision != kvs[1].Revision {
				return fmt.Errorf("half a transaction was seen: %v", kvs)
			}
		}
		return nil
	})
}

func testTxnLimits(e *env) {
	many := metadata.MaxTxnOps + 1
	big := bytes.Repeat([]byte("x"), metadata.MaxTxnBytes)
	k := func(s string) string { return e.key("%s", s) }
	put := func(s string) metadata.Op { return metadata.Put(k(s), nil) }
	for _, c := range []struct {
		name string
		txn  metadata.Txn
	}{
		{"too many operations", metadata.Txn{Then: repeat(many, func(i int) metadata.Op { return put(strconv.Itoa(i)) })}},
		{"too many conditions", metadata.Txn{If: repeat(many, func(i int) metadata.Condition { return metadata.Absent(k(strconv.Itoa(i))) })}},
		{"too many reads", metadata.Txn{Else: repeat(many, func(i int) string { return k(strconv.Itoa(i)) })}},
		{"too large", metadata.Txn{Then: []metadata.Op{metadata.Put(k("big"), big)}}},
		{"too large a condition", metadata.Txn{If: []metadata.Condition{metadata.Equals(k("big"), big)}}},
		{"put twice", metadata.Txn{Then: []metadata.Op{put("a"), put("b"), put("a")}}},
		{"put and delete", metadata.Txn{Then: []metadata.Op{put("a"), put("b"), metadata.Delete(k("a"))}}},
		{"put in deleted range", metadata.Txn{Then: []metadata.Op{put("b"), metadata.DeleteRange(k("a"), k("c"))}}},
		{"put at start of deleted range", metadata.Txn{Then: []metadata.Op{put("a"), metadata.DeleteRange(k("a"), k("c"))}}},
		{"overlapping ranges", metadata.Txn{Then: []metadata.Op{metadata.DeleteRange(k("b"), k("d")), metadata.DeleteRange(k("a"), k("c"))}}},
		{"range in range", metadata.Txn{Then: []metadata.Op{metadata.DeleteRange(k("a"), k("z")), metadata.DeleteRange(k("b"), k("c")), put("d")}}},
		{"empty key", metadata.Txn{Then: []metadata.Op{metadata.Put("", nil)}}},
		{"empty key in condition", metadata.Txn{If: []metadata.Condition{metadata.Absent("")}}},
		{"empty key in read", metadata.Txn{Else: []string{""}}},
		{"unknown condition", metadata.Txn{If: []metadata.Condition{{Key: k("a"), Kind: 77}}}},
		{"put of a range", metadata.Txn{Then: []metadata.Op{{Key: k("a"), End: k("b")}}}},
		{"deletion with a value", metadata.Txn{Then: []metadata.Op{{Key: k("a"), Delete: true, Value: []byte("x")}}}},
	} {
		_, err := e.Txn(e.ctx, c.txn)
		e.wantErr(c.name, err, metadata.ErrInvalid)
	}
	page, err := e.Range(e.ctx, e.prefix, metadata.PrefixEnd(e.prefix), 0, 0)
	if err != nil || len(page.KVs) != 0 {
		e.Errorf("%d keys exist after invalid transactions (%v), want none", len(page.KVs), err)
	}
}

// testTxnAtTheLimits checks that what is just valid works.
func testTxnAtTheLimits(e *env) {
	k := func(i int) string { return e.key("%03d", i) }
	n := metadata.MaxTxnOps
	res := e.txn(metadata.Txn{
		If:   repeat(n, func(i int) metadata.Condition { return metadata.Absent(k(i)) }),
		Then: repeat(n, func(i int) metadata.Op { return metadata.Put(k(i), []byte("x")) }),
		Else: repeat(n, k),
	})
	if !res.Succeeded {
		e.Error("transaction of most operations did not succeed")
	}
	big := k(n)
	e.put(big, strings.Repeat("x", metadata.MaxTxnBytes-len(big)))
	if got := len(e.get(big)[0].Value); got != metadata.MaxTxnBytes-len(big) {
		e.Errorf("largest value came back with %d bytes", got)
	}
	// Neighbours do not overlap: a range does not include its end.
	e.apply(metadata.DeleteRange(k(0), k(2)), metadata.Put(k(2), []byte("y")), metadata.DeleteRange(k(3), k(4)), metadata.Delete(k(4)))
	e.want(k(0), "-", k(1), "-", k(2), "y", k(3), "-", k(4), "-", k(5), "x")
}

func testTxnKeepsNoBuffers(e *env) {
	value := []byte("before")
	e.apply(metadata.Put(e.key("a"), value))
	copy(value, "AFTER!")
	e.want(e.key("a"), "before")
}

func testContextEnded(e *env) {
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	_, txnErr := e.Txn(ctx, metadata.Txn{Then: []metadata.Op{metadata.Put(e.key("a"), nil)}})
	_, _, getErr := e.Get(ctx, e.key("a"))
	_, rangeErr := e.Range(ctx, e.prefix, metadata.PrefixEnd(e.prefix), 0, 0)
	_, grantErr := e.Grant(ctx, e.ttl)
	for what, err := range map[string]error{"txn": txnErr, "get": getErr, "range": rangeErr, "grant": grantErr} {
		e.wantErr(what, err, context.Canceled)
		if errors.Is(err, metadata.ErrInvalid) {
			e.Errorf("%s: unknown outcome called invalid", what)
		}
	}
}

func repeat[T any](n int, f func(i int) T) []T {
	all := make([]T, n)
	for i := range all {
		all[i] = f(i)
	}
	return all
}
