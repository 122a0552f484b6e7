package canon_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/dejalog/deja/internal/canon"
)

func TestAppendWritesOneForm(t *testing.T) {
	for _, c := range []struct{ rule, in, want string }{
		{"white space is not content", " {\t\"a\" :\r\n[ 1 , 2 ] } ", `{"a":[1,2]}`},
		{"members have no order", `{"b":1,"a":2}`, `{"a":2,"b":1}`},
		{"at any depth", `[{"b":{"d":1,"c":2},"a":3}]`, `[{"a":3,"b":{"c":2,"d":1}}]`},
		{"elements have one", `[2,1]`, `[2,1]`},
		{"keys sort by bytes: upper before lower, short before long, U+FFFD before astral (UTF-16 would say otherwise)", "{\"😀\":1,\"b\":2,\"\ufffd\":3,\"ab\":4,\"a\":5,\"Z\":6,\"\":7}", "{\"\":7,\"Z\":6,\"a\":5,\"ab\":4,\"b\":2,\"\ufffd\":3,\"😀\":1}"},
		{"keys sort as they read, not as they are escaped", `{"a\nz":1,"a!":2}`, `{"a\nz":1,"a!":2}`},
		{"the quote sorts after the exclamation mark, although its escape sorts after letters", `{"a\"":1,"a#":2,"a!":3}`, `{"a!":3,"a\"":1,"a#":2}`},
		{"an escaped key is the key", `{"\u0062":1,"a":2}`, `{"a":2,"b":1}`},
		{"what needs no escape gets none", `"\u0041\/\u00e9\u003c\u2028\u007f"`, "\"A/é<\u2028\u007f\""},
		{"a surrogate pair is one character", `"\ud83d\ude00\uD83D\uDE00"`, `"😀😀"`},
		{"control characters are escaped in one way", `"\u0000\u0008\u0009\u000a\u000C\u000d\u001F"`, `"\u0000\b\t\n\f\r\u001f"`},
		{"quote and backslash too", `"\u0022\u005c\"\\"`, `"\"\\\"\\"`},
		{"U+FFFD itself is a character", `"\ufffd` + "\ufffd" + `"`, "\"\ufffd\ufffd\""},
		{"noncharacters are characters", `"\uffff"`, "\"\uffff\""},
		{"scalars", `[true,false,null,"",0,-1]`, `[true,false,null,"",0,-1]`},
		{"empty containers", `[ { } , [ ] ]`, `[{},[]]`},
		{"a value alone", ` 7 `, `7`},
		{"integers beyond every type", `[9223372036854775808,-9223372036854775809,` + strings.Repeat("9", 400) + `]`, `[9223372036854775808,-9223372036854775809,` + strings.Repeat("9", 400) + `]`},
	} {
		t.Run(c.rule, func(t *testing.T) {
			got, err := canon.Append([]byte("kept"), []byte(c.in))
			if err != nil || string(got) != "kept"+c.want {
				t.Fatalf("Append(%s)\n got %s, %v\nwant kept%s", c.in, got, err, c.want)
			}
		})
	}
}

func TestDifferentContentStaysDifferent(t *testing.T) {
	for _, c := range []struct{ why, a, b string }{
		{"as doubles these two are one", `9007199254740992`, `9007199254740993`},
		{"text is not normalised", "\"\u00e9\"", "\"e\u0301\""},
		{"case is content in values", `"a"`, `"A"`},
		{"null is not absent", `{"a":null}`, `{}`},
		{"0 is not null", `[0]`, `[null]`},
		{"a digit is not a number", `"1"`, `1`},
		{"escapes do not nest", `"\\n"`, `"\n"`},
		{"nesting is content", `[[1],2]`, `[[1,2]]`},
	} {
		t.Run(c.why, func(t *testing.T) {
			if a, b := mustAppend(t, c.a), mustAppend(t, c.b); a == b {
				t.Fatalf("%s and %s are both %s", c.a, c.b, a)
			}
		})
	}
}

func TestAppendRefuses(t *testing.T) {
	deep := strings.Repeat("[", canon.MaxDepth+1) + strings.Repeat("]", canon.MaxDepth+1)
	for _, c := range []struct {
		why, in, path string
		offset        int
		msg           string
	}{
		{"fraction", `{"price":{"net":[1,2.50]}}`, "price.net.1", 19, "fraction; use integer minor units or a decimal string"},
		{"fraction of zeros", `1.0`, "", 0, "fraction"},
		{"exponent", `{"a":1e3}`, "a", 5, "exponent; use integer minor units or a decimal string"},
		{"capital exponent", `1E3`, "", 0, "exponent"},
		{"minus zero", `[-0]`, "0", 1, "-0"},
		{"minus zero with a fraction", `[-0.0]`, "0", 1, "fraction"},
		{"leading zero", `[01]`, "0", 1, "begins with 0"},
		{"leading zero after minus", `-01`, "", 1, "begins with 0"},
		{"minus alone", `-`, "", 1, "ends where it needs a JSON value"},
		{"plus", `+1`, "", 0, "'+' where it needs a JSON value"},
		{"point alone", `.5`, "", 0, "'.' where"},
		{"not a number", `NaN`, "", 0, "'N' where"},
		{"key twice", `{"a":1,"b":2,"a":1}`, "a", 13, "already"},
		{"key twice, escaped", `{"a":1,"\u0061":2}`, "a", 7, "already"},
		{"key twice in a large object", `{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"a":1}`, "a", 55, "already"},
		{"key that differs by case", `{"x":{"amount":1,"AMOUNT":1000000}}`, "x.AMOUNT", 17, `differs from "amount" only by case`},
		{"in a large object", `{"aa":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,"aA":1}`, "aA", 56, `differs from "aa" only by case`},
		{"the Kelvin sign folds to k", "{\"k\":1,\"\u212a\":2}", "[\"\u212a\"]", 7, `differs from "k" only by case`},
		{"the long s folds to S", `{"ſ":1,"S":2}`, `S`, 8, `differs from "ſ" only by case`},
		{"case beyond ASCII", `{"Ä":1,"ä":2}`, `["ä"]`, 8, "only by case"},
		{"not UTF-8", "{\"a\":\"x\xff\"}", "a", 7, "UTF-8"},
		{"overlong UTF-8", "\"\xc0\xaf\"", "", 1, "UTF-8"},
		{"UTF-8 of a surrogate", "\"\xed\xa0\x80\"", "", 1, "UTF-8"},
		{"not UTF-8 after an escape", "\"\\n\xff\"", "", 3, "UTF-8"},
		{"not UTF-8 in a key", "{\"\xff\":1}", "", 2, "UTF-8"},
		{"high surrogate alone", `["\ud800"]`, "0", 2, "surrogate"},
		{"low surrogate alone", `"\udc00"`, "", 1, "surrogate"},
		{"high surrogate before a character", `"\ud800\u0041"`, "", 1, "surrogate"},
		{"surrogates in the wrong order", `"\udc00\ud800"`, "", 1, "surrogate"},
		{"escape that is none", `"\x"`, "", 1, "escapes nothing"},
		{"short hexadecimal", `"\u12g4"`, "", 5, "four hexadecimal digits"},
		{"raw line feed", "\"a\nb\"", "", 2, "control character"},
		{"raw NUL after an escape", "\"\\n\x00\"", "", 3, "control character"},
		{"trailing data", `{"a":1} {}`, "", 8, "data after the JSON value"},
		{"trailing NUL", "1\x00", "", 1, "data after the JSON value"},
		{"empty", ``, "", 0, "no JSON value"},
		{"only white space", " \n", "", 2, "no JSON value"},
		{"byte order mark", "\ufeff1", "", 0, "needs a JSON value"},
		{"no-break space is no white space", "\u00a01", "", 0, "needs a JSON value"},
		{"too deep", deep, strings.TrimSuffix(strings.Repeat("0.", canon.MaxDepth), "."), canon.MaxDepth, "more than 100"},
		{"trailing comma in an array", `[1,]`, "1", 3, "']' where"},
		{"trailing comma in an object", `{"a":1,}`, "", 7, "needs a key in quotes"},
		{"key without quotes", `{a:1}`, "", 1, "needs a key in quotes"},
		{"no colon", `{"a" 1}`, "", 5, "needs ':'"},
		{"no comma", `[1 2]`, "", 3, "needs ',' or ']'"},
		{"wrong bracket", `{"a":1]`, "", 6, "needs ',' or '}'"},
		{"word cut short", `tru`, "", 0, "'t' where"},
		{"word in capitals", `True`, "", 0, "'T' where"},
		{"array not closed", `[1`, "", 2, "ends where it needs ',' or ']'"},
		{"object not closed", `{"a":1`, "", 6, "ends where it needs ',' or '}'"},
		{"key not closed", `{"a`, "", 3, "ends inside a string"},
		{"string not closed", `"a`, "", 2, "ends inside a string"},
		{"escape not closed", `"a\`, "", 3, "ends inside a string"},
		{"hexadecimal not closed", `"a\u00`, "", 6, "four hexadecimal digits"},
		{"an odd key in the path", `{"a.b":{"":[0.5]}}`, `["a.b"][""].0`, 12, "fraction"},
	} {
		t.Run(c.why, func(t *testing.T) {
			out, err := canon.Append([]byte("kept"), []byte(c.in))
			if string(out) != "kept" {
				t.Errorf("returned %q with an error, want the buffer as it was", out)
			}
			var e *canon.Error
			if !errors.As(err, &e) {
				t.Fatalf("Append(%q) = %v, want *canon.Error", c.in, err)
			}
			if e.Path != c.path || e.Offset != c.offset || !strings.Contains(e.Msg, c.msg) {
				t.Errorf("Append(%q)\n got %q at %d: %s\nwant %q at %d: …%s…", c.in, e.Path, e.Offset, e.Msg, c.path, c.offset, c.msg)
			}
		})
	}
}

func TestErrorTellsPlaceAndRemedyButNoValue(t *testing.T) {
	_, err := canon.Append(nil, []byte(`{"salary":4711.5}`))
	const want = "salary (byte 10): a number with a fraction; use integer minor units or a decimal string"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	_, err = canon.Append(nil, nil)
	if want := "byte 0: no JSON value; for nothing write null"; err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestAppendAtTheDepthLimit(t *testing.T) {
	in := strings.Repeat(`[{"a":`, canon.MaxDepth/2) + "1" + strings.Repeat("}]", canon.MaxDepth/2)
	if got := mustAppend(t, in); got != in {
		t.Fatalf("got %s", got)
	}
	side := "[" + strings.Repeat(in[1:len(in)-1]+",", 3) + "1]"
	if got := mustAppend(t, side); got != side {
		t.Fatal("depth is counted over neighbours")
	}
}

// Keys of large objects are sorted, not compared each with each.
func TestAppendOfManyKeysIsNotQuadratic(t *testing.T) {
	if testing.Short() {
		t.Skip("only large objects show it, and one goroutine reads them")
	}
	var in strings.Builder
	in.WriteString(`{`)
	const n = 200_000
	for i := range n {
		in.WriteString(`"Key` + string(rune('a'+i%26)) + strings.Repeat("x", i%7) + strconv.Itoa(n-i) + `":1,`)
	}
	in.WriteString(`"end":1}`)
	once := mustAppend(t, in.String())
	if again := mustAppend(t, once); again != once {
		t.Fatal("the canonical form is not its own canonical form")
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	in := []byte(`{"toKey":"42","ref":"a\nb","lines":[{"b":1,"a":2}],"amount":1250}`)
	buf := make([]byte, 0, len(in))
	got := testing.AllocsPerRun(100, func() { buf, _ = canon.Append(buf[:0], in) })
	if got >= 1 && !raceEnabled {
		t.Errorf("%v allocations a payload, want 0", got)
	}
}

func mustAppend(tb testing.TB, in string) string {
	tb.Helper()
	out, err := canon.Append(nil, []byte(in))
	if err != nil {
		tb.Fatalf("Append(%.200s): %v", in, err)
	}
	return string(out)
}
