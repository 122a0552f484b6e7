package docs_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/testenv"
	"github.com/dejalog/deja/kafka"
	"github.com/dejalog/deja/postgres"
)

func runOnServers(ctx context.Context, cluster kafka.Config, dsn string) error {
	log, err := kafka.Open(ctx, cluster) // kafka.Config{Brokers: …}
	if err != nil {
		return err
	}
	defer log.Close()
	db, err := postgres.Open(ctx, dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	eng, err := engine.New(engine.Config{Service: bank, Log: log, Store: db.Store()})
	if err != nil {
		return err
	}
	return eng.Run(ctx)
}

func TestTheServiceOfTheReadmeRunsOnServers(t *testing.T) {
	run := testenv.Unique("docs")
	cluster := kafka.Config{Brokers: testenv.Kafka(t), Topic: func(name string) string { return run + "." + name }}
	dsn := testenv.Postgres(t) + "&schema=" + run
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	log, err := kafka.Open(ctx, cluster)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if err := log.CreateTopics(ctx, kafka.TopicConfig{Name: "bank.inbox", Partitions: 2}, kafka.TopicConfig{Name: "bank.journal", Partitions: 2}); err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- runOnServers(running, cluster, dsn) }()
	defer func() {
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	db, err := postgres.Open(ctx, dsn) // a process that sends, and runs nothing
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	eng, err := engine.New(engine.Config{Service: bank, Log: log, Store: db.Store()})
	if err != nil {
		t.Fatal(err)
	}
	pay := deja.Request{ID: deja.NewID(), Key: "576", Command: Deposit{Amount: 100}}
	for _, duplicate := range []bool{false, true} {
		if out, err := eng.Client().Do(ctx, pay); err != nil || out.Version != 1 || out.Duplicate != duplicate {
			t.Errorf("told %+v, %v; want version 1, duplicate %t", out, err, duplicate)
		}
	}
	pay.Command = Deposit{Amount: 900}
	var conflict *deja.Conflict
	if _, err := eng.Client().Do(ctx, pay); !errors.As(err, &conflict) {
		t.Errorf("told %v, want a conflict", err)
	}
}
