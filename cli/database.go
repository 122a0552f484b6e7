package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/archive"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/kafka"
	"github.com/dejalog/deja/postgres"
	"github.com/dejalog/deja/replay"
	"github.com/dejalog/deja/sqlite"
)

// openTime is how long servers may take to answer at first.
const openTime = 20 * time.Second

// A Database is the service's log and store, open: a file, servers, or a log alone.
type Database struct {
	Log    driver.Log
	Store  driver.Store   // nil where there is a log alone
	Reader driver.Reader  // the store, or what the log alone tells
	Source *replay.Source // its history

	at     where
	shared bool                                 // a file with a store of the service's own name, beside others
	size   func(context.Context) (int64, error) // nil: nobody knows
	closes []func() error                       // in order of opening
}

// Close closes it.
func (db *Database) Close() error {
	var errs []error
	for i := range db.closes {
		errs = append(errs, db.closes[len(db.closes)-1-i]())
	}
	return errors.Join(errs...)
}

// CloseInto closes it and joins the error to err: for deferring.
func (db *Database) CloseInto(err *error) { *err = errors.Join(*err, db.Close()) }

// Open opens for reading what flags and environment name. It creates nothing, and works while other processes write.
func (e *Env) Open(ctx context.Context) (*Database, error) {
	w, err := e.where()
	if err != nil {
		return nil, err
	}
	return e.openReading(ctx, w)
}

// OpenReader opens the database at path, or the archive there, for reading.
func (e *Env) OpenReader(ctx context.Context, path string) (*Database, error) {
	return e.openReading(ctx, where{db: path})
}

func (e *Env) openReading(ctx context.Context, w where) (_ *Database, err error) {
	db := &Database{at: w}
	if err = e.connect(ctx, db, false); err == nil {
		err = e.ownStore(ctx, db)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if _, err = db.Log.Topic(ctx, wire.Journal(e.app.Service.Name)); errors.Is(err, driver.ErrNotFound) {
		e.Notef("%s: nothing was sent to the service %s in this database yet", w, e.app.Service.Name)
		db.Log = &readLog{db.Log}
	}
	if err := e.history(ctx, db); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if w.db != "" {
		if _, partial := os.Stat(w.db + partialSuffix); partial == nil {
			e.Notef("%s is a replay that is not finished: run the same replay again to go on", w.db)
		}
	}
	return db, e.noteTrimmed(ctx, db)
}

// ownStore sees to it that a store is the service's own: one that was named must be, and where a log has another service's
// beside it, there is none.
func (e *Env) ownStore(ctx context.Context, db *Database) error {
	if db.Store == nil {
		return nil
	}
	leases, err := db.Store.Leases(ctx)
	if err != nil || len(leases) == 0 || leases[0].Inbox.Name == wire.Inbox(e.app.Service.Name) {
		return err
	}
	if db.at.store != "" {
		return Usagef("the store is another service's: it is bound to %s, and this is the program of %s", leases[0].Inbox.Name, e.app.Service.Name)
	}
	e.Notef("note: the store in %s is another service's: it is bound to %s", db.at, leases[0].Inbox.Name)
	db.Store = nil
	return nil
}

// noteTrimmed says where a history begins that has lost its beginning.
func (e *Env) noteTrimmed(ctx context.Context, db *Database) error {
	for p := range db.Source.Partitions() {
		first, end, err := db.Log.Bounds(ctx, wire.Journal(e.app.Service.Name), p)
		if err != nil {
			return errors.Join(err, db.Close())
		}
		if first > 0 && first < end {
			e.Notef("note: %s begins at %s; what came before it is not there any more", db.at, e.position(wire.Journal, p, first))
		}
	}
	return nil
}

// OpenWriter opens what flags and environment name for writing, and creates a file or a store where it is missing if create
// says so. A file may be written by no other process meanwhile.
func (e *Env) OpenWriter(ctx context.Context, create bool) (*Database, error) {
	w, err := e.where()
	if err != nil {
		return nil, err
	}
	db := &Database{at: w}
	if !w.servers() {
		err = e.checkFile(w, create)
	} else if !create {
		err = e.checkStore(ctx, w)
	}
	if err == nil {
		err = e.connect(ctx, db, true)
	}
	if err == nil && db.Store == nil {
		err = Usagef("--store is missing: a log alone can be read, and nothing more")
	}
	if err == nil {
		err = e.history(ctx, db)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// checkFile returns an error if a file cannot be opened for writing.
func (e *Env) checkFile(w where, create bool) error {
	path := w.file()
	if k, err := kindOf(path); err != nil || k == anArchive {
		return Usagef("%s is an archive, which is never written but by `%s archive`", path, e.Program())
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && !create {
		return fmt.Errorf("open %s for writing: there is no database: %w", path, fs.ErrNotExist)
	}
	return nil
}

// file returns the path of a file or an archive.
func (w where) file() string {
	if w.db != "" {
		return pathOf(w.db)
	}
	return pathOf(w.log)
}

// checkStore returns an error if there is no store to write to. One of an older format is migrated when it is opened.
func (e *Env) checkStore(ctx context.Context, w where) error {
	dsn := w.store
	if w.db != "" {
		dsn = w.db
	}
	if dsn == "" {
		return nil
	}
	db, err := postgres.OpenReadOnly(ctx, dsn)
	switch {
	case errors.Is(err, postgres.ErrOlder):
		return nil
	case err != nil:
		return err
	}
	return db.Close()
}

// connect opens log and store.
func (e *Env) connect(ctx context.Context, db *Database, write bool) error {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	w := db.at
	if w.db != "" {
		w.log, w.store = w.db, w.db
	}
	k, err := kindOf(w.log)
	if err != nil {
		return err
	}
	switch k {
	case aFile:
		return e.connectFile(ctx, db, pathOf(w.log), write, w.store != "")
	case anArchive:
		return e.connectArchive(db, pathOf(w.log))
	case aPostgres:
		if db.Log, db.Store, err = db.postgres(ctx, w.log, write); err != nil || w.store == w.log {
			return err
		}
		db.Store = nil
	case aKafka:
		if err := db.kafka(ctx, w.log); err != nil {
			return err
		}
	}
	if w.store == "" {
		return nil
	}
	_, db.Store, err = db.postgres(ctx, w.store, write)
	return err
}

func (e *Env) connectFile(ctx context.Context, db *Database, path string, write, store bool) error {
	open := sqlite.OpenReadOnly
	if write {
		open = sqlite.Open
	}
	file, err := open(ctx, path)
	if err != nil {
		return err
	}
	db.closes = append(db.closes, file.Close)
	db.Log, db.size = file.Log(), file.Size
	services, err := file.Stores(ctx)
	db.shared = slices.Contains(services, e.app.Service.Name)
	if store && err == nil {
		db.Store, err = e.storeIn(ctx, file)
	}
	return err
}

// storeIn returns the service's store in a file: its own, if it has one there, else the store without a name.
func (e *Env) storeIn(ctx context.Context, file *sqlite.DB) (driver.Store, error) {
	services, err := file.Stores(ctx)
	if err != nil {
		return nil, err
	}
	if slices.Contains(services, e.app.Service.Name) {
		return file.StoreOf(e.app.Service.Name), nil
	}
	return file.Store(), nil
}

func (e *Env) connectArchive(db *Database, dir string) error {
	l, err := archive.Open(dir)
	if err != nil {
		return err
	}
	if l.Service() != e.app.Service.Name {
		return fmt.Errorf("%s is an archive of the service %s, not of %s", dir, l.Service(), e.app.Service.Name)
	}
	db.Log = l
	db.size = func(context.Context) (n int64, err error) {
		for _, p := range l.Parts() {
			n += p.Bytes
		}
		return n, nil
	}
	return nil
}

func (db *Database) postgres(ctx context.Context, dsn string, write bool) (driver.Log, driver.Store, error) {
	open := postgres.OpenReadOnly
	if write {
		open = postgres.Open
	}
	p, err := open(ctx, dsn)
	if err != nil {
		return nil, nil, err
	}
	db.closes = append(db.closes, p.Close)
	return p.Log(), p.Store(), nil
}

func (db *Database) kafka(ctx context.Context, address string) error {
	cfg, err := kafka.ParseURL(address)
	if err != nil {
		return Usagef("%w", err)
	}
	l, err := kafka.Open(ctx, cfg)
	if err != nil {
		return err
	}
	db.closes = append(db.closes, l.Close)
	db.Log = l
	return nil
}

// history opens the history of an open log.
func (e *Env) history(ctx context.Context, db *Database) (err error) {
	cfg := replay.Config{Service: e.app.Service, Log: db.Log}
	if db.Store != nil {
		cfg.Store = db.Store
	}
	if _, err := db.Log.Topic(ctx, wire.Inbox(e.app.Service.Name)); err != nil { // made first, where topics are made at their first use
		return err
	}
	if db.Source, err = replay.Open(ctx, cfg); err != nil {
		return err
	}
	if db.Reader = cfg.Store; db.Store == nil {
		db.Reader = db.Source.Recall()
	}
	return nil
}

// readLog is a log open for reading, to which a topic that nobody made yet is an empty one.
type readLog struct{ driver.Log }

// Topic implements [driver.Log].
func (l *readLog) Topic(ctx context.Context, name string) (driver.Topic, error) {
	t, err := l.Log.Topic(ctx, name)
	if errors.Is(err, driver.ErrNotFound) {
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
	rows, err := db.Reader.Load(ctx, []deja.Stream{s})
	if err != nil {
		return replay.KeyState{}, err
	}
	if len(rows) == 0 {
		rows = []driver.State{{Stream: s}}
	}
	return db.Source.StoredState(rows[0])
}

// progress returns how far each partition was handled.
func (db *Database) progress(ctx context.Context) ([]driver.Progress, error) {
	at := make([]driver.Progress, db.Source.Partitions())
	for p := range at {
		var err error
		if at[p], err = db.Reader.Progress(ctx, int32(p)); err != nil {
			return nil, err
		}
	}
	return at, nil
}

// StateHash returns the hash of all present states. The store should stand still.
func (e *Env) StateHash(ctx context.Context, db *Database) (replay.Hash, error) {
	return replay.HashStore(ctx, e.machine, db.Reader)
}

// Run runs the service on a database while fn runs, and stops it only then. The context given to fn ends with ctx, or
// if the service halts.
func (e *Env) Run(ctx context.Context, db *Database, fn func(context.Context, *engine.Engine) error) error {
	return e.run(ctx, e.config(db), fn)
}

// performers returns who performs the service's effects.
func (e *Env) performers() ([]deja.Performer, error) {
	if e.app.Effects == nil {
		return nil, nil
	}
	return e.app.Effects(e)
}

func (e *Env) run(ctx context.Context, cfg engine.Config, fn func(context.Context, *engine.Engine) error) (err error) {
	if cfg.Effects, err = e.performers(); err != nil {
		return err
	}
	eng, err := engine.New(cfg)
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
