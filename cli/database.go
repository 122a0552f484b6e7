package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/replay"
	"github.com/dejalog/deja/sqlite"
)

// partition is the only one of an embedded log.
const partition = 0

// A Database is the service's file, open.
type Database struct {
	Log    driver.Log
	Store  driver.Store
	Source *replay.Source // its history

	file *sqlite.DB
}

// Close closes the file.
func (db *Database) Close() error { return db.file.Close() }

// CloseInto closes the file and joins the error to err: for deferring.
func (db *Database) CloseInto(err *error) { *err = errors.Join(*err, db.Close()) }

// OpenReader opens the database at path for reading: most often [Env.DB]. It creates nothing, and works while another
// process writes.
func (e *Env) OpenReader(ctx context.Context, path string) (*Database, error) {
	file, err := sqlite.OpenReadOnly(ctx, path)
	if err != nil {
		return nil, err
	}
	log := &readLog{Log: file.Log()}
	db, err := e.database(ctx, file, log)
	if err == nil && log.missing {
		e.Notef("%s: nothing was sent to the service %s in this database yet", path, e.app.Service.Name)
	}
	if err == nil {
		if _, partial := os.Stat(path + partialSuffix); partial == nil {
			e.Notef("%s is a replay that is not finished: run the same replay again to go on", path)
		}
	}
	return db, err
}

// OpenWriter opens the database for writing, and creates it where it is missing if create says so. No other process
// may write it meanwhile.
func (e *Env) OpenWriter(ctx context.Context, create bool) (*Database, error) {
	path := e.DB()
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && !create {
		return nil, fmt.Errorf("open %s for writing: there is no database: %w", path, fs.ErrNotExist)
	}
	file, err := sqlite.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	return e.database(ctx, file, file.Log())
}

// database makes a database of an open file, which it closes if that fails.
func (e *Env) database(ctx context.Context, file *sqlite.DB, log driver.Log) (*Database, error) {
	db := &Database{Log: log, Store: file.Store(), file: file}
	var err error
	db.Source, err = replay.Open(ctx, replay.Config{Service: e.app.Service, Log: log, Store: db.Store})
	if err == nil {
		_, err = log.Topic(ctx, wire.Inbox(e.app.Service.Name))
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return db, nil
}

// readLog is a log open for reading, to which a topic that nobody made yet is an empty one.
type readLog struct {
	driver.Log
	missing bool
}

// Topic implements [driver.Log].
func (l *readLog) Topic(ctx context.Context, name string) (driver.Topic, error) {
	t, err := l.Log.Topic(ctx, name)
	if errors.Is(err, driver.ErrNotFound) {
		l.missing = true
		return driver.Topic{Name: name, Partitions: 1}, nil
	}
	return t, err
}

// Bounds implements [driver.Log].
func (l *readLog) Bounds(ctx context.Context, topic string, p int32) (first, end int64, err error) {
	first, end, err = l.Log.Bounds(ctx, topic, p)
	if errors.Is(err, driver.ErrNotFound) {
		return 0, 0, nil
	}
	return first, end, err
}

// Present returns the state of a stream as the store has it.
func (db *Database) Present(ctx context.Context, s deja.Stream) (replay.KeyState, error) {
	rows, err := db.Store.Load(ctx, []deja.Stream{s})
	if err != nil {
		return replay.KeyState{}, err
	}
	if len(rows) == 0 {
		rows = []driver.State{{Stream: s}}
	}
	return db.Source.StoredState(rows[0])
}

// StateHash returns the hash of all present states. The store should stand still.
func (e *Env) StateHash(ctx context.Context, db *Database) (replay.Hash, error) {
	return replay.HashStore(ctx, e.machine, db.Store)
}

// Run runs the service on a database while fn runs, and stops it only then. The context given to fn ends with ctx, or
// if the service halts.
func (e *Env) Run(ctx context.Context, db *Database, fn func(context.Context, *engine.Engine) error) error {
	eng, err := engine.New(engine.Config{Service: e.app.Service, Log: db.Log, Store: db.Store, Logger: e.logger()})
	if err != nil {
		return err
	}
	fnCtx, stopFn := context.WithCancelCause(ctx)
	defer stopFn(nil)
	engCtx, stopEngine := context.WithCancel(context.WithoutCancel(ctx))
	defer stopEngine()
	ran := make(chan error, 1)
	go func() {
		err := eng.Run(engCtx)
		stopFn(err)
		ran <- err
	}()
	err = fn(fnCtx, eng)
	stopEngine()
	if stopped := <-ran; !errors.Is(stopped, context.Canceled) {
		return stopped
	}
	return err
}

// logger logs what the engine has to warn of.
func (e *Env) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(e.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}
