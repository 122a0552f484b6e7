package cond_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/cond"
)

var update = flag.Bool("update", false, "write the golden files")

type account struct {
	Balance  int64            `json:"balance"`
	Recorded int64            `json:"recorded"`
	Owner    owner            `json:"owner"`
	Next     *owner           `json:"next"`
	Limits   map[string]int64 `json:"limits"`
	Items    []item           `json:"items"`
	Opt      *int64           `json:"opt"`
	Large    uint64           `json:"large"`
	Since    time.Time        `json:"since"`
	Bytes    []byte           `json:"bytes"`
	Pair     [2]int64         `json:"pair"`
	Odd      int64            `json:"odd-name"`
	In       int64            `json:"in"`
}

type owner struct {
	Name string `json:"name"`
}

type item struct {
	Price int64 `json:"price"`
}

func shape(tb testing.TB) *canon.Shape {
	tb.Helper()
	s, err := canon.ShapeOf(reflect.TypeFor[account]())
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func compile(tb testing.TB, text string) *cond.Program {
	tb.Helper()
	p, err := cond.Compile("account", shape(tb), text)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// run returns a run after a message that wrote some fields.
func run(tb testing.TB, text string, writes ...string) *cond.Run {
	tb.Helper()
	r := compile(tb, text).NewRun()
	r.Message([]cond.Event{{"account.x", []byte(`{"amount":4,"type":"own","big":18446744073709551615}`)}, {"account.y", []byte(`{"amount":9007199254740993}`)}})
	for _, w := range writes {
		path, token, _ := strings.Cut(w, "=")
		r.Write(path, token)
	}
	return r
}

// The errors of conditions, as people see them. They are in a file: -update writes it.
func TestErrors(t *testing.T) {
	var got strings.Builder
	for _, text := range []string{
		"state.balanc < 0", "balance < 0", "stat.balance < 0", "state.owner.nam == ''", "state.zzz == 1", "foo(state.balance)",
		"state.balance + 1", "state.owner", "state.items", "state.balance < 0.5", "state.balance < '0'", "state.owner.name == 5",
		"state.balance <", "state.balance < 0)", "", "state.in > 0", "state.odd-name > 0", "state.balance == 9223372036854775808",
		"state.items.all(state, true)", "state.items.exists(event, true)", "state.owner.name.matches('a(')",
		"state.balance < 0\n  && state.recordd > 3", "\tstate.é < 0", "account{balance: 1} == state && unknown", "account.x", "timestamp('yesterday') < state.since",
		strings.Repeat("state.balance < 0 && ", 600) + "true",
	} {
		_, err := cond.Compile("account", shape(t), text)
		var fault *cond.Error
		if !errors.As(err, &fault) {
			t.Errorf("%s: got %v, want an error with a place", text, err)
		}
		if len(text) > 1000 {
			text = text[:20] + "…"
		}
		fmt.Fprintf(&got, "%q\n%.400v\n\n", text, err)
	}
	const golden = "testdata/errors.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("not what is in %s:\n%s", golden, got.String())
	}
}

func TestReads(t *testing.T) {
	for text, want := range map[string]string{
		"state.balance < 0":                                        `["balance"]`,
		"state.balance < prev.recorded":                            `["balance" "recorded"] prev`,
		"state.owner.name == 'x' || state.owner == prev.owner":     `["owner"] prev`,
		"state.limits['a.b'] > 1 && state.limits.c > 2":            `["limits.c" "limits[\"a.b\"]"]`,
		"'x' in state.limits && state.limits.x > 1":                `["limits"]`,
		"state.items[0].price > 1":                                 `["items"]`,
		"state.items.exists(i, i.price > state.balance)":           `["balance" "items"]`,
		"state.next.name == ''":                                    `["next"]`,
		"has(state.next.name)":                                     `["next"]`,
		"state.`odd-name` > 0":                                     `["odd-name"]`,
		"state == prev":                                            `[""] prev`,
		"event.type == 'x'":                                        `[] events`,
		"events.exists(e, e.amount > 1) && state.balance > 0":      `["balance"] events`,
		"{'a': state.balance}['a'] > 0 && [state.recorded][0] > 0": `["balance" "recorded"]`,
		"[state.owner][0].name == ''":                              `["owner"]`,
		"true":                                                     `[]`,
	} {
		p := compile(t, text)
		got := fmt.Sprintf("%q", p.Paths())
		if p.ReadsPrev() {
			got += " prev"
		}
		if p.ReadsEvents() {
			got += " events"
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

func TestValues(t *testing.T) {
	for _, c := range []struct {
		rule, text string
		writes     []string
	}{
		{"a field that is not written is zero", "state.balance == 0 && state.owner.name == '' && size(state.items) == 0 && size(state.limits) == 0 && state.pair[1] == 0", nil},
		{"a pointer to nothing is null", "state.next == null && state.opt == null && !has(state.next)", nil},
		{"a pointer to zero is zero", "state.opt == 0 && state.next.name == '' && has(state.next)", []string{"opt=0", `next.name=""`}},
		{"has is for what is not zero", "has(state.balance) && !has(state.recorded)", []string{"balance=-1"}},
		{"entries may be zero", "'a' in state.limits && has(state.limits.a) && state.limits.a == 0 && !has(state.limits.b)", []string{"limits.a=0"}},
		{"integers are exact", "state.balance == 9007199254740993 && state.balance != 9007199254740992", []string{"balance=9007199254740993"}},
		{"beyond int is uint", "dyn(state.large) == 18446744073709551615u && state.large > 9223372036854775807", []string{"large=18446744073709551615"}},
		{"a time is a text, which can be read", "timestamp(state.since) < timestamp('1993-01-01T00:00:00Z')", []string{`since="1992-12-31T23:59:59Z"`}},
		{"a time that is not written is the zero time", "state.since == '0001-01-01T00:00:00Z'", nil},
		{"bytes are base64", "state.bytes == 'aGk='", []string{`bytes="aGk="`}},
		{"texts with escapes", `state.owner.name == "é\"\n"`, []string{`owner.name="é\"\n"`}},
		{"names that are words, or none", "state.`odd-name` == 1 && state.`in` == 2", []string{"odd-name=1", "in=2"}},
		{"lists", "state.items.map(i, i.price) == [7, 0]", []string{"items.#=2", "items.0.price=7"}},
		{"keys of maps come in order", "state.limits.map(k, k) == ['a', 'b', 'c d', 'é']", []string{"limits.b=1", `limits["é"]=1`, "limits.a=1", `limits["c d"]=1`}},
		{"the last event, with its type", "event.type == 'account.y' && event.amount == 9007199254740993", nil},
		{"all events; a type of the payload's own", "events[0].type == 'account.x' && events[0].payload.type == 'own' && events.size() == 2", nil},
		{"integers of events", "events[0].big == 18446744073709551615u && !has(event.big)", nil},
		{"what is dynamic stays exact", "dyn(state.owner).name == 'x' && dyn(state) == state", []string{`owner.name="x"`}},
		{"no double comes of integers", "type(state.balance) == int && type(event.amount) == int", []string{"balance=5"}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			if ok, err := run(t, c.text, c.writes...).Holds(); !ok || err != nil {
				t.Errorf("%s: %v, %v", c.text, ok, err)
			}
		})
	}
}

// What cannot be evaluated is an error at its place, never false.
func TestFaults(t *testing.T) {
	for text, want := range map[string]string{
		"state.balance / state.recorded > 1":  "\n                ^ division by zero",
		"state.balance * 2 > 0":               "\n                ^ integer overflow",
		"state.limits.none > 0":               "\n              ^ no such key: none",
		"state.items[3].price > 0":            "index out of bounds: 3",
		"state.next.name == ''":               "\n            ^ no such field: name, of null",
		"state.opt > 3":                       "no such overload",
		"event.none > 0":                      "\n       ^ no such key: none",
		"event.amount":                        "^ this was a int: want true or false",
		"state.balance > 0 || event.none > 0": "no such key",
	} {
		ok, err := run(t, text, "balance=-9223372036854775808").Holds()
		if ok || err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %v, %v; want %s", text, ok, err, want)
		}
	}
}

func TestCostLimit(t *testing.T) {
	writes := []string{"items.#=120"}
	text := "state.items.all(a, state.items.all(b, state.items.all(c, a.price + b.price + c.price >= 0)))"
	if ok, err := run(t, text, writes...).Holds(); ok || err == nil || !strings.Contains(err.Error(), "takes more than 1000000 steps") {
		t.Errorf("got %v, %v", ok, err)
	}
	writes[0] = "items.#=20"
	if ok, err := run(t, text, writes...).Holds(); !ok || err != nil {
		t.Errorf("a smaller list: %v, %v", ok, err)
	}
}

func TestSubject(t *testing.T) {
	for text, want := range map[string]string{
		"state.balance < 0":                                   "state.balance = -5",
		"0 > state.balance":                                   "state.balance = -5",
		"state.balance != state.recorded":                     "state.balance - (state.recorded) = -12",
		"state.balance < -state.recorded":                     "state.balance - (-state.recorded) = 2",
		"state.owner.name == 'x' && !(state.recorded == 3)":   "state.recorded = 7",
		"size(state.items) > 2 ? state.balance > 1 : false":   "size(state.items) = 0",
		"state.balance - state.recorded > 10 - 5":             "state.balance - state.recorded = -12",
		"state.large > 3 && state.balance < 0":                "state.large = 18446744073709551615",
		"events[0].big > 3":                                   "events[0].big = 18446744073709551615",
		"state.owner.name == 'x'":                             " none",
		"state.opt > 3":                                       "state.opt none",
		"true":                                                " none",
		"state.items.exists(i, i.price > 3)":                  " none",
		"event.type == 'x' || state.`in` < 0":                 "state.`in` = 0",
		"state.balance < 9223372036854775807 - state.balance": "",
	} {
		r := run(t, text, "balance=-5", "recorded=7", "large=18446744073709551615")
		got := compile(t, text).Subject()
		if n, ok := r.Subject(); ok {
			got += " = " + n.Big().String()
		} else {
			got += " none"
		}
		if want != "" && got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

// A run is due where it can be another, and there alone.
func TestDue(t *testing.T) {
	r := compile(t, "state.balance < prev.balance").NewRun()
	var got []bool
	for _, path := range []string{"recorded", "balance", "recorded", "recorded"} {
		r.Message(nil)
		r.Write(path, "1")
		got = append(got, r.Due())
	}
	if want := []bool{false, true, true, false}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	r.Reset()
	if r.Message(nil); r.Due() {
		t.Error("it is due after a reset")
	}
}

func BenchmarkRun(b *testing.B) {
	for _, text := range []string{"state.balance < 0", "state.balance != state.recorded", "state.balance < prev.balance", "event.amount > 3"} {
		b.Run(text, func(b *testing.B) {
			r := compile(b, text).NewRun()
			events := []cond.Event{{"account.x", []byte(`{"amount":4,"type":"z"}`)}}
			b.ReportAllocs()
			for b.Loop() {
				r.Message(events)
				r.Write("balance", "1234567")
				r.Write("recorded", "1234567")
				if _, err := r.Holds(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
