package oracle_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// serve starts the server on a file and returns its address, and how to end it: by a signal, which it must obey.
func serve(t *testing.T, path string) (url string, end func(os.Signal)) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), get(t, program), "serve", "--db", path, "--addr", "127.0.0.1:0")
	pipe, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	done := false
	t.Cleanup(func() {
		if !done {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	url = addressIn(t, pipe)
	return url, func(s os.Signal) {
		t.Helper()
		done = true
		must(t, cmd.Process.Signal(s))
		if err := cmd.Wait(); err != nil && s != os.Kill && !slices.Contains([]int{0, 4}, cmd.ProcessState.ExitCode()) {
			t.Errorf("the server, at %v: %v", s, err)
		}
	}
}

// addressIn reads where the server serves.
func addressIn(t *testing.T, stderr io.Reader) string {
	t.Helper()
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if _, url, found := strings.Cut(lines.Text(), " on http://"); found {
			go func() { _, _ = io.Copy(io.Discard, stderr) }()
			return "http://" + url
		}
	}
	t.Fatal("the server ended")
	return ""
}

// response is what the server answered.
type response struct {
	status int
	body   string
	again  string // the header that marks the outcome of an earlier request
}

func request(t *testing.T, method, url, key, body string) response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	must(t, err)
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	res, err := http.DefaultClient.Do(r)
	must(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	must(t, err)
	return response{res.StatusCode, string(text), res.Header.Get("Idempotency-Replayed")}
}

// account asks for an account's state.
func account(t *testing.T, url, query string) stateAnswer {
	t.Helper()
	r := request(t, http.MethodGet, url+query, "", "")
	if r.status != http.StatusOK {
		t.Fatalf("GET %s: %+v", query, r)
	}
	var a stateAnswer
	must(t, json.Unmarshal([]byte(r.body), &a))
	return a
}

func wantAnswer(t *testing.T, what string, got response, status int, again, body string) {
	t.Helper()
	if got.status != status || got.again != again || !strings.Contains(got.body, body) {
		t.Errorf("%s: %+v, want %d, again %q, %q in it", what, got, status, again, body)
	}
}

func TestServedOverHTTP(t *testing.T) {
	t.Parallel()
	o, path := shipped(t), copyOf(t, get(t, plain))
	url, end := serve(t, path)
	url += "/accounts/576"
	last := o.after("576", messages)
	balance := func(what string, want, version int64) {
		t.Helper()
		if a := account(t, url, ""); a.State.Balance != want || a.Version != version || a.State.Recorded != last.Recorded {
			t.Errorf("%s: %+v, want the balance %d at version %d", what, a, want, version)
		}
	}
	balance("as imported", last.Balance, last.Version)

	deposit := request(t, http.MethodPost, url+"/deposits", `"one"`, `{"amount":500}`)
	wantAnswer(t, "deposit", deposit, 200, "", `"version":`)
	for range 2 {
		wantAnswer(t, "deposit again", request(t, http.MethodPost, url+"/deposits", `"one"`, `{"amount":500}`), 200, "true", deposit.body)
	}
	balance("one deposit", last.Balance+500, last.Version+1)
	wantAnswer(t, "other amount", request(t, http.MethodPost, url+"/deposits", `"one"`, `{"amount":501}`), 422, "", `"paths":["amount"]`)
	wantAnswer(t, "no key", request(t, http.MethodPost, url+"/deposits", "", `{"amount":500}`), 400, "", "idempotency key")
	wantAnswer(t, "no amount", request(t, http.MethodPost, url+"/deposits", `"x"`, `{"sum":500}`), 400, "", "amount")
	balance("still one deposit", last.Balance+500, last.Version+1)

	withdrawal := request(t, http.MethodPost, url+"/withdrawals", `"one"`, `{"amount":300}`)
	wantAnswer(t, "withdrawal, whose keys are its own", withdrawal, 200, "", `"version":`)
	beyond := request(t, http.MethodPost, url+"/withdrawals", `"two"`, `{"amount":999999999}`)
	wantAnswer(t, "beyond the balance", beyond, 409, "", "account.overdraft")
	wantAnswer(t, "beyond it again", request(t, http.MethodPost, url+"/withdrawals", `"two"`, `{"amount":999999999}`), 409, "true", beyond.body)
	balance("one withdrawal", last.Balance+200, last.Version+2)

	end(os.Kill)
	url, end = serve(t, path)
	url += "/accounts/576"
	wantAnswer(t, "deposit after a crash", request(t, http.MethodPost, url+"/deposits", `"one"`, `{"amount":500}`), 200, "true", deposit.body)
	wantAnswer(t, "withdrawal after it", request(t, http.MethodPost, url+"/withdrawals", `"one"`, `{"amount":300}`), 200, "true", withdrawal.body)
	wantAnswer(t, "refusal after it", request(t, http.MethodPost, url+"/withdrawals", `"two"`, `{"amount":999999999}`), 409, "true", beyond.body)
	balance("after the crash", last.Balance+200, last.Version+2)

	for query, want := range map[string]state{
		"?at=account/576@7":                    o.at("576", 7),
		"?at=inbox:0:19999":                    o.after("576", 20_000),
		"?at=1993-06-30&by=business":           o.on("576", "1993-06-30"),
		"?at=1993-06-30T00:00:00Z&by=business": o.on("576", "1993-06-30"),
		"?at=1993-06-30":                       {}, // nothing was decided in that year
		"?at=account/704@1":                    o.after("576", o.at("704", 1).Row),
		"?at=HEAD":                             {Version: last.Version + 2, Balance: last.Balance + 200, Recorded: last.Recorded},
	} {
		if d := account(t, url, query).differs(want); d != "" {
			t.Errorf("GET %s: %s", query, d)
		}
	}
	for _, query := range []string{"?at=yesterday", "?at=account/576@999", "?at=1993-06-30&by=magic"} {
		wantAnswer(t, query, request(t, http.MethodGet, url+query, "", ""), 400, "", "")
	}
	end(os.Interrupt)
	v := answer[verdict](t, bank(t, "verify", "--procs", "2", "--db", path, "--json"))
	if !v.Equal || v.Judged != v.Messages || v.Messages != messages+4 { // the conflict is one of them
		t.Errorf("verify: %+v", v)
	}
}
