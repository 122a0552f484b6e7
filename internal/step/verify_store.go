package step

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/wire"
)

// InStore begins the path of a [Difference] between the record and the store, which decides nothing again: the store
// can be made anew.
const InStore = "store."

// Store compares a store with what the decisions checked so far give: ledger, states, parked messages. A store that
// is at another decision is not compared, as it has moved on. The error is a *[Difference], or what kept it from
// being checked.
func (v *Verifier) Store(ctx context.Context, store driver.Reader) error {
	at, err := store.Progress(ctx, v.w.cfg.Partition)
	if err != nil || at.N != v.at.N {
		return err
	}
	err = v.ledger(ctx, store)
	if err == nil && at.Fold == v.w.cfg.Machine.FoldVersion() { // another's states are folded anew before they are used
		err = v.rows(ctx, store)
	}
	if now, perr := store.Progress(ctx, v.w.cfg.Partition); perr != nil || now.N != at.N {
		return perr // it moved on while it was read: what was found says nothing
	}
	return err
}

// States returns the rows that the decisions checked so far give, in no order.
func (v *Verifier) States() []driver.State {
	rows := make([]driver.State, 0, len(v.w.states))
	for _, h := range v.w.states {
		rows = append(rows, h.row)
	}
	return rows
}

// ledger compares the entries, in order of keys, each side with the other.
func (v *Verifier) ledger(ctx context.Context, store driver.Reader) error {
	var lo deja.ID
	hi := deja.ID(slices.Repeat([]byte{0xff}, len(lo)))
	seen := 0
	for {
		page, err := store.Find(ctx, lo, hi, chunk)
		if err != nil {
			return fmt.Errorf("read the ledger: %w", err)
		}
		for _, e := range page {
			if e.Partition != v.w.cfg.Partition {
				continue
			}
			seen++
			if own := v.known[e.Key]; own != e {
				return v.storeDiffers(deja.Stream{}, e.Key, "ledger", entryText(own), entryText(e))
			}
		}
		if len(page) < chunk {
			break
		}
		lo = next(page[len(page)-1].Key)
	}
	if seen == len(v.known) {
		return nil
	}
	return v.missingEntry(ctx, store)
}

// missingEntry names the first decision whose ledger entry the store lacks.
func (v *Verifier) missingEntry(ctx context.Context, store driver.Reader) error {
	entries := make([]driver.Entry, 0, len(v.known))
	for _, e := range v.known {
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b driver.Entry) int { return int(a.N - b.N) })
	for _, e := range entries {
		found, _, err := store.Lookup(ctx, []deja.ID{e.Key})
		if err != nil {
			return fmt.Errorf("look up the ledger: %w", err)
		}
		if len(found) == 0 {
			return v.storeDiffers(deja.Stream{}, e.Key, "ledger", entryText(e), entryText(driver.Entry{}))
		}
	}
	return nil
}

// rows compares versions, states and the counts of parked messages.
func (v *Verifier) rows(ctx context.Context, store driver.Reader) error {
	var after deja.Stream
	seen := 0
	for {
		page, err := store.States(ctx, after, chunk)
		if err != nil || len(page) == 0 {
			return v.allRows(seen, err)
		}
		for _, row := range page {
			after = row.Stream
			if row.Partition != v.w.cfg.Partition {
				continue
			}
			if holds(&row) {
				seen++
			}
			own, err := v.held(row.Stream)
			if err != nil {
				return err
			}
			switch {
			case own.row.Version != row.Version:
				return v.storeDiffers(row.Stream, deja.ID{}, "version", fmt.Sprint(own.row.Version), fmt.Sprint(row.Version))
			case !bytes.Equal(own.row.Data, row.Data):
				return v.storeDiffers(row.Stream, deja.ID{}, "state", string(own.row.Data), string(row.Data))
			case !bytes.Equal(own.row.Open, row.Open):
				recorded, stored := v.openTexts(row.Stream, own.row.Open, row.Open)
				return v.storeDiffers(row.Stream, deja.ID{}, "open", recorded, stored)
			case !own.row.Due.Equal(row.Due):
				return v.storeDiffers(row.Stream, deja.ID{}, "due", momentText(own.row.Due), momentText(row.Due))
			case own.row.Parked != row.Parked:
				return v.storeDiffers(row.Stream, deja.ID{}, "parked", fmt.Sprint(own.row.Parked), fmt.Sprint(row.Parked))
			}
		}
	}
}

// allRows ends rows: every stream that the record changed must have been seen.
func (v *Verifier) allRows(seen int, err error) error {
	if err != nil {
		return fmt.Errorf("read the states: %w", err)
	}
	var own []deja.Stream
	for s, h := range v.w.states {
		if holds(&h.row) {
			own = append(own, s)
		}
	}
	if seen >= len(own) {
		return nil
	}
	return v.storeDiffers(deja.Stream{}, deja.ID{}, "state", fmt.Sprintf("%d streams", len(own)), fmt.Sprintf("%d streams", seen))
}

// holds reports whether a row tells of anything: one of a stream that only ignored messages came to does not.
func holds(row *driver.State) bool { return row.Version > 0 || row.Parked > 0 || len(row.Open) > 0 }

func (v *Verifier) storeDiffers(s deja.Stream, key deja.ID, path, recorded, stored string) error {
	return &Difference{N: v.at.N, Message: key, Stream: s, Path: InStore + path, Recorded: recorded, Again: stored}
}

func entryText(e driver.Entry) string {
	if e.N == 0 {
		return "missing"
	}
	return fmt.Sprintf("decision %d, %s, content %x, at offset %d", e.N, e.Status, e.Hash[:8], e.Offset)
}

// openTexts tells what a stream waits for, by the record and by the store: two rows that are not the same.
func (v *Verifier) openTexts(s deja.Stream, recorded, stored []byte) (own, other string) {
	own, other = v.openText(s, recorded), v.openText(s, stored)
	if own == other { // in what no text tells, such as a timer's payload
		return fmt.Sprintf("%s (%x)", own, recorded), fmt.Sprintf("%s (%x)", other, stored)
	}
	return own, other
}

// openText tells in words what a stream's row says that it waits for.
func (v *Verifier) openText(s deja.Stream, row []byte) string {
	o, err := wire.DecodeOpen(v.w.cfg.Machine.Name(), s, row)
	if err != nil {
		return fmt.Sprintf("what cannot be read: %x", row)
	}
	var waits []string
	for _, c := range o.Sent {
		waits = append(waits, fmt.Sprintf("reply to %s %s of %s", c.Type, c.ID, c.Stream))
	}
	for i := range o.Timers {
		waits = append(waits, fmt.Sprintf("timer %s, due %s", o.Timers[i].Name, momentText(o.Timers[i].Due)))
	}
	for i := range o.Effects {
		waits = append(waits, fmt.Sprintf("effect %s %s", o.Effects[i].Type, o.Effects[i].ID))
	}
	if !o.Began.IsZero() {
		waits = append(waits, "a saga's end, begun "+momentText(o.Began))
	}
	if o.Stuck != "" {
		waits = append(waits, fmt.Sprintf("help, stuck by %s", o.Stuck))
	}
	return cmp.Or(strings.Join(waits, "; "), "nothing")
}

func momentText(t time.Time) string {
	if t.IsZero() {
		return "none"
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// next returns the key after one.
func next(key deja.ID) deja.ID {
	for i := len(key) - 1; i >= 0; i-- {
		if key[i]++; key[i] != 0 {
			break
		}
	}
	return key
}
