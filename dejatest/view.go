package dejatest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/wire"
)

// view is all that can be seen of a world, a line each.
type view []string

// hash returns the hash of the lines, each after its length.
func (v view) hash() [32]byte {
	b := []byte("deja/dejatest/view/2")
	for _, l := range v {
		b = binary.AppendUvarint(b, uint64(len(l)))
		b = append(b, l...)
	}
	return sha256.Sum256(b)
}

// view looks at the disk: service after service the states in order of streams, and the statements by partition; and the
// answers given.
func (c *course) view(ctx context.Context) (view, error) {
	var v view
	for _, l := range c.lives {
		rows, err := l.states(ctx)
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", l.name(), err)
		}
		for i := range rows {
			text, err := l.rowText(&rows[i])
			if err != nil {
				return nil, err
			}
			v = append(v, text)
		}
		v = append(v, statementLines(l.name(), l.kept.Executed())...)
	}
	for i, t := range c.told {
		v = append(v, fmt.Sprintf("request %d, %s", i+1, t))
	}
	return v, nil
}

// states returns all rows of a service's states.
func (l *life) states(ctx context.Context) ([]driver.State, error) {
	var all []driver.State
	var after deja.Stream
	for {
		rows, err := l.kept.States(ctx, after, 1000)
		if err != nil || len(rows) == 0 {
			return all, err
		}
		all = append(all, rows...)
		after = rows[len(rows)-1].Stream
	}
}

// rowText tells of a state, and what it waits for.
func (l *life) rowText(r *driver.State) (string, error) {
	text := fmt.Sprintf("state %s version %d", r.Stream, r.Version)
	if r.Version > 0 {
		text += ": " + readable("application/json", r.Data)
	}
	if r.Parked > 0 {
		text += fmt.Sprintf(", %d parked", r.Parked)
	}
	open, err := wire.DecodeOpen(l.name(), r.Stream, r.Open)
	if err != nil {
		return "", err
	}
	for i := range open.Timers {
		t := &open.Timers[i]
		text += fmt.Sprintf(", timer %q at %s: %s", t.Name, t.Due.Format(time.RFC3339Nano), line(&t.Command))
	}
	for i := range open.Effects {
		text += ", open effect " + line(&open.Effects[i].Envelope)
	}
	for i := range open.Sent {
		text += fmt.Sprintf(", no reply to %s of %s", open.Sent[i].Type, open.Sent[i].Stream)
	}
	if open.Stuck != "" {
		text += ", stuck by " + open.Stuck
	}
	return text, nil
}

// statementLines returns what projections did, partition after partition.
func statementLines(service string, all []memory.Statement) []string {
	var lines []string
	for p := range int32(partitions) {
		n := 0
		for _, s := range all {
			if s.Partition == p {
				n++
				lines = append(lines, fmt.Sprintf("statement %d of %s/%d: %s (%s)", n, service, p, s.SQL, argsText(s.Args)))
			}
		}
	}
	return lines
}

func argsText(args []any) string {
	texts := make([]string, len(args))
	for i, a := range args {
		switch a := a.(type) {
		case time.Time:
			texts[i] = a.UTC().Format(time.RFC3339Nano)
		default:
			texts[i] = fmt.Sprintf("%#v", a)
		}
	}
	return strings.Join(texts, ", ")
}
