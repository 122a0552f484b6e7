package history_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/history"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/lived"
	"github.com/dejalog/deja/replay"
)

// life is all that happened to one key, folded naively.
type life struct {
	stream deja.Stream
	steps  []lifeStep // in order; the first is the empty state, of no decision
}

type lifeStep struct {
	entry  *journal.Entry
	doc    []byte // the state after it
	fields map[string]string
}

// lives folds every key.
func lives(t testing.TB, all told) map[deja.Stream]*life {
	t.Helper()
	m, err := deja.Compile(lived.Service())
	if err != nil {
		t.Fatal(err)
	}
	lives, states := map[deja.Stream]*life{}, map[deja.Stream]*deja.State{}
	add := func(e *journal.Entry, s deja.Stream) {
		doc, err := states[s].Encode()
		if err != nil {
			t.Fatal(err)
		}
		fs, err := m.Flatten(nil, s.Aggregate, doc)
		if err != nil {
			t.Fatal(err)
		}
		fields := map[string]string{}
		for _, f := range fs {
			fields[f.Path] = f.Value
		}
		if states[s].Version == 0 {
			clear(fields)
		}
		lives[s].steps = append(lives[s].steps, lifeStep{e, doc, fields})
	}
	all.each(func(e *journal.Entry) {
		s := e.Cause.Stream
		if states[s] == nil {
			if states[s], err = m.NewState(s); err != nil {
				t.Fatal(err)
			}
			lives[s] = &life{stream: s}
			add(nil, s)
		}
		for i := range e.Decided.Events {
			if err := m.Fold(states[s], &e.Decided.Events[i]); err != nil {
				t.Fatal(err)
			}
		}
		add(e, s)
	})
	return lives
}

// text returns a locator of a step that is no conflict, in one of several forms.
func (l *life) text(rng *rand.Rand, i int) string {
	e := l.steps[i].entry
	switch {
	case e == nil:
		return l.stream.String() + "@1970-01-01"
	case i == len(l.steps)-1 && rng.IntN(2) == 0:
		return []string{l.stream.String(), l.stream.String() + "@HEAD"}[rng.IntN(2)]
	}
	return fmt.Sprintf("%s@journal:%d:%d", l.stream, e.Cause.Position.Partition, e.Offset)
}

// histories opens a past in all ways.
func histories(t testing.TB, p *lived.Past) map[string]*history.History {
	t.Helper()
	return map[string]*history.History{"in place": open(t, p.Log, p.Store), "archived": open(t, archived(t, p), nil)}
}

func TestAStateAtAnyPoint(t *testing.T) {
	eachPast(t, 10, func(t *testing.T, rng *rand.Rand, p *lived.Past) {
		for name, h := range histories(t, p) {
			for _, l := range lives(t, tell(t, p)) {
				for i, s := range l.steps {
					at, err := h.At(t.Context(), l.text(rng, i))
					if err != nil {
						t.Fatal(err)
					}
					doc, from, err := h.State(t.Context(), at)
					var version int64
					var position deja.Position
					for _, before := range l.steps[1 : i+1] {
						if e := before.entry; len(e.Decided.Events) > 0 {
							version, position = e.Version, e.Cause.Position
							position.Offset = e.Through()
						}
					}
					if err != nil || !bytes.Equal(doc, s.doc) || from.Version != version || from.Position != position || from.Stream != l.stream {
						t.Fatalf("%s: %s is %s from %+v, %v; want %s from version %d at %s", name, l.text(rng, i), doc, from, err, s.doc, version, position)
					}
				}
				typed, _, err := history.State(t.Context(), h, lived.Shelves(), l.stream.String())
				if doc, _ := json.Marshal(typed); err != nil || string(doc) != string(l.steps[len(l.steps)-1].doc) {
					t.Fatalf("%s: %s is %s, %v", name, l.stream, doc, err)
				}
			}
		}
	})
}

func TestADiffIsWhatWasWrittenAndItsPatchApplies(t *testing.T) {
	eachPast(t, 6, func(t *testing.T, rng *rand.Rand, p *lived.Past) {
		all := slices.Collect(maps.Values(lives(t, tell(t, p))))
		for name, h := range histories(t, p) {
			for range 60 {
				a, b := all[rng.IntN(len(all))], all[rng.IntN(len(all))]
				i, j := rng.IntN(len(a.steps)), rng.IntN(len(b.steps))
				from, to := a.text(rng, i), b.text(rng, j)
				d, err := h.Diff(t.Context(), from, to)
				if err != nil {
					t.Fatal(err)
				}
				var want []history.Write
				for _, path := range slices.Sorted(maps.Keys(union(a.steps[i].fields, b.steps[j].fields))) {
					if before, after := a.steps[i].fields[path], b.steps[j].fields[path]; before != after {
						want = append(want, history.Write{Path: path, Old: before, New: after})
					}
				}
				if !slices.Equal(d.Changes, want) {
					t.Fatalf("%s: %s to %s: changes %v\nwant %v", name, from, to, d.Changes, want)
				}
				ops, err := json.Marshal(d.Patch)
				if err != nil {
					t.Fatal(err)
				}
				if got := patched(t, a.steps[i].doc, ops); got != canonical(t, b.steps[j].doc) {
					t.Fatalf("%s: %s to %s: the patch\n%s\nmakes of\n%s\n%s\nwant\n%s", name, from, to, ops, a.steps[i].doc, got, b.steps[j].doc)
				}
			}
		}
	})
}

func union(a, b map[string]string) map[string]string {
	u := maps.Clone(a)
	maps.Copy(u, b)
	return u
}

func canonical(t testing.TB, doc []byte) string {
	t.Helper()
	c, err := canon.Append(nil, doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(c)
}

// patched applies a JSON Patch, by the words of RFC 6902 and 6901.
func patched(t testing.TB, doc, ops []byte) string {
	t.Helper()
	var root any
	if err := json.Unmarshal(doc, &root); err != nil {
		t.Fatal(err)
	}
	var patch []map[string]json.RawMessage
	if err := json.Unmarshal(ops, &patch); err != nil {
		t.Fatal(err)
	}
	for _, op := range patch {
		var word, pointer string
		if err := json.Unmarshal(op["op"], &word); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(op["path"], &pointer); err != nil {
			t.Fatal(err)
		}
		var value any
		if word != "remove" {
			if err := json.Unmarshal(op["value"], &value); err != nil {
				t.Fatalf("%s %s: %v", word, pointer, err)
			}
		}
		var err error
		if root, err = apply(root, strings.Split(pointer, "/")[1:], word, value); err != nil {
			t.Fatalf("%s %s: %v", word, pointer, err)
		}
	}
	out, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return canonical(t, out)
}

func apply(in any, path []string, op string, value any) (any, error) {
	if len(path) == 0 {
		return value, nil
	}
	token := strings.ReplaceAll(strings.ReplaceAll(path[0], "~1", "/"), "~0", "~")
	switch in := in.(type) {
	case map[string]any:
		old, ok := in[token]
		switch {
		case len(path) > 1 || op == "replace":
			if !ok {
				return nil, fmt.Errorf("there is no member %q", token)
			}
			v, err := apply(old, path[1:], op, value)
			in[token] = v
			return in, err
		case op == "add":
			in[token] = value
		case !ok:
			return nil, fmt.Errorf("there is no member %q", token)
		default:
			delete(in, token)
		}
		return in, nil
	case []any:
		i, err := strconv.Atoi(token)
		if err != nil || i < 0 || i > len(in) || i == len(in) && (op != "add" || len(path) > 1) {
			return nil, fmt.Errorf("there is no element %q", token)
		}
		switch {
		case len(path) > 1 || op == "replace":
			in[i], err = apply(in[i], path[1:], op, value)
			return in, err
		case op == "add":
			return slices.Insert(in, i, value), nil
		}
		return slices.Delete(in, i, i+1), nil
	}
	return nil, fmt.Errorf("%q leads into a %T", token, in)
}

// lastWriters finds out naively who wrote each field last.
func (l *life) lastWriters(upTo int) map[string]int {
	last := map[string]int{}
	for i := 1; i <= upTo; i++ {
		before, after := l.steps[i-1].fields, l.steps[i].fields
		for path := range union(before, after) {
			if before[path] != after[path] {
				last[path] = i
			}
		}
	}
	return last
}

func TestBlameNamesTheLastWriter(t *testing.T) {
	eachPast(t, 10, func(t *testing.T, rng *rand.Rand, p *lived.Past) {
		for name, h := range histories(t, p) {
			for _, l := range lives(t, tell(t, p)) {
				i := rng.IntN(len(l.steps))
				text := l.text(rng, i)
				last := l.lastWriters(i)
				all, err := h.Blame(t.Context(), text)
				if err != nil {
					t.Fatal(err)
				}
				for _, b := range all {
					l.checkBlame(t, name, text, last, i, b)
				}
				for path := range last {
					below := func(field string) bool { return strings.HasPrefix(field, path+".") }
					if slices.ContainsFunc(slices.Collect(maps.Keys(l.steps[i].fields)), below) {
						continue // it was empty, and is not any more
					}
					if !slices.ContainsFunc(all, func(b history.Blame) bool { return b.Path == path && b.By != nil }) {
						t.Errorf("%s: %s: %s has no writer", name, text, path)
					}
				}
				for _, path := range []string{"balance", "owner", "owner.name", "limits", `limits["a.b"]`, "items.1.sku", "items.#", "note", "unused", "limits.none", "shops", "shops.eur", "shops.usd", `shops[""]`, `shops["a.b"]`, `shops["~/x"]`} {
					some, err := h.Blame(t.Context(), text, path)
					if err != nil || len(some) == 0 {
						t.Fatalf("%s: %s: %s: %v, %v", name, text, path, some, err)
					}
					for _, b := range some {
						l.checkBlame(t, name, text, last, i, b)
					}
					want := slices.DeleteFunc(slices.Clone(all), func(b history.Blame) bool {
						return b.Path != path && !strings.HasPrefix(b.Path, path+".") && !strings.HasPrefix(b.Path, path+"[")
					})
					got := slices.Clone(some)
					if len(want) > 0 && !slices.EqualFunc(got, want, func(a, b history.Blame) bool { return a.Path == b.Path && (a.By == nil) == (b.By == nil) }) {
						t.Errorf("%s: %s: %s: %+v\nwant %+v", name, text, path, got, want)
					}
				}
				l.checkWrites(t, h, text, i)
			}
		}
	})
}

func (l *life) checkBlame(t *testing.T, name, text string, last map[string]int, upTo int, b history.Blame) {
	t.Helper()
	i, written := last[b.Path]
	if !written {
		if b.By != nil || b.Old != "" || b.New != "" {
			t.Errorf("%s: %s: %+v was never written", name, text, b)
		}
		return
	}
	e := l.steps[i].entry
	if b.By == nil || b.By.ID != e.Cause.ID || b.By.N != e.N || b.By.Actor != e.Cause.Actor || b.By.Source != e.Cause.Source ||
		b.Old != l.steps[i-1].fields[b.Path] || b.New != l.steps[i].fields[b.Path] || b.New != l.steps[upTo].fields[b.Path] ||
		b.New != "" && b.New != "{}" && b.Value != b.New {
		t.Errorf("%s: %s: %+v by %+v; want %q to %q by %s", name, text, b, b.By, l.steps[i-1].fields[b.Path], l.steps[i].fields[b.Path], e.Cause.ID)
	}
}

// checkWrites looks at all writes of all fields, the last first.
func (l *life) checkWrites(t *testing.T, h *history.History, text string, upTo int) {
	t.Helper()
	p, err := h.At(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	type written struct {
		n              int64
		path, old, new string
	}
	var got, want []written
	for b, err := range h.Writes(t.Context(), p) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, written{b.By.N, b.Path, b.Old, b.New})
	}
	for i := upTo; i > 0; i-- {
		before, after := l.steps[i-1].fields, l.steps[i].fields
		for _, path := range slices.Sorted(maps.Keys(union(before, after))) {
			if before[path] != after[path] {
				want = append(want, written{l.steps[i].entry.N, path, before[path], after[path]})
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: writes %v\nwant %v", text, got, want)
	}
}

// A point is a locator or a key; of a key by business time, the key's own.
func TestPoints(t *testing.T) {
	p := lived.New(t, lived.Service(), 2)
	put := func(key string, amount int64, day string) deja.Envelope {
		env := deja.Envelope{Stream: deja.Stream{Aggregate: "shelf", Key: key}, Type: "shelf.add", Payload: fmt.Appendf(nil, `{"amount":%d}`, amount)}
		if day != "" {
			if err := env.BusinessTime.UnmarshalText([]byte(day + "T12:00:00Z")); err != nil {
				t.Fatal(err)
			}
		}
		env = p.Send(env)
		p.Handle(10)
		return env
	}
	put("a", 1, "1995-01-01")
	put("a@b", 2, "1995-01-02")
	second := put("a", 3, "1995-03-01")
	put("a", 5, "1995-02-01")
	h := open(t, p.Log, p.Store)
	for text, want := range map[string]string{
		"shelf/a":                     `"balance":9`,
		"shelf/a@HEAD":                `"balance":9`,
		"shelf/a@2":                   `"balance":4`,
		"shelf/a@3~2":                 `"balance":1`,
		"shelf/a@b@HEAD":              `"balance":2`,
		"shelf/a@business:1995-02-15": `"balance":1`, // its second is dated later, and the third comes after that
		"shelf/a@1995-02-15":          `"balance":0`,
		second.ID.String():            `"balance":4`,
		second.ID.String()[:23] + "~": `"balance":1`,
		"shelf/none":                  `"balance":0`,
	} {
		at, err := h.At(t.Context(), text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if doc, _, err := h.State(t.Context(), at); err != nil || !strings.Contains(string(doc), want) {
			t.Errorf("%s is %s, %v; want %s", text, doc, err, want)
		}
	}
	for text, want := range map[string]string{
		"shelf/a@b":         "want a version",
		"shelf/a@9":         "has versions 1 to 3",
		"shelf/a@1~1":       "there are 0 messages of shelf/a before",
		"shelf/a@1~cause":   "nothing caused",
		"shelf/a@1970~":     "has versions 1 to 3",
		"cart/a":            `no aggregate "cart"`,
		"cart/a@1":          `no aggregate "cart"`,
		"HEAD~1":            "there are 2 partitions",
		"shelf/a@inbox:7:0": "partition 7; there are 2",
	} {
		if at, err := h.At(t.Context(), text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is %+v, %v; want %q", text, at, err, want)
		}
	}
	at, err := h.AtBy(t.Context(), "shelf/a@1995-02-15", replay.Business)
	if err != nil || at.Step.Version != 1 || len(at.Notes) != 1 || !strings.Contains(at.Notes[0], "does not rise") {
		t.Errorf("by business time: %+v, %v", at, err)
	}
}

// An entry of a map that was emptied and removed has left writes of fields that it had before.
func TestBlameOfARemovedEntry(t *testing.T) {
	p := lived.New(t, lived.Service(), 1)
	for _, name := range []string{"x", "", "-"} {
		p.Send(deja.Envelope{Stream: deja.Stream{Aggregate: "shelf", Key: "a"}, Type: "shelf.shop", Payload: fmt.Appendf(nil, `{"at":"eur","name":%q,"city":""}`, name)})
	}
	p.Handle(10)
	for name, h := range histories(t, p) {
		all, err := h.Blame(t.Context(), "shelf/a", "shops.eur")
		if err != nil || len(all) != 2 || all[0].Path != "shops.eur" || all[0].Old != "{}" || all[0].New != "" || all[0].By.N != 3 ||
			all[1].Path != "shops.eur.name" || all[1].Old != `"x"` || all[1].By.N != 2 {
			t.Errorf("%s: %+v, %v", name, all, err)
		}
	}
}
