package cli_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dejalog/deja/internal/testenv"
	"github.com/dejalog/deja/kafka"
)

// servers are addresses of a log and a store of a test's own.
type servers struct {
	kafka    string // a URL, with a prefix of topics
	postgres string // a URL without a schema
	schema   string
}

func newServers(t testing.TB) servers {
	t.Helper()
	s := servers{schema: testenv.Unique("cli"), postgres: testenv.Postgres(t)}
	s.kafka = "kafka://" + strings.Join(testenv.Kafka(t), ",") + "?prefix=" + testenv.Unique("cli") + "."
	t.Cleanup(func() {
		s.exec(t, fmt.Sprintf(`DROP SCHEMA IF EXISTS %[1]s CASCADE; DROP SCHEMA IF EXISTS %[1]s_past CASCADE; DROP SCHEMA IF EXISTS %[1]s_low CASCADE;
			DROP ROLE IF EXISTS deja_scratch_%[1]s_past; DROP ROLE IF EXISTS %[1]s_role`, s.schema))
	})
	return s
}

// store returns the URL of a schema.
func (s servers) store(schema string) string {
	return testenv.With(s.postgres, "schema", schema)
}

// exec runs SQL as the tests' administrator.
func (s servers) exec(t testing.TB, sql string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	c, err := pgx.Connect(ctx, s.postgres)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, sql); err != nil {
		t.Error(err)
	}
}

// TestServerScripts runs the scripts in testdata/servers on Kafka and PostgreSQL: each has topics and schemas of its own.
func TestServerScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/servers",
		RequireExplicitExec: true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits,
			"until": until,
			"admin": admin,
			"trim":  trim,
		},
		Setup: func(env *testscript.Env) error {
			s := newServers(env.T().(testing.TB))
			env.Setenv("DEJA_LOG", s.kafka)
			env.Setenv("DEJA_STORE", s.store(s.schema))
			env.Setenv("SCHEMA", s.schema)
			env.Setenv("XDG_CACHE_HOME", filepath.Join(env.WorkDir, "cache"))
			env.Setenv("PAST", s.store(s.schema+"_past"))
			env.Setenv("LOW", s.as(s.schema+"_role", s.schema+"_low"))
			env.Values["servers"] = s
			return nil
		},
	})
}

// admin runs SQL as the tests' administrator, in which MINE stands for the script's schema.
func admin(ts *testscript.TestScript, _ bool, args []string) {
	s := ts.Value("servers").(servers)
	ctx := context.Background()
	c, err := pgx.Connect(ctx, s.postgres)
	ts.Check(err)
	defer c.Close(ctx)
	for _, sql := range args {
		_, err := c.Exec(ctx, strings.ReplaceAll(sql, "MINE", s.schema))
		ts.Check(err)
	}
}

// trim lets a topic of the script lose the first record of each partition.
func trim(ts *testscript.TestScript, _ bool, args []string) {
	cfg, err := kafka.ParseURL(ts.Value("servers").(servers).kafka)
	ts.Check(err)
	client, err := kgo.NewClient(kgo.SeedBrokers(cfg.Brokers...))
	ts.Check(err)
	defer client.Close()
	to := kadm.Offsets{}
	for p := range int32(3) {
		to.AddOffset(cfg.Topic(args[0]), p, 1, -1)
	}
	deleted, err := kadm.NewClient(client).DeleteRecords(context.Background(), to)
	ts.Check(errors.Join(err, deleted.Error()))
}

// as returns the URL of a schema for another role, whose password is its name.
func (s servers) as(role, schema string) string {
	u, err := url.Parse(s.store(schema))
	if err != nil {
		return ""
	}
	u.User = url.UserPassword(role, role)
	return u.String()
}
