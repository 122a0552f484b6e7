package talk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/cli"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/relive"
	"github.com/dejalog/deja/internal/talk"
	"github.com/dejalog/deja/internal/testenv"
	"github.com/dejalog/deja/internal/till"
	"github.com/dejalog/deja/internal/wire"
)

// behaviour is the variable that says how the worker of a test behaves.
const behaviour = "TALK_TEST_WORKER"

func TestMain(m *testing.M) {
	if how := os.Getenv(behaviour); how != "" && len(os.Args) > 1 && os.Args[1] == talk.Command {
		worker(how)
		return
	}
	testenv.Main(m)
}

// worker is a worker that behaves well or badly.
func worker(how string) {
	switch how {
	case "other-protocol":
		fmt.Print("dejatalk")
		_, _ = os.Stdout.Write(talk.Frame('H', []byte(`{"protocol":99,"service":"shop"}`)))
	case "no-worker":
		fmt.Println("usage: something else entirely")
		os.Exit(2) //nolint:revive // it is main here
	case "silent":
		time.Sleep(time.Minute)
	case "noise":
		fmt.Println("configuration read from nowhere")
		fallthrough
	default:
		cli.Worker(service(how))
	}
}

// service is a till, and beside it what behaves badly when it is asked to.
func service(how string) *deja.Service {
	stdout := os.Stdout // as user code may have kept it
	s := till.Service(till.Variant{Broken: func() bool { return true }})
	if how == "other-service" {
		s.Name = "inn"
	}
	s.Aggregates = append(s.Aggregates, deja.NewAggregate("evil", deja.Handle(func(_ evil, d *deja.Decision, c do) error {
		if c.What == "print" && how != "here" {
			fmt.Println("a handler says hello")
		}
		if c.What != "bad" {
			d.Record(done(c))
			return nil
		}
		switch how {
		case "crash":
			fmt.Fprintln(os.Stderr, "out of cheese")
			os.Exit(7) //nolint:revive // as a handler that kills its process
		case "overflow":
			debug.SetMaxStack(1 << 20)
			d.Record(done{strconv.Itoa(overflow(0))})
		case "hang":
			time.Sleep(time.Minute)
		case "garbage":
			fmt.Fprintln(stdout, "this is printed into the answers")
		case "quiet":
			os.Exit(0) //nolint:revive // as a handler that ends its process
		}
		d.Record(done(c))
		return nil
	}), deja.Apply(func(e *evil, d done) { e.Did++; e.Last = d.What })))
	return s
}

func overflow(n int) int { return overflow(n+1) + 1 } //nolint:revive,staticcheck // it is to overflow

type (
	evil struct {
		Did  int    `json:"did"`
		Last string `json:"last"`
	}
	do   struct{ What string }
	done struct{ What string }
)

func (do) CommandType() string { return "evil.do" }
func (done) EventType() string { return "evil.done" }

// start starts this test's program as a worker.
func start(t *testing.T, how string, opts talk.Options) (*talk.Worker, error) {
	t.Helper()
	t.Setenv(behaviour, how)
	w, err := talk.Start(t.Context(), os.Args[0], "shop", opts)
	if err == nil {
		t.Cleanup(w.Close)
	}
	return w, err
}

func message(offset int64, kind, key, payload string) talk.Message {
	env := &deja.Envelope{
		ID: deja.DeriveID("talk", fmt.Sprint(offset)), Kind: deja.KindCommand, Type: kind, Source: "shop", ContentType: "application/json",
		Stream: deja.Stream{Aggregate: strings.Split(kind, ".")[0], Key: key}, Payload: []byte(payload),
	}
	return talk.Message{Offset: offset, Time: time.Unix(1e9+offset, 0).UTC(), Value: wire.AppendMessage(nil, env)}
}

var begin = talk.Begin{Partition: 0, Partitions: 1}

// What a worker answers is what living the same in this process gives, parked messages, acts and other worlds included.
func TestAWorkerLivesAsWeDo(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	w, err := start(t, "well", talk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if h := w.Hello(); h.Service != "shop" || h.Protocol != talk.Protocol || h.Go == "" || h.Fold == "" || h.Build == "" {
		t.Errorf("hello %+v", h)
	}
	machine, err := deja.Compile(service("here"))
	if err != nil {
		t.Fatal(err)
	}
	var own []talk.Decision
	world, err := relive.New(t.Context(), relive.Config{Machine: machine, Partitions: 1, Decided: func(d relive.Decision) {
		own = append(own, talk.Decision{Record: d.Record, Changes: d.Changes})
	}}, relive.Past{})
	if err != nil {
		t.Fatal(err)
	}
	var ms []talk.Message
	parked := map[string]int64{}
	for i := range int64(500) {
		key := string(rune('a' + rng.IntN(3)))
		m := message(i, "till.put", key, `{"Amount":5}`)
		switch rng.IntN(6) {
		case 0:
			m = message(i, "till.take", key, `{"Amount":7}`)
		case 1:
			m = message(i, "evil.do", key, `{"What":"print"}`)
		case 2:
			if _, ok := parked[key]; ok {
				break
			}
			parked[key] = i
			m = message(i, "till.crash", key, `{"How":"error"}`)
		case 3:
			of, ok := parked[key]
			if !ok {
				break
			}
			delete(parked, key)
			m.Value = wire.AppendMessage(nil, &deja.Envelope{
				ID: deja.NewID(), Kind: deja.KindAct, Type: deja.ActSkip, Source: "shop", ContentType: "application/json",
				Stream: deja.Stream{Aggregate: "till", Key: key}, Payload: fmt.Appendf(nil, `{"message":%q}`, deja.DeriveID("talk", fmt.Sprint(of))),
			})
		case 4:
			m.Value = []byte("no message at all")
		}
		m.Killed = rng.IntN(50) == 0 && len(parked) > 2
		ms = append(ms, m)
	}
	sending := make(chan error, 1)
	err = w.Begin(t.Context(), begin, nil, nil)
	go func() { sending <- errors.Join(err, w.Send(context.WithoutCancel(t.Context()), ms...)) }()
	for i, m := range ms {
		own = own[:0]
		rec := driver.Record{Offset: m.Offset, Time: m.Time, Value: m.Value}
		msg := world.Prepare(rec)
		if m.Killed {
			msg = world.Killed(rec, 1)
		}
		if err := world.Live(t.Context(), []relive.Message{msg}); err != nil {
			t.Fatal(err)
		}
		a, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(a.Decisions) != len(own) || a.Offset != m.Offset {
			t.Fatalf("seed %d, message %d: %d decisions, want %d", seed, i, len(a.Decisions), len(own))
		}
		for k := range own {
			if got, want := bare(a.Decisions[k]), bare(own[k]); got != want {
				t.Fatalf("seed %d, message %d:\n got %s\nwant %s", seed, i, got, want)
			}
		}
		row, err := world.Row(t.Context(), msg.Envelope().Stream)
		if err != nil {
			t.Fatal(err)
		}
		if want := hash(t, machine, row); a.State != want {
			t.Fatalf("seed %d, message %d: the state's hash is %x, want %x", seed, i, a.State, want)
		}
	}
	if err := <-sending; err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a", "b", "c", "nobody"} {
		s := deja.Stream{Aggregate: "till", Key: key}
		got, err := w.Row(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		want, err := world.Row(t.Context(), s)
		if err != nil || got.Version != want.Version || got.Parked != want.Parked || !bytes.Equal(got.Data, want.Data) {
			t.Errorf("row %+v, want %+v, %v", got, want, err)
		}
	}
}

// hash returns the hash of a state.
func hash(t *testing.T, m *deja.Machine, row driver.State) (sum [32]byte) {
	t.Helper()
	if row.Version == 0 {
		return sum
	}
	fields, err := m.Flatten(nil, row.Stream.Aggregate, row.Data)
	if err != nil {
		t.Fatal(err)
	}
	return canon.HashFields(fields)
}

// bare is a decision but for its place and its build.
func bare(d talk.Decision) string {
	r := *d.Record
	r.N, r.Prev, r.Build, r.Covers = 1, [32]byte{}, "", 0
	return fmt.Sprintf("%x %v", wire.AppendRecord(nil, &r), d.Changes)
}

// A life begins on what was before: a state, and a message that waits.
func TestALifeBeginsInTheMiddle(t *testing.T) {
	w, err := start(t, "well", talk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := deja.Stream{Aggregate: "till", Key: "a"}
	waits := message(3, "till.crash", "a", `{"How":"error"}`)
	row := driver.State{Stream: s, Version: 4, Parked: 1, Data: []byte(`{"balance":40,"moves":4}`)}
	for range 2 { // the second life knows nothing of the first
		err = w.Begin(t.Context(), begin, []driver.State{row}, []driver.Record{{Offset: 3, Time: waits.Time, Value: waits.Value}})
		if err != nil {
			t.Fatal(err)
		}
		skip := wire.AppendMessage(nil, &deja.Envelope{
			ID: deja.NewID(), Kind: deja.KindAct, Type: deja.ActSkip, Source: "shop", ContentType: "application/json", Stream: s,
			Payload: fmt.Appendf(nil, `{"message":%q}`, deja.DeriveID("talk", "3")),
		})
		ms := []talk.Message{
			message(10, "till.put", "a", `{"Amount":1}`), // behind the one that waits
			{Offset: 11, Time: time.Unix(2e9, 0), Value: skip},
			message(12, "till.take", "a", `{"Amount":41}`),
		}
		if err := w.Send(t.Context(), ms...); err != nil {
			t.Fatal(err)
		}
		want := []string{"parked", "dead applied applied", "applied"}
		for i := range ms {
			a, err := w.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range a.Decisions {
				got = append(got, d.Decided.Status.String())
			}
			if strings.Join(got, " ") != want[i] {
				t.Errorf("message %d: %v, want %s", i, got, want[i])
			}
		}
		if got, err := w.Row(t.Context(), s); err != nil || got.Version != 6 || string(got.Data) != `{"balance":0,"moves":6}` {
			t.Errorf("row %+v, %v", got, err)
		}
	}
}

// A worker that lives more than one world holds goes on as if there were one.
func TestManyWorlds(t *testing.T) {
	w, err := start(t, "well", talk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Begin(t.Context(), begin, nil, nil); err != nil {
		t.Fatal(err)
	}
	const n = 45_000
	sending := make(chan error, 1)
	go func() {
		for i := range int64(n) {
			m := message(i, "till.put", "a", `{"Amount":1}`)
			if i == 5 {
				m = message(i, "till.crash", "b", `{"How":"error"}`)
			}
			if err := w.Send(context.WithoutCancel(t.Context()), m); err != nil {
				sending <- err
				return
			}
		}
		sending <- nil
	}()
	for range n {
		if _, err := w.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-sending; err != nil {
		t.Fatal(err)
	}
	got, err := w.Row(t.Context(), deja.Stream{Aggregate: "till", Key: "a"})
	if err != nil || got.Version != n-1 || string(got.Data) != fmt.Sprintf(`{"balance":%d,"moves":%d}`, n-1, n-1) {
		t.Errorf("row %+v, %v", got, err)
	}
	if got, err := w.Row(t.Context(), deja.Stream{Aggregate: "till", Key: "b"}); err != nil || got.Parked != 1 {
		t.Errorf("row %+v, %v", got, err)
	}
}

// upToFault starts a worker that has the message with offset 7 under way, which is bad; what was before it is answered.
func upToFault(t *testing.T, how string, patience time.Duration) (*talk.Worker, error) {
	t.Helper()
	w, err := start(t, how, talk.Options{Patience: patience})
	if err != nil {
		return nil, err
	}
	if err := w.Begin(t.Context(), begin, nil, nil); err != nil {
		return nil, err
	}
	ms := []talk.Message{
		message(0, "evil.do", "a", `{"What":"print"}`), message(4, "evil.do", "a", `{"What":"well"}`),
		message(7, "evil.do", "a", `{"What":"bad"}`), message(8, "evil.do", "a", `{"What":"well"}`),
	}
	if err := w.Send(t.Context(), ms...); err != nil {
		return nil, err
	}
	for range 2 {
		a, err := w.Next(t.Context())
		if err != nil {
			return nil, err
		}
		if len(a.Decisions) != 1 {
			t.Fatalf("%+v", a)
		}
	}
	return w, nil
}

// However a worker fails, it is a fault with the message that was under way.
func TestFaults(t *testing.T) {
	for how, want := range map[string]struct {
		kind   talk.FaultKind
		detail string
		stderr string
	}{
		"crash":    {talk.Crashed, "exit status 7", "out of cheese"},
		"overflow": {talk.Crashed, "exit status 2", "stack overflow"},
		"quiet":    {talk.Crashed, "exit status 0", ""},
		"hang":     {talk.Hung, "it said nothing for ", ""},
		"garbage":  {talk.Garbage, `this is`, ""},
	} {
		t.Run(how, func(t *testing.T) {
			patience := time.Minute
			if want.kind == talk.Hung {
				patience = 3 * time.Second
			}
			w, err := upToFault(t, how, patience)
			for ; err != nil && patience < time.Minute; w, err = upToFault(t, how, patience) { // a busy machine is slow
				patience *= 2
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = w.Next(t.Context())
			var f *talk.Fault
			if !errors.As(err, &f) {
				t.Fatal(err)
			}
			if f.Kind != want.kind || !strings.Contains(f.Detail, want.detail) || !strings.Contains(f.Stderr, want.stderr) {
				t.Errorf("%+v", f)
			}
			if f.Offset != 7 || f.Message == nil || f.Message.ID != deja.DeriveID("talk", "7") || !strings.Contains(err.Error(), "shop.inbox:0:7") {
				t.Errorf("under way: %v", f)
			}
			if err := w.Send(t.Context(), message(9, "evil.do", "a", `{"What":"well"}`)); err == nil {
				if _, err := w.Next(t.Context()); err == nil {
					t.Error("it goes on")
				}
			}
		})
	}
}

// What is no worker of this protocol and service is refused before anything is asked.
func TestRefusals(t *testing.T) {
	for how, want := range map[string]struct {
		kind   talk.FaultKind
		detail string
	}{
		"no-worker":      {talk.NoWorker, "usage: something else entirely"},
		"other-protocol": {talk.OtherProtocol, "protocol 99"},
		"other-service":  {talk.OtherService, "the service inn, not of shop"},
	} {
		t.Run(how, func(t *testing.T) {
			_, err := start(t, how, talk.Options{})
			var f *talk.Fault
			if !errors.As(err, &f) || f.Kind != want.kind || !strings.Contains(f.Detail, want.detail) || f.Offset != -1 {
				t.Errorf("%+v", err)
			}
		})
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "nothing"), "/dev/null", t.TempDir()} {
		_, err := talk.Start(t.Context(), path, "shop", talk.Options{})
		var f *talk.Fault
		if !errors.As(err, &f) || f.Kind != talk.NoWorker {
			t.Errorf("%s: %v", path, err)
		}
	}
	if path, err := exec.LookPath("true"); err == nil {
		_, err := talk.Start(t.Context(), path, "shop", talk.Options{})
		var f *talk.Fault
		if !errors.As(err, &f) || f.Kind != talk.NoWorker {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// What a program prints while it starts is not in the way.
func TestNoiseAtTheStart(t *testing.T) {
	if _, err := start(t, "noise", talk.Options{}); err != nil {
		t.Error(err)
	}
}

func TestCancel(t *testing.T) {
	t.Setenv(behaviour, "silent")
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := talk.Start(ctx, os.Args[0], "shop", talk.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while it starts: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	t.Setenv(behaviour, "hang")
	w, err := talk.Start(ctx, os.Args[0], "shop", talk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := errors.Join(w.Begin(ctx, begin, nil, nil), w.Send(ctx, message(0, "evil.do", "a", `{"What":"bad"}`))); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := w.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while it decides: %v", err)
	}
}

// The protocol is kept: docs/formats.md describes these bytes.
func TestFramesAreFrozen(t *testing.T) {
	got := fmt.Sprintf("%x", talk.Frame('B', []byte(`{"partition":1}`)))
	const want = "00000010" + "a9fee378" + "42" + "7b22706172746974696f6e223a317d"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	m := talk.Message{Offset: 300, Time: time.UnixMicro(1).UTC(), NotBefore: time.UnixMicro(200).UTC(), Killed: true, Value: []byte("v")}
	back, raw, err := talk.Reread(m)
	if err != nil || !reflect.DeepEqual(m, back) || fmt.Sprintf("%x", raw) != "ac0202c9010176" {
		t.Errorf("%x, %+v, %v", raw, back, err)
	}
}
