// Package historytest lets tests live messages of a service's past again, which are in a file, and ends there: pin writes such
// tests, with their files, for what went wrong once and must not again.
//
//	func TestTheBalanceIsTheBanks(t *testing.T) {
//		historytest.Relive(t, service.Service(), "testdata/history.json").
//			WantNot("account/576", "state.balance != state.recorded")
//	}
package historytest

import (
	"context"
	"encoding/json"
	"os"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/history"
)

// A Past is what a service made of the messages of a file. It belongs to one goroutine.
type Past struct {
	t       testing.TB
	relived *history.Relived
	of      int
}

// Relive lets a service decide the messages of a file, a [history.Capsule], as it would have when they came: with the very steps
// that an engine takes, in memory. It ends the test if the file is not for the service.
func Relive(tb testing.TB, s *deja.Service, file string) *Past {
	tb.Helper()
	f, err := os.Open(file)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // it was read alone
	c, err := history.ReadCapsule(f)
	if err != nil {
		tb.Fatalf("%s: %v", file, err)
	}
	r, err := c.Relive(context.Background(), s)
	if err != nil {
		tb.Fatalf("%s: %v", file, err)
	}
	return &Past{tb, r, len(c.Messages)}
}

// WantNot fails the test if a condition, written in CEL over state, prev and event, holds for a key after the key's last message.
// It ends the test if the condition cannot be evaluated, or nothing was decided for the key.
func (p *Past) WantNot(key, condition string) *Past {
	p.t.Helper()
	s := p.stream(key)
	holds, last, err := p.relived.Holds(s, condition)
	if err != nil {
		p.t.Fatal(err)
	}
	if last == nil {
		p.t.Fatalf("none of the %d messages was decided for %s", p.of, s)
	}
	if holds {
		p.t.Errorf("%s holds for %s after the last of %d messages, %s %s; the state is %s", condition, s, p.of, last.Type, last.ID, p.encoded(s))
	}
	return p
}

// State decodes the state of a key behind the last message into dst, a pointer to it, and returns its version; 0 and an untouched
// dst where nothing was recorded.
func (p *Past) State(key string, dst any) int64 {
	p.t.Helper()
	s := p.stream(key)
	st, err := p.relived.State(context.Background(), s)
	if err != nil {
		p.t.Fatal(err)
	}
	if st.Version > 0 {
		if err := json.Unmarshal(p.encoded(s), dst); err != nil {
			p.t.Fatalf("state of %s: %v", s, err)
		}
	}
	return st.Version
}

func (p *Past) stream(key string) deja.Stream {
	p.t.Helper()
	s, err := deja.ParseStream(key)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

func (p *Past) encoded(s deja.Stream) []byte {
	p.t.Helper()
	st, err := p.relived.State(context.Background(), s)
	if err != nil {
		p.t.Fatal(err)
	}
	data, err := st.Encode()
	if err != nil {
		p.t.Fatal(err)
	}
	return data
}
