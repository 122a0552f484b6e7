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
	"github.com/dejalog/deja/examples/transfers/accounts"
	"github.com/dejalog/deja/examples/transfers/ledger"
	"github.com/dejalog/deja/examples/transfers/posting"
	"github.com/dejalog/deja/examples/transfers/receipt"
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
	t.Run("and looked into", func(t *testing.T) { lookInto(t, filepath.Join(dir, "transfers.db")) })
	if r := transfers(t, nowhere, "--dir", dir); r.code != exitUsage || !strings.Contains(r.stderr, "directory of its own") {
		t.Errorf("a second run in it: exit code %d\n%s", r.code, r.stderr)
	}
}

// lookInto looks into a run's file with the programs of both services.
func lookInto(t *testing.T, db string) {
	t.Setenv(serviceVariable, "") // to be put back
	for _, c := range []struct{ args, says string }{
		{"accounts state transfer/t0000000", `"phase": "(finished|undone)"`},
		{"ledger state posting/*", `"stage": ?"posted"`},
		{"accounts verify --json", `"judged":1[0-9]{3},"not_judged":0`},
		{"ledger verify --json", `"judged":[34][0-9],"not_judged":0`},
		{"accounts lag", `0 +-`},
	} {
		r := transfers(t, nowhere, append(strings.Fields(c.args), "--db", db)...)
		if r.code != 0 || !regexp.MustCompile(c.says).MatchString(r.stdout) {
			t.Errorf("%s: exit code %d, want %s\n%.2000s%s", c.args, r.code, c.says, r.stdout, r.stderr)
		}
	}
	data, err := os.ReadFile(filepath.Join(filepath.Dir(db), "receipts.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var paid struct{ Key, Transfer string }
	if err := json.Unmarshal(bytes.SplitN(data, []byte("\n"), 2)[0], &paid); err != nil {
		t.Fatal(err)
	}
	// From the receipt, as the provider knows it, to the first command, by way of both services.
	r := transfers(t, nowhere, "accounts", "trace", paid.Key, "--why", "--db", db)
	for _, want := range []string{
		"effect receipt.send " + paid.Key, `reply posting\.post +transfer/` + paid.Transfer + ` .*accounts\.inbox`,
		`command posting\.post +posting/` + paid.Transfer + ` .*ledger\.inbox`, `command account\.withdraw .*accounts\.inbox`,
		`command transfer\.start +transfer/` + paid.Transfer + ` `,
	} {
		if r.code != 0 || !regexp.MustCompile(want).MatchString(r.stdout) {
			t.Errorf("trace of a receipt: exit code %d, want %s\n%s%s", r.code, want, r.stdout, r.stderr)
		}
	}
	pin := transfers(t, nowhere, "accounts", "pin", "transfer/"+paid.Transfer, "--when", `state.phase == "finished"`, "--db", db)
	if pin.code != 0 || !regexp.MustCompile(`reply posting\.post|posting\.post`).MatchString(pin.stdout) {
		t.Errorf("pin of a transfer: exit code %d\n%s%s", pin.code, pin.stdout, pin.stderr)
	}
	if r := transfers(t, nowhere, "ledger", "state", "transfer/t0000000", "--db", db); r.code != exitUsage {
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

// On a Kafka cluster and two databases of a PostgreSQL a process of each service is killed.
func TestTransfersOnServers(t *testing.T) {
	brokers, dsn := testenv.Kafka(t), testenv.Postgres(t)
	env := map[string]string{logVariable: "kafka://" + strings.Join(brokers, ","), storeVariable: dsn}
	r := transfers(t, func(name string) string { return env[name] }, "--transfers", "200", "--kills", "3", "--json")
	wantRight(t, r, 200, 3)
	for _, victim := range []string{"the accounts' worker was killed", "the ledger's worker was killed"} {
		if !strings.Contains(r.stderr, victim) {
			t.Errorf("no word of it: %s\n%s", victim, r.stderr)
		}
	}
	cleanUp(t, brokers, dsn, r.stderr)
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
