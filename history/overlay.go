package history

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dejalog/deja"
	placing "github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/replay"
)

// A Deed is what an [Edit] does to a history.
type Deed uint8

// What can be thought to have been otherwise.
const (
	Drop      Deed = 1 + iota // the message never came
	Set                       // it said something else
	Insert                    // another message came, too
	Move                      // it came at another time
	Duplicate                 // it was delivered twice, the second time right after the first
)

// An Edit is one thing that is thought to have been otherwise.
type Edit struct {
	Do      Deed
	Message replay.Locator // of all but Insert: the message, as [History.Step] finds it
	After   replay.Locator // of Insert and Move: it comes right after the last message up to there, in its own partition

	Payload []byte                     // of Set: all of the payload; or
	Fields  map[string]json.RawMessage // of Set: fields of a JSON payload, by path

	New *Delivery // of Insert; position and time are those of its place. Without ID, source and the like it gets some
}

// An Overlay is all that is thought to have been otherwise at once. No message is edited twice.
type Overlay []Edit

// ErrOverlay is wrapped by the error for an edit that cannot be.
var ErrOverlay = errors.New("that cannot be")

func cannotBe(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrOverlay, fmt.Errorf(format, args...))
}

// edited is an edit, and what it is about.
type edited struct {
	*Edit
	step  *Step // the message; nil of Insert
	new   *deja.Envelope
	place deja.Position // of Insert and Move: the position after which it comes; offset -1 is the beginning
	floor time.Time     // when what is there was decided
}

// stream returns the stream of the edited message.
func (e *edited) stream() deja.Stream {
	if e.step != nil {
		return e.step.Stream
	}
	return e.new.Stream
}

// edits finds what an overlay is about, which must be within the limits.
func (h *History) edits(ctx context.Context, o Overlay, to Limits) ([]*edited, error) {
	seen := map[deja.Position]bool{}
	var all []*edited
	for i := range o {
		e := &edited{Edit: &o[i]}
		var err error
		if e.Do == Insert {
			err = h.newcomer(e)
		} else if e.step, err = h.Step(ctx, e.Message); err == nil {
			err = editable(e, to, seen)
		}
		if err == nil && (e.Do == Insert || e.Do == Move) {
			err = h.placeOf(ctx, e, to)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

func editable(e *edited, to Limits, seen map[deja.Position]bool) error {
	at := e.step.Position
	switch {
	case e.step.N > to.Last[at.Partition]:
		return fmt.Errorf("%w: message %s was decided after the moment that is asked for", replay.ErrNotFound, e.step.ID)
	case seen[at]:
		return cannotBe("message %s is edited twice", e.step.ID)
	case e.step.Status == deja.DeadLetter && e.step.Stream == (deja.Stream{}):
		return cannotBe("what is at %s is no message", at)
	}
	seen[at] = true
	return nil
}

// newcomer completes the message of an Insert.
func (h *History) newcomer(e *edited) error {
	if e.New == nil {
		return cannotBe("there is no message to insert")
	}
	env, err := e.New.envelope()
	if err != nil {
		return cannotBe("%w", err)
	}
	if env.Stream.Aggregate == "" {
		if env.Stream.Aggregate, err = deja.Target(env.Type); err != nil {
			return cannotBe("%w", err)
		}
	}
	if err := env.Stream.Valid(); err != nil {
		return cannotBe("the message to insert: %w", err)
	}
	if _, err := h.machine.NewState(env.Stream); err != nil {
		return cannotBe("the message to insert: %w", err)
	}
	if env.ID.IsZero() {
		env.ID = deja.DeriveID("deja/what-if/"+env.Stream.String()+"/"+env.Type, string(env.Payload)+e.After.String())
	}
	env.Source = cmp.Or(env.Source, h.machine.Name())
	env.ContentType = cmp.Or(env.ContentType, h.machine.Codec().ContentType())
	if env.CorrelationID.IsZero() {
		env.CorrelationID = env.ID
	}
	e.new = env
	return nil
}

// placeOf finds where a message is put: behind the last one of its own partition that was handled by a moment.
func (h *History) placeOf(ctx context.Context, e *edited, to Limits) error {
	lim, cut, err := h.Resolve(ctx, e.After, replay.Decided)
	if err != nil {
		return err
	}
	p := placing.Partition(e.stream().Key, h.source.Partitions())
	if !cut.Points[p].Named && e.After.String() != "HEAD" {
		return fmt.Errorf("%w: %s says nothing about partition %d, in which messages of %s are", replay.ErrNotFound, e.After, p, e.stream())
	}
	if lim.Last[p] > to.Last[p] {
		if e.After.String() != "HEAD" {
			return fmt.Errorf("%w: %s is after the moment that is asked for", replay.ErrNotFound, e.After)
		}
		lim = to
	}
	e.place = deja.Position{Topic: wire.Inbox(h.machine.Name()), Partition: p}
	if e.place.Offset, err = h.through(ctx, place{p, lim.Last[p]}); err != nil || lim.Last[p] == 0 {
		return err
	}
	s, err := h.steps.decision(ctx, place{p, lim.Last[p]})
	if err == nil {
		e.floor = s.Time
	}
	return err
}

// through returns the offset of the message whose handling made a decision: of a parked message decided again, that of the
// act. -1 stands for the beginning.
func (h *History) through(ctx context.Context, at place) (int64, error) {
	if at.n == 0 {
		return -1, nil
	}
	s, err := h.steps.decision(ctx, at)
	if err != nil || s.Act.IsZero() {
		return offsetOf(s), err
	}
	found, err := h.steps.find(ctx, s.Act, s.Act, 1)
	if err != nil || len(found) == 0 {
		return offsetOf(s), err
	}
	act, err := h.steps.decision(ctx, found[0])
	return offsetOf(act), err
}

func offsetOf(s *Step) int64 {
	if s == nil {
		return -1
	}
	return s.Position.Offset
}

// set returns a payload with an edit's changes.
func (e *edited) set(contentType string, payload []byte) ([]byte, error) {
	if e.Payload != nil {
		return e.Payload, nil
	}
	if contentType != "application/json" {
		return nil, cannotBe("the payload of message %s is %s: only all of it can be set", e.step.ID, contentType)
	}
	v, err := parseTree(payload)
	if err != nil {
		return nil, cannotBe("the payload of message %s: %w", e.step.ID, err)
	}
	for _, path := range slices.Sorted(maps.Keys(e.Fields)) {
		to, err := parseTree(e.Fields[path])
		if err != nil {
			return nil, cannotBe("set %s of message %s: %w", path, e.step.ID, err)
		}
		if err := putField(v, strings.Split(path, "."), to); err != nil {
			return nil, cannotBe("set %s of message %s: %w; the payload is %s", path, e.step.ID, err, payload)
		}
	}
	return json.Marshal(v)
}

// putField sets a field of decoded JSON. What leads to it must be there.
func putField(v any, path []string, to any) error {
	switch v := v.(type) {
	case map[string]any:
		if len(path) == 1 {
			v[path[0]] = to
			return nil
		}
		next, ok := v[path[0]]
		if !ok {
			return fmt.Errorf("there is no %q", path[0])
		}
		return putField(next, path[1:], to)
	case []any:
		i, err := strconv.Atoi(path[0])
		if err != nil || i < 0 || i >= len(v) {
			return fmt.Errorf("there is no element %q", path[0])
		}
		if len(path) == 1 {
			v[i] = to
			return nil
		}
		return putField(v[i], path[1:], to)
	}
	return fmt.Errorf("there is nothing in which %q could be", path[0])
}

var deedNames = [...]string{"", "drop", "set", "insert", "move", "duplicate"}

// String returns the deed's word.
func (d Deed) String() string {
	if int(d) >= len(deedNames) {
		return "deed(" + strconv.Itoa(int(d)) + ")"
	}
	return deedNames[d]
}
