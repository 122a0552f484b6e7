package step

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/wire"
)

// A Message is an inbox record made ready to be handled: all that needs no store.
type Message struct {
	Env  *deja.Envelope
	Key  deja.ID  // in the ledger
	Hash [32]byte // of the content

	// NotBefore is the time before which it is not decided, where that does not follow from what the worker has decided
	// before it; or zero.
	NotBefore time.Time

	payload any             // decoded; a deja.Act of an act
	dead    *deja.Rejection // why it can never be handled
	unheard *deja.Rejection // why this build cannot handle what its stream waits for: another one can, or could
	killed  int64           // how many processes died of it
}

// A Preparer makes messages ready. It is not safe for concurrent use; several may work side by side.
type Preparer struct {
	machine    *deja.Machine
	partitions int32
	dec        *wire.Decoder
}

// NewPreparer returns a preparer for a service whose inbox has so many partitions.
func NewPreparer(m *deja.Machine, partitions int32) *Preparer {
	return &Preparer{m, partitions, wire.NewDecoder(m.Name())}
}

// Prepare decodes and hashes records of a partition. Whatever is wrong with one becomes the reason of its death.
func (p *Preparer) Prepare(recs []driver.Record) []Message {
	ms := make([]Message, len(recs))
	for i := range recs {
		ms[i] = p.one(&recs[i])
	}
	return ms
}

// Killed makes a message ready of a record that so many processes died of, to be parked, and an act to be refused. Its
// payload is not decoded: that may be what they died of.
func (p *Preparer) Killed(rec *driver.Record, processes int64) Message {
	m := p.Open(rec)
	m.killed = processes
	return p.Decode(m)
}

func (p *Preparer) one(rec *driver.Record) Message { return p.Decode(p.Open(rec)) }

// Open reads all of a message but its payload, which Decode does: each time that the message is handled again, as the
// handler is given what was decoded.
func (p *Preparer) Open(rec *driver.Record) Message {
	at := deja.Position{Topic: wire.Inbox(p.machine.Name()), Partition: rec.Partition, Offset: rec.Offset}
	env, err := p.dec.Message(rec.Value)
	if err == nil {
		err = Valid(env)
	}
	if err != nil {
		return p.malformed(rec, at, &deja.Rejection{Code: deja.CodeMalformed, Detail: err.Error()})
	}
	// A message of a key that another partition handles would be decided beside those of its key. Whoever put it here
	// places keys otherwise; its ID is not taken by it, so that it can be sent again.
	if right := place.Partition(env.Stream.Key, p.partitions); right != rec.Partition {
		return p.malformed(rec, at, (&deja.Rejection{Code: deja.CodeMisplaced}).Because(
			"message %s of %s belongs into partition %d of %d", env.ID, env.Stream, right, p.partitions))
	}
	env.Position, env.Time = at, wire.Micro(rec.Time)
	m := Message{Env: env, Key: wire.LedgerKey(p.machine.Name(), env)}
	if m.Hash, err = wire.ContentHash(env); err != nil {
		m.dead = &deja.Rejection{Code: deja.CodeMalformed, Detail: err.Error()}
	}
	return m
}

// Decode makes a message ready that was opened.
func (p *Preparer) Decode(m Message) Message {
	if m.dead != nil || m.killed > 0 && m.Env.Kind != deja.KindAct {
		return m
	}
	var err error
	if m.Env.Kind == deja.KindAct {
		m.payload, err = act(m.Env)
	} else {
		m.payload, err = p.machine.Decode(m.Env)
	}
	var why *deja.Rejection
	if errors.As(err, &why) {
		if p.awaited(m.Env) {
			m.unheard = why
		} else {
			m.dead = why
		}
	}
	return m
}

// awaited reports whether a message is one that a stream of the service may wait for.
func (p *Preparer) awaited(env *deja.Envelope) bool {
	switch env.Kind {
	case deja.KindReply, deja.KindTimer, deja.KindResult:
		_, err := p.machine.NewState(env.Stream)
		return err == nil
	default:
		return false
	}
}

// malformed stands in for a record that is no message for this partition: it has an identity of its own, given by its position.
func (p *Preparer) malformed(rec *driver.Record, at deja.Position, why *deja.Rejection) Message {
	id := deja.DeriveID("deja/malformed", at.String())
	return Message{
		Env: &deja.Envelope{
			ID: id, Source: p.machine.Name(), CorrelationID: id, Position: at, Time: wire.Micro(rec.Time),
		},
		Key:  id,
		Hash: wire.Hash(rec.Value),
		dead: why,
	}
}

// maxName bounds an envelope's texts: all that becomes part of a decision's record whatever is decided.
const maxName = 512

// Valid returns nil if an envelope can be handled at all.
func Valid(env *deja.Envelope) error {
	if err := env.ID.Valid(); err != nil {
		return fmt.Errorf("message id: %w", err)
	}
	for _, f := range []struct{ name, text string }{
		{"type", env.Type}, {"source", env.Source}, {"actor", env.Actor}, {"content type", env.ContentType},
	} {
		if len(f.text) > maxName || !utf8.ValidString(f.text) {
			return fmt.Errorf("the %s is longer than %d bytes or not UTF-8", f.name, maxName)
		}
	}
	if err := validHeaders(env.Headers); err != nil {
		return err
	}
	if y := env.BusinessTime.Year(); y < 1 || y > 9999 {
		return fmt.Errorf("the business time's year is %d, want 1 to 9999", y)
	}
	return env.Stream.Valid()
}

// maxHeaders bounds the names and texts of all headers, which decisions record with their cause.
const maxHeaders = 8 << 10

func validHeaders(h map[string]string) error {
	size := 0
	for k, v := range h {
		size += len(k) + len(v)
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return fmt.Errorf("header %q is not UTF-8", k)
		}
	}
	if size > maxHeaders {
		return fmt.Errorf("the headers have %d bytes, want %d at most", size, maxHeaders)
	}
	return nil
}

func act(env *deja.Envelope) (any, error) {
	var a deja.Act
	if env.Type != deja.ActRetry && env.Type != deja.ActSkip {
		return nil, &deja.Rejection{Code: deja.CodeUnknownType, Detail: "no such act: " + env.Type}
	}
	if err := json.Unmarshal(env.Payload, &a); err != nil {
		return nil, &deja.Rejection{Code: deja.CodeMalformed, Detail: err.Error()}
	}
	return a, nil
}
