package history

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/dejalog/deja"
	shelves "github.com/dejalog/deja/internal/lived"
	"github.com/dejalog/deja/internal/till"
	"github.com/dejalog/deja/replay"
)

func TestQueryGroupsAndAddsUp(t *testing.T) {
	l := newLived(t, till.Service(till.Variant{}))
	var want struct {
		sum, count map[string]int64
		status     map[string]int64
	}
	want.sum, want.count, want.status = map[string]int64{}, map[string]int64{}, map[string]int64{}
	balance := map[string]int64{}
	for i := range 200 {
		key, amount := fmt.Sprint(i%7), i*37%50-10
		env := put(key, amount, deja.ID{})
		env.Payload = fmt.Appendf(nil, `{"Amount":%d}`, amount)
		if i%5 == 0 {
			env.Type = "till.take"
		}
		l.send(env)
		switch {
		case env.Type == "till.put":
			balance[key] += int64(amount)
		case balance[key] < int64(amount):
			want.status["rejected"]++
			continue
		default:
			balance[key] -= int64(amount)
		}
		want.status["applied"]++
		want.sum[key] += int64(amount)
		want.count[key]++
	}
	h := l.open()
	rows, err := h.Query(t.Context(), Query{Scope: everything(t, l.m), Limits: h.All(), By: []string{"key"}, Of: []string{"sum(event.Amount)", "count", "last(state.balance)"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != len(want.sum) {
		t.Errorf("%d rows, want %d", len(rows), len(want.sum))
	}
	for i, r := range rows {
		key := fmt.Sprint(i) // in order
		figures := []string{fmt.Sprint(want.sum[key]), fmt.Sprint(want.count[key]), fmt.Sprint(balance[key])}
		if r.By[0] != key || !reflect.DeepEqual(r.Of, figures) {
			t.Errorf("row %d: %v, want %s %v", i, r, key, figures)
		}
	}
	rows, err = h.Query(t.Context(), Query{Scope: everything(t, l.m), Limits: h.All(), By: []string{"status"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := map[string]string{rows[0].By[0]: rows[0].Of[0], rows[1].By[0]: rows[1].Of[0]}; got["applied"] != fmt.Sprint(want.status["applied"]) ||
		got["rejected"] != fmt.Sprint(want.status["rejected"]) {
		t.Errorf("by status: %v, want %v", rows, want.status)
	}
}

// What is zero in a state is 0, not missing; sums do not overflow.
func TestQueryKnowsZeroAndLargeSums(t *testing.T) {
	l := newLived(t, till.Service(till.Variant{}))
	for _, amount := range []string{"9223372036854775807", "-9223372036854775807", "5", "-5"} {
		env := put("1", 0, deja.ID{})
		env.Payload = fmt.Appendf(nil, `{"Amount":%s}`, amount)
		l.send(env)
	}
	l.send(put("2", 0, deja.ID{}))
	h := l.open()
	for of, want := range map[string]string{
		"min(state.balance)": "0", "last(state.balance)": "0", "max(state.balance)": "9223372036854775807",
		"first(event.Amount)": "9223372036854775807", "sum(state.balance)": "9223372036854775812", "min(event.None)": "", "max(state.moves)": "4",
	} {
		rows, err := h.Query(t.Context(), Query{Scope: everything(t, l.m), Limits: h.All(), Of: []string{of}})
		if err != nil || len(rows) != 1 || rows[0].Of[0] != want {
			t.Errorf("%s: %v, %v, want %s", of, rows, err, want)
		}
	}
}

func TestQueryRefusesWhatThereIsNot(t *testing.T) {
	l := newLived(t, till.Service(till.Variant{}))
	l.send(put("1", 1, deja.ID{}))
	h := l.open()
	for _, q := range []Query{
		{Of: []string{"median(event.Amount)"}},
		{Of: []string{"sum(balance)"}},
		{Of: []string{"sum(event.Amount"}},
		{By: []string{"weather"}},
		{By: []string{"event."}},
		{Of: []string{"max(state.none)"}},
		{By: []string{"state.none"}},
	} {
		q.Scope, q.Limits = everything(t, l.m), h.All()
		if rows, err := h.Query(t.Context(), q); !errors.Is(err, ErrQuery) {
			t.Errorf("%v %v: %v, %v", q.Of, q.By, rows, err)
		}
	}
}

func TestQueryCutsTimeIntoPeriods(t *testing.T) {
	l := newLived(t, till.Service(till.Variant{}))
	for range 3 {
		l.send(put("1", 1, deja.ID{}))
	}
	h := l.open()
	for by, want := range map[string]string{"year": "2001", "month": "2001-09", "day": "2001-09-09", "hour": "2001-09-09T01"} {
		rows, err := h.Query(t.Context(), Query{Scope: everything(t, l.m), Limits: h.All(), By: []string{by}})
		if err != nil || len(rows) != 1 || rows[0].By[0] != want || rows[0].Of[0] != "3" {
			t.Errorf("%s: %v, %v, want %s", by, rows, err, want)
		}
	}
	rows, err := h.Query(t.Context(), Query{Scope: everything(t, l.m), Limits: h.All(), By: []string{"day"}, Clock: replay.Business})
	if err != nil || len(rows) != 1 || rows[0].By[0] != "" {
		t.Errorf("without a business time: %v, %v", rows, err)
	}
}

func everything(t *testing.T, m *deja.Machine) Scope {
	t.Helper()
	s, err := ParseScope(m, "*")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A field is what its type says where it was not written, as blame and when have it: the length of a list is 0, an entry of a map
// is not there.
func TestQueryKnowsWhatWasNeverWritten(t *testing.T) {
	l := newLived(t, shelves.Service())
	l.send(deja.Envelope{Type: "shelf.add", Stream: deja.Stream{Key: "a"}, Payload: []byte(`{"amount":3}`)})
	h := l.open()
	for of, want := range map[string]string{
		"last(state.items.#)": "0", "last(state.limits.eur)": "", "last(state.owner.name)": `""`, "last(state.balance)": "3", "count": "1",
	} {
		rows, err := h.Query(t.Context(), Query{Scope: everything(t, l.m), Limits: h.All(), Of: []string{of}})
		if err != nil || len(rows) != 1 || rows[0].Of[0] != want {
			t.Errorf("%s: %v, %v, want %s", of, rows, err, want)
		}
	}
}
