package talk

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/relive"
)

// Serve is the worker's side: it lives what it is given until in ends. Each answer is written before the next message is
// looked at, so that who asks knows which one was under way if the process dies.
func Serve(ctx context.Context, service *deja.Service, build string, in io.Reader, out io.Writer) error {
	m, err := deja.Compile(service)
	if err != nil {
		return err
	}
	s := &server{machine: m, build: build, out: out}
	hello := Hello{Protocol: Protocol, Service: m.Name(), Build: build, Fold: m.FoldVersion(), Go: runtime.Version()}
	if _, err := io.WriteString(out, magic); err != nil {
		return err
	}
	if err := s.say(frameHello, asJSON(hello)); err != nil {
		return err
	}
	err = s.serve(ctx, bufio.NewReaderSize(in, 1<<16))
	if err != nil {
		err = errors.Join(err, s.say(frameFailed, func(dst []byte) []byte { return append(dst, err.Error()...) }))
	}
	return err
}

type server struct {
	machine *deja.Machine
	build   string
	out     io.Writer
	buf     []byte

	at      Begin
	world   *relive.World // nil until the first message after Begin
	past    relive.Past
	lived   int // messages, by this world
	rows    int // of the past that it went on from
	decided []Decision
}

func (s *server) say(kind byte, fill func([]byte) []byte) error {
	s.buf = appendFrame(s.buf[:0], kind, fill)
	_, err := s.out.Write(s.buf)
	return err
}

func (s *server) serve(ctx context.Context, in io.Reader) error {
	for ctx.Err() == nil {
		kind, body, err := readFrame(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = s.take(ctx, kind, body)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// take does what a frame asks for.
func (s *server) take(ctx context.Context, kind byte, body []byte) error {
	switch kind {
	case frameBegin:
		s.at, s.world, s.past, s.lived = Begin{}, nil, relive.Past{}, 0
		return parseJSON(body, &s.at)
	case frameRow:
		return s.row(body)
	case frameParked:
		return s.parked(body)
	case frameMessage:
		return s.message(ctx, body)
	case frameAsk:
		return s.ask(ctx, body)
	}
	return fmt.Errorf("a frame of kind %q, which this build does not know", kind)
}

func (s *server) row(body []byte) error {
	var r Row
	if err := parseJSON(body, &r); err != nil {
		return err
	}
	state, err := r.state(s.machine.Name(), s.at.Partition)
	s.past.States = append(s.past.States, state)
	return err
}

func (s *server) parked(body []byte) error {
	var p Parked
	if err := parseJSON(body, &p); err != nil {
		return err
	}
	s.past.Inbox = append(s.past.Inbox, driver.Record{Partition: s.at.Partition, Offset: p.Offset, Time: p.Time, Value: p.Value})
	return nil
}

// begun makes the world, if there is none yet.
func (s *server) begun(ctx context.Context) (err error) {
	if s.world != nil {
		return nil
	}
	if s.at.Partitions < 1 {
		return errors.New("a message before the beginning of a life")
	}
	cfg := relive.Config{
		Machine: s.machine, Partitions: s.at.Partitions, MaxRecord: s.at.MaxRecord, Build: s.build,
		Decided: func(d relive.Decision) { s.decided = append(s.decided, Decision{d.Record, d.Changes}) },
	}
	slices.SortFunc(s.past.Inbox, func(a, b driver.Record) int { return cmp.Compare(a.Offset, b.Offset) })
	s.past.Parked, s.past.Ledger = relive.Waiting(s.machine, s.at.Partitions, s.past.Inbox)
	s.rows = len(s.past.States)
	s.world, err = relive.New(ctx, cfg, s.past)
	s.past = relive.Past{}
	return err
}

// A world keeps all that it lives. So after so many messages, or twice as many as there are streams, another goes on from
// its states.
const worldSize = 20_000

// room sees to it that there is a world, and room in it.
func (s *server) room(ctx context.Context) (err error) {
	if s.world != nil && s.lived >= max(worldSize, 2*s.rows) {
		if s.past, err = s.world.Past(ctx); err != nil {
			return err
		}
		s.world, s.lived = nil, 0
	}
	return s.begun(ctx)
}

func (s *server) message(ctx context.Context, body []byte) error {
	m, err := parseMessage(body)
	if err != nil {
		return err
	}
	if err := s.room(ctx); err != nil {
		return err
	}
	rec := driver.Record{Partition: s.at.Partition, Offset: m.Offset, Time: m.Time, Value: m.Value}
	msg := s.world.Prepare(rec)
	if m.Killed {
		msg = s.world.Killed(rec, 1)
	}
	s.decided = s.decided[:0]
	if err := s.world.Live(ctx, []relive.Message{msg.NotBefore(m.NotBefore)}); err != nil {
		return fmt.Errorf("live the message at offset %d: %w", m.Offset, err)
	}
	s.lived++
	a := Answer{Offset: m.Offset, Decisions: s.decided}
	if a.State, err = s.hash(ctx, msg.Envelope().Stream); err != nil {
		return err
	}
	return s.say(frameAnswer, a.append)
}

// hash returns the hash of a stream's fields.
func (s *server) hash(ctx context.Context, of deja.Stream) (sum [32]byte, err error) {
	row, err := s.world.Row(ctx, of)
	if err != nil || row.Version == 0 {
		return sum, err
	}
	fields, err := s.machine.Flatten(nil, of.Aggregate, row.Data)
	return canon.HashFields(fields), err
}

func (s *server) ask(ctx context.Context, body []byte) error {
	var of Row
	if err := parseJSON(body, &of); err != nil {
		return err
	}
	if err := s.begun(ctx); err != nil {
		return err
	}
	row, err := s.world.Row(ctx, of.Stream())
	if err != nil {
		return err
	}
	return s.say(frameRow, asJSON(RowOf(row)))
}
