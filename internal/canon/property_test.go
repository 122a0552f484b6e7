package canon_test

import (
	"bytes"
	"encoding/json"
	"math/big"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja/internal/canon"
)

// wide has all that a state may have.
type wide struct {
	Base
	S    string
	N    int64
	U    uint64 `json:"u,omitempty"`
	B    bool
	Raw  []byte
	Q    int64  `json:"q,string"`
	QS   string `json:",string"`
	At   time.Time
	Big  *big.Int
	Tok  token
	Odd  int64 `json:"a.b"`
	Opt  *int64
	OptS *inner
	In   inner
	Arr  [2]inner
	List []inner
	Ptrs []*inner
	Deep [][]int64
	Map  map[string]int64
	MapS map[string]inner
	MapP map[string]*inner
	MapL map[string][]string
	Self *wide
	Kids []wide
}

func randomWide(r *rand.Rand) wide {
	var w wide
	fill(reflect.ValueOf(&w).Elem(), r, 0)
	return w
}

var strange = []string{"", "a", "A", "b", "0", "#", "a.b", "[", `"`, "é", "e\u0301", "\n", "<", "😀", "null", "{}"}

// fill sets v at random: often zero, never to what JSON would lose.
func fill(v reflect.Value, r *rand.Rand, depth int) {
	if r.IntN(3) == 0 {
		v.SetZero()
		return
	}
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = time.Unix(int64(r.IntN(3)), int64(r.IntN(3))).UTC()
		return
	case **big.Int:
		*x = big.NewInt(int64(r.IntN(3)) - 1)
		return
	}
	fillKind(v, r, depth)
}

func fillKind(v reflect.Value, r *rand.Rand, depth int) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), r, depth)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), r, depth)
		}
	case reflect.Slice, reflect.Map, reflect.Pointer:
		if depth < 3 {
			fillHeap(v, r, depth+1)
		}
	default:
		fillScalar(v, r)
	}
}

func fillHeap(v reflect.Value, r *rand.Rand, depth int) {
	n := r.IntN(3)
	switch v.Kind() {
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(v.Index(i), r, depth)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range n {
			e := reflect.New(v.Type().Elem()).Elem()
			fill(e, r, depth)
			v.SetMapIndex(reflect.ValueOf(strange[r.IntN(len(strange))]), e)
		}
	default:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), r, depth)
	}
}

func fillScalar(v reflect.Value, r *rand.Rand) {
	switch {
	case v.Kind() == reflect.String:
		v.SetString(strange[r.IntN(len(strange))])
	case v.Kind() == reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case v.CanInt():
		v.SetInt(int64(r.IntN(4)) - 1)
	default:
		v.SetUint(uint64(r.IntN(3)))
	}
}

// tidy makes nil of what is empty, except as an entry of a map: no more than
// that may Flatten take for equal.
func tidy(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() || v.Type() == reflect.TypeFor[big.Int]() {
			return
		}
		for i := range v.NumField() {
			tidy(v.Field(i))
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			tidy(v.Index(i))
		}
	case reflect.Map:
		tidyEntries(v)
	case reflect.Pointer:
		if !v.IsNil() {
			tidy(v.Elem())
		}
	}
	if (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Len() == 0 && v.CanSet() {
		v.SetZero()
	}
}

func tidyEntries(v reflect.Value) {
	for _, k := range v.MapKeys() {
		e := reflect.New(v.Type().Elem()).Elem()
		e.Set(v.MapIndex(k))
		if e.Kind() == reflect.Slice && e.Len() == 0 {
			continue
		}
		tidy(e)
		v.SetMapIndex(k, e)
	}
}

// apply makes of before what changes say.
func apply(before []canon.Field, changes []canon.Change) []canon.Field {
	values := map[string]string{}
	for _, f := range before {
		values[f.Path] = f.Value
	}
	for _, c := range changes {
		if values[c.Path] != c.Old {
			return nil
		}
		if values[c.Path] = c.New; c.New == "" {
			delete(values, c.Path)
		}
	}
	var after []canon.Field
	for p, v := range values {
		after = append(after, canon.Field{Path: p, Value: v})
	}
	slices.SortFunc(after, func(a, b canon.Field) int { return strings.Compare(a.Path, b.Path) })
	return after
}

// Of random pairs of states: the diff leads from one to the other; fields,
// diffs and hashes are equal if and only if the states are.
func TestFlattenAndDiffOfRandomStates(t *testing.T) {
	r := newRand(t)
	shape := mustShape(t, reflect.TypeFor[wide]())
	equal := 0
	for range 2000 {
		a := randomWide(r)
		b := mutate(t, a, r)
		before := mustFlatten(t, shape, mustMarshal(t, a))
		after := mustFlatten(t, shape, encode(nil, decode(t, mustMarshal(t, b)), r))
		checkFields(t, before)
		if changes := canon.Diff(before, after); !slices.Equal(apply(before, changes), after) {
			t.Fatalf("%v does not lead\nfrom %v\n  to %v", changes, before, after)
		}
		tidy(reflect.ValueOf(&a).Elem())
		tidy(reflect.ValueOf(&b).Elem())
		same := bytes.Equal(mustMarshal(t, a), mustMarshal(t, b))
		if same {
			equal++
		}
		if same != slices.Equal(before, after) || same != (canon.HashFields(before) == canon.HashFields(after)) {
			t.Fatalf("states equal: %v\n%s\n%s\n%s\n%s", same, mustMarshal(t, a), mustMarshal(t, b), render(before), render(after))
		}
	}
	if equal < 50 {
		t.Errorf("only %d pairs were equal: the test shows little", equal)
	}
}

// mutate returns a copy of a with some fields set anew.
func mutate(t *testing.T, a wide, r *rand.Rand) wide {
	t.Helper()
	var b wide
	if err := json.Unmarshal(mustMarshal(t, a), &b); err != nil {
		t.Fatal(err)
	}
	v := reflect.ValueOf(&b).Elem()
	for range r.IntN(3) {
		fill(v.Field(r.IntN(v.NumField())), r, 2)
	}
	return b
}
