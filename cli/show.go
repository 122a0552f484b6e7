package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/history"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/step"
)

func (e *Env) showCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show ID|PREFIX|POSITION",
		Short: "Show one message: what it said, what was decided, and what that changed",
		Long: `Show one message: its envelope and payload, how often it came again and was suppressed, the decision with its events, what
they changed in the state, the chain of its causes, and the messages that it caused.

Any LOCATOR will do: of a message, by its ID or a prefix; of a position in the inbox, the message there; else the last
message that was decided up to it. With --no-index what it changed, its causes and its effects are left out.`,
		Example: e.examples("show 0190163d", "show inbox:0:1234", "show 0190163d~cause", "show "+e.exampleKey("576")+"@17 --json"),
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return e.showMessage(cmd.Context(), args[0]) },
	}
	e.addIndexFlags(cmd)
	return cmd
}

func (e *Env) showMessage(ctx context.Context, text string) (err error) {
	at, err := e.locator("argument", text)
	if err != nil {
		return err
	}
	db, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	var h *history.History
	if !e.index.none {
		h, err = e.historyOf(ctx, db)
		if err != nil && ctx.Err() != nil {
			return err
		}
		if err != nil {
			e.Notef("note: what it changed, causes and effects are left out, as there is no index: %v", err)
		}
	}
	m, err := e.delivery(ctx, db, at)
	if err != nil {
		return err
	}
	a, err := e.show(ctx, db, m)
	if err != nil {
		return err
	}
	if h != nil {
		if err := a.trace(ctx, h); err != nil {
			return err
		}
	}
	if e.json {
		return e.Answer(a)
	}
	return e.printShow(a)
}

// showAnswer is a message and what became of it.
type showAnswer struct {
	ID            deja.ID           `json:"id"`
	Kind          string            `json:"kind"`
	Type          string            `json:"type"`
	Key           string            `json:"key"`
	Source        string            `json:"source"`
	Actor         string            `json:"actor,omitempty"`
	Position      deja.Position     `json:"position"`
	Time          time.Time         `json:"time"` // when it was appended
	BusinessTime  time.Time         `json:"business_time,omitzero"`
	CausationID   deja.ID           `json:"causation_id,omitzero"`
	CorrelationID deja.ID           `json:"correlation_id,omitzero"`
	Headers       map[string]string `json:"headers,omitempty"`
	ContentType   string            `json:"content_type,omitempty"`
	Payload       json.RawMessage   `json:"payload,omitempty"`
	Decision      *decisionAnswer   `json:"decision"`          // null: not decided yet
	Causes        []linkAnswer      `json:"causes,omitempty"`  // its cause first, then that one's
	Effects       []linkAnswer      `json:"effects,omitempty"` // the messages that it caused
	Duplicates    int64             `json:"duplicates"`
	Conflicts     int64             `json:"conflicts"`
}

// decisionAnswer is how a message was settled; a repeated delivery has the decision of the first.
type decisionAnswer struct {
	N         int64         `json:"n"`
	Status    string        `json:"status"`
	Code      string        `json:"code,omitempty"`
	Detail    string        `json:"detail,omitempty"`
	Message   deja.Position `json:"message"` // the delivery that was decided
	First     string        `json:"first,omitempty"`
	Differs   []string      `json:"differs,omitempty"`
	Version   int64         `json:"version"`
	Time      time.Time     `json:"time"`
	Events    []eventAnswer `json:"events"`
	Sent      []eventAnswer `json:"sent,omitempty"`
	Requested []eventAnswer `json:"requested,omitempty"` // effects
	Timers    []timerAnswer `json:"timers,omitempty"`
	Cancelled []string      `json:"cancelled,omitempty"` // timers
	Writes    []writeAnswer `json:"writes,omitempty"`    // what the events changed in the state
	Act       deja.ID       `json:"act,omitzero"`
	Build     string        `json:"build"`
	Fold      string        `json:"fold"`
	Chain     string        `json:"chain"`
	Duplicate bool          `json:"duplicate,omitempty"`
}

// eventAnswer is a recorded event, or another message that a decision makes.
type eventAnswer struct {
	ID      deja.ID         `json:"id"`
	Type    string          `json:"type"`
	Key     string          `json:"key,omitempty"` // of a command
	Version int64           `json:"version"`
	Payload json.RawMessage `json:"payload"`
}

// timerAnswer is a command that is due at a time to come.
type timerAnswer struct {
	Name string    `json:"name"`
	Due  time.Time `json:"due"`
	eventAnswer
}

// linkAnswer is a message in a chain of causes.
type linkAnswer struct {
	ID       deja.ID       `json:"id"`
	Position deja.Position `json:"position"` // "" if it was not decided in this history
	Key      string        `json:"key,omitempty"`
	Type     string        `json:"type,omitempty"`
	Status   string        `json:"status,omitempty"`
	Version  int64         `json:"version,omitempty"`
}

func linkOf(s *history.Step) linkAnswer {
	return linkAnswer{s.ID, s.Position, keyText(s.Stream), s.Type, s.Status.String(), s.Version}
}

// maxLinks bounds how many causes and effects are shown.
const maxLinks = 100

// trace adds what the index tells: what the decision changed, and what it follows from and led to.
func (a *showAnswer) trace(ctx context.Context, h *history.History) error {
	if a.Decision == nil {
		return nil
	}
	s, err := h.Decided(ctx, a.Decision.Message.Partition, a.Decision.N)
	if err != nil {
		return err
	}
	a.Decision.Writes = writesOf(h, s.Stream.Aggregate, s.Writes)
	last := s
	for link, err := range h.Why(ctx, s) {
		switch {
		case errors.Is(err, history.ErrOutside):
			a.Causes = append(a.Causes, linkAnswer{ID: last.Cause})
		case err != nil:
			return err
		case link.Depth > 0:
			a.Causes = append(a.Causes, linkOf(link.Step))
		}
		if err != nil || len(a.Causes) == maxLinks {
			break
		}
		last = link.Step
	}
	effects, err := h.Effects(ctx, s)
	for _, effect := range effects[:min(len(effects), maxLinks)] {
		a.Effects = append(a.Effects, linkOf(effect))
	}
	return err
}

// show answers for a delivery.
func (e *Env) show(ctx context.Context, db *Database, m step.Message) (*showAnswer, error) {
	env := m.Env
	a := &showAnswer{
		ID: env.ID, Kind: env.Kind.String(), Type: env.Type, Key: keyText(env.Stream), Source: env.Source, Actor: env.Actor,
		Position: env.Position, Time: env.Time, BusinessTime: env.BusinessTime, CausationID: env.CausationID,
		CorrelationID: env.CorrelationID, Headers: env.Headers, ContentType: env.ContentType,
		Payload: payload(env.ContentType, env.Payload),
	}
	repeats, err := db.Reader.Repeats(ctx, m.Key)
	if err != nil {
		return nil, err
	}
	a.Duplicates, a.Conflicts = countsOf(repeats)
	a.Decision, err = e.decided(ctx, db, m)
	return a, err
}

// decided finds the decision of a delivery: a conflict's own one, else that of its ledger entry; nil if there is none
// yet.
func (e *Env) decided(ctx context.Context, db *Database, m step.Message) (*decisionAnswer, error) {
	entries, _, err := db.Reader.Lookup(ctx, []deja.ID{m.Key})
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	var d journal.Entry
	if m.Hash == entries[0].Hash {
		d, err = db.Source.Decision(ctx, entries[0].Partition, entries[0].N)
	} else {
		d, err = e.conflictAt(ctx, db, m.Env.Position)
	}
	if err != nil || d.Record == nil {
		return nil, err
	}
	return e.answer(&d, m.Env.Position), nil
}

// conflictAt returns the decision of the conflicting delivery at a position; the zero Entry where there is none yet.
func (e *Env) conflictAt(ctx context.Context, db *Database, at deja.Position) (journal.Entry, error) {
	n, err := db.Source.Handled(ctx, at)
	if err != nil || n == 0 {
		return journal.Entry{}, err
	}
	d, err := db.Source.Decision(ctx, at.Partition, n)
	if err != nil || d.Decided.Status != deja.Conflicted || d.Cause.Position != at {
		return journal.Entry{}, err
	}
	return d, nil
}

func (e *Env) answer(d *journal.Entry, at deja.Position) *decisionAnswer {
	a := &decisionAnswer{
		N: d.N, Status: d.Decided.Status.String(), Code: d.Decided.Reason.Code, Detail: d.Decided.Reason.Detail,
		Message: d.Cause.Position, Differs: d.Paths, Version: d.Version, Time: d.Time, Events: eventsOf(d),
		Act: d.Act, Build: d.Build, Fold: d.Fold, Chain: fmt.Sprintf("%x", d.Chain), Duplicate: d.Cause.Position != at,
	}
	a.Sent, a.Requested, a.Cancelled = messagesOf(d.Decided.Commands), messagesOf(d.Decided.Effects), d.Decided.Cancelled
	for i := range d.Decided.Timers {
		t := &d.Decided.Timers[i]
		a.Timers = append(a.Timers, timerAnswer{t.Name, t.Due, messagesOf([]deja.Envelope{t.Command})[0]})
	}
	if d.Decided.Status == deja.Conflicted {
		a.First = e.inbox(d.FirstIn, d.First).String()
	}
	return a
}

func eventsOf(d *journal.Entry) []eventAnswer {
	events := make([]eventAnswer, len(d.Decided.Events))
	for i := range d.Decided.Events {
		ev := &d.Decided.Events[i]
		events[i] = eventAnswer{ID: ev.ID, Type: ev.Type, Version: ev.Version, Payload: payload(ev.ContentType, ev.Payload)}
	}
	return events
}

// messagesOf returns the messages that a decision makes besides its events.
func messagesOf(all []deja.Envelope) (ms []eventAnswer) {
	for i := range all {
		env := &all[i]
		ms = append(ms, eventAnswer{ID: env.ID, Type: env.Type, Key: keyText(env.Stream), Payload: payload(env.ContentType, env.Payload)})
	}
	return ms
}

func (e *Env) printShow(a *showAnswer) error {
	var headers []string
	for k, v := range a.Headers {
		headers = append(headers, k+": "+v)
	}
	err := e.fields("message", e.paint(bold, a.ID.String()), "type", a.Kind+" "+a.Type, "key", a.Key, "position", a.Position,
		"appended", stamp(a.Time), "business time", day(a.BusinessTime), "source", a.Source, "actor", a.Actor,
		"cause", idText(a.CausationID), "correlation", idText(a.CorrelationID), "headers", strings.Join(headers, "\n"),
		"payload", indented(a.Payload), "came again", again(a.Duplicates, a.Conflicts))
	if err != nil {
		return err
	}
	fmt.Fprintln(e.Stdout)
	if a.Decision == nil {
		_, err = fmt.Fprintln(e.Stdout, "not decided yet")
		return err
	}
	if err := e.printDecision(a.Decision); err != nil {
		return err
	}
	var pairs []any
	for _, l := range a.Causes {
		pairs = append(pairs, "because of", l)
	}
	for _, l := range a.Effects {
		pairs = append(pairs, "caused", l)
	}
	if len(pairs) > 0 {
		fmt.Fprintln(e.Stdout)
	}
	return e.fields(pairs...)
}

// String writes a link for people.
func (l linkAnswer) String() string {
	if l.Type == "" {
		return l.ID.String() + ", which was not decided here"
	}
	return fmt.Sprintf("%s  %s of %s, %s, at %s", l.ID, l.Type, l.Key, l.Status, l.Position)
}

func (e *Env) printDecision(d *decisionAnswer) error {
	status := d.Status
	if d.Duplicate {
		status = "duplicate of " + d.Message.String() + ", " + status
	}
	reason := strings.Trim(d.Code+": "+d.Detail, ": ")
	if d.First != "" {
		reason = fmt.Sprintf("%s: the ID belongs to the message at %s; %s differ", d.Code, d.First, strings.Join(d.Differs, ", "))
	}
	pairs := []any{"decision", d.N, "outcome", status, "reason", reason, "decided", stamp(d.Time), "version", d.Version, "by the act", idText(d.Act)}
	for _, ev := range d.Events {
		pairs = append(pairs, "event", fmt.Sprintf("%s, version %d, %s\n%s", ev.Type, ev.Version, ev.ID, indented(ev.Payload)))
	}
	for _, m := range d.Sent {
		pairs = append(pairs, "sent", fmt.Sprintf("%s to %s, %s\n%s", m.Type, m.Key, m.ID, indented(m.Payload)))
	}
	for _, m := range d.Requested {
		pairs = append(pairs, "effect", fmt.Sprintf("%s, %s\n%s", m.Type, m.ID, indented(m.Payload)))
	}
	for _, t := range d.Timers {
		pairs = append(pairs, "timer", fmt.Sprintf("%s, due %s: %s, %s\n%s", t.Name, stamp(t.Due), t.Type, t.ID, indented(t.Payload)))
	}
	pairs = append(pairs, "cancelled", strings.Join(d.Cancelled, ", "))
	for _, w := range d.Writes {
		pairs = append(pairs, "changed", fmt.Sprintf("%s: %s → %s", w.Path, e.paint(red, shown(w.Old)), e.paint(green, shown(w.New))))
	}
	return e.fields(append(pairs, "build", d.Build, "chain", d.Chain)...)
}

func idText(id deja.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

// again tells how often an ID came again.
func again(duplicates, conflicts int64) string {
	var parts []string
	if duplicates > 0 {
		parts = append(parts, plural(duplicates, "duplicate")+", suppressed")
	}
	if conflicts > 0 {
		parts = append(parts, plural(conflicts, "conflict")+", refused")
	}
	if len(parts) == 0 {
		return "never"
	}
	return strings.Join(parts, "; ")
}
