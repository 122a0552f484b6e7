package oracle_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dejalog/deja"
	banking "github.com/dejalog/deja/examples/bank/account"
	"github.com/dejalog/deja/examples/bank/berka"
	"github.com/dejalog/deja/examples/bank/service"
	debugger "github.com/dejalog/deja/history"
	"github.com/dejalog/deja/sqlite"
)

// pinned is the answer of pin.
type pinned struct {
	FirstBad    *entered  `json:"first_bad"`
	LastWriters []entered `json:"last_writers"`
	Cause       []entered `json:"cause"`
	Confirmed   *bool     `json:"confirmed"`
	Minimal     *struct{ Messages int }
	Complete    bool
	Times, Keys int
	Until       *entered
	Twins       []struct{ Messages []entered }
	SmallestSet *struct {
		Messages    int
		First, Last entered
	} `json:"smallest_set"`
	Handler *struct {
		Same  bool
		First *entered `json:"first_difference"`
	}
	Test   *struct{ Dir, Failed string }
	Levels []struct {
		Level   string
		Reached bool
		Why     string
	}
}

// entered is a message of the bank as answers show it.
type entered struct {
	ID, Position, Type, Path string
	Version                  int64
	Payload                  struct{ Transaction int64 }
}

func (p *pinned) level(name string) (reached bool, why string) {
	for _, l := range p.Levels {
		if l.Level == name {
			return l.Reached, l.Why
		}
	}
	return false, "it was not come to"
}

// pin runs a command, which may answer that there is nothing.
func pin(t *testing.T, run func(...string) reply, args ...string) *pinned {
	t.Helper()
	r := run(append([]string{"pin"}, append(args, "--json")...)...)
	p := new(pinned)
	if err := json.Unmarshal([]byte(r.out), p); err != nil || r.code > 1 || (r.code == 0) != (p.FirstBad != nil) {
		t.Fatalf("%v: %s", err, r)
	}
	return p
}

const off = "state.balance != state.recorded"

// off returns the transactions after which an account's balance begins to be another than the bank's, by their versions.
func (o *oracle) off(name string) (begin []int64) {
	was := false
	for _, s := range o.accounts[name] {
		is := s.Balance != s.Recorded
		if is && !was {
			begin = append(begin, s.Version)
		}
		was = is
	}
	return begin
}

// of returns an account's transactions.
func of(t *testing.T, name string) (all []berka.Transaction) {
	t.Helper()
	for _, tr := range get(t, transactions) {
		if fmt.Sprint(tr.Account) == name {
			all = append(all, tr)
		}
	}
	return all
}

// Of every account the first transaction is pinned after which its balance is off.
func TestPinNamesTheFirstTransactionThatIsOff(t *testing.T) {
	o, f, ids := shipped(t), get(t, plain), map[string][]string{}
	for _, tr := range get(t, transactions) {
		name := fmt.Sprint(tr.Account)
		ids[name] = append(ids[name], tr.ID().String())
	}
	db, err := sqlite.OpenReadOnly(t.Context(), f.path)
	must(t, err)
	defer db.Close()
	h, err := debugger.Open(t.Context(), debugger.Config{Service: service.Service(), Log: db.Log(), Ledger: db.Store()})
	must(t, err)
	defer h.Close()
	wrong := 0
	for name := range o.accounts {
		s := debugger.Suspect{Scope: debugger.ScopeOf(deja.Stream{Aggregate: "account", Key: name}), Effort: -1}
		s.When, err = debugger.Compile(h.Source().Machine(), s.Scope, off)
		must(t, err)
		p, err := h.Pin(t.Context(), s)
		must(t, err)
		begin := o.off(name)
		if (p.FirstBad != nil) != (len(begin) > 0) || !p.Complete || p.Times != len(begin) {
			t.Errorf("account/%s: %+v, want it off from %v", name, p, begin)
		}
		if p.FirstBad == nil || len(begin) == 0 {
			continue
		}
		wrong++
		if id := p.FirstBad.ID.String(); p.FirstBad.Version != begin[0] || id != ids[name][begin[0]-1] {
			t.Errorf("account/%s: %+v, want version %d, %s", name, p.FirstBad, begin[0], ids[name][begin[0]-1])
		}
		for _, w := range p.LastWriters {
			if w.ID != p.FirstBad.ID { // each transaction writes both
				t.Errorf("account/%s: the last writer of %s is %+v", name, w.Path, w)
			}
		}
		if p.Confirmed != nil || p.Minimal != nil {
			t.Errorf("account/%s: without effort, %+v", name, p)
		}
	}
	if wrong == 0 || wrong == len(o.accounts) {
		t.Errorf("%d of %d accounts are off", wrong, len(o.accounts))
	}
}

// What is left out for CONFIRMED really helps, and nothing less does: by the oracle's arithmetic, without a handler.
func TestPinIsConfirmedByArithmetic(t *testing.T) {
	o, f, rng := shipped(t), get(t, plain), newRand(t)
	var names []string
	for name := range o.accounts {
		if len(o.off(name)) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	run := func(args ...string) reply { return here(t, args...) }
	confirmed := map[bool]int{}
	for range 12 {
		name := names[rng.IntN(len(names))]
		p := pin(t, run, "account/"+name, "--when", off, "--db", f.path)
		all := of(t, name)
		first := int(o.off(name)[0]) - 1
		end := len(all) // of the time in which it is off
		for _, s := range o.accounts[name] {
			if int(s.Version) > first+1 && s.Balance == s.Recorded {
				end = int(s.Version) - 1
				break
			}
		}
		// isOff tells whether the balance is off at the target without some transactions.
		isOff := func(dropped ...int) bool {
			var balance, recorded int64
			for i, tr := range all[:end] {
				if slices.Contains(dropped, i) {
					continue
				}
				if recorded = tr.Balance; tr.Direction == banking.Debit {
					tr.Amount = -tr.Amount
				}
				balance += tr.Amount
			}
			return balance != recorded
		}
		alone := func(i int) bool { return !isOff(i) }
		helps := slices.ContainsFunc(indexes(end), alone)
		if p.Confirmed == nil || *p.Confirmed != alone(first) || (p.SmallestSet != nil) == alone(first) {
			t.Fatalf("account/%s: %+v, want confirmed %v", name, p, alone(first))
		}
		confirmed[*p.Confirmed]++
		if s := p.SmallestSet; s != nil && (s.Messages == 1) != helps {
			t.Errorf("account/%s: a set of %d, one transaction helps: %v", name, s.Messages, helps)
		}
		if p.Minimal == nil || p.Minimal.Messages > first+1 || p.Minimal.Messages < 1 {
			t.Errorf("account/%s: minimal %+v, transactions up to the first that is off: %d", name, p.Minimal, first+1)
		}
		if p.Handler == nil || !p.Handler.Same {
			t.Errorf("account/%s: handler %+v", name, p.Handler)
		}
	}
	t.Logf("confirmed: %v", confirmed)
}

func indexes(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// A variant is another build of the bank, of sources that are laid over its own.
type variant struct {
	program string
	flags   string // GOFLAGS with which the go command builds from the same sources
}

// overlaid builds the bank with a text of one of its files replaced.
func overlaid(name, file, old, text string) (v variant, err error) {
	dir, err := filepath.Abs("..")
	if err != nil {
		return v, err
	}
	path := filepath.Join(dir, filepath.FromSlash(file))
	data, err := os.ReadFile(path)
	if err != nil {
		return v, err
	}
	changed := strings.Replace(string(data), old, text, 1)
	if changed == string(data) {
		return v, fmt.Errorf("%s has no %q", file, old)
	}
	over := filepath.Join(shared, name+".go")
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: over}})
	if err != nil {
		return v, err
	}
	list := filepath.Join(shared, name+".json")
	if err := os.WriteFile(over, []byte(changed), 0o600); err != nil {
		return v, err
	}
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		return v, err
	}
	v.flags = "-overlay=" + list
	v.program, err = build(name, v.flags)
	return v, err
}

// run runs the variant, where the go command builds from its sources.
func (v variant) run(args ...string) reply {
	cmd := exec.Command(v.program, args...)
	cmd.Env = append(os.Environ(), "GOFLAGS="+v.flags)
	return runCommand(cmd, args)
}

// The wrong sign on cash withdrawals, from June 1993 on.
var wrongSign = sync.OnceValues(func() (variant, error) {
	return overlaid("wrongsign", "account/account.go", "	switch c.Direction {",
		`	if c.Direction == Debit && c.Operation == "cash_withdrawal" && d.Message().BusinessTime.Format("2006-01-02") >= "1993-06-01" {
		c.Direction = Credit
	}
	switch c.Direction {`)
})

// A fault planted in a handler: the first transaction that it spoils is pinned, the test that is written fails as it should, and
// passes with the good handler.
func TestPinWritesATestOfAPlantedFault(t *testing.T) {
	o, bad, rng := shipped(t), get(t, wrongSign), newRand(t)
	db := filepath.Join(t.TempDir(), "bad.db")
	ok(t, bad.run("import", "--db", db, "--json"))
	var names []string // of accounts that the fault is the first to spoil
	spoilt := map[string]int64{}
	for name, states := range o.accounts {
		for i, tr := range of(t, name) {
			if states[i].Balance != states[i].Recorded {
				break
			}
			if tr.Direction == banking.Debit && tr.Operation == "cash_withdrawal" && states[i].Date >= "1993-06-01" {
				names, spoilt[name] = append(names, name), states[i].Version
				break
			}
		}
	}
	slices.Sort(names)
	name := names[rng.IntN(len(names))]
	dir := filepath.Join(t.TempDir(), "pinned")
	p := pin(t, bad.run, "account/"+name, "--when", off, "--db", db, "--emit-test", dir)
	if p.FirstBad.Version != spoilt[name] {
		t.Fatalf("account/%s: %+v, want version %d", name, p.FirstBad, spoilt[name])
	}
	if reached, why := p.level("TEST"); !reached || p.Test == nil || p.Test.Dir != dir || !strings.Contains(p.Test.Failed, off+" holds for account/"+name) {
		t.Fatalf("account/%s: no test: %s, %+v", name, why, p.Test)
	}
	for flags, red := range map[string]bool{bad.flags: true, "": false} {
		cmd := exec.Command("go", "test", "-count=1", ".")
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOFLAGS="+flags)
		out, err := cmd.CombinedOutput()
		if (err != nil) != red || red && !strings.Contains(string(out), "--- FAIL: TestPinned") {
			t.Errorf("account/%s: with GOFLAGS=%s, %v:\n%s", name, flags, err, out)
		}
	}

	// The sources are not those of the program: the test passes, and is not handed over.
	other := filepath.Join(t.TempDir(), "pinned")
	r := runProgram(bad.program, "pin", "account/"+name, "--when", off, "--db", db, "--emit-test", other, "--json")
	if _, err := os.Stat(other); err == nil || r.code != 1 || !strings.Contains(r.err, "it passes with the sources in") {
		t.Errorf("a test that passes: %s", r)
	}

	// The good build says that the fault was in the one that decided.
	p = pin(t, func(args ...string) reply { return bank(t, args...) }, "account/"+name, "--when", off, "--db", db)
	if p.Handler == nil || p.Handler.Same || p.Handler.First == nil || p.Handler.First.Version != spoilt[name] {
		t.Errorf("account/%s, the good build: handler %+v", name, p.Handler)
	}
}

// An ID that is made from the number of the attempt, too.
var attempts = sync.OnceValues(func() (variant, error) {
	return overlaid("attempts", "berka/berka.go", `	return deja.DeriveID("berka/transaction", strconv.FormatInt(t.Number, 10))
}`, `	attempts[t.Number]++
	return deja.DeriveID("berka/transaction", strconv.FormatInt(t.Number, 10)+"/"+strconv.Itoa(attempts[t.Number]))
}

var attempts = map[int64]int{}`)
})

// An idempotency key that is broken: what was applied twice is named as twins, the second being the first that is wrong.
func TestPinNamesTwins(t *testing.T) {
	bad, o := get(t, attempts), shipped(t)
	db := filepath.Join(t.TempDir(), "twice.db")
	r := bad.run("import", "--redeliver", "0.05", "--db", db, "--json")
	if r.code != 0 {
		t.Fatal(r)
	}
	found := 0
	for name := range o.accounts {
		if found == 5 {
			break
		}
		p := pin(t, bad.run, "account/"+name, "--when", off, "--db", db, "--effort", "0")
		if p.FirstBad == nil || !slices.ContainsFunc(p.Twins, func(tw struct{ Messages []entered }) bool {
			return len(tw.Messages) > 1 && tw.Messages[1].ID == p.FirstBad.ID
		}) {
			continue // the data are off before, or nothing came twice
		}
		found++
		ids := map[string]bool{}
		for _, m := range p.Twins[0].Messages {
			ids[m.ID] = true
			if m.Payload.Transaction != p.FirstBad.Payload.Transaction {
				t.Errorf("account/%s: twins %+v of %+v", name, p.Twins[0], p.FirstBad)
			}
		}
		if reached, why := p.level("TWIN"); !reached || len(ids) != len(p.Twins[0].Messages) {
			t.Errorf("account/%s: %s; %+v", name, why, p.Twins[0])
		}
	}
	if found == 0 {
		t.Error("no twin is the first that is wrong")
	}
}
