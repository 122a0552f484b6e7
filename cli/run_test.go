package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	zombie "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/cli"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/testenv"
	"github.com/dejalog/deja/internal/till"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/kafka"
	"github.com/dejalog/deja/postgres"
)

// call runs the shop in this process.
func call(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errs testenv.Output
	code = cli.App{Service: till.Service(till.Variant{})}.Main(ctx, append([]string{"shop"}, args...), strings.NewReader(""), &out, &errs, os.Getenv)
	return code, out.String(), errs.String()
}

// must runs the shop, which must succeed.
func must(t *testing.T, args ...string) string {
	t.Helper()
	code, stdout, stderr := call(t.Context(), args...)
	if code != 0 {
		t.Fatalf("shop %v: exit code %d\n%s%s", args, code, stdout, stderr)
	}
	return stdout
}

// Health is answered while the service runs: with 200, or with 503 once a partition has halted, which the others survive.
func TestHealth(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shop.db")
	must(t, "topics", "create", "--partitions", "2", "--db", path)
	if code, health := healthOf(t, path, "idle"); code != http.StatusOK || health.Service != "shop" || len(health.Partitions) != 2 {
		t.Errorf("a healthy service: %d, %+v", code, health)
	}
	c, err := zombie.OpenConn(path, zombie.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	// The first partition of the journal has a record that is none.
	err = sqlitex.ExecuteTransient(c, "INSERT INTO deja_log_3 (offset, time, value) VALUES (0, 1, x'00')", nil)
	if err := errors.Join(err, c.Close()); err != nil {
		t.Fatal(err)
	}
	code, health := healthOf(t, path, "halted")
	if code != http.StatusServiceUnavailable || health.Partitions[0].Error == "" || health.Partitions[1].State == "halted" {
		t.Errorf("one halted partition: %d, %+v", code, health)
	}
}

// healthOf runs the service until its first partition is in a state, and returns what it tells then.
func healthOf(t *testing.T, path, state string) (code int, h engine.Health) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var out, errs testenv.Output
	ran := make(chan int, 1)
	go func() {
		app := cli.App{Service: till.Service(till.Variant{})}
		ran <- app.Main(ctx, []string{"shop", "run", "--json", "--health", "127.0.0.1:0", "--db", path}, strings.NewReader(""), &out, &errs, os.Getenv)
	}()
	defer func() {
		stop()
		if code := <-ran; code != 0 {
			t.Errorf("it ended with %d\n%s", code, errs.String())
		}
	}()
	address := regexp.MustCompile(`http://127\.0\.0\.1:\d+/health`)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		url := address.FindString(errs.String())
		if url == "" {
			continue
		}
		resp, err := http.Get(url)
		if err != nil {
			continue // not yet
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		h = engine.Health{}
		if err = errors.Join(err, json.Unmarshal(body, &h)); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if len(h.Partitions) > 0 && h.Partitions[0].State == state {
			return resp.StatusCode, h
		}
	}
	t.Errorf("the first partition is never %s: %+v\n%s", state, h, errs.String())
	return 0, h
}

// ended waits for an engine that was stopped.
func ended(t *testing.T, ran <-chan error) {
	t.Helper()
	if err := <-ran; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// deaf is a log whose journal takes nothing.
type deaf struct{ driver.Log }

func (l deaf) Append(ctx context.Context, topic string, rs []driver.Record) ([]deja.Position, error) {
	if topic == wire.Journal("shop") {
		return nil, errors.New("the journal takes nothing")
	}
	return l.Log.Append(ctx, topic, rs)
}

// What was decided and could not be logged is told by number, and gone once it is logged.
func TestUnlogged(t *testing.T) {
	s := newServers(t)
	must(t, "topics", "create", "--partitions", "1", "--log", s.kafka)
	cfg, err := kafka.ParseURL(s.kafka)
	if err != nil {
		t.Fatal(err)
	}
	log, err := kafka.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	db, err := postgres.Open(t.Context(), s.postgres, postgres.Schema(s.schema))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	eng, err := engine.New(engine.Config{Service: till.Service(till.Variant{}), Log: deaf{log}, Store: db.Store(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- eng.Run(ctx) }()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) { // else it would begin with a marker
		h, err := eng.Health(ctx)
		if err == nil && h.Partitions[0].State == "idle" {
			break
		}
		if time.Now().After(end) {
			t.Fatal(h, err)
		}
	}
	for _, key := range []string{"a", "b", "c"} {
		if _, err := eng.Client().Send(ctx, deja.Request{Key: key, Command: till.Put{Amount: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		at, err := db.Store().Progress(ctx, 0)
		if err != nil || time.Now().After(end) {
			t.Fatal(at, err)
		}
		if at.N == 3 {
			break
		}
	}
	stop()
	ended(t, ran)
	at := []string{"--log", s.kafka, "--store", s.store(s.schema), "--json"}
	if out := must(t, append(at, "unlogged")...); out != `{"partition":0,"unlogged":3,"first":1,"last":3,"logged":0}`+"\n" {
		t.Errorf("unlogged: %s", out)
	}
	if out := must(t, append(at, "unlogged", "--show")...); strings.Count(out, `"type":"till.put"`) != 3 {
		t.Errorf("unlogged --show: %s", out)
	}
	if out := must(t, append(at, "lag")...); !strings.Contains(out, `"decided":3,"logged":0`) {
		t.Errorf("lag: %s", out)
	}
	eng, err = engine.New(engine.Config{Service: till.Service(till.Variant{}), Log: log, Store: db.Store(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop = context.WithCancel(t.Context())
	go func() { ran <- eng.Run(ctx) }()
	if _, err := eng.Client().Do(ctx, deja.Request{Key: "a", Command: till.Put{Amount: 1}}); err != nil {
		t.Error(err)
	}
	stop()
	ended(t, ran)
	if out := must(t, append(at, "unlogged")...); out != `{"partition":0,"unlogged":0,"logged":4}`+"\n" {
		t.Errorf("unlogged: %s", out)
	}
}
