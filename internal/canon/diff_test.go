package canon_test

import (
	"encoding/hex"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/dejalog/deja/internal/canon"
)

func TestDiff(t *testing.T) {
	type fields = []canon.Field
	for _, c := range []struct {
		rule          string
		before, after fields
		want          []canon.Change
	}{
		{"nothing from nothing", nil, nil, nil},
		{"nothing from the same", fields{{"a", "1"}}, fields{{"a", "1"}}, nil},
		{"set", fields{{"a", "1"}}, fields{{"a", "2"}}, []canon.Change{{"a", "1", "2"}}},
		{"added", nil, fields{{"a", `""`}}, []canon.Change{{"a", "", `""`}}},
		{"removed", fields{{"a", "1"}}, nil, []canon.Change{{"a", "1", ""}}},
		{"merged by path", fields{{"a", "1"}, {"c", "1"}, {"d", "1"}}, fields{{"b", "2"}, {"c", "2"}, {"d", "1"}, {"e", "2"}}, []canon.Change{
			{"a", "1", ""}, {"b", "", "2"}, {"c", "1", "2"}, {"e", "", "2"},
		}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			if got := canon.Diff(c.before, c.after); !slices.Equal(got, c.want) {
				t.Errorf("got %v\nwant %v", got, c.want)
			}
		})
	}
}

// These hashes are in journals. A change here needs new domain names, and a
// migration.
func TestHashesAreFrozen(t *testing.T) {
	fields := []canon.Field{{"balance", "-50"}, {`limits["a.b"]`, "0"}, {"owner", `"ana"`}}
	changes := []canon.Change{{"balance", "100", "-50"}, {"owner", "", `"ana"`}, {"x", "1", ""}}
	long := []canon.Field{{"text", `"` + strings.Repeat("é", 5000) + `"`}}
	for _, c := range []struct {
		what string
		got  [32]byte
		want string
	}{
		{"no fields", canon.HashFields(nil), "a7f92e5e9ebf98801f0a4c6433fbf403a6c26c04e12c804554d06425a90b59dc"},
		{"fields", canon.HashFields(fields), "84b983418c5683497f72632e799589e21de54cc5dd47523f89fde1c17761c27d"},
		{"a long field", canon.HashFields(long), "3167dd515519e7f592213d2b8bbdf6bb3470334d903e98f518e3d8563828f1a9"},
		{"no changes", canon.HashChanges(nil), "5e58f90b0b8bb396e0f10cf38ebd4c61b76cb39db31bd9f15245796ac9b3bcf9"},
		{"changes", canon.HashChanges(changes), "3a2f11cd00415103264fc50f4d260750933f055cd3489affe5cb0aa7e2746e98"},
	} {
		if got := hex.EncodeToString(c.got[:]); got != c.want {
			t.Errorf("%s: got %s, want %s", c.what, got, c.want)
		}
	}
}

// The fields of a state are frozen too, as hashes depend on them.
func TestStateHashIsFrozen(t *testing.T) {
	v := wide{
		Base: Base{ID: "x"}, S: "<é\n>", N: -1, Raw: []byte{1}, Q: 5, Odd: 7, OptS: &inner{}, Arr: [2]inner{{}, {A: 1}},
		List: []inner{{}, {B: "b"}}, Map: map[string]int64{"": 0, "a.b": 1}, MapP: map[string]*inner{"n": nil}, Kids: []wide{{N: 1}},
	}
	fields := mustFlatten(t, mustShape(t, reflect.TypeOf(v)), mustMarshal(t, v))
	sum := canon.HashFields(fields)
	if got, want := hex.EncodeToString(sum[:]), "a7c6ced258c302905d82ccf4825bd9849e0909c5f3809cb45b16f411b3e87976"; got != want {
		t.Errorf("got %s, want %s: %s", got, want, render(fields))
	}
}

func TestHashesDoNotRunTogether(t *testing.T) {
	type fields = []canon.Field
	seen := map[[32]byte]int{}
	for i, f := range []fields{
		nil, {{"", ""}}, {{"", ""}, {"", ""}}, {{"a", "b"}}, {{"ab", ""}}, {{"", "ab"}}, {{"a", ""}, {"b", ""}}, {{"a\x01", "b"}}, {{"a", "\x01b"}},
	} {
		sum := canon.HashFields(f)
		if j, ok := seen[sum]; ok {
			t.Errorf("cases %d and %d have one hash", i, j)
		}
		seen[sum] = i
	}
	if canon.HashFields(nil) == canon.HashChanges(nil) {
		t.Error("no fields and no changes have one hash")
	}
	if canon.HashChanges([]canon.Change{{"a", "1", ""}}) == canon.HashChanges([]canon.Change{{"a", "", "1"}}) {
		t.Error("added and removed have one hash")
	}
}

func TestDiffer(t *testing.T) {
	many := func(v string) string {
		var s strings.Builder
		for c := 'a'; c < 'a'+20; c++ {
			s.WriteString(`"` + string(c) + `":` + v + `,`)
		}
		return "{" + s.String() + `"z":0}`
	}
	for _, c := range []struct {
		rule, a, b string
		want       []string
	}{
		{"the same content", `{"a":1,"b":[]}`, ` {"b":[],"\u0061":1}`, nil},
		{"paths, sorted", `{"b":{"x y":1},"a":1}`, `{"b":{"x y":2},"a":2}`, []string{"a", `b["x y"]`}},
		{"absent and null", `{"a":null}`, `{}`, []string{"a"}},
		{"containers of two kinds", `[1]`, `{}`, []string{"#", "0"}},
		{"empty containers of two kinds", `[]`, `{}`, []string{"payload"}},
		{"zero and null in an array", `[0]`, `[null]`, []string{"0"}},
		{"lengths", `{"a":[1]}`, `{"a":[1,2]}`, []string{"a.#", "a.1"}},
		{"empty containers", `{"a":[]}`, `{"a":{}}`, []string{"a"}},
		{"a container for a scalar", `{"a":{"b":1}}`, `{"a":1}`, []string{"a", "a.b"}},
		{"large numbers", `{"a":9007199254740992}`, `{"a":9007199254740993}`, []string{"a"}},
		{"numbers that Append refuses", `{"a":1.5,"b":-0,"c":1e3}`, `{"a":1.50,"b":0,"c":1E+3}`, []string{"a", "b", "c"}},
		{"keys that Append refuses", `{"a":1,"A":2,"b":1,"b":2}`, `{"a":1,"A":3,"b":1,"b":2}`, []string{"A"}},
		{"a key repeated is one path", `{"a":1,"a":2}`, `{"a":3,"a":4}`, []string{"a"}},
		{"at most 16", many("1"), many("2"), []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "…"}},
		{"scalars", `1`, `2`, []string{"payload"}},
		{"equal scalars", `1`, ` 1 `, nil},
		{"a scalar for an object", `1`, `{"a":1}`, []string{"payload"}},
		{"not JSON", `{"a":1}`, `{"a":1`, []string{"payload"}},
		{"not JSON, twice the same", `x`, `x`, []string{"payload"}},
		{"a bad fraction", `1.`, `1`, []string{"payload"}},
		{"a bad exponent", `1e+`, `1`, []string{"payload"}},
		{"empty", ``, `{}`, []string{"payload"}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			if got := canon.Differ([]byte(c.a), []byte(c.b)); !slices.Equal(got, c.want) {
				t.Errorf("Differ(%s, %s)\n got %q\nwant %q", c.a, c.b, got, c.want)
			}
			if got := canon.Differ([]byte(c.b), []byte(c.a)); !slices.Equal(got, c.want) {
				t.Errorf("the other way round: got %q", got)
			}
		})
	}
}
