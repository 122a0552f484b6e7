package oracle_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/examples/bank/berka"
	"github.com/dejalog/deja/examples/bank/service"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/testenv"
	"github.com/dejalog/deja/kafka"
	"github.com/dejalog/deja/postgres"
	"github.com/dejalog/deja/replay"
	"github.com/dejalog/deja/sqlite"
)

// The service's topics, as deja calls them.
const inboxTopic, journalTopic = service.Name + ".inbox", service.Name + ".journal"

// machine is the bank, compiled.
var machine = sync.OnceValues(func() (*deja.Machine, error) { return deja.Compile(service.Service()) })

// servers are topics and a schema of a test's own, on real servers.
type servers struct {
	brokers    []string
	prefix     string // of the topics
	dsn        string // of the database
	schema     string
	partitions int32
}

// newServers makes the topics. The schema is made by the first worker.
func newServers(t *testing.T, partitions int) *servers {
	t.Helper()
	name := testenv.Unique("oracle")
	s := &servers{
		brokers: testenv.Kafka(t), prefix: name + ".", dsn: testenv.Postgres(t), schema: name, partitions: int32(partitions),
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := s.exec(ctx, "DROP SCHEMA IF EXISTS "+s.schema+" CASCADE"); err != nil {
			t.Error(err)
		}
		adm := s.admin(t)
		defer adm.Close()
		_, _ = adm.DeleteTopics(ctx, s.prefix+inboxTopic, s.prefix+journalTopic) // some test has done so itself
	})
	s.createTopics(t)
	return s
}

func (s *servers) createTopics(t *testing.T) {
	t.Helper()
	ok(t, s.bank(t, "topics", "create", "--partitions", fmt.Sprint(s.partitions)))
}

func (s *servers) logURL() string {
	return "kafka://" + strings.Join(s.brokers, ",") + "?prefix=" + s.prefix
}

func (s *servers) storeURL() string {
	return testenv.With(s.dsn, "schema", s.schema)
}

// env is where the program finds log and store: a command line would show the password.
func (s *servers) env() []string {
	return environment("DEJA_LOG="+s.logURL(), "DEJA_STORE="+s.storeURL())
}

// logAlone is where the program finds the log, and no store.
func (s *servers) logAlone() []string { return environment("DEJA_LOG=" + s.logURL()) }

// environment is this process's, without what it says of deja.
func environment(more ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "DEJA_") })
	return append(env, more...)
}

// runIn runs the program with an environment of its own.
func runIn(t *testing.T, env []string, args ...string) reply {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), get(t, program), args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &errs, env
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return reply{args, cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// bank runs the program on the servers.
func (s *servers) bank(t *testing.T, args ...string) reply {
	t.Helper()
	return runIn(t, s.env(), args...)
}

// exec runs a statement as the tests' administrator.
func (s *servers) exec(ctx context.Context, sql string, args ...any) error {
	return s.query(ctx, nil, sql, args...)
}

// query runs one, and calls row with each of its rows.
func (s *servers) query(ctx context.Context, row func(pgx.Rows) error, sql string, args ...any) error {
	c, err := pgx.Connect(ctx, s.dsn)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	rows, err := c.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if row != nil {
			if err := row(rows); err != nil {
				return err
			}
		}
	}
	return rows.Err()
}

// admin administers the brokers. Close it.
func (s *servers) admin(t *testing.T) *kadm.Client {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...), kgo.MetadataMinAge(50*time.Millisecond))
	must(t, err)
	return kadm.NewClient(cl)
}

// trim deletes a topic's records before an offset.
func (s *servers) trim(t *testing.T, topic string, partition int32, first int64) {
	t.Helper()
	adm := s.admin(t)
	defer adm.Close()
	to := kadm.Offsets{}
	to.AddOffset(s.prefix+topic, partition, first, -1)
	rs, err := adm.DeleteRecords(t.Context(), to)
	must(t, errors.Join(err, rs.Error()))
}

// log opens the log. It is closed with the test.
func (s *servers) log(t *testing.T) *kafka.Log {
	t.Helper()
	cfg, err := kafka.ParseURL(s.logURL())
	must(t, err)
	l, err := kafka.Open(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// store opens the store to look at it.
func (s *servers) store(ctx context.Context, look func(driver.Reader) error) error {
	db, err := postgres.OpenReadOnly(ctx, s.storeURL())
	if err != nil {
		return err
	}
	return errors.Join(look(db.Store()), db.Close())
}

// hash returns the hash of the store's states.
func (s *servers) hash(t *testing.T) string {
	t.Helper()
	var h replay.Hash
	must(t, s.store(t.Context(), func(r driver.Reader) (err error) {
		h, err = replay.HashStore(t.Context(), get(t, machine), r)
		return err
	}))
	return h.String()
}

// leases returns the partitions' leases; nil while there is no store.
func (s *servers) leases(ctx context.Context) (ls []driver.Lease) {
	_ = s.store(ctx, func(r driver.Reader) (err error) {
		ls, err = r.Leases(ctx)
		return err
	})
	return ls
}

// handled returns how many offsets of the inbox are handled.
func (s *servers) handled(ctx context.Context) (sum int64) {
	for _, l := range s.leases(ctx) {
		sum += l.Progress.Position
	}
	return sum
}

// settle waits until all that is in the inbox is handled, and its decisions are known to be in the journal.
func (s *servers) settle(t *testing.T) []driver.Lease {
	t.Helper()
	log := s.log(t)
	defer log.Close()
	ends := make([]int64, s.partitions)
	for p := range ends {
		var err error
		_, ends[p], err = log.Bounds(t.Context(), inboxTopic, int32(p))
		must(t, err)
	}
	var leases []driver.Lease
	await(t, "the inbox is handled", func() bool {
		leases = s.leases(t.Context())
		return len(leases) == len(ends) && !slices.ContainsFunc(leases, func(l driver.Lease) bool {
			return l.Progress.Position < ends[l.Partition] || l.Logged.N < l.Progress.N
		})
	})
	return leases
}

// A sender puts transactions into the inbox, as a process that does nothing else.
type sender struct {
	s      *servers
	client deja.Client
}

func (s *servers) sender(t *testing.T) *sender {
	t.Helper()
	unused, err := sqlite.Open(t.Context(), t.TempDir()+"/unused.db")
	must(t, err)
	t.Cleanup(func() { _ = unused.Close() })
	eng, err := engine.New(engine.Config{Service: service.Service(), Log: s.log(t), Store: unused.Store()})
	must(t, err)
	return &sender{s, eng.Client()}
}

func (s *sender) send(ctx context.Context, rows []berka.Transaction) error {
	rs := make([]deja.Request, len(rows))
	for i, tr := range rows {
		rs[i] = tr.Request()
	}
	_, err := s.client.Send(ctx, rs...)
	return err
}

// feed sends transactions, most of them over about so long a time and ever less of what is left from then on, one piece in ten
// of them twice, in a goroutine of its own: something still comes however long a busy machine takes. The function that it
// returns has the rest sent at once, and waits until all are sent.
func (s *sender) feed(t *testing.T, rows []berka.Transaction, seed uint64, over time.Duration) (finish func()) {
	t.Helper()
	hurry, done := make(chan struct{}), make(chan struct{})
	var err error
	go func() {
		defer close(done)
		err = s.trickle(t.Context(), rows, rand.New(rand.NewPCG(seed, 1)), over, hurry)
	}()
	return func() {
		t.Helper()
		if hurry != nil {
			close(hurry)
			hurry = nil
		}
		<-done
		must(t, err)
	}
}

func (s *sender) trickle(ctx context.Context, rows []berka.Transaction, rng *rand.Rand, over time.Duration, hurry <-chan struct{}) error {
	const pieces = 100
	tick := time.NewTicker(over / pieces)
	defer tick.Stop()
	least := 1
	for from := 0; from < len(rows); {
		size := max(least, (len(rows)-from)/pieces)
		if err := s.send(ctx, rows[from:min(from+size, len(rows))]); err != nil {
			return err
		}
		if rng.IntN(10) == 0 {
			again := rng.IntN(from + 1)
			if err := s.send(ctx, rows[again:min(again+size, from+1)]); err != nil {
				return err
			}
		}
		from += size
		select {
		case <-tick.C:
		case <-hurry:
			least = len(rows) / pieces
		}
	}
	return nil
}

// A worker is a process that runs the bank.
type worker struct {
	cmd   *exec.Cmd
	said  *testenv.Output
	ended chan struct{} // closed when it has
}

// worker starts one. What it said is shown if the test fails.
func (s *servers) worker(t *testing.T) *worker {
	t.Helper()
	w := &worker{said: &testenv.Output{}, ended: make(chan struct{})}
	w.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), get(t, program), "run", "--health", "127.0.0.1:0")
	w.cmd.Stdout, w.cmd.Stderr, w.cmd.Env = w.said, w.said, s.env()
	must(t, w.cmd.Start())
	go func() {
		defer close(w.ended)
		_ = w.cmd.Wait() // ProcessState tells
	}()
	t.Cleanup(func() {
		_ = w.cmd.Process.Kill()
		<-w.ended
		if t.Failed() {
			text := w.said.String()
			t.Logf("worker %d said: %s", w.cmd.Process.Pid, text[max(0, len(text)-6000):])
		}
	})
	return w
}

func (s *servers) workers(t *testing.T, n int) []*worker {
	t.Helper()
	ws := make([]*worker, n)
	for i := range ws {
		ws[i] = s.worker(t)
	}
	return ws
}

func (w *worker) signal(t *testing.T, sig os.Signal) {
	t.Helper()
	must(t, w.cmd.Process.Signal(sig))
}

// wait waits until it has ended, and returns its exit code.
func (w *worker) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-w.ended:
	case <-time.After(patience):
		t.Fatalf("worker %d does not end", w.cmd.Process.Pid)
	}
	return w.cmd.ProcessState.ExitCode()
}

// stop stops it as an operator would, and checks that it obeys.
func (w *worker) stop(t *testing.T) {
	t.Helper()
	w.signal(t, syscall.SIGTERM)
	if code := w.wait(t); code != 0 && code != 4 {
		t.Errorf("a worker that was told to stop: exit code %d", code)
	}
}

var healthAddress = regexp.MustCompile(`address=(http://\S+)`)

// health asks it how it is.
func (w *worker) health(t *testing.T) (status int, h engine.Health) {
	t.Helper()
	var url string
	await(t, "a worker answers about its health", func() bool {
		if m := healthAddress.FindStringSubmatch(w.said.String()); m != nil {
			url = m[1]
		}
		select {
		case <-w.ended:
			t.Fatalf("the worker has ended: %s", w.said)
		default:
		}
		return url != ""
	})
	r := request(t, http.MethodGet, url, "", "")
	if err := json.Unmarshal([]byte(r.body), &h); err != nil {
		t.Fatalf("%v: %+v", err, r)
	}
	return r.status, h
}

// recorded is what a journal holds, partition by partition: its records, and of those the decisions that count.
type recorded struct {
	records   [][]driver.Record
	decisions [][]journal.Entry
}

// journal reads all of it.
func (s *servers) journal(t *testing.T) (all recorded) {
	t.Helper()
	log := s.log(t)
	defer log.Close()
	for p := range s.partitions {
		first, end, err := log.Bounds(t.Context(), journalTopic, p)
		must(t, err)
		var records []driver.Record
		for at := (deja.Position{Topic: journalTopic, Partition: p, Offset: first}); at.Offset < end; {
			rs, err := log.Fetch(t.Context(), at, 10_000)
			must(t, err)
			records = append(records, rs...)
			at.Offset = rs[len(rs)-1].Offset + 1
		}
		var decisions []journal.Entry
		for r := journal.NewReader(log, service.Name, p, driver.Logged{}); ; {
			es, err := r.Next(t.Context(), end, 10_000)
			must(t, err)
			if len(es) == 0 {
				break
			}
			decisions = append(decisions, es...)
		}
		all.records, all.decisions = append(all.records, records), append(all.decisions, decisions)
	}
	return all
}

// count returns how many decisions count.
func (r recorded) count() (n int) {
	for _, ds := range r.decisions {
		n += len(ds)
	}
	return n
}

// wantKept checks that all of an earlier journal is in this one as it was, and counts as it did.
func (r recorded) wantKept(t *testing.T, earlier recorded) {
	t.Helper()
	for p := range earlier.records {
		if len(r.records[p]) < len(earlier.records[p]) || len(r.decisions[p]) < len(earlier.decisions[p]) {
			t.Fatalf("partition %d: %d records with %d decisions, there were %d with %d", p,
				len(r.records[p]), len(r.decisions[p]), len(earlier.records[p]), len(earlier.decisions[p]))
		}
		for i, was := range earlier.records[p] {
			if is := r.records[p][i]; is.Offset != was.Offset || !bytes.Equal(is.Value, was.Value) {
				t.Fatalf("partition %d: record %d is another one", p, i)
			}
		}
		for i, was := range earlier.decisions[p] {
			if is := r.decisions[p][i]; is.Offset != was.Offset || !bytes.Equal(is.Raw, was.Raw) {
				t.Fatalf("partition %d: decision %d at offset %d is another one: it was at %d", p, was.N, is.Offset, was.Offset)
			}
		}
	}
}

// wantOnce checks that each of the transactions was applied by exactly one decision that counts, and nothing else was
// decided.
func (r recorded) wantOnce(t *testing.T, rows []berka.Transaction) {
	t.Helper()
	times := map[deja.ID]int{}
	for _, ds := range r.decisions {
		for i := range ds {
			times[ds[i].Cause.ID]++
			if ds[i].Decided.Status != deja.Applied {
				t.Errorf("message %s is %v", ds[i].Cause.ID, ds[i].Decided.Status)
			}
		}
	}
	for _, tr := range rows {
		if times[tr.ID()] != 1 {
			t.Errorf("transaction %d was decided %d times", tr.Number, times[tr.ID()])
		}
	}
	if r.count() != len(rows) {
		t.Errorf("%d decisions of %d transactions", r.count(), len(rows))
	}
	for p := range r.records {
		if more := len(r.records[p]) - len(r.decisions[p]); more > 0 {
			t.Logf("partition %d: %d records of the journal are no decisions that count: they begin a life, are of an older one, or were published again", p, more)
		}
	}
}

// wantWhole checks that the servers hold each of the shipped transactions once, and the states and statements that
// follow; and that the program, asked about all that, says the same.
func (s *servers) wantWhole(t *testing.T, o *oracle) {
	t.Helper()
	s.settle(t)
	if got, want := s.hash(t), get(t, plain).got.StateHash; got != want {
		t.Errorf("state hash %s, want %s", got, want)
	}
	s.journal(t).wantOnce(t, get(t, transactions))
	wantStates(t, "the store", ok(t, s.bank(t, "state", "account/*", "--json")), o, func(account string) state { return o.after(account, messages) })
	lines := map[month]sum{}
	must(t, s.query(t.Context(), func(row pgx.Rows) error {
		var m month
		var l sum
		err := row.Scan(&m.Account, &m.Month, &l.Credits, &l.Debits, &l.Transactions, &l.Version)
		lines[m] = l
		return err
	}, "SELECT account, month, credits, debits, transactions, last_version FROM "+s.schema+".bank_statement"))
	wantLines(t, s.schema, lines, o, messages)
	v := answer[verdict](t, s.bank(t, "verify", "--procs", "2", "--json"))
	if !v.Equal || v.Messages != messages || v.Judged != messages || v.StateHash != get(t, plain).got.StateHash {
		t.Errorf("verify: %+v", v)
	}
}
