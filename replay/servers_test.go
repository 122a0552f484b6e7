package replay_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/archive"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/testenv"
	"github.com/dejalog/deja/internal/till"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/kafka"
	"github.com/dejalog/deja/postgres"
	"github.com/dejalog/deja/replay"
	"github.com/dejalog/deja/sqlite"
)

var seed = flag.Uint64("seed", 0, "repeat the random test with this seed")

// moment is a point at which the service stood still, and what it had then.
type moment struct {
	at      replay.Locator
	decided int64 // by all partitions
	hash    replay.Hash
	tills   map[string]till.Till
}

// live is a service on servers.
type live struct {
	t      *testing.T
	r      *rand.Rand
	log    *kafka.Log
	store  driver.Store
	client deja.Client
	tills  map[string]till.Till // what they must hold
	sent   []deja.Request
}

const (
	partitions = 3
	rounds     = 24
)

func startLive(t *testing.T, r *rand.Rand) *live {
	prefix := testenv.Unique("replay") + "."
	log, err := kafka.Open(t.Context(), kafka.Config{Brokers: testenv.Kafka(t), Topic: func(name string) string { return prefix + name }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	dsn, schema := testenv.Postgres(t), testenv.Unique("replay")
	db, err := postgres.Open(t.Context(), dsn, postgres.Schema(schema))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = db.Close()
		administer(t, dsn, "DROP SCHEMA "+schema+" CASCADE")
	})
	for _, topic := range []string{wire.Inbox("shop"), wire.Journal("shop")} {
		if err := log.CreateTopics(t.Context(), kafka.TopicConfig{Name: topic, Partitions: partitions}); err != nil {
			t.Fatal(err)
		}
	}
	eng, err := engine.New(engine.Config{Service: till.Service(till.Variant{}), Log: log, Store: db.Store(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- eng.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ran; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return &live{t: t, r: r, log: log, store: db.Store(), client: eng.Client(), tills: map[string]till.Till{}}
}

// administer runs SQL as the tests' administrator.
func administer(t *testing.T, dsn, sql string) {
	t.Helper()
	ctx := context.Background()
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, sql); err != nil {
		t.Error(err)
	}
}

// send sends a command for a key, new or again, and notes what it must come to.
func (l *live) send(key string) {
	l.t.Helper()
	req := deja.Request{ID: deja.NewID(), Key: key, Command: till.Put{Amount: 1 + l.r.Int64N(100)}}
	begun := len(l.sent) >= partitions // the first ones are puts
	again := begun && l.r.IntN(5) == 0
	if again {
		req = l.sent[l.r.IntN(len(l.sent))]
		if l.r.IntN(3) == 0 {
			req.Command = till.Put{Amount: 1000} // a conflict
		}
	} else if begun && l.r.IntN(3) == 0 {
		req.Command = till.Take{Amount: 1 + l.r.Int64N(150)}
	}
	if _, err := l.client.Send(l.t.Context(), req); err != nil {
		l.t.Fatal(err)
	}
	if again {
		return
	}
	l.sent = append(l.sent, req)
	s := l.tills[key]
	switch c := req.Command.(type) {
	case till.Put:
		s.Balance, s.Moves = s.Balance+c.Amount, s.Moves+1
	case till.Take:
		if s.Balance >= c.Amount {
			s.Balance, s.Moves = s.Balance-c.Amount, s.Moves+1
		}
	}
	l.tills[key] = s
}

// rest waits until all is decided and logged, and returns the moment.
func (l *live) rest(src *replay.Source) moment {
	l.t.Helper()
	var text []string
	var decided int64
	end := time.Now().Add(time.Minute)
	for p := int32(0); p < partitions; {
		at, still := l.still(src, p)
		if still {
			text = append(text, fmt.Sprintf("inbox:%d:%d", p, at.Position-1))
			decided += at.N
			p++
			continue
		}
		if time.Now().After(end) {
			l.t.Fatalf("partition %d does not come to rest: %+v", p, at)
		}
		time.Sleep(5 * time.Millisecond)
	}
	at, err := replay.ParseLocator(strings.Join(text, ","))
	if err != nil {
		l.t.Fatal(err)
	}
	hash, err := replay.HashStore(l.t.Context(), src.Machine(), l.store)
	if err != nil {
		l.t.Fatal(err)
	}
	return moment{at, decided, hash, maps.Clone(l.tills)}
}

// still reports whether a partition has handled its inbox, and the journal has all that was decided.
func (l *live) still(src *replay.Source, p int32) (driver.Progress, bool) {
	at, err := l.store.Progress(l.t.Context(), p)
	if err != nil {
		l.t.Fatal(err)
	}
	_, end, err := l.log.Bounds(l.t.Context(), wire.Inbox("shop"), p)
	if err != nil {
		l.t.Fatal(err)
	}
	if at.Position < end {
		return at, false
	}
	last, err := src.Decision(l.t.Context(), p, at.N)
	if err != nil && !errors.Is(err, journal.ErrGap) {
		l.t.Fatal(err)
	}
	return at, last.Chain == at.Chain
}

// A log alone, and an archive of it, give at each moment what the live store had then: in memory, from a snapshot, in a file
// and in a schema of a database.
func TestReplayStraightFromTheLog(t *testing.T) {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("repeat: go test ./replay -run TestReplayStraightFromTheLog -seed %d", s)
	r := rand.New(rand.NewPCG(s, 2))
	l := startLive(t, r)
	src := openLog(t, l.log)
	for _, key := range []string{"a", "b", "f"} { // one for each partition
		l.send(key)
	}
	var moments []moment
	for range rounds {
		for range 1 + r.IntN(40) {
			l.send(string(rune('a' + r.IntN(12))))
		}
		moments = append(moments, l.rest(src))
	}
	dir := filepath.Join(t.TempDir(), "archive")
	if _, err := archive.Pull(t.Context(), dir, archive.Config{Service: "shop", Log: l.log, Bytes: 20_000}); err != nil {
		t.Fatal(err)
	}
	kept, err := archive.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	sources := map[string]*replay.Source{"the log": src, "the archive": openLog(t, kept)}
	middle := moments[rounds/2]
	snapshot := intoFile(t, src, middle, nil)
	for name, src := range sources {
		for _, m := range moments {
			m.check(t, name, src, nil)
			if m.decided >= middle.decided { // also before the middle, if nothing but duplicates lies between
				m.check(t, name+", from a snapshot", src, snapshot)
			} else if _, err := src.Fold(t.Context(), replay.Options{To: m.at, From: snapshot}); !errors.Is(err, replay.ErrSnapshot) {
				t.Errorf("%s: a snapshot made after %s: %v", name, m.at, err)
			}
		}
		checkPoints(t, r, name, src, l.log)
	}
	for range 2 {
		intoFile(t, src, moments[r.IntN(rounds)], nil)
		intoFile(t, src, moments[rounds/2+r.IntN(rounds/2)], snapshot)
		intoSchema(t, sources["the archive"], moments[r.IntN(rounds)])
	}
	if v, err := src.Verify(t.Context(), engine.Build(), nil); err != nil || v.First != nil || v.Judged == 0 || v.Hash != moments[rounds-1].hash {
		t.Errorf("verify: %+v, %v", v, err)
	}
}

func openLog(t *testing.T, log driver.Log) *replay.Source {
	t.Helper()
	src, err := replay.Open(t.Context(), replay.Config{Service: till.Service(till.Variant{}), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// check compares a moment as it is folded with what the store had and what was sent.
func (m moment) check(t *testing.T, name string, src *replay.Source, from *replay.Snapshot) {
	t.Helper()
	past, err := src.Fold(t.Context(), replay.Options{To: m.at, From: from})
	if err != nil {
		t.Fatalf("%s at %s: %v", name, m.at, err)
	}
	if hash, err := past.Hash(); err != nil || hash != m.hash {
		t.Errorf("%s at %s: the hash is %s, %v, the store had %s", name, m.at, hash, err, m.hash)
	}
	same(t, fmt.Sprintf("%s at %s", name, m.at), past, m.tills)
}

func same(t *testing.T, what string, past *replay.Past, want map[string]till.Till) {
	t.Helper()
	got := map[string]till.Till{}
	err := past.Each(func(k replay.KeyState) error {
		var s till.Till
		err := json.Unmarshal(k.State, &s)
		got[k.Stream.Key] = s
		return err
	})
	want = maps.Clone(want)
	maps.DeleteFunc(want, func(_ string, s till.Till) bool { return s.Moves == 0 })
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%s: the states are %v, %v, want %v", what, got, err, want)
	}
}

// checkPoints compares random points, each partition's anywhere, with what the recorded events add up to.
func checkPoints(t *testing.T, r *rand.Rand, name string, src *replay.Source, log driver.Log) {
	t.Helper()
	for range 20 {
		want := map[string]till.Till{}
		var at []string
		for p := range int32(partitions) {
			_, end, err := log.Bounds(t.Context(), wire.Inbox("shop"), p)
			if err != nil {
				t.Fatal(err)
			}
			last := r.Int64N(end)
			at = append(at, fmt.Sprintf("inbox:%d:%d", p, last))
			for d, err := range src.Decisions(t.Context(), p, 1) {
				if err != nil {
					t.Fatal(err)
				}
				if d.Cause.Position.Offset > last {
					break
				}
				for _, e := range d.Decided.Events {
					var moved struct{ Amount int64 }
					if err := json.Unmarshal(e.Payload, &moved); err != nil {
						t.Fatal(err)
					}
					s := want[d.Cause.Stream.Key]
					s.Moves++
					if s.Balance += moved.Amount; e.Type == "till.removed" {
						s.Balance -= 2 * moved.Amount
					}
					want[d.Cause.Stream.Key] = s
				}
			}
		}
		to, err := replay.ParseLocator(strings.Join(at, ","))
		if err != nil {
			t.Fatal(err)
		}
		past, err := src.Fold(t.Context(), replay.Options{To: to})
		if err != nil {
			t.Fatal(err)
		}
		same(t, fmt.Sprintf("%s at %s", name, to), past, want)
	}
}

// intoFile makes a database of a moment, and returns it as a snapshot.
func intoFile(t *testing.T, src *replay.Source, m moment, from *replay.Snapshot) *replay.Snapshot {
	t.Helper()
	path := filepath.Join(t.TempDir(), "past.db")
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	target := replay.Target{Log: db.Log(), Store: db.Store()}
	if from != nil { // a target that has a part of it already is filled up
		part, err := replay.Open(t.Context(), replay.Config{Service: till.Service(till.Variant{}), Log: from.Log, Store: from.Store})
		if err == nil {
			_, _, err = part.Into(t.Context(), target, replay.Options{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	m.filled(t, src, target)
	return &replay.Snapshot{Log: target.Log, Store: target.Store, Hash: m.hash}
}

func intoSchema(t *testing.T, src *replay.Source, m moment) {
	t.Helper()
	dsn, schema := testenv.Postgres(t), testenv.Unique("past")
	scratch, err := postgres.OpenScratch(t.Context(), testenv.With(dsn, "schema", schema))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = scratch.Close()
		administer(t, dsn, fmt.Sprintf("DROP SCHEMA %s CASCADE; DROP ROLE %s", schema, scratch.Role))
	})
	m.filled(t, src, replay.Target{Log: scratch.Log(), Store: scratch.Store()})
}

// filled fills a target with a moment, and checks what it then has.
func (m moment) filled(t *testing.T, src *replay.Source, target replay.Target) {
	t.Helper()
	cut, n, err := src.Into(t.Context(), target, replay.Options{To: m.at})
	if err != nil {
		t.Fatal(err)
	}
	own, err := replay.Open(t.Context(), replay.Config{Service: till.Service(till.Variant{}), Log: target.Log, Store: target.Store})
	if err != nil {
		t.Fatal(err)
	}
	hash, err := replay.HashStore(t.Context(), src.Machine(), target.Store)
	if err != nil || hash != m.hash {
		t.Errorf("filled up to %s: the hash is %s, %v, the store had %s", m.at, hash, err, m.hash)
	}
	v, err := own.Verify(t.Context(), engine.Build(), nil)
	if err != nil || v.First != nil || v.Messages != n || v.Hash != hash {
		t.Errorf("filled up to %s (%s): verify: %+v, %v", m.at, cut, v, err)
	}
}
