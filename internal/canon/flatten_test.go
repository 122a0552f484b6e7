package canon_test

import (
	"encoding/json"
	"errors"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dejalog/deja/internal/canon"
)

type inner struct {
	A int64  `json:"a"`
	B string `json:"b"`
}

type outer struct {
	Inner inner  `json:"inner"`
	Ptr   *inner `json:"ptr"`
}

type node struct {
	V    int64            `json:"v"`
	Next *node            `json:"next"`
	Kids []node           `json:"kids"`
	By   map[string]*node `json:"by"`
}

type loops []loops

type Base struct {
	ID   string `json:"id"`
	More int64
}

type base struct{ Low int64 }

type embedding struct {
	*Base
	base
	Named inner `json:"named"`
	inner `json:"tagged"`
}

type state map[string]map[string]int64

// token is opaque, and its zero value is not one of the zeros of JSON.
type token [2]byte

func (x token) MarshalText() ([]byte, error) { return []byte{'a' + x[0], 'a' + x[1]}, nil }

func (x *token) UnmarshalText(text []byte) error {
	*x = token{text[0] - 'a', text[1] - 'a'}
	return nil
}

// object is opaque, and writes an object.
type object struct{ hidden int64 }

func (o object) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]int64{"z": o.hidden, "A": 1})
}

// grumpy is opaque, and its zero value cannot be written.
type grumpy struct{ p *int64 }

func (g grumpy) MarshalJSON() ([]byte, error) { return json.Marshal(*g.p + 1) }

// nullable is opaque, and null is not its zero value.
type nullable int64

func (n nullable) MarshalJSON() ([]byte, error) {
	if n < 0 {
		return []byte("null"), nil
	}
	return json.Marshal(int64(n))
}

func one[T any](v T) *T { return &v }

func TestFlatten(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for _, c := range []struct {
		rule  string
		state any
		want  string
	}{
		{"zero members leave nothing", struct {
			S string
			N int64
			U uint8
			B bool
			L []int64
			M map[string]int64
			P *int64
			I inner
			A [3]inner
			Y []byte
			T time.Time
			X token
			O object
			Q int64  `json:",string"`
			R string `json:",string"`
			C bool   `json:",string"`
			J json.Number
			W json.RawMessage
			G *big.Int
		}{L: []int64{}, M: map[string]int64{}, Y: []byte{}}, ``},
		{"others leave their token", struct {
			S string
			N int64
			U uint64
			B bool
			Y []byte
			T time.Time
			X token
			Q int64  `json:",string"`
			R string `json:",string"`
			C bool   `json:",string"`
			J json.Number
			G *big.Int
		}{"<é\n>", -5, 1 << 63, true, []byte("hi"), at, token{1, 2}, 7, "x", true, "12", big.NewInt(9)}, `
			B=true C="true" G=9 J=12 N=-5 Q="7" R="\"x\"" S="<é\n>" T="2026-01-02T03:04:05.000000006Z" U=9223372036854775808 X="bc" Y="aGk="`},
		{"a string 0 is no zero", struct{ S string }{"0"}, `S="0"`},
		{"structs nest with dots", outer{Inner: inner{A: 1, B: "x"}}, `inner.a=1 inner.b="x"`},
		{"a pointer tells nil from zero", outer{Ptr: &inner{}}, `ptr={}`},
		{"a pointer with something in it needs no mark", outer{Ptr: &inner{A: 1}}, `ptr.a=1`},
		{"the same for scalars", struct{ A, B *int64 }{one(int64(0)), nil}, `A=0`},
		{"and for times", struct{ A, B *time.Time }{&time.Time{}, nil}, `A="0001-01-01T00:00:00Z"`},
		{"and for slices and maps", struct {
			A *[]int64
			B *map[string]int64
		}{&[]int64{}, &map[string]int64{}}, `A=[] B={}`},
		{"embedded structs are promoted", embedding{&Base{"x", 1}, base{2}, inner{A: 3}, inner{A: 4}}, `Low=2 More=1 id="x" named.a=3 tagged.a=4`},
		{"an embedded pointer that is nil leaves nothing", embedding{base: base{2}}, `Low=2`},
		{"a slice has a length; zero elements leave nothing", struct{ L []int64 }{[]int64{0, 5, 0}}, `L.#=3 L.1=5`},
		{"a slice of zeros is not an empty slice", struct{ L []int64 }{[]int64{0}}, `L.#=1`},
		{"slices of structs", struct{ L []inner }{[]inner{{}, {A: 1}}}, `L.#=2 L.1.a=1`},
		{"slices of pointers", struct{ L []*inner }{[]*inner{nil, {}, {A: 1}}}, `L.#=3 L.1={} L.2.a=1`},
		{"slices of slices", struct{ L [][]int64 }{[][]int64{nil, {7}}}, `L.#=2 L.1.#=1 L.1.0=7`},
		{"the length of an array is known", struct{ A [3]int64 }{[3]int64{0, 5, 0}}, `A.1=5`},
		{"an array of bytes is numbers", struct{ A [3]byte }{[3]byte{0, 5, 0}}, `A.1=5`},
		{"entries show, zero or not", struct{ M map[string]int64 }{map[string]int64{"usd": 0, "eur": 5}}, `M.eur=5 M.usd=0`},
		{"entries without a leaf show by their kind", struct {
			S map[string]inner
			P map[string]*inner
			L map[string][]int64
			M map[string]map[string]int64
			A map[string][2]int64
			B map[string]bool
			T map[string]string
			Y map[string][]byte
			O map[string]object
		}{
			map[string]inner{"k": {}},
			map[string]*inner{"k": {}, "n": nil},
			map[string][]int64{"k": {}, "n": nil},
			map[string]map[string]int64{"k": {}, "n": nil},
			map[string][2]int64{"k": {}},
			map[string]bool{"k": false},
			map[string]string{"k": ""},
			map[string][]byte{"k": {}, "n": nil},
			map[string]object{"k": {}},
		}, `A.k=[] B.k=false L.k=[] L.n=null M.k={} M.n=null O.k={"A":1,"z":0} P.k={} P.n=null S.k={} T.k="" Y.k="" Y.n=null`},
		{"entries with a leaf need no mark", struct{ M map[string]inner }{map[string]inner{"k": {A: 1}}}, `M.k.a=1`},
		{"keys that are no plain words are quoted", struct{ M map[string]int64 }{map[string]int64{
			"": 1, "a.b": 2, "a b": 3, "é": 4, "#": 5, `"`: 6, "]": 7, "\n": 8, "0": 9, "a_B-9": 10,
		}}, `M.0=9 M.a_B-9=10 M[""]=1 M["#"]=5 M["\""]=6 M["\n"]=8 M["]"]=7 M["a b"]=3 M["a.b"]=2 M["é"]=4`},
		{"names too", struct {
			A int64 `json:"a.b"`
			B int64 `json:"<&>"`
			Ä struct{ X int64 }
		}{1, 2, struct{ X int64 }{3}}, `["<&>"]=2 ["a.b"]=1 ["Ä"].X=3`},
		{"keys of maps may differ by case only", struct{ M map[string]int64 }{map[string]int64{"a": 1, "A": 2}}, `M.A=2 M.a=1`},
		{"an empty tag is no name", struct {
			A int64 `json:",omitempty"`
			B int64 `json:"-"`
		}{1, 2}, `A=1`},
		{"omitted members are zero", struct {
			A int64 `json:"a,omitempty"`
			B int64 `json:"b,omitzero"`
			C int64 `json:"c"`
		}{0, 0, 1}, `c=1`},
		{"blank fields hold nothing", struct {
			_ struct{}
			A int64
		}{A: 1}, `A=1`},
		{"an opaque value is one token, in canonical form", struct{ O object }{object{5}}, `O={"A":1,"z":5}`},
		{"a zero that cannot be written is no zero", struct{ G *grumpy }{&grumpy{one(int64(-1))}}, `G=0`},
		{"null is no zero of an opaque type whose zero is another", struct{ A, B nullable }{-1, 0}, `A=null`},
		{"types recur", node{V: 1, Next: &node{Next: &node{V: 2}}, Kids: []node{{V: 3, By: map[string]*node{"x": {V: 4}, "y": {}}}}}, `
			kids.#=1 kids.0.by.x.v=4 kids.0.by.y={} kids.0.v=3 next.next.v=2 v=1`},
		{"slices of themselves", loops{nil, {nil}}, `#=2 1.#=1`},
		{"a map as the state", state{"a": {"b": 0}, "c": nil, "": {}}, `[""]={} a.b=0 c=null`},
		{"a slice as the state", []string{"", "x"}, `#=2 1="x"`},
		{"a scalar as the state", int64(5), `=5`},
		{"a zero scalar as the state", int64(0), ``},
		{"pointers to the state", one(&inner{A: 1}), `a=1`},
		{"no state", (*inner)(nil), ``},
		{"an opaque type as the state", token{1, 1}, `="bb"`},
		{"text that json replaces", struct{ S string }{"\xff"}, "S=\"\ufffd\""},
	} {
		t.Run(c.rule, func(t *testing.T) {
			shape := mustShape(t, reflect.TypeOf(c.state))
			fields := mustFlatten(t, shape, mustMarshal(t, c.state))
			checkFields(t, fields)
			if got, want := render(fields), strings.TrimSpace(c.want); got != want {
				t.Errorf("flatten %s\n got %s\nwant %s", mustMarshal(t, c.state), got, want)
			}
		})
	}
}

func render(fields []canon.Field) string {
	var words []string
	for _, f := range fields {
		words = append(words, f.Path+"="+f.Value)
	}
	return strings.Join(words, " ")
}

// checkFields checks what holds for the fields of any state.
func checkFields(t *testing.T, fields []canon.Field) {
	t.Helper()
	for i, f := range fields {
		if i > 0 && fields[i-1].Path >= f.Path {
			t.Fatalf("path %s stands before %s", fields[i-1].Path, f.Path)
		}
		if got := joinPath(splitPath(t, f.Path)); got != f.Path {
			t.Fatalf("path %s reads as %s", f.Path, got)
		}
		if form, err := canon.Append(nil, []byte(f.Value)); err != nil || string(form) != f.Value {
			t.Fatalf("%s: value %s is not canonical: %s, %v", f.Path, f.Value, form, err)
		}
	}
}

// splitPath reads a path by its grammar alone.
func splitPath(t *testing.T, path string) (steps []string) {
	t.Helper()
	for rest := path; rest != ""; {
		if rest[0] == '[' {
			d := json.NewDecoder(strings.NewReader(rest[1:]))
			var key string
			if err := d.Decode(&key); err != nil || rest[1+d.InputOffset()] != ']' {
				t.Fatalf("path %s: bad key at %s", path, rest)
			}
			steps, rest = append(steps, key), rest[2+d.InputOffset():]
			continue
		}
		if len(steps) > 0 {
			if rest[0] != '.' {
				t.Fatalf("path %s: no dot at %s", path, rest)
			}
			rest = rest[1:]
		}
		end := strings.IndexAny(rest+".", ".[")
		name := rest[:end]
		if name == "#" {
			name = lengthStep
		}
		steps, rest = append(steps, name), rest[end:]
	}
	return steps
}

// lengthStep is the step of a length, as opposed to that of the key "#".
const lengthStep = "length\x00"

const plainBytes = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

func joinPath(steps []string) string {
	path := ""
	for i, s := range steps {
		switch {
		case s == lengthStep && i == 0:
			path = "#"
		case s == lengthStep:
			path += ".#"
		case s == "" || strings.Trim(s, plainBytes) != "":
			form, _ := json.Marshal(s)
			text, _ := canon.Append(nil, form)
			path += "[" + string(text) + "]"
		case i > 0:
			path += "." + s
		default:
			path += s
		}
	}
	return path
}

func TestFlattenKeepsWhatIsThere(t *testing.T) {
	shape := mustShape(t, reflect.TypeFor[inner]())
	first := mustFlatten(t, shape, []byte(`{"a":1,"b":"x"}`))
	both, err := shape.Flatten(first, []byte(`{"a":2}`))
	if got := render(both); err != nil || got != `a=1 b="x" a=2` {
		t.Errorf("got %s, %v", got, err)
	}
	same, err := shape.Flatten(first, []byte(`{"a":2`))
	if err == nil || len(same) != len(first) {
		t.Errorf("got %v, %v, want the slice as it was and an error", same, err)
	}
}

func TestFlattenTakesAnyOrderAndWhiteSpace(t *testing.T) {
	shape := mustShape(t, reflect.TypeFor[outer]())
	got := render(mustFlatten(t, shape, []byte(" {\"ptr\" : null ,\n \"inner\":{ \"b\":\"\\u0062\", \"\\u0061\":1 } } ")))
	if got != `inner.a=1 inner.b="b"` {
		t.Errorf("got %s", got)
	}
}

func TestFlattenRefuses(t *testing.T) {
	type all struct {
		N int64
		S struct{ A, B int64 }
		L []inner
		M map[string]inner
		J json.Number
		O json.RawMessage
	}
	for _, c := range []struct{ why, in, path, msg string }{
		{"a member that the type has not", `{"N":1,"X":1}`, "X", "no field of this struct"},
		{"case counts", `{"n":1}`, "n", "no field of this struct"},
		{"a field twice", `{"N":1,"N":1}`, "N", "already"},
		{"a field twice, zero", `{"N":0,"S":{},"N":0}`, "N", "already"},
		{"an entry twice", `{"M":{"a":{"a":1},"a":{"b":"x"}}}`, "M.a", "already"},
		{"a number for a struct", `{"S":1}`, "S", "needs an object"},
		{"an array for a struct", `{"S":[]}`, "S", "needs an object"},
		{"an object for a slice", `{"L":{}}`, "L", "needs an array"},
		{"an array for a map", `{"M":[]}`, "M", "needs an object"},
		{"an object for a scalar", `{"N":{}}`, "N", "needs a string, number"},
		{"an array for a scalar", `{"L":[{"a":[]}]}`, "L.0.a", "needs a string, number"},
		{"a fraction in json.Number", `{"J":1.5}`, "J", "fraction"},
		{"a fraction in opaque JSON", `{"O":[{"x":1.5}]}`, "O.0.x", "fraction"},
		{"a key twice in opaque JSON", `{"O":{"x":1,"x":2}}`, "O.x", "already"},
		{"a member cut short", `{"M":{"a b":{"a":`, `M["a b"].a`, "ends where"},
		{"a key cut short", `{"N"`, "", "ends where it needs ':'"},
		{"a key cut short in a map", `{"M":{"a"`, "M", "ends where it needs ':'"},
		{"a key that is none", `{"M":{"a":{},1`, "M", "needs a key in quotes"},
		{"nothing", ``, "", "no JSON value"},
		{"more than one value", `{}{}`, "", "data after"},
	} {
		t.Run(c.why, func(t *testing.T) {
			_, err := mustShape(t, reflect.TypeFor[all]()).Flatten(nil, []byte(c.in))
			var e *canon.Error
			if !errors.As(err, &e) || e.Path != c.path || !strings.Contains(e.Msg, c.msg) {
				t.Errorf("Flatten(%s)\n got %v\nwant %s: …%s…", c.in, err, c.path, c.msg)
			}
		})
	}
}

func TestFlattenRefusesEntriesThatJSONMadeEqual(t *testing.T) {
	type m struct{ M map[string]int64 }
	text := mustMarshal(t, m{map[string]int64{"\xff": 1, "\xfe": 2}})
	_, err := mustShape(t, reflect.TypeFor[m]()).Flatten(nil, text)
	if err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("flatten %s: %v, want a refusal", text, err)
	}
}

func TestFlattenIsDeep(t *testing.T) {
	shape := mustShape(t, reflect.TypeFor[loops]())
	text := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	if _, err := shape.Flatten(nil, text(canon.MaxDepth)); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if _, err := shape.Flatten(nil, text(canon.MaxDepth+1)); err == nil {
		t.Error("over the limit: no error")
	}
}

func TestANewMemberChangesNoHash(t *testing.T) {
	type line struct{ A int64 }
	type wideLine struct {
		New [2]time.Time
		A   int64
		Ptr *wideLine
	}
	before := struct {
		L []line
		M map[string]line
	}{[]line{{0}, {1}}, map[string]line{"x": {0}, "y": {1}}}
	after := struct {
		L []wideLine
		N struct{ X []string }
		M map[string]wideLine
	}{L: []wideLine{{A: 0}, {A: 1}}, M: map[string]wideLine{"x": {A: 0}, "y": {A: 1}}}
	old := mustFlatten(t, mustShape(t, reflect.TypeOf(before)), mustMarshal(t, before))
	fresh := mustFlatten(t, mustShape(t, reflect.TypeOf(after)), mustMarshal(t, after))
	if !slices.Equal(old, fresh) {
		t.Errorf("was %s\n is %s", render(old), render(fresh))
	}
}

// Shapes of types with very many paths keep some of them only.
func TestFlattenOfTypesThatMultiply(t *testing.T) {
	type l0 struct{ A, B, C, D int64 }
	type l1 struct{ A, B, C, D l0 }
	type l2 struct{ A, B, C, D l1 }
	type l3 struct{ A, B, C, D l2 }
	type l4 struct{ A, B, C, D l3 }
	type l5 struct{ A, B, C, D l4 }
	type l6 struct{ A, B, C, D l5 }
	type l7 struct{ A, B, C, D *l6 }
	v := l7{A: &l6{}, D: &l6{}}
	v.A.B.C.D.A.B.C.D = 1
	v.D.D.D.D.D.D.D.D = 2
	fields := mustFlatten(t, mustShape(t, reflect.TypeOf(v)), mustMarshal(t, v))
	if got := render(fields); got != `A.B.C.D.A.B.C.D=1 D.D.D.D.D.D.D.D=2` {
		t.Errorf("got %s", got)
	}
}

func TestFlattenConcurrently(t *testing.T) {
	shape := mustShape(t, reflect.TypeFor[node]())
	text := mustMarshal(t, node{V: 1, Next: &node{V: 2}, By: map[string]*node{"x": {V: 3}}})
	want := mustFlatten(t, shape, text)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				got, err := shape.Flatten(nil, text)
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("got %v, %v", got, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestFlattenAllocatesTheStringsOnly(t *testing.T) {
	shape := mustShape(t, reflect.TypeFor[outer]())
	text := mustMarshal(t, outer{Inner: inner{A: 1, B: "x"}, Ptr: &inner{A: 5}})
	fields := mustFlatten(t, shape, text)
	got := testing.AllocsPerRun(100, func() { fields, _ = shape.Flatten(fields[:0], text) })
	if got >= 2 && !raceEnabled {
		t.Errorf("%v allocations, want 1: paths of plain structs are built once", got)
	}
}
