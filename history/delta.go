package history

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"strconv"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/talk"
)

// A Delta is a decision as far as builds can be compared by it.
type Delta struct {
	Message deja.ID        `json:"message"`
	Outcome string         `json:"outcome"` // applied, rejected, parked, …
	Reason  string         `json:"reason,omitempty"`
	Detail  string         `json:"detail,omitempty"` // for people; it is not compared
	Emits   []Emitted      `json:"emits,omitempty"`
	Writes  []WriteBetween `json:"writes,omitempty"`
}

// An Emitted is an event, a command, a timer or an effect that a decision has.
type Emitted struct {
	Kind    string          `json:"kind"` // event, command, timer, cancelled or effect
	Type    string          `json:"type"`
	Key     string          `json:"key,omitempty"` // of a command, whom it goes to; of a timer, its name
	Due     time.Time       `json:"due,omitzero"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

// A WriteBetween is a field that a decision changed: JSON, null where it is absent or zero.
type WriteBetween struct {
	Path string          `json:"path"`
	Old  json.RawMessage `json:"old"`
	New  json.RawMessage `json:"new"`
}

// deltaOf returns a decision as a delta.
func deltaOf(d *talk.Decision) Delta {
	r := &d.Decided
	t := Delta{Message: d.Cause.ID, Outcome: r.Status.String(), Reason: r.Reason.Code, Detail: r.Reason.Detail}
	emit := func(kind, key string, due time.Time, e *deja.Envelope) {
		t.Emits = append(t.Emits, Emitted{kind, e.Type, key, due, canonical(e)})
	}
	for i := range r.Events {
		emit("event", "", time.Time{}, &r.Events[i])
	}
	for i := range r.Commands {
		emit("command", r.Commands[i].Stream.String(), time.Time{}, &r.Commands[i])
	}
	for i := range r.Timers {
		emit("timer", r.Timers[i].Name, r.Timers[i].Due, &r.Timers[i].Command)
	}
	for _, name := range r.Cancelled {
		t.Emits = append(t.Emits, Emitted{Kind: "cancelled", Key: name})
	}
	for i := range r.Effects {
		emit("effect", "", time.Time{}, &r.Effects[i])
	}
	for _, c := range d.Changes {
		t.Writes = append(t.Writes, WriteBetween{c.Path, jsonToken(c.Old), jsonToken(c.New)})
	}
	return t
}

// canonical returns a payload in its canonical form: two builds may write the same with its members in another order.
func canonical(e *deja.Envelope) json.RawMessage {
	if e.ContentType == "application/json" {
		if data, err := canon.Append(nil, e.Payload); err == nil {
			return data
		}
	}
	data, err := json.Marshal(e.Payload)
	if err != nil { // bytes always have a JSON form
		return nil
	}
	return data
}

func jsonToken(s string) json.RawMessage {
	if s == "" {
		return json.RawMessage("null")
	}
	return json.RawMessage(s)
}

// A chain is the hash of all deltas of a key so far. Two builds have decided the same of a key, and had it write the
// same, if and only if its chains are equal: unlike its states, they never come together again.
type chain [sha256.Size]byte

// chainDomain is hashed in front of a link.
const chainDomain = "deja/delta/1"

// link returns the chain with one more message.
func (c chain) link(ds []Delta) chain {
	h := chainHash{sha256.New()}
	h.text(chainDomain)
	h.text(string(c[:]))
	h.number(len(ds))
	for i := range ds {
		d := &ds[i]
		h.text(string(d.Message[:]))
		h.text(d.Outcome)
		h.text(d.Reason)
		h.number(len(d.Emits))
		for _, e := range d.Emits {
			h.text(e.Kind)
			h.text(e.Type)
			h.text(e.Key)
			h.text(e.Due.Format(time.RFC3339Nano))
			h.text(string(e.Payload))
		}
		h.number(len(d.Writes))
		for _, w := range d.Writes {
			h.text(w.Path)
			h.text(string(w.Old))
			h.text(string(w.New))
		}
	}
	return chain(h.Sum(nil))
}

type chainHash struct{ hash.Hash }

func (h chainHash) number(n int) {
	_, _ = h.Write(binary.AppendUvarint(nil, uint64(n))) // a hash takes all
}

func (h chainHash) text(s string) {
	h.number(len(s))
	_, _ = h.Write([]byte(s))
}

// firstField names the first thing in which two lists of deltas differ, and returns the deltas that differ; nil where a side
// has none.
func firstField(as, bs []Delta) (field string, a, b *Delta) {
	for i := range max(len(as), len(bs)) {
		switch {
		case i >= len(as):
			return "decisions", nil, &bs[i]
		case i >= len(bs):
			return "decisions", &as[i], nil
		}
		if field := fieldOf(&as[i], &bs[i]); field != "" {
			return field, &as[i], &bs[i]
		}
	}
	return "", nil, nil
}

// fieldOf names the first thing in which two deltas differ: "" if there is none.
func fieldOf(a, b *Delta) string {
	switch {
	case a.Message != b.Message:
		return "decisions"
	case a.Outcome != b.Outcome:
		return "outcome"
	case a.Reason != b.Reason:
		return "reason"
	}
	for i := range min(len(a.Emits), len(b.Emits)) {
		if field := emittedField(&a.Emits[i], &b.Emits[i]); field != "" {
			return a.Emits[i].Kind + "s[" + strconv.Itoa(i) + "]." + field
		}
	}
	if len(a.Emits) != len(b.Emits) {
		return "emits"
	}
	for i := range max(len(a.Writes), len(b.Writes)) {
		switch {
		case i >= len(a.Writes):
			return "state." + b.Writes[i].Path
		case i >= len(b.Writes):
			return "state." + a.Writes[i].Path
		}
		if x, y := a.Writes[i], b.Writes[i]; x.Path != y.Path || !bytes.Equal(x.Old, y.Old) || !bytes.Equal(x.New, y.New) {
			return "state." + min(x.Path, y.Path)
		}
	}
	return ""
}

func emittedField(a, b *Emitted) string {
	switch {
	case a.Kind != b.Kind:
		return "kind"
	case a.Type != b.Type:
		return "type"
	case a.Key != b.Key:
		return "key"
	case !a.Due.Equal(b.Due):
		return "due"
	case bytes.Equal(a.Payload, b.Payload):
		return ""
	}
	if paths := canon.Differ(a.Payload, b.Payload); len(paths) > 0 {
		return "payload." + paths[0]
	}
	return "payload"
}

// String returns a delta in a line, for people.
func (d *Delta) String() string {
	text := d.settled()
	if d == nil {
		return text
	}
	for _, e := range d.Emits {
		text += fmt.Sprintf(", %s %s%s %s", e.Kind, e.Type, e.Key, e.Payload)
	}
	for _, w := range d.Writes {
		text += fmt.Sprintf(", %s %s → %s", w.Path, w.Old, w.New)
	}
	return text
}

// settled returns outcome and reason of a delta in a few words.
func (d *Delta) settled() string {
	switch {
	case d == nil:
		return "nothing"
	case d.Reason == "":
		return d.Outcome
	}
	return d.Outcome + " " + d.Reason
}
