package oracle_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// A stretch is a part of an account's history in which something is so: from one row of the CSV on, until another one, 0 for
// none.
type stretch struct {
	from, until int
	low, high   int64 // of what it is about
}

// stretches finds them in plain Go.
func stretches(history []state, so func(state) bool, about func(state) int64) (found []stretch) {
	open := false
	for _, s := range history {
		n := about(s)
		switch {
		case so(s) && !open:
			found = append(found, stretch{s.Row, 0, n, n})
		case so(s):
			last := &found[len(found)-1]
			last.low, last.high = min(last.low, n), max(last.high, n)
		case open:
			found[len(found)-1].until = s.Row
		}
		open = so(s)
	}
	return found
}

// holding is the answer of when.
type holding struct {
	Key       string `json:"key"`
	Intervals []struct {
		From enterMessage  `json:"from"`
		To   *enterMessage `json:"to"`
		Min  *int64        `json:"min"`
		Max  *int64        `json:"max"`
	} `json:"intervals"`
	Complete bool   `json:"complete"`
	Scan     string `json:"scan"`
	Assumed  string `json:"assumed"`
	UpTo     string `json:"up_to"`
}

type enterMessage struct {
	ID       string `json:"id"`
	Position string `json:"position"`
	Version  int64  `json:"version"`
	Type     string `json:"type"`
	Payload  struct {
		Transaction int64  `json:"transaction"`
		Direction   string `json:"direction"`
		Operation   string `json:"operation"`
		Symbol      string `json:"symbol"`
		Amount      int64  `json:"amount"`
		Balance     int64  `json:"balance"`
	} `json:"payload"`
}

// when asks the bank about all keys in a scope.
func when(t *testing.T, f file, args ...string) (all []holding) {
	t.Helper()
	r := bank(t, append([]string{"when", "--json", "--no-index", "--db", f.path}, args...)...)
	if r.code > 1 {
		t.Fatal(r)
	}
	lines, found := bufio.NewScanner(strings.NewReader(r.out)), false
	for lines.Buffer(nil, 1<<24); lines.Scan(); {
		dec := json.NewDecoder(strings.NewReader(lines.Text()))
		dec.DisallowUnknownFields()
		var h holding
		must(t, dec.Decode(&h))
		all, found = append(all, h), found || len(h.Intervals) > 0
	}
	must(t, lines.Err())
	if found != (r.code == 0) {
		t.Errorf("found anything: %v, exit code %d", found, r.code)
	}
	return all
}

// same reports whether a message is the one of the CSV's row that brought an account to a state.
func (m *enterMessage) same(s state) bool {
	return m.Position == fmt.Sprint("bank.inbox:0:", s.Row-1) && m.Version == s.Version && m.Payload.Balance == s.Recorded && m.Type == "account.enter"
}

// differs tells what of an answer about an account is not what the oracle says.
func (h *holding) differs(history []state, want []stretch) string {
	if !h.Complete || len(h.Intervals) != len(want) {
		return fmt.Sprintf("%d intervals, complete: %v; the oracle has %d", len(h.Intervals), h.Complete, len(want))
	}
	at := func(row int) state {
		return history[slices.IndexFunc(history, func(s state) bool { return s.Row == row })]
	}
	for i, w := range want {
		in := &h.Intervals[i]
		switch {
		case !in.From.same(at(w.from)):
			return fmt.Sprintf("interval %d begins with %+v, want row %d", i, in.From, w.from)
		case (in.To == nil) != (w.until == 0), in.To != nil && !in.To.same(at(w.until)):
			return fmt.Sprintf("interval %d ends with %+v, want row %d", i, in.To, w.until)
		case in.Min == nil || in.Max == nil || *in.Min != w.low || *in.Max != w.high:
			return fmt.Sprintf("interval %d went from %v to %v, want %d to %d", i, in.Min, in.Max, w.low, w.high)
		}
	}
	return ""
}

func balance(s state) int64    { return s.Balance }
func difference(s state) int64 { return s.Balance - s.Recorded }

// asked are conditions, and what they mean.
var asked = []struct {
	predicate string
	so        func(state) bool
	about     func(state) int64
}{
	{"state.balance < 0", func(s state) bool { return s.Balance < 0 }, balance},
	{"state.balance != state.recorded", func(s state) bool { return s.Balance != s.Recorded }, difference},
	{"0 < state.balance - state.recorded", func(s state) bool { return s.Balance > s.Recorded }, difference},
	{"state.balance > 100000000", func(s state) bool { return s.Balance > 100_000_000 }, balance}, // never
}

func TestWhenIsTheOracles(t *testing.T) {
	t.Parallel()
	o, f := shipped(t), get(t, plain)
	for _, a := range asked {
		t.Run(a.predicate, func(t *testing.T) {
			t.Parallel()
			all := when(t, f, "account/*", a.predicate)
			if len(all) != len(o.accounts) {
				t.Errorf("%d accounts, want %d", len(all), len(o.accounts))
			}
			found := 0
			for i := range all {
				account := strings.TrimPrefix(all[i].Key, "account/")
				history := o.accounts[account]
				found += len(all[i].Intervals)
				if diff := all[i].differs(history, stretches(history, a.so, a.about)); diff != "" {
					t.Errorf("%s: %s", all[i].Key, diff)
				}
				if all[i].Scan != "writes" || all[i].Assumed != "" {
					t.Errorf("%s: scan %s, assumed %q", all[i].Key, all[i].Scan, all[i].Assumed)
				}
			}
			t.Logf("%d intervals", found)
		})
	}
}

// overdrawn returns every nth account that was overdrawn.
func overdrawn(o *oracle, n int) (accounts []string) {
	i := 0
	for _, account := range slices.Sorted(maps.Keys(o.accounts)) {
		if len(stretches(o.accounts[account], asked[0].so, balance)) == 0 {
			continue
		}
		if i++; i%n == 1 {
			accounts = append(accounts, account)
		}
	}
	return accounts
}

// An account is asked about alone as all are together, and up to an earlier moment as if nothing came after it.
func TestWhenOfOneAccountAtAnEarlierDay(t *testing.T) {
	t.Parallel()
	o, f := shipped(t), get(t, plain)
	const day = "1994-02-04"
	for _, account := range overdrawn(o, 7) {
		history := o.accounts[account]
		for until, flags := range map[string][]string{"9999": nil, day: {"--at", day, "--by", "business"}} {
			var known []state
			for _, s := range history {
				if s.Date <= until {
					known = append(known, s)
				}
			}
			one := when(t, f, append(flags, "account/"+account, asked[0].predicate)...)
			if len(one) != 1 || one[0].Key != "" {
				t.Fatalf("%s: %d answers, with key %q", account, len(one), one[0].Key)
			}
			if diff := one[0].differs(known, stretches(known, asked[0].so, balance)); diff != "" {
				t.Errorf("account/%s up to %s: %s", account, until, diff)
			}
		}
	}
}

// Binary search takes it that an overdraft stays one. It misses all that recovered, and says that it assumes.
func TestBinarySearchMissesOverdraftsThatRecover(t *testing.T) {
	t.Parallel()
	o, f := shipped(t), get(t, plain)
	exact, still := 0, 0
	for _, history := range o.accounts {
		for _, s := range stretches(history, asked[0].so, balance) {
			if exact++; s.until == 0 {
				still++
			}
		}
	}
	found := 0
	for _, h := range when(t, f, "account/*", asked[0].predicate, "--assume", "sticky") {
		if h.Assumed != "sticky" || h.Scan != "some" {
			t.Errorf("%s: assumed %q, scan %s", h.Key, h.Assumed, h.Scan)
		}
		found += len(h.Intervals)
	}
	t.Logf("binary search finds %d of %d overdrafts", found, exact)
	if found != still || found >= exact {
		t.Errorf("binary search finds %d of %d overdrafts, of which %d last", found, exact, still)
	}
}

// Bisect by a program finds what lasts, as of account 8566; each message must be tested to find what recovered.
func TestBisectByAProgram(t *testing.T) {
	t.Parallel()
	o, f := shipped(t), get(t, plain)
	const test = `read -r state; case $state in *'"balance":-'*) exit 1;; esac`
	for _, account := range append(overdrawn(o, 10), "8566") {
		over := stretches(o.accounts[account], asked[0].so, balance)
		for _, exact := range []bool{false, true} {
			args := []string{"bisect", "account/" + account, "--exec", test, "--json", "--no-index", "--db", f.path}
			if exact {
				args = append(args, "--exact")
			}
			r := bank(t, args...)
			var got struct {
				FirstBad *enterMessage `json:"first_bad"`
				Assumed  string        `json:"assumed"`
			}
			must(t, json.Unmarshal([]byte(r.out), &got))
			finds := exact || over[len(over)-1].until == 0
			switch {
			case finds != (got.FirstBad != nil) || finds != (r.code == 0) || exact != (got.Assumed == ""):
				t.Errorf("account/%s, exact %v: %s", account, exact, r)
			case finds && got.FirstBad.Position != fmt.Sprint("bank.inbox:0:", over[0].from-1) && exact:
				t.Errorf("account/%s: %+v, want row %d", account, got.FirstBad, over[0].from)
			}
		}
	}
}
