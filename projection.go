package deja

import (
	"fmt"
	"iter"
)

// A Projection is a read model in the user's own tables, written in the same transaction as the state. It may only
// write rows that belong to the event's own stream, must not read what it did not write, and must take all it
// writes from the event: no clock, no sequence, no random value, or a rebuild would differ.
type Projection struct {
	name   string
	tables []table
	parts  []projector
}

type table struct{ name, ddl string }

// projector is one row: what is done with events of one type.
type projector struct {
	event string
	fn    func(Tx, *Envelope, any) error
}

// A ProjectionPart is a table or a row of a projection: see [Table] and [Project].
type ProjectionPart struct{ add func(*Projection) }

// NewProjection returns a projection. Faults are reported by [Compile].
func NewProjection(name string, parts ...ProjectionPart) *Projection {
	p := &Projection{name: name}
	for _, part := range parts {
		part.add(p)
	}
	return p
}

// Name returns the projection's name.
func (p *Projection) Name() string { return p.name }

// Table declares a table of the projection with the statement that creates it. A changed statement rebuilds it.
func Table(name, ddl string) ProjectionPart {
	return ProjectionPart{func(p *Projection) { p.tables = append(p.tables, table{name, ddl}) }}
}

// Project gives fn every recorded event of type E, in order. An error from fn is the statement's or the event's
// fault and stops the partition: what is recorded cannot be refused.
func Project[E Event](fn func(tx Tx, m *Envelope, e E) error) ProjectionPart {
	var zero E
	return ProjectionPart{func(p *Projection) {
		p.parts = append(p.parts, projector{zero.EventType(), func(tx Tx, m *Envelope, e any) error {
			ev, ok := e.(E)
			if !ok {
				return fmt.Errorf("projection %s: event %s is a %T", p.name, m.Type, e)
			}
			return fn(tx, m, ev)
		}})
	}}
}

// A Tx writes and reads a projection's tables inside the core transaction. Arguments may be nil, bool, integers,
// float64, string, []byte and time.Time (stored as RFC 3339 text in UTC where the engine has no time type). After
// the first error every call fails, and the transaction cannot commit.
type Tx interface {
	// Queue adds a statement; $1, $2 stand for the arguments in order. Its error comes with a later call, or fails
	// the transaction.
	Queue(sql string, args ...any)
	// Rows runs what is queued, then the query, and yields its rows. A Row is valid until the next.
	Rows(sql string, args ...any) iter.Seq2[Row, error]
}

// A Row is one row of a result.
type Row interface {
	// Scan copies the columns into pointers to bool, int64, float64, string, []byte or time.Time.
	Scan(dest ...any) error
}
