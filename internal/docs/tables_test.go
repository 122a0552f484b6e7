package docs_test

import (
	"database/sql"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/sqlite"
)

// The tables of a new file and their columns must be those in docs/formats.md.
func TestTablesAreThoseOfTheFile(t *testing.T) {
	page := pages(t)["docs/formats.md"]
	row := regexp.MustCompile("^\\| `(deja_[a-z_]+?)(?:_?<[^`]*>)?` \\| (.*) \\|$")
	told := map[string]string{}
	for line := range strings.Lines(page) {
		if m := row.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			told[m[1]] += m[2] // the ledger and its segments
		}
	}
	path := filepath.Join(t.TempDir(), "shop.db")
	db, err := sqlite.Open(t.Context(), path)
	if err == nil {
		_, err = db.Log().Topic(t.Context(), "in")
	}
	if err == nil {
		err = db.Log().(driver.Cursors).SetCursor(t.Context(), "reader", "in", 0, 0)
	}
	if err == nil {
		_, err = db.StoreOf("shop").Progress(t.Context(), 0)
	}
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	columns := columnsOf(t, path)
	for table, names := range columns {
		if own, of, ok := strings.Cut(table, "@"); ok {
			if of != "shop" || !slices.Equal(names, columns[own]) {
				t.Errorf("%s has columns %q, but %s has %q", table, names, own, columns[own])
			}
			continue
		}
		for _, name := range names {
			if name != "one" && !strings.Contains(told[table], "`"+name+"`") {
				t.Errorf("column %s of %s is not in docs/formats.md", name, table)
			}
		}
	}
	for table := range told {
		if columns[table] == nil {
			t.Errorf("%s is in docs/formats.md, and not in the file", table)
		}
	}
	if !slices.Contains(columns["deja_ledger"], "hash") || !slices.Contains(columns["deja_ledger"], "stamp") {
		t.Errorf("the ledger has columns %q", columns["deja_ledger"])
	}
}

// columnsOf returns the columns by table; those of numbered ones without the number.
func columnsOf(t *testing.T, path string) map[string][]string {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(t.Context(), "SELECT s.name, c.name FROM sqlite_schema s, pragma_table_info(s.name) c WHERE s.type = 'table'")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	found := map[string][]string{}
	for rows.Next() {
		var table, column string
		if err := rows.Scan(&table, &column); err != nil {
			t.Fatal(err)
		}
		own, _, _ := strings.Cut(table, "@")
		table = strings.TrimRight(own, "_0123456789") + table[len(own):]
		found[table] = append(found[table], column)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}
