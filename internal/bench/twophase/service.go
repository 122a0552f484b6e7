package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/examples/transfers/accounts"
	"github.com/dejalog/deja/examples/transfers/ledger"
	"github.com/dejalog/deja/examples/transfers/receipt"
	"github.com/dejalog/deja/kafka"
	"github.com/dejalog/deja/postgres"
)

// services says where the two services of the transfers example are: on a Kafka, and each on a database of its own.
type services struct {
	Kafka     string    `json:"kafka"`
	Databases databases `json:"databases"`
	Dir       string    `json:"dir"` // of the receipts, and of what the services' processes say
}

const partitions = 4 // of each topic

func (s *services) openLog(ctx context.Context) (*kafka.Log, error) {
	return kafka.Open(ctx, kafka.Config{
		Brokers: strings.Split(s.Kafka, ","),
		Topic:   func(name string) string { return "twophase." + s.Databases.Run + "." + name },
	})
}

// openStore opens the store of a service.
func (s *services) openStore(ctx context.Context, service string) (*postgres.DB, error) {
	database := s.Databases.first()
	if service == ledger.Name {
		database = s.Databases.second()
	}
	dsn, err := s.Databases.dsn(database)
	if err != nil {
		return nil, err
	}
	return postgres.Open(ctx, dsn)
}

// serviceCommand is the hidden command of a service's process.
const serviceCommand = "service"

// serviceJob is what a service's process is to do.
type serviceJob struct {
	services
	Service string `json:"service"`
}

// start starts the process of a service.
func (s *services) start(ctx context.Context, service string) (*child, error) {
	return startChild(ctx, serviceCommand, serviceJob{*s, service})
}

// serve is the main function of a service's process: it runs until whoever started it is gone, or kills it.
func serve(stdin io.Reader) (err error) {
	var j serviceJob
	alone, err := takeJob(stdin, &j)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-alone
		cancel()
	}()
	said, err := os.OpenFile(filepath.Join(j.Dir, j.Service+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, said.Close()) }()
	log, err := j.openLog(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	db, err := j.openStore(ctx, j.Service)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	cfg := engine.Config{Service: ledger.Service(), Log: log, Store: db.Store(), Logger: slog.New(slog.NewTextHandler(said, nil))}
	if j.Service == accounts.Name {
		provider, err := receipt.Open(filepath.Join(j.Dir, "receipts.jsonl"), receipt.Faults{})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, provider.Close()) }()
		cfg.Service, cfg.Peers, cfg.Effects = accounts.Service(), accounts.Peers(), []deja.Performer{receipt.Performer(provider)}
	}
	e, err := engine.New(cfg)
	if err != nil {
		return err
	}
	if err := e.Run(ctx); ctx.Err() == nil {
		return fmt.Errorf("service %s: %w", j.Service, err)
	}
	return nil
}
