package cli

import (
	"bufio"
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/history"
	"github.com/dejalog/deja/internal/lived"
)

// walked is a past of two keys, and a walk over the first. Its decisions are, in the one partition:
//
//	1 a: balance 1
//	2 a: owner ana, which decision 1 caused
//	3 b: balance 2, which decision 1 caused
//	4 a: balance 6
//	5 a: refused
func walked(t *testing.T) (*walker, *bytes.Buffer) {
	p := lived.New(t, lived.Service(), 1)
	send := func(key, name, payload string, cause deja.ID) deja.ID {
		return p.Send(deja.Envelope{Stream: deja.Stream{Aggregate: "shelf", Key: key}, Type: name, Payload: []byte(payload), CausationID: cause}).ID
	}
	first := send("a", "shelf.add", `{"amount":1}`, deja.ID{})
	send("a", "shelf.own", `{"name":"ana"}`, first)
	send("b", "shelf.add", `{"amount":2}`, first)
	send("a", "shelf.add", `{"amount":5}`, deja.ID{})
	send("a", "shelf.drop", `{"at":7}`, deja.ID{})
	p.Handle(10)
	h, err := history.Open(t.Context(), history.Config{Service: lived.Service(), Log: p.Log, Ledger: p.Store, Build: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	var out bytes.Buffer
	e := &Env{Stderr: &out, app: App{Service: lived.Service()}}
	if err := e.compile(); err != nil {
		t.Fatal(err)
	}
	at, err := h.At(t.Context(), "shelf/a@1")
	if err != nil {
		t.Fatal(err)
	}
	return &walker{e: e, h: h, at: at.Step}, &out
}

func TestAWalkGoesWhereTheKeysSay(t *testing.T) {
	for _, c := range []struct{ keys, shown string }{
		{"", "1"},
		{"nq", "12"},
		{"nnnnpq", "124554"},
		{"Ggq", "151"},
		{"\x1b[C\x1b[B\x1b[D\x1b[A\x1b[F\x1b[Hq", "1242151"},
		{"j k\rbq", "124242"},
		{"X\x1b[Zn\x03n", "1112"},
		{"\x1b", "1"},
		{"3n", "15"},
		{"3n2p", "152"},
		{"9n", "15"},
		{"3g", "14"}, // version 3
		{"10g", "11"},
		{"/balance\r", "14"},
		{"/owner\r", "12"},
		{"/ownex\x7fr.name\rww", "1222"},
		{"G?balance\rWw", "15414"},
		{"/bal\x1b", "11"}, // gives up
		{"/nothing\r", "11"},
		{"w", "11"},
		{"d", "12"},
		{"2d", "13"},
		{"3d", "11"},
		{"2dnp", "1333"}, // b has one decision
		{"2du", "131"},
		{"ecc", "1211"},
		{"u", "11"},
		{"G'", "151"},
		{"2d''", "1311"},
		{"h", "11"},
	} {
		w, out := walked(t)
		if err := w.follow(t.Context(), bufio.NewReader(strings.NewReader(c.keys))); err != nil {
			t.Errorf("%q: %v", c.keys, err)
		}
		var shown string
		for _, m := range regexp.MustCompile(`decision (\d)`).FindAllStringSubmatch(out.String(), -1) {
			shown += m[1]
		}
		if shown != c.shown {
			t.Errorf("%q showed %s, want %s\n%s", c.keys, shown, c.shown, out)
		}
	}
}

func TestAWalkShowsWhatWasWrittenAndWhy(t *testing.T) {
	for keys, want := range map[string]string{
		"":             `balance: 0 → 1`,
		"n":            `owner.name: "" → "ana"`,
		"2n":           `balance: 1 → 6`,
		"2d":           `caused by [0-9a-f-]{36}`,
		"p":            `\nthis is the first message of shelf/a`,
		"G":            `because shelf.none`,
		"u":            `nothing caused [0-9a-f-]{36}`,
		"n\x1b[Dd":     `caused 2: [0-9a-f-]{36} shelf.add of shelf/b`,
		"3d":           `this caused 2 messages`,
		"/nothing\r":   `state has no field "nothing"; it has balance, owner`,
		"/balance.x\r": `state.balance is no struct`,
		"/limits\r":    `no later message of shelf/a wrote limits`,
		"h":            `the next decision that wrote a field`,
		"30g":          `shelf/a has versions 1 to 3`,
	} {
		w, out := walked(t)
		if err := w.follow(t.Context(), bufio.NewReader(strings.NewReader(keys))); err != nil {
			t.Errorf("%q: %v", keys, err)
		}
		if text := strings.ReplaceAll(fmt.Sprint(out), "\r\n", "\n"); !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("%q does not show %q:\n%s", keys, want, text)
		}
	}
}
