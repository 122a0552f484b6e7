package canon_test

import (
	"encoding/json"
	"reflect"
	"strconv"
	"testing"

	"github.com/dejalog/deja/internal/canon"
)

var payloads = []struct{ name, text string }{
	{"sorted100", `{"account":"DE12500105170648489890","amount":1250,"currency":"EUR","ref":"invoice 4711","to":"42","x":1}`},
	{"unsorted100", `{"to":"42","ref":"invoice 4711","amount":1250,"account":"DE12500105170648489890","currency":"EUR","x":1}`},
	{"camel100", `{"toKey":"42","ref":"invoice 4711","amount":1250,"accountId":"DE12500105170648489890","ccy":"EUR","x":1}`},
	{"escapes", `{"text":"a \"quoted\" line\nand \u003cb\u003e another","name":"J\u00fcrgen"}`},
	{"nested", `{"order":{"lines":[{"sku":"a","n":1,"price":100},{"sku":"b","n":2,"price":250}],"id":"o-1"},"at":1730000000}`},
}

func BenchmarkAppend(b *testing.B) {
	for _, p := range payloads {
		b.Run(p.name, func(b *testing.B) {
			text, buf := []byte(p.text), []byte(nil)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				buf, _ = canon.Append(buf[:0], text)
			}
		})
	}
}

// BenchmarkDecode is what an encoding/json decode of the same bytes costs.
func BenchmarkDecode(b *testing.B) {
	text := []byte(payloads[0].text)
	b.ReportAllocs()
	for b.Loop() {
		var v struct {
			Account, Currency, Ref, To string
			Amount, X                  int64
		}
		if err := json.Unmarshal(text, &v); err != nil {
			b.Fatal(err)
		}
	}
}

type benchAccount struct {
	Owner   string `json:"owner"`
	Limit   int64  `json:"limit"`
	Balance int64  `json:"balance"`
	Open    bool   `json:"open"`
	Address struct {
		Street string `json:"street"`
		City   string `json:"city"`
	} `json:"address"`
}

type benchOrder struct {
	benchAccount
	Lines  []benchLine      `json:"lines"`
	Limits map[string]int64 `json:"limits"`
}

type benchLine struct {
	SKU   string `json:"sku"`
	Price int64  `json:"price"`
}

func benchStates(b *testing.B) map[string]any {
	b.Helper()
	acc := benchAccount{Owner: "ana", Limit: 100, Balance: 2500, Open: true}
	acc.Address.Street, acc.Address.City = "High Street 1", "London"
	small := benchOrder{benchAccount: acc, Lines: []benchLine{{"a", 1}, {"b", 2}}, Limits: map[string]int64{"eur": 1, "usd": 0}}
	large := benchOrder{benchAccount: acc, Limits: map[string]int64{}}
	for i := range 200 {
		large.Lines = append(large.Lines, benchLine{"sku-" + strconv.Itoa(i), int64(i)})
		large.Limits["key-"+strconv.Itoa(i)] = int64(i)
	}
	return map[string]any{"struct6": acc, "order12": small, "order800": large}
}

func BenchmarkFlatten(b *testing.B) {
	for name, v := range benchStates(b) {
		b.Run(name, func(b *testing.B) {
			shape, state := mustShape(b, reflect.TypeOf(v)), mustMarshal(b, v)
			var fields []canon.Field
			b.SetBytes(int64(len(state)))
			b.ReportAllocs()
			for b.Loop() {
				fields, _ = shape.Flatten(fields[:0], state)
			}
		})
	}
}

func BenchmarkDiff(b *testing.B) {
	shape := mustShape(b, reflect.TypeFor[benchAccount]())
	before := mustFlatten(b, shape, mustMarshal(b, benchAccount{Owner: "ana", Limit: 100, Balance: 2500}))
	after := mustFlatten(b, shape, mustMarshal(b, benchAccount{Owner: "ana", Limit: 100, Balance: 2400}))
	b.ReportAllocs()
	for b.Loop() {
		canon.Diff(before, after)
	}
}

func BenchmarkHashFields(b *testing.B) {
	for name, v := range benchStates(b) {
		b.Run(name, func(b *testing.B) {
			fields := mustFlatten(b, mustShape(b, reflect.TypeOf(v)), mustMarshal(b, v))
			b.ReportAllocs()
			for b.Loop() {
				canon.HashFields(fields)
			}
		})
	}
}

func BenchmarkDiffer(b *testing.B) {
	x, y := []byte(payloads[0].text), []byte(payloads[1].text)
	b.ReportAllocs()
	for b.Loop() {
		canon.Differ(x, y)
	}
}

func mustShape(tb testing.TB, t reflect.Type) *canon.Shape {
	tb.Helper()
	s, err := canon.ShapeOf(t)
	if err != nil {
		tb.Fatalf("ShapeOf(%v): %v", t, err)
	}
	return s
}

func mustMarshal(tb testing.TB, v any) []byte {
	tb.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		tb.Fatalf("marshal %T: %v", v, err)
	}
	return text
}

func mustFlatten(tb testing.TB, s *canon.Shape, state []byte) []canon.Field {
	tb.Helper()
	fields, err := s.Flatten(nil, state)
	if err != nil {
		tb.Fatalf("flatten %s: %v", state, err)
	}
	return fields
}
