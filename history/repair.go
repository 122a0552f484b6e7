package history

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/relive"
	"github.com/dejalog/deja/internal/wire"
)

// Corrective returns the commands that bring a key from the state that it has to the one that it should have, both as JSON;
// an empty one is a key without events. What corrects a state is the domain's to know: a booking of the difference, a
// message to the customer, nothing at all. The error says why a key cannot be corrected by a command.
type Corrective func(s deja.Stream, is, shouldBe []byte) ([]deja.Command, error)

// repairFormat is the version of a plan's JSON.
const repairFormat = 1

// A RepairPlan says which commands correct which keys. Making it changes nothing. As JSON it can be kept, read and applied
// later; its ID is a hash of all that is in it, and the IDs of its commands follow from it.
type RepairPlan struct {
	Format  int           `json:"format"` // 1
	ID      deja.ID       `json:"id"`
	Service string        `json:"service"`
	By      string        `json:"by"`      // who says what should be: a build, or an overlay
	History []RepairPoint `json:"history"` // what it was made from
	Keys    []*RepairKey  `json:"keys"`    // in order
	Left    []RepairLeft  `json:"left"`    // keys that are not as they should be, and that no command corrects
}

// A RepairPoint is how far a partition was when a plan was made: the number and the hash of its last decision.
type RepairPoint struct {
	Partition int32  `json:"partition"`
	N         int64  `json:"n"`
	Chain     string `json:"chain"`
}

// A RepairKey is a key that is not as it should be, and what corrects it.
type RepairKey struct {
	Key      string          `json:"key"`
	Version  int64           `json:"version"` // that it has: at another one the commands may be wrong
	Cause    Message         `json:"cause"`   // where it went wrong: the first message that was decided otherwise
	Root     deja.ID         `json:"root"`    // the first message of the chain that the cause is in
	Fields   []FieldDiff     `json:"fields"`  // old as it is, new as it should be
	Commands []RepairCommand `json:"commands"`
	Leaves   []FieldDiff     `json:"leaves"` // what is not as it should be after them: old as it then is, new as it should be
}

// A RepairCommand is a command that a plan sends.
type RepairCommand struct {
	ID          deja.ID         `json:"id"`
	Type        string          `json:"type"`
	ContentType string          `json:"content_type"`
	Payload     json.RawMessage `json:"payload"` // JSON as it is; of another content type, a base64 text
	Outcome     string          `json:"outcome"` // expected: this build decides so, on the state that the key has
	Reason      string          `json:"reason,omitempty"`
}

// A RepairLeft is a key that no command corrects.
type RepairLeft struct {
	Key    string      `json:"key"`
	Why    string      `json:"why"`
	Cause  Message     `json:"cause"`
	Fields []FieldDiff `json:"fields"`
}

// RepairOf asks what corrects what another build would have decided otherwise.
type RepairOf struct {
	Build      string // the program that decides as it should be
	Scope      Scope
	Corrective Corrective
	Patience   time.Duration // see [Diverge]
	Progress   func(done, total int64)
}

// astray is a key that is not as it should be.
type astray struct {
	stream       deja.Stream
	version      int64
	is, shouldBe []byte
	cause        Message
	not          string // why it is not corrected; "": it is
}

// PlanRepair makes a plan that brings all keys of which the record differs from what a build would have decided to the states
// that it would have brought them to. Keys that are as they should be in the end are not in it, whatever they were.
func (h *History) PlanRepair(ctx context.Context, q RepairOf) (*RepairPlan, error) {
	d, err := h.Diverge(ctx, Diverge{A: Recorded, B: q.Build, Scope: q.Scope, Patience: q.Patience, Progress: q.Progress, states: true})
	if err != nil {
		return nil, err
	}
	if len(d.Faults) > 0 {
		f := d.Faults[0]
		return nil, fmt.Errorf("%w: it did not get to the end, so it is not known what should be: %s: %s", ErrProgram, f.Kind, f.Detail)
	}
	var keys []astray
	for _, p := range d.Differ {
		if p.States == "differ" {
			keys = append(keys, astray{p.stream, p.versions[0], p.rows[0], p.rows[1], p.Message, ""})
		}
	}
	return h.planRepair(ctx, keys, q.Corrective, d.B.Program+" "+d.B.Build)
}

// PlanRepairOf makes a plan that brings the keys to the states that they would have, had messages been otherwise.
func (h *History) PlanRepairOf(ctx context.Context, o Overlay, opt WhatIfOptions, fn Corrective) (*RepairPlan, error) {
	opt.To = Limits{} // what is corrected is the present
	w, err := h.WhatIf(ctx, o, opt)
	if err != nil {
		return nil, err
	}
	var keys []astray
	for _, d := range w.States {
		if len(d.Fields) == 0 {
			continue
		}
		cause, err := h.firstOf(ctx, w, d.Key)
		if err != nil {
			return nil, err
		}
		not, err := h.corrected(ctx, d.stream, cause.ID)
		if err != nil {
			return nil, err
		}
		keys = append(keys, astray{d.stream, d.Version[0], d.is, d.shouldBe, cause, not})
	}
	by := "what if"
	if w.Build != nil {
		by += " in " + w.Build.Program + " " + w.Build.Build
	}
	return h.planRepair(ctx, keys, fn, by)
}

// corrected tells whether a repair has corrected a message in a key before: its effect is still in the record, and would be made
// up for twice.
func (h *History) corrected(ctx context.Context, s deja.Stream, cause deja.ID) (string, error) {
	places, err := h.steps.caused(ctx, cause)
	if err != nil {
		return "", err
	}
	for _, at := range places {
		st, err := h.steps.decision(ctx, at)
		if err != nil {
			return "", err
		}
		if st.Stream != s || st.Status != deja.Applied {
			continue
		}
		env, err := h.envelope(ctx, st.Position)
		if err != nil && !errors.Is(err, driver.ErrTrimmed) {
			return "", err
		}
		if err == nil && env.Headers[RepairHeader] != "" {
			return fmt.Sprintf("the command %s of a repair has corrected the message %s before", st.ID, cause), nil
		}
	}
	return "", nil
}

// firstOf returns the first message of a key that would have been settled otherwise, and that was there; if there is none, the
// first of another key.
func (h *History) firstOf(ctx context.Context, w *WhatIf, key string) (Message, error) {
	for _, own := range []bool{true, false} {
		for _, d := range w.Differing {
			if own && d.Key != key {
				continue
			}
			at, err := h.steps.find(ctx, d.ID, d.ID, 1)
			if err != nil {
				return Message{}, err
			}
			if len(at) == 0 {
				continue
			}
			st, err := h.steps.decision(ctx, at[0])
			if err != nil {
				return Message{}, err
			}
			return h.message(ctx, st)
		}
	}
	return Message{}, fmt.Errorf("%s: no message that was there would have been settled otherwise, so there is none to correct", key)
}

// planRepair makes a plan for keys.
func (h *History) planRepair(ctx context.Context, keys []astray, fn Corrective, by string) (*RepairPlan, error) {
	p := &RepairPlan{Format: repairFormat, Service: h.machine.Name(), By: by, Keys: []*RepairKey{}, Left: []RepairLeft{}}
	for partition, n := range h.steps.upTo() {
		if n == 0 {
			continue
		}
		e, err := h.source.Decision(ctx, int32(partition), n)
		if err != nil {
			return nil, err
		}
		p.History = append(p.History, RepairPoint{int32(partition), n, fmt.Sprintf("%x", e.Chain)})
	}
	for i := range keys {
		if err := h.planKey(ctx, p, &keys[i], fn); err != nil {
			return nil, fmt.Errorf("%s: %w", keys[i].stream, err)
		}
	}
	p.ID = p.digest()
	for _, k := range p.Keys {
		for i := range k.Commands {
			k.Commands[i].ID = deja.DeriveID("deja/repair/"+p.ID.String(), k.Key+"\x00"+strconv.Itoa(i))
		}
	}
	return p, nil
}

// digest returns the plan's ID: all that is in it but the IDs that follow from it.
func (p *RepairPlan) digest() deja.ID {
	bare := *p
	bare.ID, bare.Keys = deja.ID{}, []*RepairKey{}
	for _, k := range p.Keys {
		own := *k
		own.Commands = slices.Clone(k.Commands)
		for i := range own.Commands {
			own.Commands[i].ID = deja.ID{}
		}
		bare.Keys = append(bare.Keys, &own)
	}
	data, err := json.Marshal(bare)
	if err != nil { // all that is in it has a JSON form
		panic(err)
	}
	sum := sha256.Sum256(data)
	return deja.DeriveID("deja/repair", string(sum[:]))
}

// planKey plans for a key.
func (h *History) planKey(ctx context.Context, p *RepairPlan, a *astray, fn Corrective) error {
	fields, err := h.apart(a.stream, a.is, a.shouldBe)
	if err != nil {
		return err
	}
	left := func(why string) error {
		p.Left = append(p.Left, RepairLeft{a.stream.String(), why, a.cause, fields})
		return nil
	}
	if a.not != "" {
		return left(a.not)
	}
	commands, err := corrective(fn, a)
	switch {
	case err != nil:
		return left(err.Error())
	case len(commands) == 0:
		return left("the service has no command for it")
	}
	k := &RepairKey{Key: a.stream.String(), Version: a.version, Cause: a.cause, Root: a.cause.ID, Fields: fields}
	e, err := h.cause(ctx, a)
	if err != nil {
		return err
	}
	if !e.CorrelationID.IsZero() {
		k.Root = e.CorrelationID
	}
	if err := h.tryRepair(ctx, k, a, commands); err != nil {
		return err
	}
	if slices.ContainsFunc(k.Commands, func(c RepairCommand) bool { return c.Outcome != deja.Applied.String() }) {
		c := k.Commands[len(k.Commands)-1]
		return left(fmt.Sprintf("%s would be %s: %s", c.Type, c.Outcome, c.Reason))
	}
	p.Keys = append(p.Keys, k)
	return nil
}

// cause reads the message at which a key went wrong.
func (h *History) cause(ctx context.Context, a *astray) (*deja.Envelope, error) {
	env, err := h.envelope(ctx, a.cause.Position)
	if errors.Is(err, driver.ErrTrimmed) {
		return &deja.Envelope{}, nil
	}
	return env, err
}

// corrective calls the service's own code; a panic in it is an error.
func corrective(fn Corrective, a *astray) (cs []deja.Command, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return fn(a.stream, bytes.Clone(a.is), bytes.Clone(a.shouldBe))
}

// apart returns in which fields two states of a key differ.
func (h *History) apart(s deja.Stream, is, shouldBe []byte) ([]FieldDiff, error) {
	var fields [2][]canon.Field
	for i, state := range [][]byte{is, shouldBe} {
		if len(state) == 0 {
			continue
		}
		var err error
		if fields[i], err = h.machine.Flatten(nil, s.Aggregate, state); err != nil {
			return nil, err
		}
	}
	diffs := []FieldDiff{}
	for _, c := range canon.Diff(fields[0], fields[1]) {
		diffs = append(diffs, fieldDiff(c))
	}
	return diffs, nil
}

// tryRepair notes the commands, decided in memory on the state that the key has: what they come to, and what they leave.
func (h *History) tryRepair(ctx context.Context, k *RepairKey, a *astray, commands []deja.Command) error {
	var decided []relive.Decision
	world, err := relive.New(ctx, relive.Config{
		Machine: h.machine, Partitions: 1, Decided: func(d relive.Decision) { decided = append(decided, d) },
	}, relive.Past{States: []driver.State{{Stream: a.stream, Version: a.version, Data: a.is}}})
	if err != nil {
		return err
	}
	for i, c := range commands {
		rc, env, err := h.repairCommand(a, c)
		if err != nil {
			return err
		}
		env.ID = deja.DeriveID("deja/repair/try", strconv.Itoa(i))
		decided = decided[:0]
		rec := driver.Record{Offset: int64(i), Time: time.Now(), Value: wire.AppendMessage(nil, env)}
		if err := world.Live(ctx, []relive.Message{world.Prepare(rec)}); err != nil {
			return err
		}
		d := &decided[len(decided)-1].Decided
		rc.Outcome = d.Status.String()
		if d.Status != deja.Applied {
			rc.Reason = d.Reason.Error()
		}
		k.Commands = append(k.Commands, rc)
		if d.Status != deja.Applied {
			return nil
		}
	}
	row, err := world.Row(ctx, a.stream)
	if err == nil {
		k.Leaves, err = h.apart(a.stream, row.Data, a.shouldBe)
	}
	return err
}

// repairCommand encodes a command, which must be for the key.
func (h *History) repairCommand(a *astray, c deja.Command) (rc RepairCommand, env *deja.Envelope, err error) {
	if c == nil {
		return rc, nil, errors.New("the service returned no command among those that correct it")
	}
	codec := h.machine.Codec()
	data, err := codec.Append(nil, c)
	if err != nil {
		return rc, nil, fmt.Errorf("encode %s: %w", c.CommandType(), err)
	}
	rc = RepairCommand{Type: c.CommandType(), ContentType: codec.ContentType(), Payload: data}
	if target, err := deja.Target(rc.Type); err != nil || target != a.stream.Aggregate {
		return rc, nil, fmt.Errorf("%s is no command for %s", rc.Type, a.stream.Aggregate)
	}
	if rc.ContentType != "application/json" {
		if rc.Payload, err = json.Marshal(data); err != nil {
			return rc, nil, err
		}
	}
	return rc, &deja.Envelope{
		Kind: deja.KindCommand, Type: rc.Type, Stream: a.stream, Source: h.machine.Name(), ContentType: rc.ContentType, Payload: data,
	}, nil
}

// Bytes returns the command's payload as it is sent.
func (c *RepairCommand) Bytes() ([]byte, error) {
	if c.ContentType == "application/json" {
		return c.Payload, nil
	}
	var data []byte
	err := json.Unmarshal(c.Payload, &data)
	return data, err
}

// ErrPlan is wrapped by the error for a plan that cannot be applied here.
var ErrPlan = errors.New("the plan cannot be applied")

// ReadRepairPlan reads a plan, which must be whole and as it was made.
func ReadRepairPlan(data []byte) (*RepairPlan, error) {
	p := new(RepairPlan)
	if err := json.Unmarshal(data, p); err != nil {
		return nil, fmt.Errorf("%w: it is no plan: %w", ErrPlan, err)
	}
	if p.Format != repairFormat {
		return nil, fmt.Errorf("%w: it has format %d, this program reads %d", ErrPlan, p.Format, repairFormat)
	}
	if p.digest() != p.ID {
		return nil, fmt.Errorf("%w: it was changed since it was made: make it anew", ErrPlan)
	}
	return p, nil
}

// Check returns an error, which wraps [ErrPlan], if the plan was not made from the log's history, or from what is no longer
// part of it.
func (p *RepairPlan) Check(ctx context.Context, log driver.Log, service string) error {
	if p.Service != service {
		return fmt.Errorf("%w: it is for the service %s, not for %s", ErrPlan, p.Service, service)
	}
	for _, at := range p.History {
		chain, err := hex.DecodeString(at.Chain)
		if err != nil || len(chain) != sha256.Size {
			return fmt.Errorf("%w: %q is no hash", ErrPlan, at.Chain)
		}
		if _, err := journal.FindChain(ctx, log, service, at.Partition, at.N, [32]byte(chain)); err != nil {
			return fmt.Errorf("%w: it was made from another history: decision %d of partition %d: %w", ErrPlan, at.N, at.Partition, err)
		}
	}
	return nil
}
