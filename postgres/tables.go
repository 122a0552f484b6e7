package postgres

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// tableName is what a projection's table may be called: nothing that needs quoting.
var tableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)

var (
	// volatile finds what gives another value each time, so that a rebuilt table would differ. That a literal text says
	// 'now' is taken amiss too.
	volatile = regexp.MustCompile(`(?i)\b(random|setseed|gen_random_uuid|uuid_generate_v\w+|clock_timestamp|statement_timestamp|` +
		`transaction_timestamp|now|timeofday|` +
		`nextval|currval|lastval|txid_current\w*|pg_current_xact_id\w*|pg_backend_pid)\s*\(|` +
		`\b(current_(timestamp|date|time)|localtime(stamp)?)\b|'(now|today|tomorrow|yesterday)'|` +
		`\b(small|big)?serial[248]?\b|\bas\s+identity\b`)

	// ours finds what is not a projection's: our tables, and what would lead statements elsewhere.
	ours = regexp.MustCompile(`(?i)\bdeja_\w*|\bset_config\b|\bpg_(catalog|temp\w*|terminate_backend|cancel_backend|notify|advisory\w*)\b`)

	comment    = regexp.MustCompile(`(?s)--[^\n]*|/\*.*?\*/`)
	firstWord  = regexp.MustCompile(`^[\s(]*([A-Za-z]+)`)
	definition = regexp.MustCompile(`(?i)^\s*create\s+(unlogged\s+)?(table|(unique\s+)?index)\b`)
)

// refuseVolatile returns an error for a statement that would not give the same again.
func refuseVolatile(sql string) error {
	if found := volatile.FindString(sql); found != "" {
		return fmt.Errorf("not allowed: %s in a projection, which takes all it writes from the event: a rebuild would differ",
			strings.TrimSpace(strings.TrimSuffix(found, "(")))
	}
	return nil
}

func refuseOurs(sql string) error {
	if found := ours.FindString(sql); found != "" {
		return fmt.Errorf("not allowed: %s in a projection, which may read and write rows of its tables", found)
	}
	return nil
}

// reserved reports whether a table's name belongs to us or to the engine.
func reserved(name string) bool {
	name = strings.ToLower(name)
	return strings.HasPrefix(name, "deja_") || strings.HasPrefix(name, "pg_")
}

// maxChecked bounds the statements that are known: projections have few texts, unless they make them up.
const maxChecked = 1000

// checked knows the statements that are allowed.
type checked struct {
	mu sync.RWMutex
	ok map[string]bool
}

// check refuses a projection's statement that is not one on rows, names our tables, or is volatile. It goes by the text: it
// catches mistakes, not malice.
func (c *checked) check(sql string) error {
	c.mu.RLock()
	ok := c.ok[sql]
	c.mu.RUnlock()
	if ok {
		return nil
	}
	word := ""
	if m := firstWord.FindStringSubmatch(comment.ReplaceAllString(sql, " ")); m != nil {
		word = strings.ToLower(m[1])
	}
	switch word {
	case "select", "insert", "update", "delete", "with", "values", "merge":
	default:
		return fmt.Errorf("not allowed: %q in a projection, which may read and write rows of its tables", word)
	}
	if err := refuseOurs(sql); err != nil {
		return err
	}
	if err := refuseVolatile(sql); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ok == nil || len(c.ok) >= maxChecked {
		c.ok = map[string]bool{}
	}
	c.ok[sql] = true
	return nil
}

// createTables makes those of the projections' tables that are not registered, in the caller's transaction.
func (db *DB) createTables(ctx context.Context, tx pgx.Tx, ts []deja.TableDef) error {
	missing, err := unregistered(ctx, tx, ts)
	if err != nil || len(missing) == 0 {
		return err
	}
	if _, err := tx.Exec(ctx, "LOCK TABLE deja_tables IN SHARE ROW EXCLUSIVE MODE"); err != nil {
		return err
	}
	if missing, err = unregistered(ctx, tx, ts); err != nil { // another process may have made them meanwhile
		return err
	}
	for _, t := range missing {
		if err := db.createTable(ctx, tx, t); err != nil {
			if wrong(err) {
				err = fmt.Errorf("%w: %w", driver.ErrUnusable, err)
			}
			return fmt.Errorf("create table %q: %w", t.Name, err)
		}
	}
	return nil
}

func unregistered(ctx context.Context, tx pgx.Tx, ts []deja.TableDef) (missing []deja.TableDef, err error) {
	known := map[string]bool{}
	err = each(ctx, tx, func(r pgx.Rows) error {
		var name string
		err := r.Scan(&name)
		known[name] = true
		return err
	}, "SELECT name FROM deja_tables")
	for _, t := range ts {
		if !known[strings.ToLower(t.Name)] {
			missing = append(missing, t)
		}
	}
	return missing, err
}

func (db *DB) createTable(ctx context.Context, tx pgx.Tx, t deja.TableDef) error {
	if !tableName.MatchString(t.Name) || reserved(t.Name) {
		return fmt.Errorf("%w: the name must match %s and not begin with deja_ or pg_", driver.ErrUnusable, tableName)
	}
	name := strings.ToLower(t.Name)
	if err := checkDefinition(t.DDL); err != nil {
		return fmt.Errorf("%w: %w", driver.ErrUnusable, err)
	}
	// One that is there and not registered is left over from a registry that was lost.
	if _, err := tx.Exec(ctx, "DROP TABLE IF EXISTS "+db.schema+`."`+name+`"`); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, t.DDL); err != nil {
		return err
	}
	var made bool
	if err := tx.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", db.schema+`."`+name+`"`).Scan(&made); err != nil {
		return err
	}
	if !made {
		return fmt.Errorf("%w: its definition made no table of that name in schema %s", driver.ErrUnusable, db.config.schema)
	}
	_, err := tx.Exec(ctx, "INSERT INTO deja_tables (name, ddl) VALUES ($1, $2)", name, t.DDL)
	return err
}

// checkDefinition refuses what is more than a table and its indexes.
func checkDefinition(ddl string) error {
	if err := refuseVolatile(ddl); err != nil {
		return err
	}
	if err := refuseOurs(ddl); err != nil {
		return err
	}
	for part := range strings.SplitSeq(comment.ReplaceAllString(ddl, " "), ";") {
		if part = strings.TrimSpace(part); part != "" && !definition.MatchString(part) {
			return fmt.Errorf("not allowed: %q in a table's definition, which may create that table and its indexes", part)
		}
	}
	return nil
}

// dropTables removes all registered tables.
func (db *DB) dropTables(ctx context.Context, tx pgx.Tx) error {
	var names []string
	err := each(ctx, tx, func(r pgx.Rows) error {
		var name string
		err := r.Scan(&name)
		names = append(names, name)
		return err
	}, "DELETE FROM deja_tables RETURNING name")
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := tx.Exec(ctx, "DROP TABLE IF EXISTS "+db.schema+"."+pgx.Identifier{name}.Sanitize()); err != nil {
			return err
		}
	}
	return nil
}
