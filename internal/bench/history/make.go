package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/examples/bank/account"
	"github.com/dejalog/deja/sqlite"
)

const (
	chunk  = 1_000  // messages a call of Send
	hotKey = "hot"  // the one key with many messages
	hot    = 10_000 // of it
)

// create makes a database with the history of so many messages, unless it is there already; the service itself decides them.
func create(ctx context.Context, path string, svc *deja.Service, messages int, message func(i int) deja.Request) (err error) {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	left, err := filepath.Glob(path + ".part*") // of a run that was interrupted
	if err != nil {
		return err
	}
	for _, name := range left {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	db, err := sqlite.Open(ctx, path+".part")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	eng, err := engine.New(engine.Config{Service: svc, Log: db.Log(), Store: db.Store(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	run, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- eng.Run(run) }()
	err = send(ctx, eng.Client(), messages, message)
	for err == nil {
		at, failed := db.Store().Progress(ctx, 0)
		if err = failed; at.Position >= int64(messages) {
			break
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case err = <-done:
		}
	}
	stop()
	if err != nil {
		return err
	}
	if err := <-done; !errors.Is(err, context.Canceled) {
		return err
	}
	if err := db.Close(); err != nil { // a second time does no harm
		return err
	}
	return errors.Join(os.Rename(path+".part", path), os.Rename(path+".part.lock", path+".lock"))
}

func send(ctx context.Context, client deja.Client, messages int, message func(i int) deja.Request) error {
	batch := make([]deja.Request, 0, chunk)
	for i := range messages {
		batch = append(batch, message(i))
		if len(batch) == chunk || i == messages-1 {
			if _, err := client.Send(ctx, batch...); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	return nil
}

// transfers returns transactions of the bank. All but those of one key are spread over the keys, and every other one has a
// random ID, the rest have time-ordered ones.
func transfers(messages, keys int) func(i int) deja.Request {
	day := time.Date(1993, 1, 1, 0, 0, 0, 0, time.UTC)
	symbols := []string{"household", "statement_fee", "interest", "pension", "insurance", "loan"}
	every := messages / min(hot, messages/10)
	return func(i int) deja.Request {
		key := fmt.Sprint(1 + i*7919%keys)
		if i%every == 0 {
			key = hotKey
		}
		c := account.Enter{
			Transaction: int64(i + 1), Direction: account.Credit, Amount: int64(i*31%90_000 + 100), Balance: int64(i * 17 % 5_000_000),
			Operation: "transfer_in", Symbol: symbols[i%len(symbols)],
		}
		if i%3 == 0 {
			c.Direction, c.Operation = account.Debit, "cash_withdrawal"
		}
		id := deja.NewID()
		if i%2 == 0 {
			id = v4()
		}
		at := day.Add(time.Duration(i) * 24 * time.Hour * 2190 / time.Duration(messages)).Truncate(24 * time.Hour)
		return deja.Request{ID: id, Key: key, Command: c, BusinessTime: at}
	}
}

// v4 returns a random UUID, as most clients send.
func v4() (id deja.ID) {
	_, _ = rand.Read(id[:]) // never fails
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}
