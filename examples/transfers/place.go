package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/examples/transfers/accounts"
	"github.com/dejalog/deja/examples/transfers/ledger"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/kafka"
	"github.com/dejalog/deja/postgres"
	"github.com/dejalog/deja/sqlite"
)

// place is where a run has its log, its stores and its receipts.
type place struct {
	dir                   string
	log, accounts, ledger string // addresses of servers; none: all is in one file
}

// Environment variables by which processes find the servers: arguments can be seen by everybody.
const (
	logVariable      = "DEJA_LOG"
	storeVariable    = "DEJA_STORE" // of a server, for the databases to be made
	accountsVariable = "DEJA_ACCOUNTS_STORE"
	ledgerVariable   = "DEJA_LEDGER_STORE"
)

// receiptsVariable names the provider's file to a service's program.
const receiptsVariable = "DEJA_RECEIPTS"

// receiptsFile is the name of the provider's file.
const receiptsFile = "receipts.jsonl"

func (p *place) file() string     { return filepath.Join(p.dir, "transfers.db") }
func (p *place) receipts() string { return filepath.Join(p.dir, receiptsFile) }

// settings is a file for a shell: with it a service's program finds what a run has left on servers.
func (p *place) settings(service string) string { return filepath.Join(p.dir, service+".env") }

// writeSettings writes a file of settings for each service. There are passwords in them.
func (p *place) writeSettings() error {
	for service, store := range map[string]string{accounts.Name: p.accounts, ledger.Name: p.ledger} {
		text := ""
		for _, v := range [][2]string{{logVariable, p.log}, {storeVariable, store}, {receiptsVariable, p.receipts()}} {
			text += fmt.Sprintf("export %s='%s'\n", v[0], strings.ReplaceAll(v[1], "'", `'\''`))
		}
		if err := os.WriteFile(p.settings(service), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// howToLook says how to look into what a run has left.
func (p *place) howToLook() string {
	if p.servers() {
		return fmt.Sprintf("to look into it: . %s, and then transfers accounts COMMAND; or the same with ledger", p.settings(accounts.Name))
	}
	return fmt.Sprintf("to look into it: transfers accounts COMMAND --db %s, or transfers ledger …", p.file())
}

// servers reports whether the run is on servers, with a process for each service.
func (p *place) servers() bool { return p.log != "" }

// environment returns what a worker process is to find.
func (p *place) environment() []string {
	return []string{logVariable + "=" + p.log, accountsVariable + "=" + p.accounts, ledgerVariable + "=" + p.ledger}
}

// opened is a place that is open.
type opened struct {
	log              driver.Log
	accounts, ledger driver.Store
	closes           []func() error
}

// Close closes it.
func (o *opened) Close() error {
	var errs []error
	for i := range o.closes {
		errs = append(errs, o.closes[len(o.closes)-1-i]())
	}
	return errors.Join(errs...)
}

// open opens the place for writing or, beside others that do, for reading.
func (p *place) open(ctx context.Context, write bool) (*opened, error) {
	o := &opened{}
	err := o.open(ctx, p, write)
	if err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

func (o *opened) open(ctx context.Context, p *place, write bool) error {
	if !p.servers() {
		open := sqlite.OpenReadOnly
		if write {
			open = sqlite.Open
		}
		db, err := open(ctx, p.file())
		if err != nil {
			return err
		}
		o.closes = append(o.closes, db.Close)
		o.log, o.accounts, o.ledger = db.Log(), db.StoreOf(accounts.Name), db.StoreOf(ledger.Name)
		return nil
	}
	cfg, err := kafka.ParseURL(p.log)
	if err != nil {
		return err
	}
	log, err := kafka.Open(ctx, cfg)
	if err != nil {
		return err
	}
	o.log, o.closes = log, append(o.closes, log.Close)
	if o.accounts, err = o.store(ctx, p.accounts, write); err != nil {
		return err
	}
	o.ledger, err = o.store(ctx, p.ledger, write)
	return err
}

func (o *opened) store(ctx context.Context, dsn string, write bool) (driver.Store, error) {
	open := postgres.OpenReadOnly
	if write {
		open = postgres.Open
	}
	db, err := open(ctx, dsn)
	if err != nil {
		return nil, err
	}
	o.closes = append(o.closes, db.Close)
	return db.Store(), nil
}

// partitionsOnKafka is how many each topic there has.
const partitionsOnKafka = 4

// partitions returns how many each topic has.
func (p *place) partitions() int {
	if p.servers() {
		return partitionsOnKafka
	}
	return 1
}

// make makes the topics, and a database for each service, named after the run.
func (p *place) make(ctx context.Context, server, run string) (err error) {
	cfg, err := kafka.ParseURL(p.log)
	if err != nil {
		return err
	}
	log, err := kafka.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	var topics []kafka.TopicConfig
	for _, service := range []string{accounts.Name, ledger.Name} {
		for _, topic := range []string{wire.Inbox(service), wire.Journal(service)} {
			topics = append(topics, kafka.TopicConfig{Name: topic, Partitions: partitionsOnKafka, Replication: 1})
		}
	}
	if err := log.CreateTopics(ctx, topics...); err != nil {
		return err
	}
	p.accounts, p.ledger, err = databases(ctx, server, run)
	return err
}

// databases makes two databases on a server, and returns their addresses.
func databases(ctx context.Context, server, run string) (accountsDSN, ledgerDSN string, err error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" && u.RawQuery == "" {
		return "", "", fmt.Errorf("%s: want postgres://HOST/DATABASE", storeVariable)
	}
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	var dsns [2]string
	for i, service := range []string{accounts.Name, ledger.Name} {
		name := run + "_" + service
		if _, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
			return "", "", fmt.Errorf("database %s: %w", name, err)
		}
		at := *u
		at.Path = "/" + name
		dsns[i] = at.String()
	}
	return dsns[0], dsns[1], nil
}
