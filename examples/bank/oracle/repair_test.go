package oracle_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	zombiezen "zombiezen.com/go/sqlite"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
	bankaccount "github.com/dejalog/deja/examples/bank/account"
	"github.com/dejalog/deja/examples/bank/service"
	"github.com/dejalog/deja/sqlite"
)

// repairPlan is a plan, as far as it is compared.
type repairPlan struct {
	Keys []struct {
		Key   string `json:"key"`
		Cause struct {
			ID      string `json:"id"`
			Payload struct {
				Transaction int64 `json:"transaction"`
			} `json:"payload"`
		} `json:"cause"`
		Commands []struct {
			ID      string `json:"id"`
			Type    string `json:"type"`
			Payload struct {
				Amount int64 `json:"amount"`
			} `json:"payload"`
		} `json:"commands"`
		Leaves []any `json:"leaves"`
	} `json:"keys"`
	Left []any `json:"left"`
}

// repaired is what became of a command.
type repaired struct {
	Key     string `json:"key"`
	ID      string `json:"id"`
	Type    string `json:"type"`
	Outcome string `json:"outcome"`
	Reason  string `json:"reason"`
	Version int64  `json:"version"`
}

// applied applies a plan, and returns what became of its commands, by key.
func applied(t *testing.T, wantCode int, args ...string) map[string]repaired {
	t.Helper()
	r := bank(t, append([]string{"repair", "apply", "--json"}, args...)...)
	if r.code != wantCode {
		t.Fatal(r)
	}
	all := map[string]repaired{}
	for line := range strings.Lines(r.out) {
		var a repaired
		must(t, json.Unmarshal([]byte(line), &a))
		all[a.Key] = a
	}
	return all
}

func outcomes(all map[string]repaired) map[string]int {
	n := map[string]int{}
	for _, a := range all {
		n[a.Outcome]++
	}
	return n
}

// What a fault led astray is brought to what it should be, by commands that are planned first; applying them twice changes
// nothing, and one whose account has moved on is not sent.
func TestRepair(t *testing.T) {
	t.Parallel()
	o, want, path := shipped(t), stray(t), copyOf(t, get(t, faulty))
	file := filepath.Join(t.TempDir(), "plan.json")
	p := planned(t, want, path, file)
	if r := bank(t, "repair", "plan", "--db", path, "--out", file); r.code != 2 {
		t.Errorf("a plan is overwritten: %s", r)
	}
	moved := p.Keys[3].Key
	deposit(t, path, strings.TrimPrefix(moved, "account/"), 777)

	before := hashOf(t, path)
	first := applied(t, 1, file, "--db", path)
	if n := outcomes(first); n["applied"] != len(p.Keys)-1 || n["moved"] != 1 || first[moved].Outcome != "moved" {
		t.Errorf("applied: %v, %+v", n, first[moved])
	}
	if hashOf(t, path) == before {
		t.Error("nothing changed")
	}
	if n := outcomes(applied(t, 0, file, "--db", path, "--force")); n["applied"] != 1 || n["duplicate"] != len(p.Keys)-1 {
		t.Errorf("by force: %v", n)
	}
	after := hashOf(t, path)
	if n := outcomes(applied(t, 0, file, "--db", path)); n["duplicate"] != len(p.Keys) {
		t.Errorf("again: %v", n)
	}
	if hashOf(t, path) != after {
		t.Error("applying the plan again changed states")
	}
	balances := balancesOf(t, path)
	for account := range o.accounts {
		balance := o.after(account, messages).Balance
		if "account/"+account == moved {
			balance += 777
		}
		if balances[account] != balance {
			t.Errorf("account %s: balance %d, want %d", account, balances[account], balance)
		}
	}
	wantCauses(t, path, &p)
	d := diverge(t, 1, "--db", path)
	if len(d.StillDiffer) != 0 || len(d.Reconverged) != len(want.first) {
		t.Errorf("after it %d still differ, %d re-converged", len(d.StillDiffer), len(d.Reconverged))
	}
	if p := answer[json.RawMessage](t, bank(t, "repair", "plan", "--db", path, "--json", "--no-index")); !strings.Contains(string(p), `"keys":[],"left":[]`) {
		t.Errorf("after it there is something to repair: %.500s", p)
	}
}

// planned makes a plan, which must be what the oracle says.
func planned(t *testing.T, want strayed, path, file string) (p repairPlan) {
	t.Helper()
	before := hashOf(t, path)
	ok(t, bank(t, "repair", "plan", "--db", path, "--out", file, "--no-index"))
	if hashOf(t, path) != before {
		t.Error("planning changed states")
	}
	data, err := os.ReadFile(file)
	must(t, err)
	must(t, json.Unmarshal(data, &p))
	if len(p.Keys)+len(want.reconverged) != len(want.first) || len(p.Left) != 0 {
		t.Fatalf("%d keys, %d left; %d went astray, of which %d are right", len(p.Keys), len(p.Left), len(want.first), len(want.reconverged))
	}
	for _, k := range p.Keys {
		if k.Cause.Payload.Transaction != want.first[k.Key] || len(k.Leaves) != 0 || len(k.Commands) != 1 ||
			k.Commands[0].Type != "account.correct" || k.Commands[0].Payload.Amount != -want.off[k.Key] {
			t.Errorf("%+v, want %d from transaction %d on", k, -want.off[k.Key], want.first[k.Key])
		}
	}
	return p
}

// wantCauses checks that the record says of each of some corrections what it was for.
func wantCauses(t *testing.T, path string, p *repairPlan) {
	t.Helper()
	for _, k := range p.Keys[:5] {
		var shown struct {
			Cause   string            `json:"causation_id"`
			Headers map[string]string `json:"headers"`
		}
		must(t, json.Unmarshal([]byte(ok(t, here(t, "show", k.Commands[0].ID, "--db", path, "--json"))), &shown))
		if shown.Cause != k.Cause.ID || shown.Headers["deja-repair"] == "" {
			t.Errorf("%s: %+v, want the cause %s", k.Key, shown, k.Cause.ID)
		}
	}
}

// A plan is applied as it was made, and to the history it was made from.
func TestRepairRefusesOtherPlans(t *testing.T) {
	t.Parallel()
	path := copyOf(t, get(t, faulty))
	file := filepath.Join(t.TempDir(), "plan.json")
	ok(t, bank(t, "repair", "plan", "--db", path, "--out", file, "--no-index"))
	if r := bank(t, "repair", "apply", file, "--db", copyOf(t, get(t, plain))); r.code != 2 || !strings.Contains(r.err, "another history") {
		t.Errorf("on another history: %s", r)
	}
	data, err := os.ReadFile(file)
	must(t, err)
	changed := strings.Replace(string(data), `"amount": `, `"amount": 1`, 1)
	must(t, os.WriteFile(file, []byte(changed), 0o600))
	if r := bank(t, "repair", "apply", file, "--db", path); r.code != 2 || !strings.Contains(r.err, "it was changed") {
		t.Errorf("a changed plan: %s", r)
	}
}

// hashOf returns the hash of a file's states.
func hashOf(t *testing.T, path string) string {
	t.Helper()
	return answer[replayed](t, here(t, "replay", "--db", path, "--json")).StateHash
}

// balancesOf returns the balances as a file's store has them.
func balancesOf(t *testing.T, path string) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	sql(t, path, "SELECT key, json_extract(CAST(data AS TEXT), '$.balance') FROM deja_states", func(st *zombiezen.Stmt) {
		all[st.ColumnText(0)] = st.ColumnInt64(1)
	})
	return all
}

// deposit pays into an account.
func deposit(t *testing.T, path, account string, amount int64) {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path)
	must(t, err)
	defer db.Close()
	eng, err := engine.New(engine.Config{Service: service.Service(), Log: db.Log(), Store: db.Store()})
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- eng.Run(ctx) }()
	_, err = eng.Client().Do(t.Context(), deja.Request{Key: account, Command: bankaccount.Deposit{Amount: amount}})
	stop()
	if ended := <-ran; !errors.Is(ended, context.Canceled) {
		t.Error(ended)
	}
	must(t, err)
}
