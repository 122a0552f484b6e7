package sqlite_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/sqlite"
)

// of returns an assignment to partition 0 of a service's topics.
func of(t testing.TB, db *sqlite.DB, service string, tables ...deja.TableDef) driver.Assignment {
	t.Helper()
	a := driver.Assignment{Tables: tables}
	var err error
	a.Inbox, err = db.Log().Topic(t.Context(), service+".inbox")
	must(t, err)
	a.Journal, err = db.Log().Topic(t.Context(), service+".journal")
	must(t, err)
	return a
}

// decide writes a decision with a state in a store.
func decide(t testing.TB, db *sqlite.DB, store driver.Store, service string, tables ...deja.TableDef) driver.Lease {
	t.Helper()
	l, err := store.Acquire(t.Context(), of(t, db, service, tables...))
	must(t, err)
	tx, err := store.Begin(t.Context(), l)
	must(t, err)
	to := after(l.Progress)
	to.Incarnation = driver.Incarnation{Number: l.Epoch}
	must(t, tx.Write(t.Context(), &driver.Batch{
		Records: []driver.JournalRecord{{N: to.N, Value: []byte(service)}},
		Ledger:  []driver.Entry{{Key: id(int(to.N)), N: to.N, Status: deja.Applied}},
		States:  []driver.State{{Stream: deja.Stream{Aggregate: "a", Key: "1"}, Version: to.N, Data: []byte(service)}},
	}))
	must(t, tx.Advance(t.Context(), l.Progress, to))
	must(t, tx.Commit(t.Context()))
	l.Progress = to
	return l
}

// holds fails the test unless a store is at decision n of a service.
func holds(t testing.TB, store driver.Store, service string, n int64) {
	t.Helper()
	p, err := store.Progress(t.Context(), 0)
	must(t, err)
	ss, err := store.States(t.Context(), deja.Stream{}, 9)
	must(t, err)
	es, err := store.Find(t.Context(), id(0), id(1000), 9)
	must(t, err)
	if p.N != n || int64(len(es)) != n || n > 0 && (len(ss) != 1 || string(ss[0].Data) != service) || n == 0 && len(ss) > 0 {
		t.Fatalf("the store of %s is at %d with %d entries and states %+v, want %d", service, p.N, len(es), ss, n)
	}
}

func stores(t testing.TB, db *sqlite.DB) []string {
	t.Helper()
	names, err := db.Stores(t.Context())
	must(t, err)
	return names
}

// wantText fails the test unless an error's text has all the words.
func wantText(t testing.TB, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Fatalf("error %v says nothing of %q", err, w)
		}
	}
}

func TestStoresOfServices(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	services := []string{"-", "_", "a", "a-b", "a.b", "a_b", "aa", "lease", "states"}
	for i, s := range services {
		for range i + 1 {
			decide(t, db, db.StoreOf(s), s)
		}
	}
	decide(t, db, db.Store(), "none")
	look := func(db *sqlite.DB) {
		t.Helper()
		for i, s := range services {
			holds(t, db.StoreOf(s), s, int64(i+1))
		}
		holds(t, db.Store(), "none", 1)
		if got := stores(t, db); !slices.Equal(got, services) {
			t.Fatalf("stores of %q, want %q", got, services)
		}
	}
	look(db)
	reader, err := sqlite.OpenReadOnly(t.Context(), path)
	must(t, err)
	look(reader)
	must(t, reader.Close())
	must(t, db.Close())
	db = open(t, path)
	look(db)
	must(t, db.Close())

	// A copy is adopted with all its stores.
	to := newPath(t)
	copyFile(t, path, to)
	must(t, sqlite.Adopt(t.Context(), to))
	db = open(t, to)
	look(db)
	for _, s := range services {
		for _, copied := range []bool{true, false} {
			l, err := db.StoreOf(s).Acquire(t.Context(), of(t, db, s))
			must(t, err)
			if l.Copied != copied {
				t.Errorf("the store of %s is copied: %v", s, l.Copied)
			}
			decide(t, db, db.StoreOf(s), s)
		}
	}
}

// A store that was asked for is not there until it is bound to its service's topics.
func TestStoreOfNobody(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	holds(t, db.StoreOf("shop"), "shop", 0)
	if got := stores(t, db); len(got) > 0 {
		t.Errorf("stores of %q", got)
	}
	for _, name := range []string{"Shop", "a b", "a@b", ".a", "a.", "ü", `"`, strings.Repeat("a", 200)} {
		_, err := db.StoreOf(name).Acquire(t.Context(), of(t, db, "shop"))
		wantErr(t, err, driver.ErrUnusable)
		wantText(t, err, "want the name of a service")
	}
	must(t, db.Close())
	reader, err := sqlite.OpenReadOnly(t.Context(), path)
	must(t, err)
	defer func() { must(t, reader.Close()) }()
	_, err = reader.StoreOf("bank").Progress(t.Context(), 0)
	wantErr(t, err, sqlite.ErrNoStore)
	wantText(t, err, `the store of "bank"`, path)
	holds(t, reader.Store(), "none", 0)
}

// Two stores that worked on the same topics would decide every message twice.
func TestOneStoreForAService(t *testing.T) {
	db := open(t, newPath(t))
	decide(t, db, db.Store(), "bank")
	decide(t, db, db.StoreOf("shop"), "shop")
	for _, c := range []struct {
		store   driver.Store
		service string
		words   []string
	}{
		{db.StoreOf("bank"), "bank", []string{`"bank.inbox"`, "the store without a name", "go on with DB.Store()"}},
		{db.StoreOf("bank2"), "shop", []string{`"shop.inbox"`, `the store of "shop"`, `go on with DB.StoreOf("shop")`}},
	} {
		_, err := c.store.Acquire(t.Context(), of(t, db, c.service))
		wantErr(t, err, driver.ErrUnusable)
		wantText(t, err, c.words...)
	}
	_, err := db.Store().Acquire(t.Context(), of(t, db, "third"))
	wantErr(t, err, driver.ErrIdentity)
	wantText(t, err, `bound to inbox "bank.inbox", not "third.inbox"`, "DB.StoreOf")
	if got := stores(t, db); !slices.Equal(got, []string{"shop"}) {
		t.Errorf("stores of %q", got)
	}
	decide(t, db, db.Store(), "bank")
	holds(t, db.Store(), "bank", 2)
	holds(t, db.StoreOf("shop"), "shop", 1)

	other := open(t, newPath(t)) // and the other way about
	decide(t, other, other.StoreOf("bank"), "bank")
	_, err = other.Store().Acquire(t.Context(), of(t, other, "bank"))
	wantErr(t, err, driver.ErrUnusable)
	wantText(t, err, `go on with DB.StoreOf("bank")`)
}

func TestTablesOfTwoServices(t *testing.T) {
	db := open(t, newPath(t))
	bank, shop := db.StoreOf("bank"), db.StoreOf("shop")
	decide(t, db, bank, "bank", deja.TableDef{Name: "Rows", DDL: "CREATE TABLE Rows (x)"})
	_, err := shop.Acquire(t.Context(), of(t, db, "shop", deja.TableDef{Name: "rows", DDL: "CREATE TABLE rows (x)"}))
	wantErr(t, err, driver.ErrUnusable)
	wantText(t, err, `"rows"`, `the store of "bank"`, `the store of "shop"`, "another name")
	_, err = shop.Acquire(t.Context(), of(t, db, "shop", deja.TableDef{Name: "goods", DDL: "CREATE TABLE goods AS SELECT x FROM rows"}))
	wantText(t, err, "not allowed")
	l := decide(t, db, shop, "shop", deja.TableDef{Name: "goods", DDL: "CREATE TABLE goods (x)"})

	project := func(store driver.Store, l driver.Lease, sql string) error {
		tx, err := store.Begin(t.Context(), l)
		must(t, err)
		defer func() { must(t, tx.Rollback(t.Context())) }()
		tx.SQL().Queue(sql)
		return tx.Advance(t.Context(), l.Progress, after(l.Progress))
	}
	for _, sql := range []string{
		"INSERT INTO rows VALUES (1)", "INSERT INTO goods SELECT x FROM rows", "SELECT count(*) FROM Rows", "DELETE FROM rows",
	} {
		owner, err := bank.Acquire(t.Context(), of(t, db, "bank"))
		must(t, err)
		if !strings.Contains(sql, "goods") { // whose statement, once it is compiled, is nobody else's
			must(t, project(bank, owner, sql))
		}
		if err := project(shop, l, sql); err == nil || !strings.Contains(err.Error(), "not allowed") {
			t.Errorf("%s: error %v", sql, err)
		}
	}
	must(t, project(shop, l, "INSERT INTO goods VALUES (1)"))

	// Emptying one leaves the tables of the other.
	must(t, shop.Reset(t.Context(), l))
	must(t, db.Exec("SELECT x FROM rows"))
	holds(t, shop, "shop", 0)
	holds(t, bank, "bank", 1)
}

func TestLostTablesOfOneStore(t *testing.T) {
	for _, lost := range []string{"binding", "lease", "ledger", "ledger_1", "ledger_parked", "states", "parked", "repeats", "tables"} {
		path := newPath(t)
		db := open(t, path)
		l := decide(t, db, db.StoreOf("a.b"), "a.b", deja.TableDef{Name: "mine", DDL: "CREATE TABLE mine (x)"})
		decide(t, db, db.StoreOf("a"), "a", deja.TableDef{Name: "yours", DDL: "CREATE TABLE yours (x)"})
		decide(t, db, db.Store(), "none")
		must(t, db.Close())
		tamper(t, path, `DROP TABLE "deja_`+lost+`@a.b"`)

		reader, err := sqlite.OpenReadOnly(t.Context(), path)
		must(t, err)
		_, err = reader.StoreOf("a.b").Progress(t.Context(), 0)
		wantErr(t, err, sqlite.ErrNoStore)
		wantText(t, err, "deja_"+lost+"@a.b")
		holds(t, reader.StoreOf("a"), "a", 1)
		must(t, reader.Close())

		db = open(t, path)
		holds(t, db.StoreOf("a.b"), "a.b", 0)
		holds(t, db.StoreOf("a"), "a", 1)
		holds(t, db.Store(), "none", 1)
		again, err := db.StoreOf("a.b").Acquire(t.Context(), of(t, db, "a.b", l.Tables...))
		must(t, err)
		if lost != "lease" && again.Epoch <= l.Epoch {
			t.Errorf("without %s: epoch %d after %d", lost, again.Epoch, l.Epoch)
		}
		must(t, db.Exec("SELECT x FROM mine"))
		must(t, db.Exec("SELECT x FROM yours"))
		must(t, db.Close())
	}
}
