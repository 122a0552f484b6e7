package cli

import (
	"context"
	"errors"
	"time"

	"github.com/dejalog/deja/postgres"
	"github.com/dejalog/deja/replay"
)

// intoScratch fills a scratch schema of a PostgreSQL database with a past, from the beginning or, if one is named, from a
// snapshot on.
func (e *Env) intoScratch(ctx context.Context, db *Database, dsn, from string, opt replay.Options) (a Replayed, err error) {
	began := time.Now()
	scratch, err := postgres.OpenScratch(ctx, dsn)
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, scratch.Close()) }()
	e.Notef("every connection writes as the role %s, which has no rights elsewhere", scratch.Role)
	target := replay.Target{Log: scratch.Log(), Store: scratch.Store()}
	if from != "" {
		if err := e.copySnapshot(ctx, from, target); err != nil {
			return a, err
		}
	}
	tell, end := e.Progress("replaying into " + redact(dsn))
	opt.Progress = tell
	cut, n, err := db.Source.Into(ctx, target, opt)
	end()
	if err == nil {
		e.notes(cut)
		a.Messages, a.Position = n, cut.String()
		a.StateHash, err = replay.HashStore(ctx, e.machine, target.Store)
	}
	if err == nil {
		err = scratch.Finish(ctx, a.StateHash.String())
	}
	if err != nil {
		e.Notef("%s is not finished: the same command goes on with it", redact(dsn))
		return a, err
	}
	a.Seconds = time.Since(began).Seconds()
	return a, nil
}

// copySnapshot fills a target with all that a snapshot has.
func (e *Env) copySnapshot(ctx context.Context, from string, target replay.Target) error {
	snapshot, closeIt, err := e.openSnapshot(ctx, from)
	if err != nil {
		return err
	}
	defer closeIt()
	if err := snapshot.Check(ctx, e.machine); err != nil {
		return err
	}
	src, err := replay.Open(ctx, replay.Config{Service: e.app.Service, Log: snapshot.Log, Store: snapshot.Store})
	if err != nil {
		return err
	}
	tell, end := e.Progress("copying " + from)
	_, _, err = src.Into(ctx, target, replay.Options{Progress: tell})
	end()
	return err
}
