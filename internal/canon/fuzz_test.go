package canon_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/dejalog/deja/internal/canon"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0 takes the time")

// newRand returns a source whose seed is printed with the command that runs
// the test with it again.
func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("replay: go test ./internal/canon -run '^%s$' -seed=%d", t.Name(), seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func FuzzAppend(f *testing.F) {
	for _, p := range payloads {
		f.Add([]byte(p.text), uint64(1))
	}
	for _, s := range []string{
		``, `null`, `[]`, `{"":{"a":[1,{"b":""}]}}`, `{"a":1,"A":2}`, `{"a":1,"a":1}`, `1.5`, `-0`, `1e9`, `01`, `"\ud83d\ude00"`, `"\ud800"`,
		"{\"k\":1,\"\u212a\":2}", `{"k":1,"\u212A":2}`, "\"\xff\"", ` [1 , 2]`, `[1,2,]`, `{"a":"\u0000\n\/"}`, `123456789012345678901234567890`,
		strings.Repeat("[", 101) + strings.Repeat("]", 101), `{"B":1,"a":1,"C":1,"d":1,"E":1,"f":1,"G":1,"h":1,"I":1}`,
	} {
		f.Add([]byte(s), uint64(7))
	}
	f.Fuzz(func(t *testing.T, payload []byte, seed uint64) {
		checkAppend(t, payload, rand.New(rand.NewPCG(seed, 0)))
	})
}

// checkAppend holds Append against encoding/json.
func checkAppend(t *testing.T, payload []byte, r *rand.Rand) {
	t.Helper()
	form, err := canon.Append(nil, payload)
	if want := refusal(payload); (err != nil) != (want != nil) {
		t.Fatalf("Append(%q) = %v, but by encoding/json: %v", payload, err, want)
	}
	if err != nil {
		return
	}
	if again, err := canon.Append(nil, form); err != nil || !bytes.Equal(again, form) {
		t.Fatalf("form %q has itself the form %q, %v", form, again, err)
	}
	if len(form) > len(payload) {
		t.Fatalf("form %q is longer than %q", form, payload)
	}
	tree := decode(t, payload)
	if got := decode(t, form); !reflect.DeepEqual(got, tree) {
		t.Fatalf("%q has the form %q: other content", payload, form)
	}
	shuffled := encode(nil, tree, r)
	if got, err := canon.Append(nil, shuffled); err != nil || !bytes.Equal(got, form) {
		t.Fatalf("%q has the form %q,\nthe same content %q the form %q, %v", payload, form, shuffled, got, err)
	}
	if d := canon.Differ(payload, shuffled); d != nil {
		t.Fatalf("Differ(%q, %q) = %q", payload, shuffled, d)
	}
}

func decode(t *testing.T, text []byte) (tree any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&tree); err != nil {
		t.Fatalf("decode %q: %v", text, err)
	}
	return tree
}

// encode writes tree with its members in random order, with random white space
// and random escapes.
func encode(dst []byte, tree any, r *rand.Rand) []byte {
	dst = append(dst, "  \n"[:r.IntN(3)]...)
	switch v := tree.(type) {
	case map[string]any:
		dst = encodeObject(dst, v, r)
	case []any:
		dst = append(dst, '[')
		for i, e := range v {
			dst = encode(append(dst, ","[:min(i, 1)]...), e, r)
		}
		dst = append(dst, ']')
	case string:
		dst = encodeString(dst, v, r)
	case json.Number:
		dst = append(dst, v...)
	default:
		text, _ := json.Marshal(v)
		dst = append(dst, text...)
	}
	return append(dst, "\t\r"[:r.IntN(3)]...)
}

func encodeObject(dst []byte, v map[string]any, r *rand.Rand) []byte {
	keys := make([]string, 0, len(v))
	for k := range v {
		keys = append(keys, k)
	}
	r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	dst = append(dst, '{')
	for i, k := range keys {
		dst = encodeString(append(dst, ","[:min(i, 1)]...), k, r)
		dst = encode(append(dst, ':'), v[k], r)
	}
	return append(dst, '}')
}

func encodeString(dst []byte, s string, r *rand.Rand) []byte {
	dst = append(dst, '"')
	for _, c := range s {
		switch {
		case c < utf8.RuneSelf && (c < ' ' || c == '"' || c == '\\' || r.IntN(8) == 0):
			dst = append(dst, `\u00`...)
			dst = append(dst, "0123456789ABCDEF"[c>>4], "0123456789abcdef"[c&15])
		default:
			dst = utf8.AppendRune(dst, c)
		}
	}
	return append(dst, '"')
}

// refusal is the rule book of Append, written with encoding/json: slow, and by
// other means.
func refusal(payload []byte) error {
	switch {
	case !json.Valid(payload):
		return errors.New("no JSON")
	case !utf8.Valid(payload):
		return errors.New("no UTF-8")
	case loneSurrogate(payload):
		return errors.New("half of a surrogate pair")
	}
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	return refuseValue(d, 0)
}

func refuseValue(d *json.Decoder, depth int) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	switch v := token.(type) {
	case json.Number:
		if v == "-0" || strings.ContainsAny(string(v), ".eE") {
			return errors.New("no integer")
		}
	case json.Delim:
		return refuseContainer(d, v, depth+1)
	}
	return nil
}

func refuseContainer(d *json.Decoder, opening json.Delim, depth int) error {
	if depth > canon.MaxDepth {
		return errors.New("too deep")
	}
	var keys []string
	for d.More() {
		if opening == '{' {
			token, err := d.Token()
			key, _ := token.(string)
			for _, k := range keys {
				if strings.EqualFold(k, key) {
					return errors.New("key twice")
				}
			}
			if keys = append(keys, key); err != nil {
				return err
			}
		}
		if err := refuseValue(d, depth); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

// loneSurrogate finds escapes of surrogates that are no pairs, in valid JSON.
func loneSurrogate(text []byte) bool {
	high := false
	for i := 0; i < len(text); i++ {
		unit := -1
		if text[i] == '\\' {
			i++
			if text[i] == 'u' {
				unit = int(unhex4(text[i+1 : i+5]))
				i += 4
			}
		}
		isLow := unit >= 0xdc00 && unit < 0xe000
		if high != isLow {
			return true
		}
		high = unit >= 0xd800 && unit < 0xdc00
	}
	return high
}

func unhex4(digits []byte) (v rune) {
	for _, c := range digits {
		v = v<<4 | rune(strings.IndexByte("0123456789abcdef", c|' '))
	}
	return v
}

// randomPayload writes JSON, mostly valid, with the things that matter.
func randomPayload(r *rand.Rand, depth int) string {
	atoms := []string{
		`0`, `-1`, `12`, `9007199254740993`, `"a"`, `""`, `"\u00e9"`, `"é"`, `true`, `false`, `null`, `[]`, `{}`, `"\ud83d\ude00"`,
		`"\\\"\n"`, ` 7 `, "\"\u2028<\"",
	}
	faults := []string{`1.5`, `-0`, `1e2`, `01`, `"\ud800"`, "\"\xff\"", `[1,]`, `nul`, `"\x"`}
	switch n := r.IntN(40); {
	case n == 0:
		return faults[r.IntN(len(faults))]
	case n < 20 || depth > 4:
		return atoms[r.IntN(len(atoms))]
	case n < 25:
		return "[" + randomPayload(r, depth+1) + "," + randomPayload(r, depth+1) + "]"
	}
	keys := []string{"a", "b", "c", "d", "k", "ß", "K", "\u212a", `\u006b`, "x y", "z\\n", "aa", "aA", "e", "f", "g", "h", "i", "j", "l", "m"}
	r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	members := make([]string, r.IntN(13))
	for i := range members {
		members[i] = `"` + keys[i] + `":` + randomPayload(r, depth+1)
	}
	return "{" + strings.Join(members, ",") + "}"
}

func TestAppendAgreesWithEncodingJSON(t *testing.T) {
	r := newRand(t)
	accepted := 0
	for range 10_000 {
		payload := []byte(randomPayload(r, 0))
		checkAppend(t, payload, r)
		if refusal(payload) == nil {
			accepted++
		}
	}
	if accepted < 1000 {
		t.Errorf("only %d payloads of 10000 were accepted: the test shows little", accepted)
	}
}

func FuzzFlatten(f *testing.F) {
	shape := mustShape(f, reflect.TypeFor[wide]())
	f.Add(mustMarshal(f, wide{}))
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		f.Add(mustMarshal(f, randomWide(r)))
	}
	f.Add([]byte(`{"List":[{"a":1,"a":2}],"Map":{"x":1,"x":2},"Nope":1}`))
	f.Fuzz(func(t *testing.T, state []byte) {
		fields, err := shape.Flatten(nil, state)
		if err != nil {
			if fields != nil {
				t.Fatalf("fields %v with error %v", fields, err)
			}
			return
		}
		checkFields(t, fields)
	})
}

func FuzzDiffer(f *testing.F) {
	f.Add([]byte(`{"a":1}`), []byte(`{"a":2}`))
	f.Add([]byte(`[0]`), []byte(`[null]`))
	f.Add([]byte(`{"a":{}}`), []byte(`{"a":[]}`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		paths := canon.Differ(a, b)
		formA, errA := canon.Append(nil, a)
		formB, errB := canon.Append(nil, b)
		if errA == nil && errB == nil && bytes.Equal(formA, formB) != (paths == nil) {
			t.Fatalf("Differ(%q, %q) = %q", a, b, paths)
		}
	})
}
