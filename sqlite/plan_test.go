package sqlite

import (
	"strings"
	"testing"

	"zombiezen.com/go/sqlite"
)

// TestReadersUseIndexes shows that what pages through rows seeks them in an index, without a scan or a sort.
func TestReadersUseIndexes(t *testing.T) {
	db, err := Open(t.Context(), t.TempDir()+"/a.db")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for sql, want := range map[string]string{
		selectStates: "SEARCH deja_states USING PRIMARY KEY ((tenant,aggregate,key)>(?,?,?))",
		selectOpen:   "SEARCH deja_states USING INDEX deja_states_open (partition=? AND (tenant,aggregate,key)>(?,?,?))",
		selectDue:    "SEARCH deja_states USING INDEX deja_states_due (partition=? AND (due,tenant,aggregate,key)>(?,?,?,?) AND due<?)",
	} {
		var plan []string
		err := query(db.conn, "EXPLAIN QUERY PLAN "+sql, func(st *sqlite.Stmt) error {
			plan = append(plan, st.ColumnText(3))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(plan, "\n"); got != want {
			t.Errorf("%s\nis run as\n%s\nnot\n%s", sql, got, want)
		}
	}
}
