package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/body"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/replay"
)

func (e *Env) sagasShowCommand() *cobra.Command {
	var at moment
	cmd := &cobra.Command{
		Use:   "show KEY",
		Short: "Draw the course of a saga: what it heard and did, and what it waits for",
		Long: `Draw the course of a saga: each message that it handled, in order, with what was recorded, which commands were sent and how
they were answered, which timers were scheduled and what became of them, which effects were asked for and their results, and
how often a message came again and was suppressed. At last what it waits for.

It works for any key, and with --at for any moment of its past. How often an effect was tried is not recorded.`,
		Example:           e.examples("sagas show transfer/576", "sagas show transfer/576 --at HEAD~10 --json"),
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: e.completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := at.parse(e); err != nil {
				return err
			}
			return e.sagasShow(cmd.Context(), args[0], &at)
		},
	}
	at.addFlags(cmd, "at", "the moment, a `LOCATOR`")
	e.addIndexFlags(cmd)
	return cmd
}

// courseAnswer is what a key heard and did, and what it waits for.
type courseAnswer struct {
	engine.Saga
	Steps []*courseStep `json:"steps"`
}

// courseStep is a message that a key handled.
type courseStep struct {
	ID         deja.ID        `json:"id"`
	Kind       string         `json:"kind"`
	Type       string         `json:"type"`
	Position   deja.Position  `json:"position"`
	Time       time.Time      `json:"time"` // of the decision
	Status     string         `json:"status"`
	Code       string         `json:"code,omitempty"`
	Detail     string         `json:"detail,omitempty"`
	Answer     string         `json:"answer,omitempty"` // of a reply or a result: "applied", "done", or the code of the refusal
	From       string         `json:"from,omitempty"`   // of a reply or an event: the key that it is of
	Actor      string         `json:"actor,omitempty"`
	Version    int64          `json:"version"`
	Events     []string       `json:"events,omitempty"`
	Sent       []*courseSent  `json:"sent,omitempty"`
	Timers     []*courseTimer `json:"timers,omitempty"`
	Effects    []*courseSent  `json:"effects,omitempty"`
	Cancelled  []string       `json:"cancelled,omitempty"`
	Duplicates int64          `json:"duplicates,omitempty"`
	Conflicts  int64          `json:"conflicts,omitempty"`
}

// courseSent is a command that was sent or an effect that was asked for, and what came back.
type courseSent struct {
	ID       deja.ID   `json:"id"`
	Type     string    `json:"type"`
	To       string    `json:"to,omitempty"`
	Answer   string    `json:"answer,omitempty"` // "": nothing came back yet
	Answered time.Time `json:"answered,omitzero"`
}

// courseTimer is a timer, and what became of it.
type courseTimer struct {
	Name  string    `json:"name"`
	ID    deja.ID   `json:"id"`
	Type  string    `json:"type"`
	Due   time.Time `json:"due"`
	Fate  string    `json:"fate"` // "pending", "fired", "cancelled" or "superseded"
	At    time.Time `json:"at,omitzero"`
	Early int64     `json:"early,omitempty"` // how often it came before its time, and was armed again
}

// course follows the decisions of one key.
type course struct {
	e       *Env
	db      *Database
	rules   *deja.Saga
	steps   []*courseStep
	open    wire.Open
	row     driver.State
	sent    map[deja.ID]*courseSent
	timers  map[deja.ID]*courseTimer
	pending map[string]*courseTimer
	last    time.Time
}

func (e *Env) sagasShow(ctx context.Context, text string, at *moment) (err error) {
	s, err := e.stream(text)
	if err != nil {
		return err
	}
	db, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	a, err := e.courseOf(ctx, db, s, at)
	if err != nil {
		return err
	}
	if len(a.Steps) == 0 {
		if at.text == "" {
			err = e.adviseKey(ctx, db, s)
		}
		return errors.Join(err, fmt.Errorf("%w: nothing was decided for %s up to %s", replay.ErrNotFound, s, at.at))
	}
	if e.json {
		return e.Answer(a)
	}
	return e.printCourse(a)
}

// courseOf follows a key up to a moment.
func (e *Env) courseOf(ctx context.Context, db *Database, s deja.Stream, at *moment) (*courseAnswer, error) {
	c := course{
		e: e, db: db, rules: e.machine.Saga(s.Aggregate), row: driver.State{Stream: s},
		sent: map[deja.ID]*courseSent{}, timers: map[deja.ID]*courseTimer{}, pending: map[string]*courseTimer{},
	}
	for d, err := range e.decisionsOf(ctx, db, s, at) {
		if err == nil {
			err = c.take(ctx, d)
		}
		if err != nil {
			return nil, err
		}
	}
	performers, err := e.performers()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if at.text != "" {
		now = c.last
	}
	c.row.Open = c.open.Append(nil)
	a := &courseAnswer{Steps: c.steps}
	a.Saga, err = engine.SagaOf(e.machine, c.row, performers, now)
	return a, err
}

// decisionsOf yields the decisions of a key up to a moment: by the index, or from the whole journal.
func (e *Env) decisionsOf(ctx context.Context, db *Database, s deja.Stream, at *moment) iter.Seq2[*journal.Entry, error] {
	return func(yield func(*journal.Entry, error) bool) {
		if e.index.none {
			e.decisionsRead(ctx, db, s, at, yield)
			return
		}
		h, err := e.historyOf(ctx, db)
		if err != nil {
			yield(nil, err)
			return
		}
		p, err := h.Of(ctx, s, at.at, at.clock)
		if err != nil {
			yield(nil, err)
			return
		}
		e.tell(p.Notes)
		for st, err := range h.Steps(ctx, p, false) {
			var d journal.Entry
			if err == nil {
				d, err = db.Source.Decision(ctx, st.Position.Partition, st.N)
			}
			if !yield(&d, err) || err != nil {
				return
			}
		}
	}
}

func (e *Env) decisionsRead(ctx context.Context, db *Database, s deja.Stream, at *moment, yield func(*journal.Entry, error) bool) {
	cut, err := db.Source.Cut(ctx, at.at, at.clock)
	if err != nil {
		yield(nil, err)
		return
	}
	e.notes(cut)
	of := make([]extent, db.Source.Partitions())
	for i, n := range cut.Numbers() {
		of[i] = extent{1, n}
	}
	for d, err := range db.decisions(ctx, of) {
		if err == nil && d.Cause.Stream != s {
			continue
		}
		if !yield(d, err) || err != nil {
			return
		}
	}
}

// take takes the key's next decision.
func (c *course) take(ctx context.Context, d *journal.Entry) error {
	m := &d.Cause
	st := &courseStep{
		ID: m.ID, Kind: m.Kind.String(), Type: m.Type, Position: m.Position, Time: d.Time, Status: d.Decided.Status.String(),
		Code: d.Decided.Reason.Code, Detail: d.Decided.Reason.Detail, Actor: m.Actor, Version: d.Version, Cancelled: d.Decided.Cancelled,
	}
	if m.Kind == deja.KindEvent {
		st.From = keyText(m.Sender)
	}
	if err := c.delivered(ctx, d, st); err != nil {
		return err
	}
	c.answered(d, st)
	for i := range d.Decided.Events {
		st.Events = append(st.Events, d.Decided.Events[i].Type)
	}
	for i := range d.Decided.Commands {
		env := &d.Decided.Commands[i]
		sent := &courseSent{ID: env.ID, Type: env.Type, To: env.Stream.String()}
		if c.rules != nil && !c.rules.Hears(env.Type) {
			sent.Answer = "not asked for"
		}
		st.Sent, c.sent[env.ID] = append(st.Sent, sent), sent
	}
	for i := range d.Decided.Effects {
		env := &d.Decided.Effects[i]
		sent := &courseSent{ID: env.ID, Type: env.Type}
		st.Effects, c.sent[env.ID] = append(st.Effects, sent), sent
	}
	c.timed(d, st)
	c.open = c.open.After(d.Record, c.rules)
	if c.row.Parked += d.Parks(); d.Version > 0 {
		c.row.Version = d.Version
	}
	c.row.N, c.row.Partition, c.last = d.N, m.Position.Partition, d.Time
	c.steps = append(c.steps, st)
	return nil
}

// delivered adds what the inbox tells of a message, as far as it is there yet.
func (c *course) delivered(ctx context.Context, d *journal.Entry, st *courseStep) error {
	m, err := c.e.message(ctx, c.db, d.Cause.Position)
	if errors.Is(err, replay.ErrNotFound) || errors.Is(err, driver.ErrTrimmed) {
		return nil
	}
	if err != nil {
		return err
	}
	repeats, err := c.db.Reader.Repeats(ctx, m.Key)
	if err != nil {
		return err
	}
	if d.Act.IsZero() && d.Decided.Status != deja.Conflicted {
		st.Duplicates, st.Conflicts = countsOf(repeats)
	}
	switch d.Cause.Kind {
	case deja.KindReply:
		var b body.Reply
		if json.Unmarshal(m.Env.Payload, &b) == nil {
			st.Answer, st.From = answerOf(b.Rejection, "applied"), keyText(deja.Stream{Tenant: b.Tenant, Aggregate: b.Aggregate, Key: b.Key})
		}
	case deja.KindResult:
		var b body.Result
		if json.Unmarshal(m.Env.Payload, &b) == nil {
			st.Answer = answerOf(b.Rejection, "done")
			if st.Detail == "" {
				st.Detail = b.Reason
			}
		}
	default:
	}
	return nil
}

// answerOf returns a word for how something was settled.
func answerOf(r *body.Refusal, done string) string {
	if r == nil {
		return done
	}
	return r.Code
}

// answered notes what a message says of what was sent or scheduled before.
func (c *course) answered(d *journal.Entry, st *courseStep) {
	if !d.Opens() {
		return
	}
	switch d.Cause.Kind {
	case deja.KindReply, deja.KindResult:
		if sent := c.sent[d.Cause.CausationID]; sent != nil && sent.Answer == "" {
			sent.Answer, sent.Answered = st.Answer, d.Time
			if sent.Answer == "" {
				sent.Answer = "answered"
			}
		}
	case deja.KindTimer:
		t := c.timers[d.Cause.ID]
		switch {
		case t == nil || t.Fate != "pending":
		case d.Decided.Reason.Code == deja.CodeEarly && d.Decided.Status == deja.Ignored:
			t.Early++
			for i := range c.open.Timers { // it has another ID from here on
				if c.open.Timers[i].Command.ID == d.Cause.ID {
					after := c.open.After(d.Record, c.rules)
					t.ID = after.Timers[i].Command.ID
					c.timers[t.ID] = t
				}
			}
		default:
			t.Fate, t.At = "fired", d.Time
			delete(c.pending, t.Name)
		}
	default:
	}
}

// timed notes the timers that a decision cancels and schedules.
func (c *course) timed(d *journal.Entry, st *courseStep) {
	end := func(name, fate string) {
		if t := c.pending[name]; t != nil {
			t.Fate, t.At = fate, d.Time
			delete(c.pending, name)
		}
	}
	for _, name := range d.Decided.Cancelled {
		end(name, "cancelled")
	}
	for i := range d.Decided.Timers {
		t := &d.Decided.Timers[i]
		end(t.Name, "superseded")
		timer := &courseTimer{Name: t.Name, ID: t.Command.ID, Type: t.Command.Type, Due: t.Due, Fate: "pending"}
		st.Timers, c.timers[timer.ID], c.pending[t.Name] = append(st.Timers, timer), timer, timer
	}
}

func (e *Env) printCourse(a *courseAnswer) error {
	head := fmt.Sprintf("%s  version %d, %s", e.paint(bold, a.Key), a.Version, a.State)
	switch {
	case a.Event != "":
		head += fmt.Sprintf(" since %s, by %s", stamp(a.Since), a.Event)
	case !a.Since.IsZero():
		head += " since " + stamp(a.Since)
	}
	if !a.Began.IsZero() {
		head += ", began " + stamp(a.Began)
	}
	fmt.Fprintln(e.Stdout, head)
	for _, st := range a.Steps {
		e.printCourseStep(st)
	}
	for _, w := range a.Waits {
		fmt.Fprintf(e.Stdout, "waits for %s\n", waitText(w))
	}
	if a.Parked > 0 {
		fmt.Fprintf(e.Stdout, "%s parked\n", plural(a.Parked, "message"))
	}
	return nil
}

func (e *Env) printCourseStep(st *courseStep) {
	what := st.Kind + " " + st.Type
	if st.From != "" {
		what += " of " + st.From
	}
	if st.Answer != "" {
		what += ": " + st.Answer
	}
	status := st.Status
	if reason := strings.Trim(st.Code+": "+st.Detail, ": "); reason != "" {
		status += ", " + reason
	}
	fmt.Fprintf(e.Stdout, "%s  %s  %s  %s\n", stamp(st.Time), st.Position, e.paint(bold, what), status)
	line := func(format string, args ...any) { fmt.Fprintf(e.Stdout, "    "+format+"\n", args...) }
	if st.Duplicates+st.Conflicts > 0 {
		line("came again: %s", again(st.Duplicates, st.Conflicts))
	}
	for _, ev := range st.Events {
		line("recorded   %s", ev)
	}
	for _, s := range st.Sent {
		line("sent       %s to %s, %s → %s", s.Type, s.To, s.ID, outcomeText(s, st.Time))
	}
	for _, s := range st.Effects {
		line("effect     %s, %s → %s", s.Type, s.ID, outcomeText(s, st.Time))
	}
	for _, name := range st.Cancelled {
		line("cancelled  %s", name)
	}
	for _, t := range st.Timers {
		fate := t.Fate
		if !t.At.IsZero() {
			fate += " " + stamp(t.At)
		}
		if t.Early > 0 {
			fate += fmt.Sprintf(", %s too early", plural(t.Early, "time"))
		}
		line("timer      %s: %s, due %s → %s", t.Name, t.Type, stamp(t.Due), fate)
	}
}

// outcomeText tells what came back, and after how long.
func outcomeText(s *courseSent, sent time.Time) string {
	switch {
	case s.Answer == "":
		return "no answer yet"
	case s.Answered.IsZero():
		return s.Answer
	}
	return fmt.Sprintf("%s after %s", s.Answer, s.Answered.Sub(sent))
}
