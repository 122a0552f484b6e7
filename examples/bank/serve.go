package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/cli"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/examples/bank/account"
	"github.com/dejalog/deja/idempotency"
	"github.com/dejalog/deja/replay"
)

// shutdownTime is how long requests in flight may take when the server ends.
const shutdownTime = 15 * time.Second

func serveCommand(e *cli.Env) *cobra.Command {
	var addr string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the bank over HTTP",
		Long: `Serve the bank over HTTP, until it is interrupted:

  POST /accounts/{id}/deposits     {"amount": 100}, with an Idempotency-Key
  POST /accounts/{id}/withdrawals  the same
  GET  /accounts/{id}[?at=LOCATOR][&by=business]

Amounts are hellers. There is no login: it is an example.`,
		Example: `  bank serve --db bank.db --addr 127.0.0.1:8080
  curl -d '{"amount":100}' -H 'Idempotency-Key: "my-first"' localhost:8080/accounts/1/deposits`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), e, addr) },
	}
	cmd.Flags().StringVar(&addr, "addr", "127.0.0.1:8080", "the `ADDRESS` to listen on")
	return cmd
}

func serve(ctx context.Context, e *cli.Env, addr string) (err error) {
	db, err := e.OpenWriter(ctx, true)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return e.Run(ctx, db, func(ctx context.Context, eng *engine.Engine) error {
		srv := &http.Server{
			Handler:           routes(eng.Client(), db),
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       10 * time.Second,
			WriteTimeout:      30 * time.Second,
			IdleTimeout:       time.Minute,
			MaxHeaderBytes:    64 << 10,
		}
		e.Notef("serving %s on http://%s", e.DB(), l.Addr())
		ended := make(chan error, 1)
		go func() { ended <- srv.Serve(l) }()
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()
		e.Notef("stopping: requests in flight are answered first")
		return srv.Shutdown(ctx)
	})
}

// routes returns the bank's HTTP interface.
func routes(bank deja.Client, db *cli.Database) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /accounts/{id}/deposits", idempotency.Handler(bank, "deposit", func(r *http.Request) (deja.Request, error) {
		return request[account.Deposit](r)
	}))
	mux.Handle("POST /accounts/{id}/withdrawals", idempotency.Handler(bank, "withdrawal", func(r *http.Request) (deja.Request, error) {
		return request[account.Withdraw](r)
	}))
	mux.HandleFunc("GET /accounts/{id}", func(w http.ResponseWriter, r *http.Request) { getAccount(w, r, db) })
	return mux
}

// request makes a command of a request's body.
func request[C deja.Command](r *http.Request) (deja.Request, error) {
	var c C
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return deja.Request{}, err
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	// CheckPayload is stricter than encoding/json: a member twice, or text behind the value, is no amount of money.
	if err := cmp.Or(deja.CheckPayload("application/json", body), dec.Decode(&c)); err != nil {
		return deja.Request{}, fmt.Errorf(`the body: want {"amount": <hellers>}: %w`, err)
	}
	return deja.Request{Key: r.PathValue("id"), Command: c, Actor: "http"}, nil
}

// getAccount tells an account's state, now or at any moment. One of the past is folded for the request.
func getAccount(w http.ResponseWriter, r *http.Request, db *cli.Database) {
	s := deja.Stream{Aggregate: "account", Key: r.PathValue("id")}
	k, err := stateAt(r.Context(), db, s, r.FormValue("at"), r.FormValue("by"))
	bad, isBad := errors.AsType[*badRequest](err)
	switch {
	case isBad:
		http.Error(w, bad.Error(), http.StatusBadRequest)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(cli.StateOf(k)) // the client may be gone
	}
}

// badRequest is the client's fault.
type badRequest struct{ error }

func stateAt(ctx context.Context, db *cli.Database, s deja.Stream, at, by string) (k replay.KeyState, err error) {
	if err := s.Valid(); err != nil {
		return k, &badRequest{err}
	}
	if at == "" {
		return db.Present(ctx, s)
	}
	opt := replay.Options{Match: func(other deja.Stream) bool { return other == s }}
	if opt.To, err = replay.ParseLocator(at); err != nil {
		return k, &badRequest{err}
	}
	switch by {
	case "", "decided":
	case "business":
		opt.By = replay.Business
	default:
		return k, &badRequest{fmt.Errorf("by=%s: want business or decided", by)}
	}
	past, err := db.Source.Fold(ctx, opt)
	if errors.Is(err, replay.ErrNotFound) {
		return k, &badRequest{err}
	}
	if err != nil {
		return k, err
	}
	return past.State(s)
}
