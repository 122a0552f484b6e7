package deja

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// A Decision collects, as data, what follows from one message. It belongs to the handler that it was passed to: it
// is not safe for concurrent use, and invalid once the handler has returned. What a refused or failed decision
// collected is dropped.
type Decision struct {
	table   *ruleTable
	service string
	env     *Envelope
	at      time.Time
	out     collected
	err     error // the first misuse
}

// collected is what a handler asked for, not yet encoded.
type collected struct {
	events    []Event
	sent      []sentCommand
	timers    []scheduled
	cancelled []string
	effects   []Effect
}

type sentCommand struct {
	key     string
	command Command
}

type scheduled struct {
	name    string
	due     time.Time
	command Command
}

// Record records events, in order. Each needs an [Apply] row.
func (d *Decision) Record(events ...Event) {
	for _, e := range events {
		d.need(rowApply, e.EventType())
	}
	d.out.events = append(d.out.events, events...)
}

// Send sends a command to the instance key of the command's aggregate. It needs an [OnReply] or [Forget] row.
func (d *Decision) Send(key string, c Command) {
	d.need(rowReply, c.CommandType())
	d.out.sent = append(d.out.sent, sentCommand{key, c})
}

// Schedule sends a command to this instance at a time to come, to the microsecond; one that has passed is now. A name in use
// is scheduled anew. The zero time is a fault of the handler's.
func (d *Decision) Schedule(name string, due time.Time, c Command) {
	d.need(rowHandle, c.CommandType())
	due = due.UTC().Truncate(time.Microsecond)
	if y := due.Year(); d.err == nil && (due.IsZero() || y < 1 || y > 9999) {
		d.err = fmt.Errorf("timer %q is due at %s: want a time of the years 1 to 9999, and not the zero one", name, due)
	}
	d.unschedule(name)
	d.out.timers = append(d.out.timers, scheduled{name, due, c})
}

// Cancel cancels what was scheduled under name, if it has not been handled yet: one that fires at this moment is ignored.
func (d *Decision) Cancel(name string) {
	d.unschedule(name)
	if !slices.Contains(d.out.cancelled, name) {
		d.out.cancelled = append(d.out.cancelled, name)
	}
}

// unschedule drops what this decision has scheduled under name: the last word counts.
func (d *Decision) unschedule(name string) {
	d.out.timers = slices.DeleteFunc(d.out.timers, func(t scheduled) bool { return t.name == name })
}

// Effect asks for a call outside the service, made after the decision is logged. It needs an [OnFailed] row.
func (d *Decision) Effect(e Effect) {
	d.need(rowFailed, e.EffectType())
	d.out.effects = append(d.out.effects, e)
}

// Key returns the key of the instance that decides.
func (d *Decision) Key() string { return d.env.Stream.Key }

// Message returns the message's envelope, which must not be changed.
func (d *Decision) Message() *Envelope { return d.env }

// Time returns the decision's time: not before any earlier one of the partition, recorded with the decision, and
// the only clock that a handler has. UTC.
func (d *Decision) Time() time.Time { return d.at }

// NewID returns an ID for something that the decision names: the same message and name always give the same.
func (d *Decision) NewID(name string) ID {
	return derivedID(d.service, d.env.Stream, d.env.ID, "deja.new-id."+name, 0)
}

// Rand returns a source seeded by the message: the same message always gives the same numbers. They are not secret.
func (d *Decision) Rand() *rand.Rand {
	seed := sha256.Sum256(slices.Concat([]byte("deja/rand/1"), d.env.ID[:], []byte(d.service), []byte(d.env.Stream.String())))
	return rand.New(rand.NewPCG(binary.BigEndian.Uint64(seed[:8]), binary.BigEndian.Uint64(seed[8:16])))
}

// need notes the first thing that the aggregate's table has no row for.
func (d *Decision) need(kind rowKind, wire string) {
	if d.err != nil || d.table.has(kind, wire) {
		return
	}
	hint := kind.String()
	if kind == rowReply {
		hint = "OnReply or Forget"
	}
	d.err = fmt.Errorf("aggregate %s: no %s row for %s", d.table.name, hint, wire)
}
