package history

import (
	"context"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/relive"
	"github.com/dejalog/deja/internal/talk"
	"github.com/dejalog/deja/internal/wire"
)

// A mind decides the messages of a lifetime.
type mind interface {
	// live decides deliveries, and tells the lifetime of each decision.
	live(ctx context.Context, ds []*delivery) error
	// row returns a stream's row as it is then.
	row(ctx context.Context, s deja.Stream) (driver.State, error)
	close()
}

// newMind returns this build, or another one.
func (l *lifetime) newMind(ctx context.Context, past relive.Past, program string, patience time.Duration) (mind, error) {
	if program == "" {
		w, err := l.newWorld(ctx, past)
		return &ownMind{l: l, world: w}, err
	}
	if l.crossed() {
		return nil, cannotBe("an edited message's ID is used in several partitions, and another build lives one after the other: what comes of it is not known")
	}
	w, err := talk.Start(ctx, program, l.h.machine.Name(), talk.Options{Patience: patience})
	if err != nil {
		return nil, asked(ctx, err)
	}
	hello := w.Hello()
	l.build = &Build{Program: w.Program(), Service: hello.Service, Build: hello.Build, Fold: hello.Fold, Go: hello.Go}
	return &otherMind{l: l, worker: w, past: past, partition: -1, rows: map[deja.Stream]driver.State{}}, nil
}

// ownMind is this build.
type ownMind struct {
	l     *lifetime
	world *relive.World
	ms    []relive.Message
}

func (o *ownMind) close() {}

func (o *ownMind) row(ctx context.Context, s deja.Stream) (driver.State, error) {
	return o.world.Row(ctx, s)
}

func (o *ownMind) live(ctx context.Context, ds []*delivery) error {
	o.ms = o.ms[:0]
	for _, d := range ds {
		m, err := o.l.message(ctx, o.world, d)
		if err != nil {
			return err
		}
		o.ms = append(o.ms, m)
	}
	return o.world.Live(ctx, o.ms)
}

// otherMind is another build, which is a process.
type otherMind struct {
	l         *lifetime
	worker    *talk.Worker
	past      relive.Past
	partition int32                        // that it is at; -1: none yet
	rows      map[deja.Stream]driver.State // of the partitions before
}

func (o *otherMind) close() { o.worker.Close() }

func (o *otherMind) row(ctx context.Context, s deja.Stream) (driver.State, error) {
	if row, ok := o.rows[s]; ok {
		return row, nil
	}
	if o.l.partition(s) != o.partition {
		return o.l.streams[s].row, nil
	}
	row, err := o.worker.Row(ctx, s)
	if err != nil {
		return row, asked(ctx, err)
	}
	return row, nil
}

// enter begins with a partition.
func (o *otherMind) enter(ctx context.Context, partition int32) error {
	for s := range o.l.streams {
		if o.l.partition(s) != o.partition {
			continue
		}
		row, err := o.row(ctx, s)
		if err != nil {
			return err
		}
		o.rows[s] = row
	}
	var rows []driver.State
	for _, row := range o.past.States {
		if row.Partition == partition {
			rows = append(rows, row)
		}
	}
	var waiting []driver.Record
	for _, rec := range o.past.Inbox {
		if rec.Partition == partition {
			waiting = append(waiting, rec)
		}
	}
	o.partition = partition
	begin := talk.Begin{Partition: partition, Partitions: o.l.topic.Partitions, MaxRecord: o.l.topic.MaxRecord}
	if err := o.worker.Begin(ctx, begin, rows, waiting); err != nil {
		return asked(ctx, err)
	}
	return nil
}

func (o *otherMind) live(ctx context.Context, ds []*delivery) error {
	for len(ds) > 0 {
		n := 1
		for n < len(ds) && ds[n].rec.Partition == ds[0].rec.Partition {
			n++
		}
		if p := ds[0].rec.Partition; p != o.partition {
			if err := o.enter(ctx, p); err != nil {
				return err
			}
		}
		if err := o.tell(ctx, ds[:n]); err != nil {
			return err
		}
		ds = ds[n:]
	}
	return nil
}

// tell hands deliveries of one partition over, and takes the answers while it does.
func (o *otherMind) tell(ctx context.Context, ds []*delivery) error {
	ms := make([]talk.Message, len(ds))
	for i, d := range ds {
		killed, err := o.l.killed(ctx, d)
		if err != nil {
			return err
		}
		ms[i] = talk.Message{
			Offset: d.rec.Offset, Time: wire.Micro(d.rec.Time), Value: d.rec.Value, NotBefore: d.notBefore(), Killed: killed > 0,
		}
	}
	sending, cancel := context.WithCancel(ctx)
	defer cancel()
	sent := make(chan error, 1)
	go func() { sent <- o.worker.Send(sending, ms...) }()
	err := o.listen(ctx, len(ms))
	if err != nil {
		o.worker.Close() // whoever still sends is not heard
	}
	serr := <-sent
	if err == nil {
		err = serr
	}
	if err != nil {
		return asked(ctx, err)
	}
	return nil
}

func (o *otherMind) listen(ctx context.Context, answers int) error {
	for range answers {
		a, err := o.worker.Next(ctx)
		if err != nil {
			return err
		}
		for _, d := range a.Decisions {
			o.l.decided(relive.Decision{Record: d.Record, Changes: d.Changes})
		}
	}
	return nil
}
