package postgres_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/testenv"
	"github.com/dejalog/deja/postgres"
)

// What is written into a scratch schema is written by a role that can write nowhere else, projections included, and a schema
// that holds anything is refused.
func TestAScratchSchemaIsAllThatIsWritten(t *testing.T) {
	dsn, mine := testenv.Postgres(t), testenv.Unique("scratch")
	admin, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(t.Context())
	run := func(sql string) {
		t.Helper()
		if _, err := admin.Exec(t.Context(), strings.ReplaceAll(sql, "MINE", mine)); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	run("CREATE SCHEMA MINE_other; CREATE TABLE MINE_other.theirs (x int)")
	defer run("DROP SCHEMA IF EXISTS MINE, MINE_other CASCADE; DROP ROLE IF EXISTS deja_scratch_MINE")
	of := func(schema string) string {
		u, err := url.Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		q.Set("schema", schema)
		u.RawQuery = q.Encode()
		return u.String()
	}
	if _, err := postgres.OpenScratch(t.Context(), dsn); !errors.Is(err, postgres.ErrScratch) {
		t.Errorf("without a schema: %v", err)
	}
	if _, err := postgres.OpenScratch(t.Context(), of(mine+"_other")); !errors.Is(err, postgres.ErrScratch) || !strings.Contains(err.Error(), "theirs") {
		t.Errorf("a schema that holds something: %v", err)
	}
	run("GRANT USAGE ON SCHEMA MINE_other TO PUBLIC; GRANT INSERT ON MINE_other.theirs TO PUBLIC")
	_, err = postgres.OpenScratch(t.Context(), of(mine))
	if !errors.Is(err, postgres.ErrScratch) || !strings.Contains(err.Error(), "table "+mine+"_other.theirs") {
		t.Errorf("all may write elsewhere: %v", err)
	}
	run("REVOKE INSERT ON MINE_other.theirs FROM PUBLIC")

	s, err := postgres.OpenScratch(t.Context(), of(mine))
	if err != nil {
		t.Fatal(err)
	}
	imports, ok := s.Log().(driver.Importer)
	if !ok {
		t.Fatal("the log takes no records from elsewhere")
	}
	if err := imports.CreateTopic(t.Context(), "shop.inbox", 2); err != nil {
		t.Fatal(err)
	}
	if err := imports.CreateTopic(t.Context(), "shop.journal", 2); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"INSERT INTO MINE_other.theirs VALUES (1)", "CREATE TABLE MINE_other.mine (x int)", "CREATE SCHEMA MINE_more"} {
		sql = "SET ROLE " + s.Role + "; " + strings.ReplaceAll(sql, "MINE", mine)
		if _, err := admin.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("%s: %v", sql, err)
		}
	}
	var owners string
	err = admin.QueryRow(t.Context(), "SELECT string_agg(DISTINCT tableowner, ',') FROM pg_tables WHERE schemaname = $1", mine).Scan(&owners)
	if err != nil || owners != s.Role {
		t.Errorf("the tables belong to %s, %v, not to %s", owners, err, s.Role)
	}
	var login bool
	if err := admin.QueryRow(t.Context(), "SELECT rolcanlogin OR rolsuper FROM pg_roles WHERE rolname = $1", s.Role).Scan(&login); err != nil || login {
		t.Errorf("the role has a login or more: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	again, err := postgres.OpenScratch(t.Context(), of(mine)) // it was not finished
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(again.Finish(t.Context(), "a hash"), again.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := postgres.OpenScratch(t.Context(), of(mine)); !errors.Is(err, postgres.ErrScratch) || !strings.Contains(err.Error(), "finished") {
		t.Errorf("a finished one: %v", err)
	}
}
