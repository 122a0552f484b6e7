package sqlite

import (
	"fmt"
	"regexp"
	"strings"

	"zombiezen.com/go/sqlite"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// tableName is what a projection's table may be called: nothing that needs quoting.
var tableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// createTables makes those of the projections' tables that are not registered, in the caller's transaction, and lets
// the projections' statements use all that are.
func (p *part) createTables(c conn, ts []deja.TableDef) error {
	for _, t := range ts {
		known, err := c.queryInt("SELECT count(*) FROM deja_tables WHERE name = ?", strings.ToLower(t.Name))
		if err != nil {
			return err
		}
		if known > 0 {
			continue
		}
		if err := p.createTable(c, t); err != nil {
			if code := sqlite.ErrCode(err).ToPrimary(); code == sqlite.ResultError || code == sqlite.ResultAuth {
				err = fmt.Errorf("%w: %w", driver.ErrUnusable, err) // the statement is wrong, and stays so
			}
			return fmt.Errorf("create table %q: %w", t.Name, err)
		}
	}
	return p.loadTables(c)
}

func (p *part) createTable(c conn, t deja.TableDef) error {
	if !tableName.MatchString(t.Name) || reserved(t.Name) {
		return fmt.Errorf("the name must match %s and not begin with deja_ or sqlite_", tableName)
	}
	if err := refuseVolatile(t.DDL); err != nil {
		return err
	}
	err := c.others(func(other conn) error {
		taken, err := other.queryInt("SELECT count(*) FROM deja_tables WHERE name = ?", strings.ToLower(t.Name))
		if err == nil && taken > 0 {
			err = fmt.Errorf("%w: %s has a table of that name, and %s shares the file with it: give one of them another name",
				driver.ErrUnusable, other.part, p)
		}
		return err
	})
	if err != nil {
		return err
	}
	// One that is there and not registered is left over from a registry that was lost.
	if err := exec(c.Conn, `DROP TABLE IF EXISTS "`+t.Name+`"`); err != nil {
		return err
	}
	p.db.guard.table = t.Name
	for rest := strings.TrimSpace(t.DDL); rest != ""; rest = strings.TrimSpace(rest) {
		var used int
		err := p.guarded(creating, func() (err error) {
			used, err = runFirst(c.Conn, rest)
			return err
		})
		if err != nil {
			return err
		}
		rest = rest[used:]
	}
	made, err := c.queryInt("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND lower(name) = ?", strings.ToLower(t.Name))
	if err != nil {
		return err
	}
	if made == 0 {
		return fmt.Errorf("its definition made no table of that name")
	}
	return c.exec("INSERT INTO deja_tables (name, ddl) VALUES (?, ?)", strings.ToLower(t.Name), t.DDL)
}

// runFirst runs the first statement of a text, and returns its length.
func runFirst(c *sqlite.Conn, text string) (int, error) {
	st, rest, err := c.PrepareTransient(text)
	if err != nil {
		return 0, err
	}
	used := len(text) - rest
	if st.ColumnCount() > 0 {
		_ = st.Finalize()
		return 0, fmt.Errorf("%q is a query", strings.TrimSpace(text[:used]))
	}
	_, err = st.Step()
	if ferr := st.Finalize(); err == nil {
		err = ferr
	}
	return used, err
}

// dropTables removes all registered tables.
func dropTables(c conn) error {
	var names []string
	if err := c.query("SELECT name FROM deja_tables", func(st *sqlite.Stmt) error {
		names = append(names, st.ColumnText(0))
		return nil
	}); err != nil {
		return err
	}
	for _, name := range names {
		if err := exec(c.Conn, `DROP TABLE IF EXISTS "`+name+`"`); err != nil {
			return err
		}
	}
	return c.exec("DELETE FROM deja_tables")
}

// loadTables reads which tables the projections' statements may use. If the transaction that they were made in is
// rolled back, the statements on them fail by themselves.
func (p *part) loadTables(c conn) error {
	names := map[string]bool{}
	err := c.query("SELECT name FROM deja_tables", func(st *sqlite.Stmt) error {
		names[st.ColumnText(0)] = true
		return nil
	})
	p.tables = names
	return err
}
