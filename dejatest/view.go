package dejatest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/memory"
)

// view is all that can be seen of a world, a line each.
type view []string

// hash returns the hash of the lines, each after its length.
func (v view) hash() [32]byte {
	b := []byte("deja/dejatest/view/1")
	for _, l := range v {
		b = binary.AppendUvarint(b, uint64(len(l)))
		b = append(b, l...)
	}
	return sha256.Sum256(b)
}

// view looks at the disk of a life: states in order of streams, statements by partition, and the answers given.
func (l *life) view(ctx context.Context, told []string) (view, error) {
	var v view
	var after deja.Stream
	for {
		rows, err := l.disk.store.States(ctx, after, 1000)
		if err != nil {
			return nil, err
		}
		if len(rows) == 0 {
			break
		}
		for _, r := range rows {
			text := fmt.Sprintf("state %s version %d: %s", r.Stream, r.Version, readable("application/json", r.Data))
			if r.Version == 0 {
				text = fmt.Sprintf("state %s version 0", r.Stream)
			}
			if r.Parked > 0 {
				text += fmt.Sprintf(", %d parked", r.Parked)
			}
			v = append(v, text)
		}
		after = rows[len(rows)-1].Stream
	}
	v = append(v, statementLines(l.disk.store.Executed())...)
	for i, t := range told {
		v = append(v, fmt.Sprintf("request %d, %s", i+1, t))
	}
	return v, nil
}

// statementLines returns what projections did, partition after partition.
func statementLines(all []memory.Statement) []string {
	var lines []string
	for p := range int32(partitions) {
		n := 0
		for _, s := range all {
			if s.Partition == p {
				n++
				lines = append(lines, fmt.Sprintf("statement %d of partition %d: %s (%s)", n, p, s.SQL, argsText(s.Args)))
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
