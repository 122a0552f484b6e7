package oracle_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	zombiezen "zombiezen.com/go/sqlite"
)

// inboxTable and journalTable are the tables of the two topics.
const inboxTable, journalTable = "deja_log_1", "deja_log_2"

// tamper changes the first digit of the amount that a record of the log has, and nothing else.
func tamper(t *testing.T, path, table string, offset int64) {
	t.Helper()
	var value []byte
	sql(t, path, "SELECT value FROM "+table+" WHERE offset = ?", func(st *zombiezen.Stmt) {
		value = make([]byte, st.ColumnLen(0))
		st.ColumnBytes(0, value)
	}, offset)
	name := []byte(`"amount":`)
	i := bytes.Index(value, name) + len(name)
	if i < len(name) {
		t.Fatalf("no amount in %q", value)
	}
	if value[i]++; value[i] > '9' {
		value[i] = '1'
	}
	sql(t, path, "DROP TRIGGER "+table+"_UPDATE", nil)
	sql(t, path, "UPDATE "+table+" SET value = ? WHERE offset = ?", nil, value, offset)
}

// wantNo checks that a command found something, and named it.
func wantNo(t *testing.T, r reply, codes []int, names ...string) {
	t.Helper()
	found := false
	for _, name := range names {
		found = found || strings.Contains(r.err, name)
	}
	for _, code := range codes {
		if r.code == code && found {
			return
		}
	}
	t.Errorf("%s; want exit code %d, and one of %q named", r, codes, names)
}

func TestVerifyFindsWhatWasTamperedWith(t *testing.T) {
	t.Parallel()
	rng, f := newRand(t), get(t, plain)
	ids := get(t, transactions)
	middle := 1 + rng.Int64N(messages-2)
	for _, c := range []struct {
		table  string
		offset int64
	}{{journalTable, 0}, {journalTable, middle}, {journalTable, messages - 1}, {inboxTable, middle}} {
		t.Run(fmt.Sprintf("%s at %d", c.table, c.offset), func(t *testing.T) {
			t.Parallel()
			path := copyOf(t, f)
			tamper(t, path, c.table, c.offset)
			verify := []string{"verify", "--procs", "2", "--db", path, "--json"}
			id := ids[c.offset].ID().String()
			wantNo(t, bank(t, verify...), []int{1}, id)
			if c.table == inboxTable {
				return
			}
			// Another build does not judge the decision, but reads it.
			wantNo(t, runProgram(get(t, rebuilt), verify...), []int{1, 3}, id, "history forked")
			if c.offset == messages-1 { // no record follows it that knows its hash, but the store does
				wantNo(t, bank(t, "import", "--db", path, "--json"), []int{3}, "history forked")
				return
			}
			wantNo(t, bank(t, "replay", "--db", path), []int{3}, fmt.Sprintf("bank.journal:0:%d", c.offset+1))
			wantNo(t, bank(t, "state", "account/*", "--at", "HEAD", "--db", path), []int{3}, "history forked")
		})
	}
}

func TestVerifyFindsAStateThatWasTamperedWith(t *testing.T) {
	t.Parallel()
	o, f := shipped(t), get(t, plain)
	for name, change := range map[string]string{
		"balance": `data = CAST(replace(CAST(data AS TEXT), '"balance":1', '"balance":2') AS BLOB)`,
		"version": "version = version + 1",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := copyOf(t, f)
			sql(t, path, "UPDATE deja_states SET "+change+" WHERE key = '576'", nil)
			r := bank(t, "verify", "--procs", "2", "--db", path, "--json")
			wantNo(t, r, []int{1}, "rebuild")
			var v verdict
			must(t, r.decode(&v))
			if v.Equal || v.StateHash == f.got.StateHash || v.Judged != messages {
				t.Errorf("verify: %+v", v)
			}
			ok(t, bank(t, "rebuild", "--db", path, "--json"))
			wantWhole(t, path, o)
		})
	}
}

func TestVerifyJudgesOnlyWhatItsOwnBuildDecided(t *testing.T) {
	t.Parallel()
	f := get(t, plain)
	v := answer[verdict](t, bank(t, "verify", "--db", f.path, "--json"))
	if !v.Equal || v.Messages != messages || v.Judged != messages || v.NotJudged != 0 || v.StateHash != f.got.StateHash {
		t.Errorf("the same build: %+v", v)
	}
	v = answer[verdict](t, runProgram(get(t, rebuilt), "verify", "--procs", "2", "--db", f.path, "--json"))
	if !v.Equal || v.Messages != messages || v.Judged != 0 || v.NotJudged != messages || v.StateHash != f.got.StateHash {
		t.Errorf("another build: %+v", v)
	}
}
