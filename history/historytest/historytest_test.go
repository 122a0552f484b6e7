package historytest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/dejalog/deja/internal/till"
)

const capsule = `{"format": 1, "service": "%s", "partitions": 1, "messages": [
{"partition":0,"offset":3,"time":"2026-01-01T00:00:00Z","id":"01000000-0000-4000-8000-000000000000","type":"till.put","aggregate":"till","key":"a","source":"shop","content_type":"application/json","payload":{"Amount":10}},
{"partition":0,"offset":7,"time":"2026-01-01T00:00:01Z","id":"02000000-0000-4000-8000-000000000000","type":"till.take","aggregate":"till","key":"a","source":"shop","content_type":"application/json","payload":{"Amount":9}}
]}
`

// failing is a test that notes what it is failed with.
type failing struct {
	testing.TB
	said string
}

func (f *failing) Helper() {}
func (f *failing) Errorf(format string, args ...any) {
	f.said += fmt.Sprintf(format, args...)
}

func (f *failing) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	runtime.Goexit()
}
func (f *failing) Fatal(args ...any) { f.Fatalf("%s", fmt.Sprint(args...)) }

// fails returns what a test was failed with.
func fails(t *testing.T, test func(testing.TB)) string {
	t.Helper()
	f := &failing{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		test(f)
	}()
	<-done
	return f.said
}

func file(t *testing.T, service string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "history.json")
	if err := os.WriteFile(path, fmt.Appendf(nil, capsule, service), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A handler that fails a condition fails the test, and one that is mended passes it.
func TestOnlyTheHandlerThatFailsFailsTheTest(t *testing.T) {
	path := file(t, "shop")
	said := fails(t, func(tb testing.TB) {
		Relive(tb, till.Service(till.Variant{}), path).WantNot("till/a", "state.balance < 5")
	})
	if !strings.Contains(said, "state.balance < 5 holds for till/a after the last of 2 messages, till.take 02000000-0000-4000-8000-000000000000; the state is ") {
		t.Errorf("it said %q", said)
	}
	if said := fails(t, func(tb testing.TB) {
		Relive(tb, till.Service(till.Variant{MaxTake: 5}), path).WantNot("till/a", "state.balance < 5")
	}); said != "" {
		t.Errorf("the mended handler: it said %q", said)
	}
}

func TestState(t *testing.T) {
	var got till.Till
	p := Relive(t, till.Service(till.Variant{}), file(t, "shop"))
	if v := p.State("till/a", &got); v != 2 || got != (till.Till{Balance: 1, Moves: 2}) {
		t.Errorf("got %+v, version %d", got, v)
	}
	if v := p.State("till/b", &got); v != 0 || got.Balance != 1 {
		t.Errorf("of a key without messages: %+v, version %d", got, v)
	}
}

// What tests nothing does not pass.
func TestWhatTestsNothingFails(t *testing.T) {
	path := file(t, "shop")
	for what, test := range map[string]func(testing.TB){
		"none of the 2 messages": func(tb testing.TB) { Relive(tb, till.Service(till.Variant{}), path).WantNot("till/b", "true") },
		"there is no field":      func(tb testing.TB) { Relive(tb, till.Service(till.Variant{}), path).WantNot("till/a", "state.sum < 5") },
		"parse stream": func(tb testing.TB) {
			Relive(tb, till.Service(till.Variant{}), path).WantNot("till", "state.balance < 5")
		},
		"no such file":             func(tb testing.TB) { Relive(tb, till.Service(till.Variant{}), path+"x") },
		"of the service bank, not": func(tb testing.TB) { Relive(tb, till.Service(till.Variant{}), file(t, "bank")) },
	} {
		if said := fails(t, test); !strings.Contains(said, what) {
			t.Errorf("want %q, it said %q", what, said)
		}
	}
}
