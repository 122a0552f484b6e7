package idempotency_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/idempotency"
)

type withdraw struct {
	Amount int64 `json:"amount"`
}

func (withdraw) CommandType() string { return "account.withdraw" }

// client answers every request with out and err, and keeps them.
type client struct {
	deja.Client
	out  deja.Outcome
	err  error
	got  []deja.Request
	hang bool // until the context ends
}

func (c *client) Do(ctx context.Context, r deja.Request) (deja.Outcome, error) {
	c.got = append(c.got, r)
	if c.hang {
		<-ctx.Done()
		return deja.Outcome{}, fmt.Errorf("%w (%w)", deja.ErrPending, ctx.Err())
	}
	c.out.ID = r.ID
	return c.out, c.err
}

// withdrawals is a route as users write it.
func withdrawals(c deja.Client) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /accounts/{id}/withdrawals", idempotency.Handler(c, "withdrawal", func(r *http.Request) (deja.Request, error) {
		var cmd withdraw
		err := json.NewDecoder(r.Body).Decode(&cmd)
		user, _, _ := r.BasicAuth()
		return deja.Request{Key: r.PathValue("id"), Command: cmd, Actor: user, Tenant: r.Header.Get("Tenant")}, err
	}))
	return mux
}

type call struct {
	path, user, tenant, key, body string
	keys                          []string // instead of key
}

func post(t *testing.T, c deja.Client, in call) *httptest.ResponseRecorder {
	t.Helper()
	if in.path == "" {
		in.path = "/accounts/7/withdrawals"
	}
	if in.body == "" {
		in.body = `{"amount":5}`
	}
	if in.keys == nil {
		in.keys = []string{in.key}
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, in.path, strings.NewReader(in.body))
	r.Header[idempotency.Header] = in.keys
	r.Header.Set("Tenant", in.tenant)
	r.SetBasicAuth(in.user, "")
	w := httptest.NewRecorder()
	withdrawals(c).ServeHTTP(w, r)
	return w
}

// problem checks that an answer is a problem of a type and status, and returns it.
func problem(t *testing.T, w *httptest.ResponseRecorder, status int, typ string) idempotency.Problem {
	t.Helper()
	var p idempotency.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("%q: %v", w.Body, err)
	}
	if w.Code != status || p.Status != status || p.Type != typ || p.Title == "" || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Fatalf("%d %s %s; want %d %s", w.Code, w.Header().Get("Content-Type"), w.Body, status, typ)
	}
	return p
}

// An answer that got lost is asked for again: the client must get the same one, and may know that it is old.
func TestAppliedIsToldTheSameEachTime(t *testing.T) {
	c := &client{out: deja.Outcome{Version: 3, Position: deja.Position{Topic: "bank.inbox", Offset: 41}}}
	first := post(t, c, call{key: `"k1"`})
	c.out.Duplicate = true
	again := post(t, c, call{key: `"k1"`})
	want := fmt.Sprintf(`{"id":%q,"version":3,"position":"bank.inbox:0:41"}`+"\n", c.got[0].ID)
	for _, w := range []*httptest.ResponseRecorder{first, again} {
		if w.Code != http.StatusOK || w.Body.String() != want || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%d %s, want 200 %s", w.Code, w.Body, want)
		}
	}
	if a, b := first.Header().Get(idempotency.Replayed), again.Header().Get(idempotency.Replayed); a != "" || b != "true" {
		t.Errorf("replayed: %q, then %q", a, b)
	}
	if c.got[0].ID != c.got[1].ID || c.got[0].Key != "7" || c.got[0].Command != (withdraw{5}) {
		t.Errorf("asked for %+v", c.got)
	}
}

// A key is one caller's: nobody learns another's outcome, or spoils another's key, by guessing it.
func TestKeysOfDifferentCallersAreDifferent(t *testing.T) {
	c := &client{}
	calls := []call{
		{user: "ana", key: `"k"`},
		{user: "bob", key: `"k"`},
		{user: "ana", tenant: "north", key: `"k"`},
		{user: "", tenant: "ana", key: `"k"`},
		{user: "south", tenant: "ana", key: `"k"`},
		{user: `ana""south`, key: `"k"`}, // parts of the name must not run together
		{tenant: `ana""south`, key: `"k"`},
		{tenant: "anasouth", key: `"k"`},
		{user: "ana", key: `"k2"`},
	}
	seen := map[deja.ID]call{}
	for _, in := range calls {
		post(t, c, in)
		r := c.got[len(c.got)-1]
		if other, ok := seen[r.ID]; ok {
			t.Errorf("%+v and %+v share an id", other, in)
		}
		seen[r.ID] = in
	}
}

// The same key for another account is the same key: deja finds the conflict. Were the account part of the ID, a
// client's mistake would become a second payment.
func TestAKeyIsNotTheAccounts(t *testing.T) {
	c := &client{}
	post(t, c, call{key: `"k"`})
	post(t, c, call{key: `"k"`, path: "/accounts/8/withdrawals"})
	if c.got[0].ID != c.got[1].ID {
		t.Error("two ids")
	}
}

// Pinned: with other IDs, keys of before would count as new.
func TestIDsNeverChange(t *testing.T) {
	c := &client{}
	post(t, c, call{key: `"k"`, user: "ana"})
	if got, want := c.got[0].ID.String(), "3c56f170-fb5e-811b-a74d-ad4230cd4658"; got != want {
		t.Errorf("id %s, want %s", got, want)
	}
}

// The draft's key is a quoted string; many clients send it bare, and mean the same.
func TestKeysInAndOutOfQuotes(t *testing.T) {
	c := &client{}
	for _, key := range []string{`"8e03-97/8:e"`, `8e03-97/8:e`, ` 8e03-97/8:e `, `"8e03-97/8:e"` + "\t"} {
		if w := post(t, c, call{key: key}); w.Code != http.StatusOK {
			t.Fatalf("%s: %s", key, w.Body)
		}
	}
	for _, key := range []string{`"a \"b\" \\ c"`, `"` + strings.Repeat("x", 255) + `"`, strings.Repeat("x", 255)} {
		if w := post(t, c, call{key: key}); w.Code != http.StatusOK {
			t.Errorf("%s: %s", key, w.Body)
		}
	}
	for _, r := range c.got[1:4] {
		if r.ID != c.got[0].ID {
			t.Error("the quotes made another key of it")
		}
	}
}

// Without a usable key nothing is done, and the answer says what to send.
func TestAKeyIsNeeded(t *testing.T) {
	for name, keys := range map[string][]string{
		"missing":         {},
		"empty":           {""},
		"empty in quotes": {`""`},
		"blank":           {"  "},
		"too long":        {strings.Repeat("x", 256)},
		"two":             {`"a"`, `"b"`},
		"a list":          {`a, b`},
		"open":            {`"abc`},
		"only a quote":    {`"`},
		"text behind it":  {`"abc"d`},
		"a parameter":     {`"abc";v=1`},
		"bare parameter":  {`abc;v=1`},
		"bad escape":      {`"a\bc"`},
		"escape at end":   {`"abc\"`},
		"not ASCII":       {`"schlüssel"`},
		"bare not ASCII":  {`schlüssel`},
		"control":         {"\"a\x01b\""},
		"quote inside":    {`ab"c`},
	} {
		t.Run(name, func(t *testing.T) {
			c := &client{}
			p := problem(t, post(t, c, call{keys: keys}), http.StatusBadRequest, idempotency.ProblemKey)
			if len(c.got) > 0 {
				t.Error("it was done")
			}
			if !strings.Contains(p.Detail, `send Idempotency-Key: "`) {
				t.Errorf("detail %q does not say what to send", p.Detail)
			}
		})
	}
}

// What cannot become a command is the client's fault, and leaves the key unused.
func TestARequestMustMakeSense(t *testing.T) {
	for name, tt := range map[string]struct {
		in     call
		status int
	}{
		"not JSON":   {call{body: `{"amount":`}, http.StatusBadRequest},
		"wrong type": {call{body: `{"amount":"5"}`}, http.StatusBadRequest},
		"no key":     {call{path: "/accounts/%01/withdrawals"}, http.StatusBadRequest},
		"long key":   {call{path: "/accounts/" + strings.Repeat("x", 600) + "/withdrawals"}, http.StatusBadRequest},
		"too large":  {call{body: `{"x":"` + strings.Repeat("x", 2<<20) + `"}`}, http.StatusRequestEntityTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			c := &client{}
			tt.in.key = `"k"`
			p := problem(t, post(t, c, tt.in), tt.status, idempotency.ProblemRequest)
			if len(c.got) > 0 || p.Detail == "" {
				t.Errorf("%+v; did %+v", p, c.got)
			}
		})
	}
	h := idempotency.Handler(&client{}, "nothing", func(*http.Request) (deja.Request, error) { return deja.Request{Key: "7"}, nil })
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	r.Header.Set(idempotency.Header, "k")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	problem(t, w, http.StatusBadRequest, idempotency.ProblemRequest)
}

// Everything but "applied" is a problem of its own type, so that a client can tell what to do next.
func TestWhyACommandWasNotApplied(t *testing.T) {
	for name, tt := range map[string]struct {
		err        error
		status     int
		typ        string
		code       string
		paths      []string
		retryAfter string
	}{
		"refused: it stays refused": {
			err:    deja.NewRejection("account.overdraft").Because("balance 3"),
			status: http.StatusConflict, typ: idempotency.ProblemRejected, code: "account.overdraft",
		},
		"the key was used for another request": {
			err:    &deja.Conflict{Paths: []string{"amount", "@stream"}},
			status: http.StatusUnprocessableEntity, typ: idempotency.ProblemReused, paths: []string{"amount", "@stream"},
		},
		"no outcome yet: ask again": {
			err:    fmt.Errorf("%w (%w)", deja.ErrPending, context.DeadlineExceeded),
			status: http.StatusConflict, typ: idempotency.ProblemPending, retryAfter: "1",
		},
		"waits for an operator: not done, and no use to hurry": {
			err:    fmt.Errorf("%w: %w", deja.ErrParked, &deja.Rejection{Code: deja.CodeFailed, Detail: "secret"}),
			status: http.StatusConflict, typ: idempotency.ProblemParked,
		},
		"can never be handled": {
			err:    &deja.Dead{Reason: deja.Rejection{Code: deja.CodeSkipped}},
			status: http.StatusUnprocessableEntity, typ: idempotency.ProblemDead, code: deja.CodeSkipped,
		},
		"the service has halted: recorded, maybe": {
			err:    fmt.Errorf("%w: secret", deja.ErrHalted),
			status: http.StatusServiceUnavailable, typ: idempotency.ProblemUnavailable, retryAfter: "1",
		},
		"any other fault": {
			err:    errors.New("secret"),
			status: http.StatusServiceUnavailable, typ: idempotency.ProblemUnavailable, retryAfter: "1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := &client{err: tt.err}
			w := post(t, c, call{key: `"k"`})
			p := problem(t, w, tt.status, tt.typ)
			if p.Code != tt.code || fmt.Sprint(p.Paths) != fmt.Sprint(tt.paths) || w.Header().Get("Retry-After") != tt.retryAfter {
				t.Errorf("%s, Retry-After %q", w.Body, w.Header().Get("Retry-After"))
			}
			if p.ID != c.got[0].ID {
				t.Errorf("problem of %s, want %s", p.ID, c.got[0].ID)
			}
			if strings.Contains(w.Body.String(), "secret") {
				t.Errorf("what is wrong inside was told: %s", w.Body)
			}
		})
	}
}

// A refusal that is told again says so, as an applied command does.
func TestARefusalIsReplayedToo(t *testing.T) {
	c := &client{out: deja.Outcome{Duplicate: true}, err: deja.NewRejection("account.overdraft")}
	if w := post(t, c, call{key: `"k"`}); w.Header().Get(idempotency.Replayed) != "true" {
		t.Errorf("headers %v", w.Header())
	}
}

// No client waits for ever: after ten seconds it is told to ask again.
func TestPatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := post(t, &client{hang: true}, call{key: `"k"`})
		problem(t, w, http.StatusConflict, idempotency.ProblemPending)
	})
}
