package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/step"
)

func (e *Env) showCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show ID|PREFIX|POSITION",
		Short: "Show one message: what it said, and what was decided",
		Long: `Show one message: its envelope and payload, the decision with its events, and how often it came again.

Any LOCATOR will do: of a message, by its ID or a prefix; of a position in the inbox, the message there; else the last
message that was decided up to it.`,
		Example: e.examples("show 0190163d", "show inbox:0:1234", "show "+e.exampleKey("576")+"@17 --json"),
		Args:    cobra.ExactArgs(1),
		RunE:    aboutMessage(e, e.show, e.printShow),
	}
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
	Decision      *decisionAnswer   `json:"decision"` // null: not decided yet
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
	Act       deja.ID       `json:"act,omitzero"`
	Build     string        `json:"build"`
	Fold      string        `json:"fold"`
	Chain     string        `json:"chain"`
	Duplicate bool          `json:"duplicate,omitempty"`
}

// eventAnswer is a recorded event.
type eventAnswer struct {
	ID      deja.ID         `json:"id"`
	Type    string          `json:"type"`
	Version int64           `json:"version"`
	Payload json.RawMessage `json:"payload"`
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
	for d, err := range db.Source.Decisions(ctx, at.Partition, 1) {
		if err != nil {
			return journal.Entry{}, err
		}
		if d.Decided.Status == deja.Conflicted && d.Cause.Position == at {
			return *d, nil
		}
		if d.Covers > at.Offset {
			break
		}
	}
	return journal.Entry{}, nil
}

func (e *Env) answer(d *journal.Entry, at deja.Position) *decisionAnswer {
	a := &decisionAnswer{
		N: d.N, Status: d.Decided.Status.String(), Code: d.Decided.Reason.Code, Detail: d.Decided.Reason.Detail,
		Message: d.Cause.Position, Differs: d.Paths, Version: d.Version, Time: d.Time, Events: eventsOf(d),
		Act: d.Act, Build: d.Build, Fold: d.Fold, Chain: fmt.Sprintf("%x", d.Chain), Duplicate: d.Cause.Position != at,
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
		events[i] = eventAnswer{ev.ID, ev.Type, ev.Version, payload(ev.ContentType, ev.Payload)}
	}
	return events
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
	return e.printDecision(a.Decision)
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
