package docs_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/testenv"
	"github.com/dejalog/deja/postgres"
)

// onPostgres runs a service with log and store in one schema.
func onPostgres(ctx context.Context, service *deja.Service, dsn string) error {
	db, err := postgres.Open(ctx, dsn) // postgres://bank@db.internal/bank?sslmode=verify-full&schema=bank
	if err != nil {
		return err
	}
	defer db.Close()
	e, err := engine.New(engine.Config{Service: service, Log: db.Log(), Store: db.Store()})
	if err != nil {
		return err
	}
	return e.Run(ctx)
}

// placeOrder stores an order and sends a command, both or neither. The connection may be any on the same database.
func placeOrder(ctx context.Context, conn *pgx.Conn, db *postgres.DB, e *engine.Engine, order string, command deja.Command) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO orders (id) VALUES ($1)", order); err != nil {
			return err
		}
		_, err := db.SendTx(ctx, tx, e, deja.Request{Key: order, Command: command})
		return err
	})
}

// What docs/postgres.md shows does what it says.
func TestThePageOnPostgres(t *testing.T) {
	schema := testenv.Unique("docs")
	dsn := testenv.Postgres(t) + "&schema=" + schema
	conn, err := pgx.Connect(t.Context(), testenv.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	defer func() {
		if _, err := conn.Exec(context.Background(), "DROP SCHEMA IF EXISTS "+schema+" CASCADE"); err != nil {
			t.Error(err)
		}
	}()
	db, err := postgres.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() {
		if err := onPostgres(ctx, bank, dsn); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	e, err := engine.New(engine.Config{Service: bank, Log: db.Log(), Store: db.Store()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, "SET search_path = "+schema+"; CREATE TABLE orders (id text PRIMARY KEY)"); err != nil {
		t.Fatal(err)
	}
	for i, refused := range []bool{false, true} { // the second time the order is there
		if err := placeOrder(ctx, conn, db, e, "42", Deposit{Amount: 100}); (err != nil) != refused {
			t.Fatalf("order %d: error %v", i, err)
		}
	}
	var a Account
	for version := int64(0); version == 0; time.Sleep(10 * time.Millisecond) {
		if version, err = e.Client().State(ctx, deja.Stream{Aggregate: "account", Key: "42"}, &a); err != nil {
			t.Fatal(err)
		}
	}
	if a.Balance != 100 {
		t.Errorf("the balance is %d", a.Balance)
	}
}
