package receipt_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/dejalog/deja/examples/transfers/receipt"
	"github.com/dejalog/deja/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func open(t *testing.T, path string, f receipt.Faults) *receipt.Provider {
	t.Helper()
	p, err := receipt.Open(path, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func send(t *testing.T, p *receipt.Provider, key string, s receipt.Send, want error) {
	t.Helper()
	if err := p.Send(t.Context(), key, s); !errors.Is(err, want) {
		t.Fatalf("send %s %v: %v, want %v", key, s, err, want)
	}
}

// answers returns the answers of all calls, in order.
func answers(t *testing.T, path string) string {
	t.Helper()
	calls, err := receipt.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, c := range calls {
		all = append(all, c.Transfer+" "+string(c.Answer))
	}
	return strings.Join(all, ", ")
}

var first = receipt.Send{To: "a1", Transfer: "t1", Amount: 100}

func TestAKeyIsPerformedOnceAlsoByAnotherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "receipts")
	p := open(t, path, receipt.Faults{})
	send(t, p, "k1", first, nil)
	send(t, p, "k1", first, nil)
	q := open(t, path, receipt.Faults{})
	send(t, q, "k1", first, nil)
	send(t, q, "k2", receipt.Send{To: "a2", Transfer: "t2", Amount: 1}, nil)
	send(t, p, "k2", receipt.Send{To: "a2", Transfer: "t2", Amount: 1}, nil)
	if got, want := answers(t, path), "t1 sent, t1 repeated, t1 repeated, t2 sent, t2 repeated"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAKeyOfAnotherReceiptIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "receipts")
	p := open(t, path, receipt.Faults{})
	send(t, p, "k1", first, nil)
	send(t, p, "k1", receipt.Send{To: "a1", Transfer: "t1", Amount: 101}, receipt.ErrKey)
	send(t, p, "k1", first, nil)
	if got, want := answers(t, path), "t1 sent, t1 refused, t1 repeated"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestFaults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "receipts")
	p := open(t, path, receipt.Faults{Decline: 1, NoAnswer: 1})
	send(t, p, "k1", first, receipt.ErrUnavailable)
	send(t, open(t, path, receipt.Faults{Decline: 1, NoAnswer: 1}), "k1", first, receipt.ErrNoAnswer)
	send(t, p, "k1", first, nil)
	if got, want := answers(t, path), "t1 declined, t1 sent, t1 repeated"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	few := 0
	q := open(t, filepath.Join(t.TempDir(), "receipts"), receipt.Faults{Seed: 7, Decline: 10})
	for i := range 200 {
		err := q.Send(t.Context(), strconv.Itoa(i), receipt.Send{Transfer: strconv.Itoa(i)})
		if errors.Is(err, receipt.ErrUnavailable) {
			few++
		}
	}
	if few < 5 || few > 50 {
		t.Errorf("of 200 receipts %d were declined, want some 20", few)
	}
}

// A writer that died leaves a part of a line, or a line whose call nobody was answered.
func TestWhatADeadWriterLeaves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "receipts")
	send(t, open(t, path, receipt.Faults{}), "k1", first, nil)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range whole {
		torn := strings.Replace(string(whole[:cut]), "k1", "k9", 1)
		if err := os.WriteFile(path, append(append([]byte{}, whole...), torn...), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := answers(t, path); got != "t1 sent" {
			t.Fatalf("%d bytes of a line: %s", cut, got)
		}
		p := open(t, path, receipt.Faults{})
		send(t, p, "k9", receipt.Send{Transfer: "t9"}, nil)
		send(t, p, "k1", first, nil)
		if got, want := answers(t, path), "t1 sent, t9 sent, t1 repeated"; got != want {
			t.Fatalf("%d bytes of a line: got %s, want %s", cut, got, want)
		}
	}
}

func TestALineThatCannotBeReadIsNoSilentLoss(t *testing.T) {
	path := filepath.Join(t.TempDir(), "receipts")
	if err := os.WriteFile(path, []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := receipt.ReadFile(path); err == nil {
		t.Error("nonsense was read")
	}
	send(t, open(t, path, receipt.Faults{}), "k1", first, receipt.ErrNoAnswer)
}

func TestManyCallersOfTwoProvidersSendEachReceiptOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "receipts")
	ps := []*receipt.Provider{open(t, path, receipt.Faults{Decline: 5, NoAnswer: 5}), open(t, path, receipt.Faults{Decline: 5, NoAnswer: 5})}
	var callers sync.WaitGroup
	for i := range 40 {
		callers.Go(func() {
			s := receipt.Send{To: "a", Transfer: fmt.Sprintf("t%d", i%20), Amount: 1}
			for n := i; ; n++ {
				if err := ps[n%2].Send(t.Context(), "key of "+s.Transfer, s); err == nil {
					return
				}
			}
		})
	}
	callers.Wait()
	if got := strings.Count(answers(t, path), " sent"); got != 20 {
		t.Errorf("%d receipts were sent, want 20: %s", got, answers(t, path))
	}
}

func TestACallerWhoDoesNotWait(t *testing.T) {
	p := open(t, filepath.Join(t.TempDir(), "receipts"), receipt.Faults{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Send(ctx, "k1", first); err != nil && !errors.Is(err, receipt.ErrNoAnswer) {
		t.Error(err)
	}
	send(t, p, "k1", first, nil)
}
