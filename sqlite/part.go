package sqlite

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"zombiezen.com/go/sqlite"

	"github.com/dejalog/deja/driver"
)

// A part is one store's part of a file: tables of its own, and what memory has of them. The parts of a file have nothing
// in common but the log, and no transaction touches two.
//
// Statements on a store's tables are written for the store without a name. Those of the store of a service have "@" and
// the service's name behind them: deja_states, "deja_states@ledger".
type part struct {
	db      *DB
	service string // whose store it is; "" is the store without a name
	ledger  ledger
	made    atomic.Bool // the tables are there
	texts   sync.Map    // statements, by those of the store without a name

	// What the gate's holder uses:
	tables     map[string]bool     // the projections', in lower case
	statements map[string]prepared // the projections', by text
}

// parts are those of the stores that were asked for.
type parts struct {
	mu        sync.Mutex
	byService map[string]*part
}

// part returns the part of a store.
func (db *DB) part(service string) *part {
	db.parts.mu.Lock()
	defer db.parts.mu.Unlock()
	p := db.parts.byService[service]
	if p == nil {
		p = &part{db: db, service: service, statements: map[string]prepared{}}
		if db.parts.byService == nil {
			db.parts.byService = map[string]*part{}
		}
		db.parts.byService[service] = p
	}
	return p
}

// all returns the parts there are.
func (ps *parts) all() (all []*part) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range ps.byService {
		all = append(all, p)
	}
	return all
}

// have reports whether a table is a projection's of any store. The caller holds the gate.
func (ps *parts) have(table string) bool {
	return slices.ContainsFunc(ps.all(), func(p *part) bool { return p.tables[table] })
}

// String names the store as a sentence does.
func (p *part) String() string {
	if p.service == "" {
		return "the store without a name"
	}
	return fmt.Sprintf("the store of %q", p.service)
}

// call is what a program calls to get the store.
func (p *part) call() string {
	if p.service == "" {
		return "DB.Store()"
	}
	return fmt.Sprintf("DB.StoreOf(%q)", p.service)
}

// storeTable finds the names of a store's tables, indexes and triggers in a statement.
var storeTable = regexp.MustCompile(`\bdeja_(binding|lease|ledger|filters|states|parked|repeats|tables)(_\w+)?\b`)

// ofStore is between a table's name and its service's. No name that either may have holds it.
const ofStore = "@"

// table returns what the file calls a table, an index or a trigger.
func (p *part) table(name string) string {
	if p.service == "" {
		return name
	}
	return name + ofStore + p.service
}

// sql returns a statement on the part's tables.
func (p *part) sql(text string) string {
	if p.service == "" {
		return text
	}
	if own, ok := p.texts.Load(text); ok {
		return own.(string)
	}
	own := storeTable.ReplaceAllStringFunc(text, func(name string) string { return `"` + p.table(name) + `"` })
	p.texts.Store(text, own)
	return own
}

// A conn is a connection on which statements mean the tables of one store.
type conn struct {
	*sqlite.Conn
	part *part
}

func (p *part) on(c *sqlite.Conn) conn { return conn{c, p} }

// Prepare returns a statement on the store's tables.
func (c conn) Prepare(text string) (*sqlite.Stmt, error) { return c.Conn.Prepare(c.part.sql(text)) }

func (c conn) exec(text string, args ...any) error { return exec(c.Conn, c.part.sql(text), args...) }

func (c conn) query(text string, row func(*sqlite.Stmt) error, args ...any) error {
	return query(c.Conn, c.part.sql(text), row, args...)
}

func (c conn) queryInt(text string, args ...any) (int64, error) {
	return queryInt(c.Conn, c.part.sql(text), args...)
}

func (c conn) queryText(text string, args ...any) (string, error) {
	return queryText(c.Conn, c.part.sql(text), args...)
}

func (p *part) write(ctx context.Context, fn func(c conn) error) error {
	return p.db.write(ctx, func(c *sqlite.Conn) error { return fn(p.on(c)) })
}

func (p *part) read(ctx context.Context, fn func(c conn) error) error {
	return p.db.read(ctx, func(c *sqlite.Conn) error { return fn(p.on(c)) })
}

// serviceName is what a service may be called.
var serviceName = regexp.MustCompile(`^[a-z0-9_-]([a-z0-9._-]{0,126}[a-z0-9_-])?$`)

// ensure makes the tables where they are missing, once. Those that are in the file were looked at when it was opened.
func (p *part) ensure(ctx context.Context) error {
	if p.made.Load() {
		return nil
	}
	if p.service != "" && !serviceName.MatchString(p.service) {
		return fmt.Errorf("store of %q: it %w: want the name of a service, of lower-case letters, digits, '-', '_' and '.'", p.service, driver.ErrUnusable)
	}
	var err error
	if p.db.conn == nil {
		err = p.read(ctx, checkStore)
	} else {
		err = p.write(ctx, repairStore)
	}
	if err != nil {
		if errors.Is(err, ErrNoStore) {
			err = fmt.Errorf("%s in %s: %w", p, p.db.path, err)
		}
		return err
	}
	p.made.Store(true)
	return nil
}

// findParts returns the parts that are in the file, that of the store without a name first. It goes by all their tables,
// any of which may be missing.
func (db *DB) findParts(c *sqlite.Conn) ([]*part, error) {
	found := []*part{db.part("")}
	err := query(c, "SELECT DISTINCT substr(name, instr(name, ?) + 1) FROM sqlite_schema WHERE name GLOB 'deja_*' || ? || '*' ORDER BY 1",
		func(st *sqlite.Stmt) error {
			found = append(found, db.part(st.ColumnText(0)))
			return nil
		}, ofStore, ofStore)
	return found, err
}

// bound returns the topic that the store is bound to under a role, or nothing.
func (c conn) bound(role string) (name string, err error) {
	return c.queryText("SELECT name FROM deja_binding WHERE role = ?", role)
}

// Stores returns the names of the services that have a store of their own in the file, in order. A store is there once
// it is bound to its service's topics: from its first [driver.Store.Acquire] on.
func (db *DB) Stores(ctx context.Context) (services []string, err error) {
	err = db.read(ctx, func(c *sqlite.Conn) error {
		services = nil
		ps, err := db.findParts(c)
		for _, p := range ps[1:] {
			bound := ""
			there, terr := exists(c, p.table("deja_binding"))
			if terr == nil && there {
				bound, terr = p.on(c).bound("journal")
			}
			if err = errors.Join(err, terr); bound != "" {
				services = append(services, p.service)
			}
		}
		return err
	})
	slices.Sort(services)
	return services, err
}

// others calls fn for the stores of the file but this one.
func (c conn) others(fn func(other conn) error) error {
	ps, err := c.part.db.findParts(c.Conn)
	if err != nil {
		return err
	}
	for _, p := range ps {
		if p == c.part {
			continue
		}
		if err := fn(p.on(c.Conn)); err != nil {
			return err
		}
	}
	return nil
}

// owns reports whether a table's name in the file is one of the part's.
func (p *part) owns(table string) bool {
	_, service, _ := strings.Cut(table, ofStore)
	return service == p.service
}
