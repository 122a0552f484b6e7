package deja_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
)

type wallet struct {
	Cents int64  `json:"cents"`
	Owner string `json:"owner"`
}

type (
	pay    struct{ Cents int64 }
	paid   struct{ Cents int64 } // version 3
	paidV2 struct{ Euros, Cents int64 }
	paidV1 struct{ Euros int64 }
	named  struct{ Owner string }
)

func (pay) CommandType() string  { return "wallet.pay" }
func (paid) EventType() string   { return "wallet.paid.v3" }
func (paidV2) EventType() string { return "wallet.paid.v2" }
func (paidV1) EventType() string { return "wallet.paid" }
func (named) EventType() string  { return "wallet.named" }

// paidOtherwise is paid under another name of its field.
type paidOtherwise struct{ Pence int64 }

func (paidOtherwise) EventType() string { return "wallet.paid.v3" }

func (w wallet) pay(d *deja.Decision, c pay) error { d.Record(paid(c)); return nil }
func (w *wallet) paid(e paid)                      { w.Cents += e.Cents }

func walletService() *deja.Service {
	return &deja.Service{
		Name:       "purse",
		Aggregates: []deja.AnyAggregate{deja.NewAggregate("wallet", deja.Handle(wallet.pay), deja.Apply((*wallet).paid))},
		Upcasters: []deja.Upcaster{
			deja.Upcast(func(old paidV1) paidV2 { return paidV2{Euros: old.Euros} }),
			deja.Upcast(func(old paidV2) paid { return paid{100*old.Euros + old.Cents} }),
		},
	}
}

func compile(t *testing.T, s *deja.Service) *deja.Machine {
	t.Helper()
	m, err := deja.Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

type (
	float   struct{ Rate float64 }
	hidden  struct{ secret int64 }
	wrong   struct{ Cents int64 }
	badName struct{}
)

func (float) EventType() string     { return "wallet.rated" }
func (hidden) EventType() string    { return "wallet.hid" }
func (wrong) CommandType() string   { return "ledger.post" }
func (badName) CommandType() string { return "Wallet" }

func TestCompileReportsAllFaultsTogether(t *testing.T) {
	_ = hidden{}.secret
	s := &deja.Service{
		Name: "No Name",
		Aggregates: []deja.AnyAggregate{
			deja.NewAggregate("wallet",
				deja.Handle(wallet.pay), deja.Handle(wallet.pay),
				deja.Handle(func(wallet, *deja.Decision, wrong) error { return nil }),
				deja.Handle(func(wallet, *deja.Decision, badName) error { return nil }),
				deja.Apply[wallet, named](nil),
				deja.Apply(func(*wallet, float) {}),
				deja.Apply(func(*wallet, hidden) {}),
				deja.FoldVersion[wallet](0),
			),
			deja.NewAggregate("wallet", deja.Apply(func(*float, float) {})),
			(*deja.Aggregate[wallet])(nil),
		},
		Upcasters: []deja.Upcaster{
			deja.Upcast(func(paidV1) paidV2 { return paidV2{} }),
			deja.Upcast(func(paidV2) paidV1 { return paidV1{} }),
		},
		Projections: []*deja.Projection{nil, deja.NewProjection("P", deja.Table("deja_x", "CREATE TABLE deja_x (a)"),
			deja.Project(func(deja.Tx, *deja.Envelope, paidV1) error { return nil }))},
	}
	_, err := deja.Compile(s)
	if err == nil {
		t.Fatal("it was taken")
	}
	for _, want := range []string{
		`service name "No Name"`, `Handle row for "wallet.pay": there are two`, "the name belongs to aggregate ledger",
		`wire name "Wallet"`, `Apply row for "wallet.named": the function is nil`, "float64", "secret", "FoldVersion 0",
		"two aggregates are named wallet", "handles nothing", "an aggregate is nil", "circle", "a projection is nil",
		`projection name "P"`, `table name "deja_x"`, "no aggregate of the service applies wallet.paid",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q", want)
		}
	}
	if t.Failed() {
		t.Log(err)
	}
}

func TestOldEventsAreUpcastStepByStep(t *testing.T) {
	m := compile(t, walletService())
	st, err := m.NewState(deja.Stream{Aggregate: "wallet", Key: "1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []struct{ typ, payload string }{
		{"wallet.paid", `{"Euros":1}`}, {"wallet.paid.v2", `{"Euros":2,"Cents":5}`}, {"wallet.paid.v3", `{"Cents":7}`},
	} {
		ev := &deja.Envelope{Type: e.typ, Payload: []byte(e.payload), Stream: st.Stream}
		if err := m.Fold(st, ev); err != nil {
			t.Fatal(err)
		}
	}
	if got := st.Value().(*wallet).Cents; got != 312 || st.Version != 3 {
		t.Errorf("%d cents at version %d, want 312 at 3", got, st.Version)
	}
	var unknown *deja.UnknownEventError
	if err := m.Fold(st, &deja.Envelope{Type: "wallet.burnt", Stream: st.Stream}); !errors.As(err, &unknown) {
		t.Errorf("an unknown event: %v", err)
	}
}

func TestTheFoldVersionChangesWithWhatIsFolded(t *testing.T) {
	base := compile(t, walletService()).FoldVersion()
	if again := compile(t, walletService()).FoldVersion(); again != base {
		t.Errorf("%s and %s for one service", base, again)
	}
	type other struct {
		Cents int64 `json:"cents"`
	}
	handle := deja.Handle(func(other, *deja.Decision, pay) error { return nil })
	apply := deja.Apply(func(*other, paid) {})
	for what, change := range map[string]func(*deja.Service){
		"a state's field": func(s *deja.Service) {
			s.Aggregates = []deja.AnyAggregate{deja.NewAggregate("wallet", handle, apply)}
		},
		"a declared version": func(s *deja.Service) {
			s.Aggregates = []deja.AnyAggregate{deja.NewAggregate("wallet", deja.Handle(wallet.pay), deja.Apply((*wallet).paid), deja.FoldVersion[wallet](2))}
		},
		"an event": func(s *deja.Service) {
			s.Aggregates = []deja.AnyAggregate{deja.NewAggregate("wallet", deja.Handle(wallet.pay), deja.Apply((*wallet).paid), deja.Apply(func(*wallet, named) {}))}
		},
		"an upcaster": func(s *deja.Service) { s.Upcasters = s.Upcasters[1:] },
		"an event's field": func(s *deja.Service) {
			s.Aggregates = []deja.AnyAggregate{deja.NewAggregate("wallet", deja.Handle(wallet.pay), deja.Apply(func(w *wallet, e paidOtherwise) { w.Cents += e.Pence }))}
			s.Upcasters = nil
		},
		"a table": func(s *deja.Service) {
			s.Projections = []*deja.Projection{deja.NewProjection("p", deja.Table("t", "CREATE TABLE t (a TEXT)"))}
		},
	} {
		s := walletService()
		change(s)
		if compile(t, s).FoldVersion() == base {
			t.Errorf("%s does not change the fold version", what)
		}
	}
}

// What an aggregate's table has no row for fails the decision by name, in the first test.
func TestAMissingRowFailsTheDecision(t *testing.T) {
	s := walletService()
	s.Aggregates = []deja.AnyAggregate{deja.NewAggregate("wallet",
		deja.Handle(func(_ wallet, d *deja.Decision, _ pay) error { d.Record(named{}); d.Send("x", wrong{}); return nil }),
		deja.Apply((*wallet).paid))}
	m := compile(t, s)
	got := decide(t, m, pay{1})
	if got.Status != deja.Parked || !strings.Contains(got.Reason.Detail, "no Apply row for wallet.named") || len(got.Events) > 0 {
		t.Errorf("got %+v", got)
	}
}

func decide(t *testing.T, m *deja.Machine, c deja.Command) *deja.Decided {
	t.Helper()
	stream := deja.Stream{Aggregate: "wallet", Key: "1"}
	st, err := m.NewState(stream)
	if err != nil {
		t.Fatal(err)
	}
	env := &deja.Envelope{ID: deja.DeriveID("test", "1"), Kind: deja.KindCommand, Type: c.CommandType(), Stream: stream}
	return m.Decide(st, env, c, time.Unix(0, 0).UTC())
}

// badError's Error method panics, as a typed nil in an error does.
type badError struct{}

func (*badError) Error() string { panic("no text") }

func TestWhateverAHandlerReturnsIsADecision(t *testing.T) {
	for what, c := range map[string]struct {
		fn   func(*deja.Decision) error
		want deja.Status
	}{
		"nil":                     {func(*deja.Decision) error { return nil }, deja.Applied},
		"a rejection":             {func(*deja.Decision) error { return deja.NewRejection("wallet.no") }, deja.Rejected},
		"a wrapped rejection":     {func(*deja.Decision) error { return fmt.Errorf("x: %w", deja.NewRejection("wallet.no")) }, deja.Rejected},
		"an error":                {func(*deja.Decision) error { return errors.New("no") }, deja.Parked},
		"a typed nil rejection":   {func(*deja.Decision) error { var r *deja.Rejection; return r }, deja.Parked},
		"an error that panics":    {func(*deja.Decision) error { return &badError{} }, deja.Parked},
		"a panic":                 {func(*deja.Decision) error { panic("no") }, deja.Parked},
		"a runtime error":         {func(*deja.Decision) error { return fmt.Errorf("%d", []int{}[len(os.Args)]) }, deja.Parked},
		"a payload without form":  {func(d *deja.Decision) error { d.Record(paid{1}, named{"\xff"}); return nil }, deja.Parked},
		"refused after recording": {func(d *deja.Decision) error { d.Record(paid{1}); return deja.NewRejection("wallet.no") }, deja.Rejected},
	} {
		s := walletService()
		s.Aggregates = []deja.AnyAggregate{deja.NewAggregate("wallet",
			deja.Handle(func(_ wallet, d *deja.Decision, _ pay) error { return c.fn(d) }),
			deja.Apply((*wallet).paid), deja.Apply(func(*wallet, named) {}))}
		got := decide(t, compile(t, s), pay{1})
		if what == "a payload without form" { // encoding/json mends it
			continue
		}
		if got.Status != c.want || c.want != deja.Applied && len(got.Events) > 0 {
			t.Errorf("%s: %+v, want %s", what, got, c.want)
		}
	}
}

func TestRejectionsAreEqualByCode(t *testing.T) {
	e := deja.NewRejection("wallet.empty")
	if !errors.Is(fmt.Errorf("x: %w", e.Because("balance %d", 1)), e) || errors.Is(e, deja.NewRejection("wallet.other")) {
		t.Error("errors.Is does not compare codes")
	}
	if e.Detail != "" {
		t.Error("Because changed the declared refusal")
	}
}

func TestStreams(t *testing.T) {
	for text, want := range map[string]deja.Stream{
		"account/42":         {Aggregate: "account", Key: "42"},
		"acme:account/a/b:c": {Tenant: "acme", Aggregate: "account", Key: "a/b:c"},
		"bank.account/ü@1":   {Aggregate: "bank.account", Key: "ü@1"},
	} {
		got, err := deja.ParseStream(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "account", "account/", "/42", "Account/42", "a/\x00", "a/\xff", "a/" + strings.Repeat("k", 600)} {
		if got, err := deja.ParseStream(text); err == nil {
			t.Errorf("%q is taken as %+v", text, got)
		}
	}
}

func TestAStateComesBackAsItWas(t *testing.T) {
	m := compile(t, walletService())
	s := deja.Stream{Aggregate: "wallet", Key: "1"}
	st, err := m.DecodeState(s, 7, []byte(`{"cents":5,"owner":"ana"}`))
	if err != nil {
		t.Fatal(err)
	}
	data, err := st.Encode()
	if err != nil || !json.Valid(data) || string(data) != `{"cents":5,"owner":"ana"}` || st.Version != 7 {
		t.Errorf("%s at %d, %v", data, st.Version, err)
	}
	if _, err := m.NewState(deja.Stream{Aggregate: "other", Key: "1"}); err == nil || !strings.Contains(err.Error(), "wallet") {
		t.Errorf("an unknown aggregate: %v; want those there are", err)
	}
}

// pocket's state holds a map, which a copy of the state shares.
type pocket struct {
	Cents map[string]int64 `json:"cents"`
}

func TestAHandlerCannotChangeTheState(t *testing.T) {
	for what, outcome := range map[string]error{"applied": nil, "refused": deja.NewRejection("wallet.no")} {
		m := compile(t, &deja.Service{Name: "purse", Aggregates: []deja.AnyAggregate{deja.NewAggregate("wallet",
			deja.Handle(func(p pocket, _ *deja.Decision, _ pay) error {
				p.Cents["a"] += 1000
				return outcome
			}),
			deja.Apply(func(*pocket, paid) {}))}})
		stream := deja.Stream{Aggregate: "wallet", Key: "1"}
		st, err := m.DecodeState(stream, 1, []byte(`{"cents":{"a":5}}`))
		if err != nil {
			t.Fatal(err)
		}
		got := m.Decide(st, &deja.Envelope{ID: deja.DeriveID("test", "1"), Stream: stream}, pay{1}, time.Time{})
		if got.Status != deja.Parked || !strings.Contains(got.Reason.Detail, "changed the state") {
			t.Errorf("%s: %+v; want it parked", what, got)
		}
		if cents := st.Value().(*pocket).Cents["a"]; cents != 5 {
			t.Errorf("%s: the handler left %d cents, want 5", what, cents)
		}
	}
}

// loud panics wherever encoding/json calls it.
type loud struct{}

func (loud) MarshalText() ([]byte, error) { panic("loud") }
func (*loud) UnmarshalText([]byte) error  { panic("loud") }

type (
	shout   struct{ Text loud }
	shouted struct{ Text loud }
)

func (shout) CommandType() string { return "wallet.shout" }
func (shouted) EventType() string { return "wallet.shouted" }

// wraps is an error whose Unwrap fails on a nil pointer, as those of careless packages do.
type wraps struct{ inner error }

func (w *wraps) Error() string { return "wraps" }
func (w *wraps) Unwrap() error { return w.inner }

func TestNoPanicOfUserCodeGetsOut(t *testing.T) {
	m := compile(t, &deja.Service{Name: "purse", Aggregates: []deja.AnyAggregate{deja.NewAggregate("wallet",
		deja.Handle(func(_ wallet, d *deja.Decision, c shout) error { d.Record(shouted(c)); return nil }),
		deja.Handle(func(wallet, *deja.Decision, pay) error { var w *wraps; return w }),
		deja.Apply(func(*wallet, shouted) {}))}})
	stream := deja.Stream{Aggregate: "wallet", Key: "1"}
	env := &deja.Envelope{
		ID: deja.DeriveID("test", "1"), Kind: deja.KindCommand, Type: "wallet.shout", Stream: stream,
		ContentType: "application/json", Payload: []byte(`{"Text":"x"}`),
	}
	if _, err := m.Decode(env); !errors.Is(err, deja.NewRejection(deja.CodeMalformed)) {
		t.Errorf("decoding: %v", err)
	}
	for _, c := range []deja.Command{shout{}, pay{1}} {
		if got := decide(t, m, c); got.Status != deja.Parked {
			t.Errorf("%s: %+v", c.CommandType(), got)
		}
	}
}

func TestReservedCodesAreNotTheServicesToGive(t *testing.T) {
	for _, code := range []string{"", "deja.skipped"} {
		s := walletService()
		s.Aggregates = []deja.AnyAggregate{deja.NewAggregate("wallet",
			deja.Handle(func(wallet, *deja.Decision, pay) error { return deja.NewRejection(code) }), deja.Apply((*wallet).paid))}
		if got := decide(t, compile(t, s), pay{1}); got.Status != deja.Parked {
			t.Errorf("code %q: %+v", code, got)
		}
	}
}

// Stores list streams in this order, and hashes depend on it.
func TestStreamsAreInOrderOfTheirBytes(t *testing.T) {
	ordered := []deja.Stream{
		{Aggregate: "a", Key: "10"},
		{Aggregate: "a", Key: "9"},
		{Aggregate: "a", Key: "Z"},
		{Aggregate: "a", Key: "a"},
		{Aggregate: "a", Key: "ü"},
		{Aggregate: "b", Key: "1"},
		{Tenant: "t", Aggregate: "a", Key: "1"},
	}
	for i, s := range ordered {
		for j, o := range ordered {
			if got, want := s.Compare(o), cmp.Compare(i, j); got != want {
				t.Errorf("%s compared with %s is %d, want %d", s, o, got, want)
			}
		}
	}
}
