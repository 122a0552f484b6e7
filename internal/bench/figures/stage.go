package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/remit"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/kafka"
	"github.com/dejalog/deja/postgres"
)

// stage is a fresh pair of topics, and a fresh schema.
type stage struct {
	b      *bench
	run    string // in the names of both
	log    *kafka.Log
	schema string
}

func (b *bench) stage(ctx context.Context) (*stage, error) {
	run := "b" + runID()
	s := &stage{b: b, run: run, schema: "deja_" + run}
	log, err := openLog(ctx, b.set.kafka, run)
	if err != nil {
		return nil, err
	}
	s.log = log
	b.schemas = append(b.schemas, s.schema)
	return s, log.CreateTopics(ctx,
		kafka.TopicConfig{Name: wire.Inbox(name), Partitions: partitions, Replication: 1},
		kafka.TopicConfig{Name: wire.Journal(name), Partitions: partitions, Replication: 1})
}

func runID() string { return strings.ReplaceAll(deja.NewID().String(), "-", "")[8:20] }

func openLog(ctx context.Context, brokers, run string) (*kafka.Log, error) {
	return kafka.Open(ctx, kafka.Config{Brokers: strings.Split(brokers, ","), Topic: func(topic string) string { return run + "." + topic }})
}

// dsn returns the address of the stage's schema.
func (s *stage) dsn() string { return withSchema(s.b.set.postgres, s.schema) }

func withSchema(dsn, schema string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		return dsn
	}
	q := u.Query()
	q.Set("schema", schema)
	u.RawQuery = q.Encode()
	return u.String()
}

// close ends the use of the stage; what it made goes in the end.
func (s *stage) close() { _ = s.log.Close() }

// cleanUp drops the schemas and databases. The topics are left to the broker, which is a test's.
func (b *bench) cleanUp() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, b.set.postgres)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, schema := range b.schemas {
		if _, err := conn.Exec(ctx, "DROP SCHEMA IF EXISTS "+pgx.Identifier{schema}.Sanitize()+" CASCADE"); err != nil {
			b.notef("schema %s is left behind: %v", schema, err)
		}
	}
	for _, database := range b.databases {
		if _, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{database}.Sanitize()+" WITH (FORCE)"); err != nil {
			b.notef("database %s is left behind: %v", database, err)
		}
	}
	b.schemas, b.databases = nil, nil
}

// fill sends n deposits, every so many-th twice, and returns how many records that makes.
func (s *stage) fill(ctx context.Context, n int, id func() deja.ID) (int, error) {
	eng, err := engine.New(engine.Config{Service: service(false), Log: s.log, Store: noStore{}})
	if err != nil {
		return 0, err
	}
	return s.sendTo(ctx, eng.Client(), n, id)
}

// sendTo sends n deposits to a client.
func (s *stage) sendTo(ctx context.Context, client deja.Client, n int, id func() deja.ID) (int, error) {
	const chunk = 5000
	rs := make([]deja.Request, 0, chunk+1)
	sent := 0
	for i := range n {
		r := request(i, id())
		rs = append(rs, r)
		if i%again == 0 {
			rs = append(rs, r)
		}
		if len(rs) >= chunk || i == n-1 {
			if _, err := client.Send(ctx, rs...); err != nil {
				return sent, err
			}
			sent += len(rs)
			rs = rs[:0]
		}
	}
	return sent, nil
}

// noStore stands for the store of a process that only sends.
type noStore struct{ driver.Store }

// logged waits until the journal has n decisions. It does not ask often: it shares the machine with what is measured.
func (s *stage) logged(ctx context.Context, n int, w *process) error {
	for {
		have, err := s.decisions(ctx)
		if err != nil || have >= n {
			return err
		}
		select {
		case <-time.After(25 * time.Millisecond):
		case <-w.done:
			return fmt.Errorf("the worker ended: %w", w.err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// decisions returns how many records the journal has.
func (s *stage) decisions(ctx context.Context) (sum int, err error) {
	for p := range int32(partitions) {
		_, end, err := s.log.Bounds(ctx, wire.Journal(name), p)
		if err != nil {
			return 0, err
		}
		sum += int(end)
	}
	return sum, nil
}

// check compares the store with the oracle.
func (s *stage) check(ctx context.Context, n int) error {
	db, err := postgres.OpenReadOnly(ctx, s.dsn())
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	return checkStore(ctx, db.Store(), n)
}

func checkStore(ctx context.Context, store driver.Reader, n int) error {
	want, after := balances(n), deja.Stream{}
	for seen := 0; ; {
		rows, err := store.States(ctx, after, 1000)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			if seen != len(want) {
				return fmt.Errorf("there are %d accounts, the oracle has %d", seen, len(want))
			}
			return nil
		}
		for _, row := range rows {
			var a account
			if err := json.Unmarshal(row.Data, &a); err != nil {
				return err
			}
			if w := want[row.Stream.Key]; a.Balance != w.Balance || a.Count != w.Count {
				return fmt.Errorf("account %s has %+v, the oracle %+v", row.Stream.Key, a, w)
			}
			after = row.Stream
			seen++
		}
	}
}

// process is a worker: a process of its own, so that its memory and CPU time are its own.
type process struct {
	cmd  *exec.Cmd
	out  *bytes.Buffer
	done chan struct{}
	err  error
}

const workerCommand = "worker"

// job says what a worker does; it is passed on as JSON.
type job struct {
	Service                  string // one of those that move money; else the one of all other parts
	Kafka, Run, DSN, Profile string
	Projection               bool
}

// start starts a worker.
func (s *stage) start(ctx context.Context, projection bool, profile string) (*process, error) {
	return start(ctx, job{Kafka: s.b.set.kafka, Run: s.run, DSN: s.dsn(), Profile: profile, Projection: projection})
}

func start(ctx context.Context, j job) (*process, error) {
	arg, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.CommandContext(ctx, self, workerCommand, string(arg)), out: &bytes.Buffer{}, done: make(chan struct{})}
	p.cmd.Stderr = os.Stderr
	p.cmd.Stdout = p.out
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

// used is what a worker needed.
type used struct {
	CPU   float64 // seconds
	MaxMB float64 // resident
}

// stop asks a worker to end, and returns what it needed.
func (p *process) stop() (used, error) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.done
	var u used
	if p.err != nil {
		return u, fmt.Errorf("worker: %w", p.err)
	}
	err := json.NewDecoder(p.out).Decode(&u)
	return u, err
}

// kill ends a worker as a crash does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// worker is the main function of a worker.
func worker(args []string) int {
	if err := work(args[0]); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		return 1
	}
	return 0
}

func work(arg string) error {
	var j job
	if err := json.Unmarshal([]byte(arg), &j); err != nil {
		return err
	}
	ctx, stop := signalContext()
	defer stop()
	if j.Profile != "" {
		f, err := os.Create(j.Profile)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	log, err := openLog(ctx, j.Kafka, j.Run)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	db, err := postgres.Open(ctx, j.DSN)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	cfg := engine.Config{Service: service(j.Projection)}
	if j.Service != "" {
		cfg = pairConfig(j.Service, func(_ context.Context, key deja.ID, _ remit.Mail) (string, error) { return key.String(), nil })
	}
	cfg.Log, cfg.Store, cfg.Logger = log, db.Store(), slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	eng, err := engine.New(cfg)
	if err != nil {
		return err
	}
	if err := eng.Run(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	cpu, err := cpuSeconds()
	if err != nil {
		return err
	}
	most, err := maxResident()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(used{cpu, most / 1024})
}

// cpuSeconds returns the CPU time that this process has used.
func cpuSeconds() (float64, error) {
	var ru syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano()).Seconds(), err
}

// maxResident returns the most memory that this program had resident, in KiB. What getrusage tells is also what the process
// had before it became this program: the memory of the one that started it.
func maxResident() (kib float64, err error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("the memory of a worker is measured on Linux alone: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			return strconv.ParseFloat(strings.Fields(rest)[0], 64)
		}
	}
	return 0, errors.New("/proc/self/status has no VmHWM")
}
