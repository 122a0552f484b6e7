package oracle_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	zombiezen "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/dejalog/deja/cli"
	"github.com/dejalog/deja/examples/bank/berka"
	"github.com/dejalog/deja/examples/bank/service"
)

// messages is how many transactions the example ships.
const messages = 39_385

var seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0 takes the time")

// newRand returns a source whose seed is printed with the command that repeats the run.
func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat: go test ./examples/bank/oracle -run '^%s$' -seed=%d", t.Name(), seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// shared is the directory of what the tests share: the program, and the files that it imported.
var shared string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if shared, err = os.MkdirTemp("", "deja-oracle-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(shared)
	return m.Run()
}

// The bank as a program, and another build of it, which decides the same.
var (
	program = sync.OnceValues(func() (string, error) { return build("bank") })
	rebuilt = sync.OnceValues(func() (string, error) { return build("rebuilt", "-ldflags=-w") })
)

func build(name string, flags ...string) (string, error) {
	path := filepath.Join(shared, name)
	args := append([]string{"build", "-buildvcs=false", "-o", path}, flags...)
	out, err := exec.Command("go", append(args, "github.com/dejalog/deja/examples/bank")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

// The state hash of all imports, and how it is made: once as it should be, once with a half of all delivered twice.
var (
	plain = sync.OnceValues(func() (file, error) { return importNew("plain.db") })
	messy = sync.OnceValues(func() (file, error) { return importNew("messy.db", "--redeliver", "0.5") })
)

// A file is a database that tests share: they read it, or change a copy.
type file struct {
	path string
	got  imported
}

func importNew(name string, flags ...string) (file, error) {
	f := file{path: filepath.Join(shared, name)}
	bin, err := program()
	if err != nil {
		return f, err
	}
	r := runProgram(bin, append([]string{"import", "--db", f.path, "--json"}, flags...)...)
	if r.code != 0 {
		return f, fmt.Errorf("%s", r)
	}
	return f, r.decode(&f.got)
}

// imported is the answer of import.
type imported struct {
	Messages   int64   `json:"messages"`
	Applied    int64   `json:"applied"`
	Duplicates int64   `json:"duplicates"`
	Conflicts  int64   `json:"conflicts"`
	Rejected   int64   `json:"rejected"`
	Dead       int64   `json:"dead"`
	Seconds    float64 `json:"seconds"`
	PerSecond  float64 `json:"per_second"`
	StateHash  string  `json:"state_hash"`
}

// counts leaves out what differs from run to run.
func (i imported) counts() imported {
	i.Seconds, i.PerSecond = 0, 0
	return i
}

// A reply is what a run of the program came to.
type reply struct {
	args     []string
	code     int // -1: a signal ended it
	out, err string
}

func (r reply) String() string {
	return fmt.Sprintf("%s: exit code %d\n%s%s", strings.Join(r.args, " "), r.code, r.out[:min(len(r.out), 2000)], r.err)
}

// decode reads the reply's data, which must be one object on one line, of v's members and no others.
func (r reply) decode(v any) error {
	if strings.Count(r.out, "\n") != 1 || !strings.HasSuffix(r.out, "}\n") {
		return fmt.Errorf("not one object on one line: %s", r)
	}
	dec := json.NewDecoder(strings.NewReader(r.out))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%w: %s", err, r)
	}
	return nil
}

func runProgram(bin string, args ...string) reply {
	return runCommand(exec.Command(bin, args...), args)
}

func runCommand(cmd *exec.Cmd, args []string) reply {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(&errs, err)
	}
	return reply{args, cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// bank runs the program in a process of its own.
func bank(t *testing.T, args ...string) reply {
	t.Helper()
	return runProgram(get(t, program), args...)
}

// here runs the program in this process.
func here(t *testing.T, args ...string) reply {
	t.Helper()
	var out, errs bytes.Buffer
	app := cli.App{Service: service.Service()}
	code := app.Main(t.Context(), append([]string{"bank"}, args...), strings.NewReader(""), &out, &errs, func(string) string { return "" })
	return reply{args, code, out.String(), errs.String()}
}

// ok returns what a command that succeeded printed.
func ok(t *testing.T, r reply) string {
	t.Helper()
	if r.code != 0 {
		t.Fatal(r)
	}
	return r.out
}

// answer returns the one object that a command which succeeded answered with.
func answer[T any](t *testing.T, r reply) (v T) {
	t.Helper()
	ok(t, r)
	if err := r.decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// get returns what tests share.
func get[T any](t *testing.T, share func() (T, error)) T {
	t.Helper()
	v, err := share()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// copyOf copies a shared file together with its lock file, so that the copy can be written.
func copyOf(t *testing.T, f file) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bank.db")
	copyFile(t, f.path, path)
	copyFile(t, f.path+".lock", path+".lock")
	return path
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	must(t, err)
	defer src.Close()
	dst, err := os.Create(to)
	must(t, err)
	_, err = io.Copy(dst, src)
	must(t, errors.Join(err, dst.Close()))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sql runs a query with SQLite alone, as any other program would. The function row may be nil.
func sql(t *testing.T, path, query string, row func(*zombiezen.Stmt), args ...any) {
	t.Helper()
	c, err := zombiezen.OpenConn(path, zombiezen.OpenReadWrite)
	must(t, err)
	c.SetBusyTimeout(patience)
	err = sqlitex.ExecuteTransient(c, query, &sqlitex.ExecOptions{Args: args, ResultFunc: func(st *zombiezen.Stmt) error {
		if row != nil {
			row(st)
		}
		return nil
	}})
	must(t, errors.Join(err, c.Close()))
}

// statement reads the projection's table.
func statement(t *testing.T, path string) map[month]sum {
	t.Helper()
	all := map[month]sum{}
	sql(t, path, "SELECT account, month, credits, debits, transactions, last_version FROM bank_statement", func(st *zombiezen.Stmt) {
		all[month{st.ColumnText(0), st.ColumnText(1)}] = sum{st.ColumnInt64(2), st.ColumnInt64(3), st.ColumnInt64(4), st.ColumnInt64(5)}
	})
	return all
}

// wantStatement compares the projection's table with the oracle after so many rows.
func wantStatement(t *testing.T, path string, o *oracle, rows int) {
	t.Helper()
	wantLines(t, path, statement(t, path), o, rows)
}

func wantLines(t *testing.T, where string, got map[month]sum, o *oracle, rows int) {
	t.Helper()
	if want := o.statement(rows); !maps.Equal(got, want) || len(want) == 0 {
		t.Errorf("%s: %d lines of statement are not the oracle's %d", where, len(got), len(want))
	}
}

// verdict is the answer of verify.
type verdict struct {
	Equal     bool            `json:"equal"`
	Messages  int64           `json:"messages"`
	Judged    int64           `json:"judged"`
	NotJudged int64           `json:"not_judged"`
	StateHash string          `json:"state_hash"`
	Build     string          `json:"build"`
	Seconds   float64         `json:"seconds"`
	Runs      json.RawMessage `json:"runs"`
}

// wantWhole checks that a file holds each transaction once, decided as the record says, and the states and statements
// that follow.
func wantWhole(t *testing.T, path string, o *oracle) {
	t.Helper()
	v := answer[verdict](t, bank(t, "verify", "--procs", "2", "--db", path, "--json"))
	if !v.Equal || v.Messages != messages || v.Judged != messages || v.NotJudged != 0 || v.StateHash != get(t, plain).got.StateHash {
		t.Errorf("verify %s: %+v", path, v)
	}
	wantStatement(t, path, o, messages)
}

// transactions returns the shipped transactions, in order.
var transactions = sync.OnceValues(func() (all []berka.Transaction, err error) {
	data, err := berka.Data()
	if err != nil {
		return nil, err
	}
	defer data.Close()
	for tr, err := range berka.Read(data) {
		if err != nil {
			return nil, err
		}
		all = append(all, tr)
	}
	return all, nil
})

// patience bounds a wait for what takes seconds, on a machine that is busy.
const patience = 2 * time.Minute

// await polls until something is so, or patience is at its end.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
