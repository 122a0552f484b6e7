package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/examples/transfers/accounts"
	"github.com/dejalog/deja/examples/transfers/ledger"
	"github.com/dejalog/deja/examples/transfers/orders"
	"github.com/dejalog/deja/examples/transfers/posting"
	"github.com/dejalog/deja/examples/transfers/receipt"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/testenv"
)

// variantVariable says what the worker processes of a test do wrong.
const variantVariable = "TRANSFERS_TEST_VARIANT"

// The variants.
const (
	unbarred = "unbarred" // the ledger takes postings that were barred
	keyless  = "keyless"  // the provider is called with another key each time
)

// TestMain is also the main of the processes that are started from this program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == workCommand || os.Getenv(serviceVariable) != "" {
		p := newProgram(os.Stdin, os.Stdout, os.Stderr, os.Getenv)
		os.Exit(p.main(context.Background(), os.Args[1:]))
	}
	os.Exit(m.Run())
}

func newProgram(stdin io.Reader, stdout, stderr io.Writer, getenv func(string) string) *program {
	p := &program{stdin: stdin, stdout: stdout, stderr: stderr, getenv: getenv, accounts: accounts.Service, ledger: ledger.Service, performer: receipt.Performer}
	switch os.Getenv(variantVariable) {
	case unbarred:
		p.ledger = unbarredLedger
	case keyless:
		p.performer = keylessPerformer
	}
	return p
}

// unbarredLedger posts what was barred before it came.
func unbarredLedger() *deja.Service {
	type state struct {
		Stage  posting.Stage `json:"stage"`
		Amount int64         `json:"amount"`
	}
	return &deja.Service{Name: ledger.Name, Aggregates: []deja.AnyAggregate{deja.NewAggregate("posting",
		deja.Handle(func(_ state, d *deja.Decision, c posting.Post) error {
			if !posting.Valid(c.Account) {
				return posting.ErrAccount
			}
			d.Record(posting.Posted(c))
			return nil
		}),
		deja.Handle(func(s state, d *deja.Decision, _ posting.Reverse) error {
			d.Record(posting.Reversed{Amount: s.Amount})
			return nil
		}),
		deja.Handle(func(_ state, d *deja.Decision, _ posting.Stop) error { d.Record(posting.Barred{}); return nil }),
		deja.Apply(func(s *state, e posting.Posted) { *s = state{Stage: posting.Stands, Amount: e.Amount} }),
		deja.Apply(func(s *state, _ posting.Reversed) { s.Stage = posting.Undone }),
		deja.Apply(func(s *state, _ posting.Barred) { s.Stage = posting.Closed }),
	)}}
}

// keylessPerformer calls the provider again after a fault, as it should, but with another key. What it never hears of is
// done for it.
func keylessPerformer(p *receipt.Provider) deja.Performer {
	return deja.Perform(func(ctx context.Context, _ deja.ID, s receipt.Send) (deja.Command, error) {
		_ = p.Send(ctx, deja.NewID().String(), s)
		_ = p.Send(ctx, deja.NewID().String(), s)
		return nil, nil
	})
}

// result is how the program ended.
type result struct {
	code           int
	stdout, stderr string
}

func transfers(t *testing.T, getenv func(string) string, args ...string) result {
	t.Helper()
	t.Setenv("TMPDIR", t.TempDir())
	var out, errs testenv.Output // its processes write, too
	p := newProgram(strings.NewReader(""), &out, &errs, getenv)
	code := p.main(t.Context(), args)
	return result{code, out.String(), errs.String()}
}

func nowhere(string) string { return "" }

// decode reads the JSON answer, which must have these fields and no others.
func (r result) decode(t *testing.T) (a answer) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(r.stdout))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&a); err != nil || strings.Count(r.stdout, "\n") != 1 {
		t.Fatalf("%v in %q\n%s", err, r.stdout, r.stderr)
	}
	return a
}

// wantRight checks a run that must be right.
func wantRight(t *testing.T, r result, transfers, kills int) {
	t.Helper()
	a := r.decode(t)
	if r.code != 0 || a.Transfers != transfers || a.Completed+a.Compensated != transfers || a.Stuck != 0 || a.Kills != kills ||
		a.MoneyBefore != a.MoneyAfter || a.EffectsPerformed != a.Completed || a.EffectsDoubled != 0 || a.EffectCalls < a.Completed {
		t.Errorf("exit code %d, %s\n%s", r.code, r.stdout, r.stderr)
	}
}

func TestTransfers(t *testing.T) {
	r := transfers(t, nowhere, "--transfers", "400", "--seed", "3", "--json")
	wantRight(t, r, 400, 5)
	if a := r.decode(t); a.Compensated < 24 || a.Compensated > 26 || a.EffectCalls <= a.EffectsPerformed || a.PerSecond <= 0 {
		t.Errorf("%s", r.stdout)
	}
	want := `^{"transfers":400,"completed":\d+,"compensated":\d+,"stuck":0,"money_before":\d+,"money_after":\d+,"kills":5,` +
		`"effects_performed":\d+,"effects_doubled":0,"effect_calls":\d+,"per_second":[0-9.]+}\n$`
	if !regexp.MustCompile(want).MatchString(r.stdout) {
		t.Errorf("got %s, want %s", r.stdout, want)
	}
}

// However few transfers there are, the worker is killed three times on their way.
func TestFewTransfers(t *testing.T) {
	for _, n := range []int{1, 2, 7} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			r := transfers(t, nowhere, "--transfers", fmt.Sprint(n), "--seed", "3", "--kills", "3", "--json")
			wantRight(t, r, n, 3)
		})
	}
}

func TestARunIsToldForPeopleAndItsFilesAreKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kept")
	r := transfers(t, nowhere, "--transfers", "40", "--kills", "0", "--dir", dir)
	if r.code != 0 || !regexp.MustCompile(`40 transfers in [0-9.]+ s`).MatchString(r.stdout) || !strings.Contains(r.stdout, "as it should be") {
		t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	for _, file := range []string{"transfers.db", "receipts.jsonl"} {
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			t.Error(err)
		}
	}
	if !strings.Contains(r.stderr, "transfers accounts COMMAND --db "+filepath.Join(dir, "transfers.db")) {
		t.Errorf("it does not say how to look into it:\n%s", r.stderr)
	}
	t.Run("and looked into", func(t *testing.T) {
		l := looking{dir, func(string) func(string) string { return nowhere }, []string{"--db", filepath.Join(dir, "transfers.db")}}
		l.look(t)
	})
	if r := transfers(t, nowhere, "--dir", dir); r.code != exitUsage || !strings.Contains(r.stderr, "directory of its own") {
		t.Errorf("a second run in it: exit code %d\n%s", r.code, r.stderr)
	}
}

// looking is how the programs of both services look into what a run has left.
type looking struct {
	dir  string                           // of the run
	env  func(string) func(string) string // of each service's program
	args []string                         // for all
}

// run runs a service's program, the first of the words.
func (l looking) run(t *testing.T, words ...string) result {
	t.Helper()
	return transfers(t, l.env(words[0]), append(words, l.args...)...)
}

// want runs a service's program, which must print all of what is wanted.
func (l looking) want(t *testing.T, words []string, wanted ...string) {
	t.Helper()
	r := l.run(t, words...)
	for _, want := range wanted {
		if r.code != 0 || !regexp.MustCompile(want).MatchString(r.stdout+r.stderr) {
			t.Errorf("%s: exit code %d, want %s\n%.4000s%s", words, r.code, want, r.stdout, r.stderr)
		}
	}
}

// look looks into a run of which all transfers have ended.
func (l looking) look(t *testing.T) {
	t.Setenv(serviceVariable, "") // to be put back
	data, err := os.ReadFile(filepath.Join(l.dir, receiptsFile))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(receiptsVariable, filepath.Join(l.dir, receiptsFile))
	var paid struct{ Key, Transfer string }
	if err := json.Unmarshal(bytes.SplitN(data, []byte("\n"), 2)[0], &paid); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, says string }{
		{"accounts state transfer/t0000000", `"phase": "(finished|undone)"`},
		{"ledger state posting/*", `"stage": ?"posted"`},
		{"accounts verify --procs 1,2 --json", `"equal":true.*"judged":[12][0-9]{3},"not_judged":0`},
		{"ledger verify --procs 1,2 --json", `"equal":true.*"judged":[0-9]+,"not_judged":0`},
		{"accounts lag", `0 +-`},
		{"accounts sagas list --stuck", `^0 sagas stuck or late`},
		{"accounts effects list", `^0 effects open`},
		{"accounts sagas show transfer/" + paid.Transfer, `effect +receipt\.send, ` + paid.Key + ` → done`},
	} {
		l.want(t, strings.Fields(c.args), c.says)
	}
	// From the receipt, as the provider knows it, to the first command, by way of both services.
	l.want(t, []string{"accounts", "trace", paid.Key, "--why"},
		"effect receipt.send "+paid.Key, `reply posting\.post +transfer/`+paid.Transfer+` .*accounts\.inbox`,
		`command posting\.post +posting/`+paid.Transfer+` .*ledger\.inbox`, `command account\.withdraw .*accounts\.inbox`,
		`command transfer\.start +transfer/`+paid.Transfer+` `)
	l.want(t, []string{"ledger", "trace", "posting/" + paid.Transfer + "@1", "--impact"},
		`command posting\.post .*ledger\.inbox`, `result receipt\.send +transfer/`+paid.Transfer+` .*accounts\.inbox`)
	l.want(t, []string{"accounts", "pin", "transfer/" + paid.Transfer, "--when", `state.phase == "finished"`}, `FIRST-BAD +reply posting\.post `)
	if r := l.run(t, "ledger", "state", "transfer/t0000000"); r.code != exitUsage {
		t.Errorf("the ledger knows of transfers: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}

func TestTheProofFails(t *testing.T) {
	for variant, says := range map[string]string{unbarred: "was posted after it had been barred", keyless: "were sent a second time"} {
		t.Run(variant, func(t *testing.T) {
			t.Setenv(variantVariable, variant)
			r := transfers(t, nowhere, "--transfers", "200", "--kills", "3", "--json")
			if r.decode(t); r.code != exitNo || !strings.Contains(r.stderr, says) {
				t.Errorf("exit code %d, want %d and %q\n%s%s", r.code, exitNo, says, r.stdout, r.stderr)
			}
		})
	}
}

func TestOneByOne(t *testing.T) {
	r := transfers(t, nowhere, "--one", "50", "--json")
	var l latency
	if err := json.Unmarshal([]byte(r.stdout), &l); err != nil || r.code != 0 || l.Transfers != 50 || l.P50 <= 0 || l.P99 < l.P50 {
		t.Errorf("exit code %d, %v\n%s%s", r.code, err, r.stdout, r.stderr)
	}
}

func TestWrongUsage(t *testing.T) {
	for _, args := range [][]string{{"--transfers", "0"}, {"--kills", "2"}, {"--transfers", "x"}, {"--one", "-1"}, {"more"}, {"--nothing"}} {
		if r := transfers(t, nowhere, args...); r.code != exitUsage || r.stdout != "" || r.stderr == "" {
			t.Errorf("%v: exit code %d\n%s%s", args, r.code, r.stdout, r.stderr)
		}
	}
	if r := transfers(t, nowhere, "--help"); r.code != 0 || !strings.Contains(r.stderr, "-transfers") {
		t.Errorf("--help: exit code %d\n%s", r.code, r.stderr)
	}
}

// On a Kafka cluster and two databases of a PostgreSQL a process of each service is killed. What that has left is looked
// into with the settings that it leaves.
func TestTransfersOnServers(t *testing.T) {
	brokers, dsn := testenv.Kafka(t), testenv.Postgres(t)
	dir := filepath.Join(t.TempDir(), "kept")
	env := map[string]string{logVariable: "kafka://" + strings.Join(brokers, ","), storeVariable: dsn}
	r := transfers(t, func(name string) string { return env[name] }, "--transfers", "200", "--kills", "3", "--json", "--dir", dir)
	wantRight(t, r, 200, 3)
	for _, victim := range []string{"the accounts' worker was killed", "the ledger's worker was killed"} {
		if !strings.Contains(r.stderr, victim) {
			t.Errorf("no word of it: %s\n%s", victim, r.stderr)
		}
	}
	for _, settings := range []string{accounts.Name + ".env", "look into it"} {
		if !strings.Contains(r.stderr, settings) {
			t.Errorf("it does not say how to look into it:\n%s", r.stderr)
		}
	}
	t.Run("and looked into", func(t *testing.T) {
		l := looking{dir: dir, env: func(service string) func(string) string { return settings(t, dir, service) }}
		l.look(t)
		astray := looking{dir: dir, env: func(string) func(string) string { return settings(t, dir, accounts.Name) }}
		if r := astray.run(t, "ledger", "sagas", "list"); r.code != exitUsage || !strings.Contains(r.stderr, "bound to accounts.inbox") {
			t.Errorf("the ledger takes the accounts' store: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
		}
	})
	cleanUp(t, brokers, dsn, r.stderr)
}

// late is a store whose journal is known to have one decision more at each look.
type late struct {
	driver.Store
	looks int64
}

const lateDecisions = 30

func (s *late) Leases(context.Context) ([]driver.Lease, error) {
	s.looks++
	return []driver.Lease{{Progress: driver.Progress{N: lateDecisions}, Logged: driver.Logged{N: min(s.looks, lateDecisions)}}}, nil
}

// What a killed process has decided may not be in the journal yet when nothing waits for anything any more.
func TestARunEndsWhenTheJournalsHaveAll(t *testing.T) {
	var out bytes.Buffer
	log := memory.NewLog(memory.LogConfig{})
	c := &client{
		task: &task{plan: orders.Plan{Transfers: 1}, phase: load, from: 1}, // which was sent, and has ended
		log:  log, out: json.NewEncoder(&out),
	}
	stores := []*late{{Store: memory.NewStore()}, {Store: memory.NewStore()}}
	for i, s := range []*side{&c.accounts, &c.ledger} {
		e, err := engine.New(engine.Config{Service: ledger.Service(), Log: log, Store: stores[i]})
		if err != nil {
			t.Fatal(err)
		}
		*s = side{ledger.Name, e, stores[i]}
	}
	if err := c.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, s := range stores {
		if s.looks < lateDecisions {
			t.Errorf("side %d was not awaited", i)
		}
	}
	if text := out.String(); !strings.HasSuffix(text, `{"what":"quiet"}`+"\n"+`{"what":"finished"}`+"\n") {
		t.Errorf("it said %s", text)
	}
}

// settings reads what a run on servers has left for a service's program.
func settings(t *testing.T, dir, service string) func(string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, service+".env"))
	if err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{}
	for _, v := range regexp.MustCompile(`(?m)^export (\w+)='(.*)'$`).FindAllStringSubmatch(string(text), -1) {
		vars[v[1]] = v[2]
	}
	return func(name string) string { return vars[name] }
}

// cleanUp removes what a run has made on servers.
func cleanUp(t *testing.T, brokers []string, dsn, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	names := regexp.MustCompile(`topics (\w+)\.\*, databases (\w+) and (\w+)`).FindStringSubmatch(stderr)
	if names == nil {
		t.Fatalf("it does not say what it made:\n%s", stderr)
	}
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, name := range names[2:] {
		if _, err := conn.Exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		t.Fatal(err)
	}
	adm := kadm.NewClient(cl)
	defer adm.Close()
	for _, topic := range []string{"accounts.inbox", "accounts.journal", "ledger.inbox", "ledger.journal"} {
		if _, err := adm.DeleteTopics(ctx, names[1]+"."+topic); err != nil {
			t.Error(err)
		}
	}
}
