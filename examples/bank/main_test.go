package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/dejalog/deja/idempotency"
	"github.com/dejalog/deja/internal/testenv"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"bank": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds:                map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits},
	})
}

// exits runs a program that must end with a code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// bank runs the program in this process.
func bank(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = app().Main(ctx, append([]string{"bank"}, args...), strings.NewReader(""), &out, &errs, os.Getenv)
	return code, out.String(), errs.String()
}

// must runs the program, which must succeed, and returns what it printed.
func must(t *testing.T, args ...string) string {
	t.Helper()
	code, stdout, stderr := bank(t.Context(), args...)
	if code != 0 {
		t.Fatalf("bank %s: exit code %d\n%s", strings.Join(args, " "), code, stderr)
	}
	return stdout
}

func answer[T any](t *testing.T, args ...string) (v T) {
	t.Helper()
	out := must(t, append(args, "--json")...)
	if strings.Count(out, "\n") != 1 {
		t.Fatalf("bank %s: want one line, got\n%s", strings.Join(args, " "), out)
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("bank %s: %v in\n%s", strings.Join(args, " "), err, out)
	}
	return v
}

// TestDemonstration runs the program without arguments on all the data that it ships, then makes its past once more,
// interrupted on the way.
func TestDemonstration(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var d struct {
		DB, Past, Conflict string
		Equal              bool
		Import             struct {
			Messages, Applied, Duplicates, Conflicts, Rejected, Dead int64
			StateHash                                                string `json:"state_hash"`
		}
		States []struct{ Version int64 }
	}
	code, stdout, stderr := bank(t.Context(), "--json")
	if code != 0 {
		t.Fatalf("exit code %d\n%s", code, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), &d); err != nil {
		t.Fatal(err)
	}
	in := d.Import
	if in.Applied != 39385 || in.Conflicts != demoConflicts || in.Rejected+in.Dead != 0 || in.Duplicates < 1000 ||
		in.Messages != in.Applied+in.Duplicates+in.Conflicts {
		t.Errorf("import: %+v", in)
	}
	if !d.Equal || !strings.Contains(d.Conflict, "amount") || len(d.States) != len(demoDays) {
		t.Errorf("demonstration: %s", stdout)
	}
	interruptReplay(t, d.DB, in.StateHash)
	if hash := answer[map[string]any](t, "import", "--redeliver", "0.5", "--db", d.DB)["state_hash"]; hash != in.StateHash {
		t.Errorf("after a second import the states have the hash %s, want %s", hash, in.StateHash)
	}
}

// interruptReplay replays into a file, is interrupted, and goes on.
func interruptReplay(t *testing.T, db, want string) {
	t.Helper()
	into := filepath.Join(t.TempDir(), "again.db")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if info, err := os.Stat(into); err == nil && info.Size() > 0 {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	code, stdout, stderr := bank(ctx, "replay", "--db", db, "--into", into)
	if code != 4 || stdout != "" || !strings.Contains(stderr, "the same command goes on with it") {
		t.Errorf("interrupted: exit code %d\n%s%s", code, stdout, stderr)
	}
	if hash := answer[map[string]any](t, "replay", "--db", db, "--into", into)["state_hash"]; hash != want {
		t.Errorf("gone on with: hash %s, want %s", hash, want)
	}
}

// TestServe serves HTTP, and reads the database beside it.
func TestServe(t *testing.T) {
	db := filepath.Join(t.TempDir(), "bank.db")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said := new(listener)
	done := make(chan int, 1)
	go func() {
		done <- app().Main(ctx, []string{"bank", "serve", "--db", db, "--addr", "127.0.0.1:0"}, strings.NewReader(""), io.Discard, said, os.Getenv)
	}()
	url := said.wait(t)
	for _, step := range []struct {
		path, key, body string
		status          int
		want            string
	}{
		{"/accounts/7/deposits", `"a"`, `{"amount":100}`, 200, `"version":1`},
		{"/accounts/7/deposits", `"a"`, `{"amount":100}`, 200, `"version":1`},
		{"/accounts/7/deposits", `"a"`, `{"amount":101}`, 422, `"paths":["amount"]`},
		{"/accounts/7/deposits", ``, `{"amount":1}`, 400, "the header is missing"},
		{"/accounts/7/withdrawals", `"a"`, `{"amount":30}`, 200, `"version":2`},
		{"/accounts/7/withdrawals", `"b"`, `{"amount":1000}`, 409, "account.overdraft"},
		{"/accounts/7/withdrawals", `"c"`, `{"amount":`, 400, "want"},
		{"/accounts/7/withdrawals", `"c"`, `{"amount":1} {}`, 400, "one value only"},
		{"/accounts/7/withdrawals", `"c"`, `{"sum":1}`, 400, "unknown field"},
	} {
		got := post(t, url+step.path, step.key, step.body, step.status)
		if !strings.Contains(got, step.want) {
			t.Errorf("POST %s %s: %s, want %s", step.path, step.body, got, step.want)
		}
	}
	for path, want := range map[string]string{
		"/accounts/7":                `{"key":"account/7","version":2,"position":"bank.inbox:0:3","state":{"balance":70,"recorded":0},"hash":"`,
		"/accounts/7?at=inbox:0:0":   `"version":1,"position":"bank.inbox:0:0","state":{"balance":100,`,
		"/accounts/8":                `"version":0,"position":""`,
		"/accounts/7?at=never":       "want HEAD",
		"/accounts/7?at=account/7@9": "versions 1 to 2",
		"/accounts/7?at=HEAD&by=me":  "want business or decided",
	} {
		if got := get(t, url+path); !strings.Contains(got, want) {
			t.Errorf("GET %s: %s, want %s", path, got, want)
		}
	}
	if out := must(t, "state", "account/7", "--db", db, "--json"); !strings.Contains(out, `"balance":70`) {
		t.Errorf("state beside the service: %s", out)
	}
	if code, _, stderr := bank(t.Context(), "serve", "--db", db); code != 3 || !strings.Contains(stderr, "open for writing elsewhere") {
		t.Errorf("a second service: exit code %d, %s", code, stderr)
	}
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("exit code %d\n%s", code, said)
	}
}

func post(t *testing.T, url, key, body string, status int) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		r.Header.Set(idempotency.Header, key)
	}
	return do(t, r, status)
}

func get(t *testing.T, url string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return do(t, r, 0)
}

func do(t *testing.T, r *http.Request, status int) string {
	t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if status != 0 && resp.StatusCode != status {
		t.Errorf("%s %s: %s, want %d\n%s", r.Method, r.URL, resp.Status, status, body)
	}
	return string(body)
}

// listener is a standard error on which a server says where it listens.
type listener struct{ testenv.Output }

func (l *listener) wait(t *testing.T) string {
	t.Helper()
	for range 6000 {
		if url := regexp.MustCompile(`http://[0-9.:]+`).FindString(l.String()); url != "" {
			return url
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal(fmt.Errorf("the server does not listen: %s", l.String()))
	return ""
}
