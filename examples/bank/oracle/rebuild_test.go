package oracle_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	zombiezen "zombiezen.com/go/sqlite"
)

// ledger is the answer of ledger.
type ledger struct {
	ID         string     `json:"id"`
	Key        string     `json:"key"`
	Status     string     `json:"status"`
	N          int64      `json:"n"`
	Duplicates int64      `json:"duplicates"`
	Conflicts  int64      `json:"conflicts"`
	Deliveries []delivery `json:"deliveries"`
}

type delivery struct {
	Position string `json:"position"`
	Time     string `json:"time"`
	Outcome  string `json:"outcome"`
}

// offset returns the delivery's place in the inbox.
func (d delivery) offset(t *testing.T) int64 {
	t.Helper()
	n, err := strconv.ParseInt(d.Position[strings.LastIndexByte(d.Position, ':')+1:], 10, 64)
	must(t, err)
	return n
}

// ledgers asks for some messages.
func ledgers(t *testing.T, path string, ids []string) (all []ledger) {
	t.Helper()
	for _, id := range ids {
		all = append(all, answer[ledger](t, here(t, "ledger", id, "--db", path, "--json")))
	}
	return all
}

// someIDs chooses messages, among them some that were delivered again at the very end.
func someIDs(t *testing.T, path string, rng *rand.Rand) (ids []string) {
	t.Helper()
	all := get(t, transactions)
	for range 15 {
		ids = append(ids, all[rng.IntN(len(all))].ID().String())
	}
	sql(t, path, "SELECT lower(hex(key)) FROM deja_repeats ORDER BY last DESC LIMIT 5", func(st *zombiezen.Stmt) {
		ids = append(ids, st.ColumnText(0))
	})
	return ids
}

// dropStore drops what the store has, with the projection's table; it leaves the file's own tables and the log's.
func dropStore(t *testing.T, path string) {
	t.Helper()
	var names []string
	sql(t, path, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT IN ('deja_file', 'deja_topics')
		AND name NOT LIKE 'deja\_log\_%' ESCAPE '\' AND name NOT LIKE 'sqlite\_%' ESCAPE '\'`, func(st *zombiezen.Stmt) {
		names = append(names, st.ColumnText(0))
	})
	for _, want := range []string{"bank_statement", "deja_lease", "deja_ledger", "deja_states"} {
		if !slices.Contains(names, want) {
			t.Fatalf("there is no %s to drop: %q", want, names)
		}
	}
	for _, name := range names {
		sql(t, path, `DROP TABLE "`+name+`"`, nil)
	}
}

// rebuiltAnswer is the answer of rebuild.
type rebuiltAnswer struct {
	Messages  int64   `json:"messages"`
	Before    string  `json:"state_hash_before"`
	StateHash string  `json:"state_hash"`
	Seconds   float64 `json:"seconds"`
}

func TestALostStoreIsMadeAgainByRebuild(t *testing.T) {
	t.Parallel()
	o, rng, f := shipped(t), newRand(t), get(t, messy)
	path := copyOf(t, f)
	ids := someIDs(t, path, rng)
	before, states := ledgers(t, path, ids), ok(t, here(t, "state", "account/*", "--db", path, "--json"))
	dropStore(t, path)
	got := answer[rebuiltAnswer](t, bank(t, "rebuild", "--db", path, "--json"))
	if got.Messages != messages || got.StateHash != f.got.StateHash || got.Before == got.StateHash {
		t.Errorf("rebuild: %+v, want the hash %s", got, f.got.StateHash)
	}
	if again := ok(t, here(t, "state", "account/*", "--db", path, "--json")); again != states {
		t.Errorf("the states' answers are other ones")
	}
	wantStatement(t, path, o, messages)

	// Repeats behind the last decision are no part of what is folded: the service counts them when it runs next.
	var handled int64
	sql(t, path, "SELECT position FROM deja_lease", func(st *zombiezen.Stmt) { handled = st.ColumnInt64(0) })
	for i, l := range ledgers(t, path, ids) {
		want := before[i]
		want.Deliveries = slices.DeleteFunc(slices.Clone(want.Deliveries), func(d delivery) bool { return d.offset(t) >= handled })
		want.Duplicates = int64(len(want.Deliveries) - 1)
		if fmt.Sprint(l) != fmt.Sprint(want) {
			t.Errorf("ledger after rebuild: %+v, want %+v", l, want)
		}
	}
	_, end := serve(t, path)
	settled(t, path)
	end(os.Interrupt)
	if after := ledgers(t, path, ids); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("ledger after the service ran: %+v, was %+v", after, before)
	}
	wantWhole(t, path, o)
}

// settled waits until all messages are handled.
func settled(t *testing.T, path string) {
	t.Helper()
	await(t, "the service to settle", func() bool {
		var s struct {
			Lag int64 `json:"lag"`
		}
		must(t, json.Unmarshal([]byte(ok(t, here(t, "stats", "--db", path, "--json"))), &s))
		return s.Lag == 0
	})
}

func TestALostStoreIsMadeAgainByTheServiceItself(t *testing.T) {
	t.Parallel()
	o, rng, f := shipped(t), newRand(t), get(t, messy)
	path := copyOf(t, f)
	ids := someIDs(t, path, rng)
	before, states := ledgers(t, path, ids), ok(t, here(t, "state", "account/*", "--db", path, "--json"))
	dropStore(t, path)
	want := imported{Messages: messages, Duplicates: messages, StateHash: f.got.StateHash}
	if got := answer[imported](t, bank(t, "import", "--db", path, "--json")).counts(); got != want {
		t.Errorf("import: %+v, want %+v", got, want)
	}
	if again := ok(t, here(t, "state", "account/*", "--db", path, "--json")); again != states {
		t.Errorf("the states' answers are other ones")
	}
	for i, l := range ledgers(t, path, ids) {
		n := len(before[i].Deliveries)
		if len(l.Deliveries) != n+1 || l.Deliveries[n].Outcome != "duplicate" || l.Duplicates != before[i].Duplicates+1 {
			t.Errorf("ledger: %+v, was %+v, and it came once more", l, before[i])
			continue
		}
		l.Deliveries, l.Duplicates = l.Deliveries[:n], l.Duplicates-1
		if fmt.Sprint(l) != fmt.Sprint(before[i]) {
			t.Errorf("ledger: %+v, was %+v", l, before[i])
		}
	}
	wantWhole(t, path, o)
}
