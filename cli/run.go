package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
)

// runFlags say how the service is run.
type runFlags struct {
	group, publish, health string
}

func (e *Env) runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the service, until it is told to stop",
		Long: `Run the service, until it is told to stop by SIGINT or SIGTERM: what is under way is then finished, and the partitions are
given back, so that other processes go on with them at once.

Any number of processes may run it on one store. They share the partitions by leases in the store or, with --group, as the
log's consumer group says. The inbox and the journal must be there on a Kafka cluster: see topics create.

With --health the address answers GET /health with the state of every partition: 200, or 503 if one is stalled or halted.
What happens is logged to the standard error, with --json as JSON. If all partitions halt, the exit code is 3.`,
		Example: e.examples(
			"run --log kafka://broker:9092 --store 'postgres://db/bank?schema=bank'",
			"run --group bank --publish bank.events --health 127.0.0.1:8081",
			"run --db "+e.defaultDB(),
		),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			context.AfterFunc(ctx, stop) // a second signal ends the program as ever
			return e.runService(ctx, &f)
		},
	}
	cmd.Flags().StringVar(&f.group, "group", "", "share the partitions as this consumer `GROUP` of the log says")
	cmd.Flags().StringVar(&f.publish, "publish", "", "put each event into this public `TOPIC`, too, as a CloudEvent")
	cmd.Flags().StringVar(&f.health, "health", "", "answer GET /health at this `ADDRESS`")
	return cmd
}

func (e *Env) runService(ctx context.Context, f *runFlags) (err error) {
	db, err := e.OpenWriter(ctx, true)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	if err := f.check(db); err != nil {
		return err
	}
	logger := e.serviceLogger()
	if err := e.refuseDangerous(ctx, db, logger); err != nil {
		return err
	}
	var listener net.Listener
	if f.health != "" {
		if listener, err = new(net.ListenConfig).Listen(ctx, "tcp", f.health); err != nil {
			return Usagef("--health: %w", err)
		}
		defer func() { _ = listener.Close() }() // the server has closed it, if it began
		logger.InfoContext(ctx, "health is answered", "address", "http://"+listener.Addr().String()+"/health")
	}
	cfg := e.config(db)
	cfg.Logger, cfg.Group, cfg.Publish = logger, f.group, f.publish
	return e.run(ctx, cfg, func(ctx context.Context, eng *engine.Engine) error {
		logger.InfoContext(ctx, "the service runs", "service", e.app.Service.Name, "on", db.at.String(), "partitions", db.Source.Partitions(), "build", engine.Build())
		if listener != nil {
			defer serveHealth(ctx, listener, eng, logger)()
		}
		<-ctx.Done()
		logger.InfoContext(ctx, "the service stops")
		return nil
	})
}

// check returns an error for what this log cannot do.
func (f *runFlags) check(db *Database) error {
	if _, ok := db.Log.(driver.Grouper); f.group != "" && !ok {
		return Usagef("--group: this log has no consumer groups; leave it out, and the partitions are shared by leases in the store")
	}
	if f.publish != "" && !db.at.servers() {
		return Usagef("--publish: a file has no public topics")
	}
	return nil
}

// refuseDangerous looks at the settings of the service's topics, and returns an error if the service must not run on them.
func (e *Env) refuseDangerous(ctx context.Context, db *Database, logger *slog.Logger) error {
	findings, err := e.findings(ctx, db)
	if err != nil {
		return err
	}
	for _, f := range findings {
		if f.Fatal {
			return fmt.Errorf("topic %s: %s is %s, and must be %s: %s; `%s` lists all that is wrong", f.Topic, f.Setting, f.Value, f.Want, f.Why, e.hint("topics check"))
		}
		logger.WarnContext(ctx, "a setting of the log is dangerous", "topic", f.Topic, "setting", f.Setting, "value", f.Value, "want", f.Want, "why", f.Why)
	}
	return nil
}

// serviceLogger logs what a service does.
func (e *Env) serviceLogger() *slog.Logger {
	opt := &slog.HandlerOptions{Level: slog.LevelInfo}
	if e.json {
		return slog.New(slog.NewJSONHandler(e.Stderr, opt))
	}
	return slog.New(slog.NewTextHandler(e.Stderr, opt))
}

// healthTime bounds the questions to log and store that an answer needs.
const healthTime = 5 * time.Second

// serveHealth answers GET /health until the function that it returns is called.
func serveHealth(ctx context.Context, l net.Listener, eng *engine.Engine, logger *slog.Logger) (stop func()) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), healthTime)
		defer cancel()
		answerHealth(ctx, w, eng)
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: healthTime, WriteTimeout: 2 * healthTime, MaxHeaderBytes: 16 << 10}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			logger.ErrorContext(ctx, "health is no longer answered", "error", err)
		}
	}()
	return func() {
		_ = srv.Close() // nobody waits for health while the service ends
		<-ended
	}
}

func answerHealth(ctx context.Context, w http.ResponseWriter, eng *engine.Engine) {
	h, err := eng.Health(ctx)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	var answer any = h
	switch {
	case err != nil:
		w.WriteHeader(http.StatusServiceUnavailable)
		answer = struct {
			Service string `json:"service"`
			Error   string `json:"error"`
		}{h.Service, redact(err.Error())}
	case !h.OK():
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(answer) // who asked may be gone
}
