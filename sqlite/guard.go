package sqlite

import (
	"fmt"
	"regexp"
	"strings"

	"zombiezen.com/go/sqlite"
)

// A guard decides what a statement may touch while it is compiled, on the connection that writes. It allows all until
// it is told that the statement is a projection's, and of which store.
type guard struct {
	mode   guardMode
	part   *part  // whose projections' it is
	table  string // the one that may be created
	denied string // what the last statement was denied
}

type guardMode uint8

const (
	allowAll   guardMode = iota
	projecting           // rows of the projections' tables only
	creating             // what creates a projection's table and its indexes
)

// guarded runs fn, in which statements are of a kind, and those of projections may use the part's tables.
func (p *part) guarded(mode guardMode, fn func() error) error {
	p.db.guard.part = p
	return p.db.guard.as(mode, fn)
}

// as runs fn, in which statements are of a kind, and says what was denied if one was. SQLite compiles a statement
// anew when the schema has changed, so running one belongs in here too.
func (g *guard) as(mode guardMode, fn func() error) error {
	g.mode, g.denied = mode, ""
	err := fn()
	g.mode = allowAll
	if err != nil && g.denied != "" {
		return fmt.Errorf("not allowed: %s: %w", g.denied, err)
	}
	return err
}

// Authorize is called by SQLite for each thing that a statement touches.
func (g *guard) Authorize(a sqlite.Action) sqlite.AuthResult {
	if g.mode == allowAll {
		return sqlite.AuthResultOK
	}
	reason := g.refuse(a)
	if reason == "" {
		return sqlite.AuthResultOK
	}
	g.denied = reason
	return sqlite.AuthResultDeny
}

// refuse returns why a projection's statement may not do a thing, or nothing.
func (g *guard) refuse(a sqlite.Action) string {
	switch a.Type() {
	case sqlite.OpSelect, sqlite.OpRecursive, sqlite.OpFunction:
		return ""
	case sqlite.OpRead, sqlite.OpInsert, sqlite.OpUpdate, sqlite.OpDelete:
		return g.refuseTable(a)
	case sqlite.OpCreateTable, sqlite.OpCreateIndex:
		if g.mode == creating && strings.EqualFold(a.Table(), g.table) {
			return ""
		}
	case sqlite.OpReindex: // part of making an index
		if g.mode == creating {
			return ""
		}
	}
	if g.mode == creating {
		return fmt.Sprintf("%s in a table's definition, which may create that table and its indexes", a.Type())
	}
	return fmt.Sprintf("%s in a projection, which may read and write rows of its tables", a.Type())
}

func (g *guard) refuseTable(a sqlite.Action) string {
	name := strings.ToLower(a.Table())
	switch {
	case g.part.tables[name] && g.mode == projecting:
		return ""
	case g.mode == creating && (strings.EqualFold(name, g.table) || strings.HasPrefix(name, "sqlite_")):
		return "" // SQLite's own tables hold the schema
	case a.Type() == sqlite.OpRead && a.Column() == "" && !reserved(name) && !g.part.db.parts.have(name):
		return "" // the name of a subquery of which no column is read
	}
	return fmt.Sprintf("table %s is not one of the projections' (%s)", a.Table(), a.Type())
}

// volatile finds what gives another value each time, so that a rebuilt table would differ. The authorizer is not told
// functions' names here, so the text is searched; that a literal text says 'now' is taken amiss too.
var volatile = regexp.MustCompile(`(?i)\b(random|randomblob|last_insert_rowid|changes|total_changes)\s*\(|\bcurrent_(timestamp|date|time)\b|'now'|` +
	`\b(datetime|date|time|julianday|unixepoch)\s*\(\s*\)`)

// refuseVolatile returns an error for a statement that would not give the same again.
func refuseVolatile(sql string) error {
	if found := volatile.FindString(sql); found != "" {
		return fmt.Errorf("not allowed: %s in a projection, which takes all it writes from the event: a rebuild would differ", strings.TrimSpace(strings.TrimSuffix(found, "(")))
	}
	return nil
}

// reserved reports whether a table's name belongs to us or to SQLite.
func reserved(name string) bool {
	name = strings.ToLower(name)
	return strings.HasPrefix(name, "deja_") || strings.HasPrefix(name, "sqlite_")
}
