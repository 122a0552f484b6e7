// Boxoffice is the service of docs/first-service.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/signal"
	"strings"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/cli"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/idempotency"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	app := cli.App{Service: service(), Short: "A box office", Bare: serve} // with every command of cli
	code := app.Main(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr, os.Getenv)
	stop()
	os.Exit(code)
}

func serve(ctx context.Context, e *cli.Env) error {
	db, err := e.OpenWriter(ctx, true)
	if err != nil {
		return err
	}
	err = e.Run(ctx, db, func(ctx context.Context, eng *engine.Engine) error {
		srv := &http.Server{Addr: "127.0.0.1:8081", Handler: idempotency.Handler(eng.Client(), "sale", sale)}
		context.AfterFunc(ctx, func() { _ = srv.Shutdown(context.WithoutCancel(ctx)) })
		if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return errors.Join(err, db.Close())
}

func sale(r *http.Request) (deja.Request, error) { // POST /<show>
	var c Sell
	err := json.NewDecoder(r.Body).Decode(&c)
	return deja.Request{Key: strings.TrimPrefix(r.URL.Path, "/"), Command: c}, err // Actor: who is logged in
}
