package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/remit"
	"github.com/dejalog/deja/internal/wire"
)

// The desk asks, the office answers: in each way that a command can be settled.
type (
	ask    struct{ How string }
	answer struct{ How string }
	hint   struct{ How string }

	heard struct{ Code string }
	given struct{ Size string }

	folder struct {
		Heard []string `json:"heard"`
	}
	file struct {
		Size int `json:"size"`
	}
)

func (ask) CommandType() string    { return "folder.ask" }
func (answer) CommandType() string { return "file.answer" }
func (hint) CommandType() string   { return "file.hint" }
func (heard) EventType() string    { return "folder.heard" }
func (given) EventType() string    { return "file.given" }

var errNo = deja.NewRejection("office.no")

// desk asks the file of the same key; or, a later build, notes too what any file has given, in the folder "log".
func desk(codec deja.Codec, more ...deja.Handler[folder]) *deja.Service {
	return &deja.Service{Name: "desk", Codec: codec, Aggregates: []deja.AnyAggregate{deja.NewAggregate("folder", append(more,
		deja.Handle(func(_ folder, d *deja.Decision, c ask) error {
			if c.How == "hint" {
				d.Send(d.Key(), hint(c))
			} else {
				d.Send(d.Key(), answer(c))
			}
			return nil
		}),
		deja.OnReply(func(_ folder, d *deja.Decision, r deja.Reply[answer]) error {
			code := "applied"
			if r.Rejection != nil {
				code = r.Rejection.Code
			} else if len(r.Events) != 1 || r.Events[0].Type != "file.given" || r.Events[0].Stream.Key != d.Key() {
				code = fmt.Sprintf("applied, and told %v", r.Events)
			}
			d.Record(heard{r.Command.How + ": " + code})
			return nil
		}),
		deja.Forget[folder, hint](),
		deja.Apply(func(f *folder, e heard) { f.Heard = append(f.Heard, e.Code) }),
	)...)}}
}

// office settles as it is told to; what is to fail fails while broken is set.
func office(broken *atomic.Bool, codec deja.Codec) *deja.Service {
	settle := func(d *deja.Decision, how string) error {
		switch how {
		case "no":
			return errNo
		case "large":
			d.Record(given{strings.Repeat("x", 1<<20)})
		case "many":
			for range 12_000 {
				d.Record(given{})
			}
		case "fail":
			if broken.Load() {
				return errors.New("it is broken")
			}
			fallthrough
		default:
			d.Record(given{how})
		}
		return nil
	}
	return &deja.Service{Name: "office", Codec: codec, Aggregates: []deja.AnyAggregate{deja.NewAggregate("file",
		deja.Handle(func(_ file, d *deja.Decision, c answer) error { return settle(d, c.How) }),
		deja.Handle(func(_ file, d *deja.Decision, c hint) error { return settle(d, c.How) }),
		deja.Apply(func(f *file, e given) { f.Size = len(e.Size) }),
	)}}
}

// talk is the desk and the office at work.
type talk struct {
	t            *testing.T
	log          *memory.Log
	desk, office *node
	desks        *memory.Store
	broken       atomic.Bool
}

// newTalk has them use a codec each; nil is JSON.
func newTalk(t *testing.T, desks, offices deja.Codec) *talk {
	w := &talk{t: t, log: memory.NewLog(memory.LogConfig{Partitions: 2}), desks: memory.NewStore()}
	w.desk = w.run(desk(desks))
	w.office = runNode(t, engine.Config{Service: office(&w.broken, offices), Log: w.log, Store: memory.NewStore()})
	return w
}

// run runs a build of the desk.
func (w *talk) run(build *deja.Service) *node {
	return runNode(w.t, engine.Config{Service: build, Log: w.log, Store: w.desks, Peers: map[string]string{"file": "office"}})
}

func (w *talk) ask(key, tenant, how string) {
	w.t.Helper()
	must(w.t, w.desk.Client(), deja.Request{Key: key, Tenant: tenant, Command: ask{how}})
}

func (w *talk) heard(key, tenant string) []string {
	w.t.Helper()
	var f folder
	if _, err := w.desk.Client().State(timeout(w.t), deja.Stream{Tenant: tenant, Aggregate: "folder", Key: key}, &f); err != nil {
		w.t.Fatal(err)
	}
	return f.Heard
}

// hears waits for what a folder is told, and that it is told no more.
func (w *talk) hears(key, tenant string, want ...string) {
	w.t.Helper()
	until(w.t, fmt.Sprintf("%s has heard %q", key, want), func() bool { return len(w.heard(key, tenant)) >= len(want) })
	time.Sleep(50 * time.Millisecond)
	if got := w.heard(key, tenant); !slices.Equal(got, want) {
		w.t.Errorf("%s has heard %q, want %q", key, got, want)
	}
}

// parkedFile returns the message that the file of a key is parked at.
func (w *talk) parkedFile(key string) deja.ID { return w.parked("office", key) }

// parked returns the message that a key of a service is parked at.
func (w *talk) parked(service, key string) (id deja.ID) {
	w.t.Helper()
	dec := wire.NewDecoder(service)
	until(w.t, "it is parked", func() bool {
		for _, rec := range topicRecords(w.t, w.log, service+".journal") {
			r, err := dec.Record(rec.Partition, rec.Value)
			if err != nil {
				w.t.Fatal(err)
			}
			if r.Cause.Stream.Key == key && r.Decided.Status == deja.Parked {
				id = r.Cause.ID
			}
		}
		return !id.IsZero()
	})
	return id
}

func TestEverySentCommandHasOneReply(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newTalk(t, nil, nil)
		for key, how := range map[string]string{"a": "yes", "b": "no", "c": "large"} {
			w.ask(key, "", how)
		}
		w.hears("a", "", "yes: applied")
		w.hears("b", "", "no: office.no")
		w.hears("c", "", "large: deja.too-large")
		if got := outcomes(t, w.log, "desk", deja.KindReply); len(got) != 3 {
			t.Errorf("%d replies came, want 3: %q", len(got), got)
		}
	})
}

func TestAParkedCommandIsAnsweredWhenItIsSettled(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newTalk(t, nil, nil)
		w.broken.Store(true)
		w.ask("a", "", "fail")
		w.ask("b", "", "fail")
		a, b := w.parkedFile("a"), w.parkedFile("b")
		time.Sleep(100 * time.Millisecond)
		if got := outcomes(t, w.log, "desk", deja.KindReply); len(got) > 0 {
			t.Errorf("while they were parked, %d replies came: %q", len(got), got)
		}
		w.broken.Store(false)
		stream := func(key string) deja.Stream { return deja.Stream{Aggregate: "file", Key: key} }
		if err := w.office.Retry(timeout(t), engine.Act{Stream: stream("a"), Message: a, Actor: "ops", Reason: "mended"}); err != nil {
			t.Fatal(err)
		}
		if err := w.office.Skip(timeout(t), engine.Act{Stream: stream("b"), Message: b, Actor: "ops", Reason: "given up"}); err != nil {
			t.Fatal(err)
		}
		w.hears("a", "", "fail: applied")
		w.hears("b", "", "fail: deja.dead")
	})
}

// Somebody has used the command's ID before, with other content.
func TestACommandWhoseIDWasTakenIsAnsweredWithAConflict(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		r := deja.Request{ID: deja.DeriveID("test", "conflict"), Key: "a", Command: ask{"yes"}}
		w := newTalk(t, nil, nil)
		must(t, w.desk.Client(), r)
		until(t, "it is in the office's inbox", func() bool { return len(topicRecords(t, w.log, "office.inbox")) == 1 })
		first, err := wire.NewDecoder("office").Message(topicRecords(t, w.log, "office.inbox")[0].Value)
		if err != nil {
			t.Fatal(err)
		}
		if first.Payload, err = json.Marshal(answer{"other"}); err != nil {
			t.Fatal(err)
		}
		first.Sender = deja.Stream{} // nobody waits for its reply
		w = newTalk(t, nil, nil)
		deliver(t, w.log, "office", first)
		must(t, w.desk.Client(), r)
		w.hears("a", "", "yes: deja.conflict")
		wantOutcomes(t, w.log, "office", deja.KindCommand, "applied", "conflict deja.conflict")
	})
}

func TestTheReplyOfAForgottenCommandIsNotCarried(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newTalk(t, nil, nil)
		w.ask("a", "", "hint")
		w.ask("a", "", "yes")
		w.hears("a", "", "yes: applied")
		if got := outcomes(t, w.log, "desk", deja.KindReply); len(got) != 1 {
			t.Errorf("%d replies came, want 1: %q", len(got), got)
		}
		if open := opened(t, w.desks, "desk", deja.Stream{Aggregate: "folder", Key: "a"}); !open.Empty() {
			t.Errorf("the folder waits for %+v", open)
		}
	})
}

func TestATenantIsKeptAcrossServices(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newTalk(t, nil, nil)
		w.ask("a", "t1", "yes")
		w.ask("a", "t2", "no")
		w.hears("a", "t1", "yes: applied")
		w.hears("a", "t2", "no: office.no")
		if got := w.heard("a", ""); len(got) > 0 {
			t.Errorf("the tenant without a name has heard %q", got)
		}
	})
}

// shouted is a codec that is not JSON: what it writes, others cannot read as such.
type shouted struct{}

func (shouted) ContentType() string { return "application/x-shouted" }

func (shouted) Append(dst []byte, v any) ([]byte, error) {
	data, err := json.Marshal(v)
	return append(append(dst, '!'), data...), err
}

func (shouted) Unmarshal(data []byte, v any) error {
	if len(data) > 0 && data[0] == '!' {
		data = data[1:]
	}
	return json.Unmarshal(data, v)
}

func TestServicesOfACodecThatIsNotJSONTalk(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newTalk(t, shouted{}, shouted{})
		w.ask("a", "", "yes")
		w.ask("b", "", "no")
		w.hears("a", "", "yes: applied")
		w.hears("b", "", "no: office.no")
	})
}

// What a service cannot read is dead there, and its sender is told.
func TestACommandInAnotherCodecIsAnswered(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newTalk(t, nil, shouted{})
		w.ask("a", "", "yes")
		w.hears("a", "", "yes: deja.dead")
	})
}

// plain is JSON as others write it, with no letters escaped.
type plain struct{ deja.Codec }

func (plain) Append(dst []byte, v any) ([]byte, error) {
	b := bytes.NewBuffer(dst)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// A reply is larger than its command, and must fit where it goes: or it would hold up all that come behind it.
func TestWhatIsSentIsAnsweredHoweverLargeItIs(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	for name, c := range map[string]struct {
		codec  deja.Codec
		how    string
		states string
		sizes  []int
	}{
		"bytes":        {codec: shouted{}, how: "x", sizes: []int{limit / 2, limit * 7 / 10, limit * 4 / 5, limit - 5<<10}},
		"escapes":      {codec: plain{deja.JSON()}, how: "<", sizes: []int{limit / 8, limit / 7, limit / 6, limit / 2}},
		"trace":        {how: "x", states: strings.Repeat("t", 8000), sizes: []int{limit / 2, limit - 8600, limit - 8500, limit - 8400, limit - 8350, limit - 8300, limit - 8250, limit - 8200}},
		"small events": {how: "many", sizes: []int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTalk(t, c.codec, c.codec)
			for i, size := range c.sizes {
				_, err := w.desk.Client().Do(timeout(t), deja.Request{
					Key: fmt.Sprint(i), Command: ask{strings.Repeat(c.how, size)}, Headers: map[string]string{"tracestate": c.states},
				})
				if i > 0 && (errors.Is(err, &deja.Rejection{Code: deja.CodeTooLarge}) || errors.Is(err, deja.ErrInvalid)) {
					continue // it is not sent
				}
				if err != nil {
					t.Fatal(err)
				}
				until(t, fmt.Sprintf("the answer to %d bytes", size), func() bool { return len(w.heard(fmt.Sprint(i), "")) == 1 })
			}
			if h := healthOf(t, w.desk.Engine); len(h.Faults) > 0 {
				t.Errorf("faults: %q", h.Faults)
			}
			w.ask("last", "", "yes")
			w.hears("last", "", "yes: applied")
		})
	}
}

// lateTopic is a log one of whose topics is not there yet, and takes smaller records than the others.
type lateTopic struct {
	*memory.Log
	topic string
	limit int
	there *atomic.Bool
}

func (l lateTopic) Topic(ctx context.Context, name string) (driver.Topic, error) {
	t, err := l.Log.Topic(ctx, name)
	if name == l.topic {
		if t.MaxRecord = l.limit; !l.there.Load() {
			return driver.Topic{}, driver.ErrNotFound
		}
	}
	return t, err
}

// A peer may come later than those who send to it: what its inbox takes is known then.
func TestTheLimitOfAPeerThatComesLaterIsHeeded(t *testing.T) {
	t.Parallel()
	var there, broken atomic.Bool
	log := lateTopic{memory.NewLog(memory.LogConfig{}), "office.inbox", 64 << 10, &there}
	n := runNode(t, engine.Config{Service: desk(nil), Log: log, Store: memory.NewStore(), Peers: map[string]string{"file": "office"}})
	must(t, n.Client(), deja.Request{Key: "a", Command: ask{"yes"}})
	until(t, "the peer is missed", func() bool { return len(healthOf(t, n.Engine).Faults) > 0 })
	there.Store(true)
	runNode(t, engine.Config{Service: office(&broken, nil), Log: log, Store: memory.NewStore()})
	until(t, "it is answered", func() bool { return len(state[folder](t, n.Client(), "folder", "a").Heard) == 1 })
	_, err := n.Client().Do(timeout(t), deja.Request{Key: "b", Command: ask{strings.Repeat("x", 64<<10)}})
	if !errors.Is(err, &deja.Rejection{Code: deja.CodeTooLarge}) {
		t.Errorf("what does not fit into the peer's inbox: %v", err)
	}
}

// Retention has taken all that was carried, and no more.
func TestARouteGoesOnWhereRetentionHasComeTo(t *testing.T) {
	t.Parallel()
	var closed, broken atomic.Bool
	log := memory.NewLog(memory.LogConfig{})
	cfg := engine.Config{
		Service: desk(nil), Log: closedTopic{log, "office.inbox", &closed}, Store: memory.NewStore(), Peers: map[string]string{"file": "office"},
	}
	n := runNode(t, cfg)
	must(t, n.Client(), deja.Request{Key: "a", Command: ask{"one"}})
	until(t, "the first is carried", func() bool {
		at, err := log.Cursor(t.Context(), "desk.route.office", "desk.journal", 0)
		return err == nil && at == 1
	})
	closed.Store(true)
	must(t, n.Client(), deja.Request{Key: "a", Command: ask{"two"}})
	must(t, n.Client(), deja.Request{Key: "a", Command: ask{"three"}})
	n.end()
	for _, rec := range topicRecords(t, log, "desk.journal") {
		if r, err := wire.NewDecoder("desk").Record(0, rec.Value); err != nil {
			t.Fatal(err)
		} else if r.N == 2 {
			log.Trim("desk.journal", 0, rec.Offset)
		}
	}
	closed.Store(false)
	n = runNode(t, cfg)
	runNode(t, engine.Config{Service: office(&broken, nil), Log: log, Store: memory.NewStore()})
	until(t, "all are answered", func() bool { return len(state[folder](t, n.Client(), "folder", "a").Heard) == 3 })
}

// setCursors is a log that counts how often each cursor is set.
type setCursors struct {
	*memory.Log
	mu    sync.Mutex
	count map[string]int
}

func (l *setCursors) SetCursor(ctx context.Context, reader, topic string, partition int32, offset int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count[reader+" in "+topic]++
	return l.Log.SetCursor(ctx, reader, topic, partition, offset)
}

func (l *setCursors) counts() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.count)
}

// Brokers forget a cursor that was not set for a week, and a service may have nothing to carry for as long. An hour goes by
// at once here.
func TestACursorThatRestsIsSetAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		log := &setCursors{Log: memory.NewLog(memory.LogConfig{}), count: map[string]int{}}
		reacts := deja.React(func(given) string { return "log" }, func(_ folder, d *deja.Decision, e given) error {
			d.Record(heard{e.Size})
			return nil
		})
		d := runNode(t, engine.Config{Service: desk(nil, reacts), Log: log, Store: memory.NewStore(), Peers: map[string]string{"file": "office"}})
		runNode(t, engine.Config{Service: office(&broken, nil), Log: log, Store: memory.NewStore()})
		must(t, d.Client(), deja.Request{Key: "a", Command: ask{"yes"}})
		until(t, "it is answered", func() bool { return len(state[folder](t, d.Client(), "folder", "a").Heard) == 1 })
		time.Sleep(time.Minute)
		before := log.counts()
		time.Sleep(time.Hour)
		after := log.counts()
		if len(before) != 3 {
			t.Errorf("the cursors are %v, want those of two routes, and since when there is the reaction", before)
		}
		for name, n := range before {
			if after[name] == n {
				t.Errorf("the cursor of %s was not set again", name)
			}
		}
	})
}

type stamp struct{}

func (stamp) CommandType() string { return "file.stamp" }

// A build that is rolled back knows nothing of a command that the newer one has sent. Its reply is not lost: were it dead, the
// folder would wait for it for ever.
func TestAReplyThatABuildDoesNotKnowWaitsForOneThatDoes(t *testing.T) {
	t.Parallel()
	w := newTalk(t, nil, nil)
	w.office.end()
	w.ask("a", "", "yes")
	until(t, "it is sent", func() bool { return len(topicRecords(t, w.log, "office.inbox")) == 1 })
	w.desk.end()
	w.desk = w.run(&deja.Service{Name: "desk", Aggregates: []deja.AnyAggregate{deja.NewAggregate("folder",
		deja.OnReply(func(folder, *deja.Decision, deja.Reply[stamp]) error { return nil }),
		deja.Forget[folder, hint](),
		deja.Apply(func(f *folder, e heard) { f.Heard = append(f.Heard, e.Code) }),
	)}})
	runNode(t, engine.Config{Service: office(&w.broken, nil), Log: w.log, Store: memory.NewStore()})
	until(t, "the reply has come", func() bool { return len(outcomes(t, w.log, "desk", deja.KindReply)) == 1 })
	w.desk.end()
	w.desk = w.run(desk(nil))
	if err := w.desk.Retry(timeout(t), engine.Act{Stream: deja.Stream{Aggregate: "folder", Key: "a"}, Message: w.parked("desk", "a")}); err != nil {
		t.Fatal(err)
	}
	w.hears("a", "", "yes: applied")
	wantOutcomes(t, w.log, "desk", deja.KindReply, "parked deja.unknown-type", "applied")
}

// closedTopic is a log one of whose topics takes nothing.
type closedTopic struct {
	*memory.Log
	topic  string
	closed *atomic.Bool
}

func (l closedTopic) Append(ctx context.Context, topic string, recs []driver.Record) ([]deja.Position, error) {
	if topic == l.topic && l.closed.Load() {
		return nil, errors.New("no leader")
	}
	return l.Log.Append(ctx, topic, recs)
}

func TestADeadTargetStopsOnlyWhatIsForIt(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		bank, ledger := remit.Services(remit.Variant{})
		log := memory.NewLog(memory.LogConfig{Partitions: 2})
		var closed atomic.Bool
		closed.Store(true)
		mail := &post{}
		runNode(t, engine.Config{Service: ledger, Log: log, Store: memory.NewStore()})
		b := runNode(t, engine.Config{
			Service: bank, Log: closedTopic{log, "ledger.inbox", &closed}, Store: memory.NewStore(), Peers: remit.Peers(),
			Effects: []deja.Performer{remit.Mailer(mail.send)},
		})
		must(t, b.Client(), deja.Request{Key: "ana", Command: remit.Deposit{Amount: 100}})
		for i := range 5 {
			key := fmt.Sprintf("r%d", i)
			must(t, b.Client(), deja.Request{Key: key, Command: remit.Start{From: "ana", To: "bob", Amount: 10, Patience: time.Hour}})
			until(t, "its money is taken", func() bool { return state[remit.Remittance](t, b.Client(), "remittance", key).Phase == remit.Posting })
		}
		until(t, "health names the topic", func() bool {
			h := healthOf(t, b.Engine)
			return !h.OK() && slices.ContainsFunc(h.Faults, func(f string) bool { return strings.Contains(f, "ledger.inbox") && strings.Contains(f, "no leader") })
		})
		if faults := healthOf(t, b.Engine).Faults; slices.ContainsFunc(faults, func(f string) bool { return !strings.Contains(f, "ledger.inbox") }) {
			t.Errorf("more than the route into the ledger's inbox stands still: %q", faults)
		}
		closed.Store(false)
		for i := range 5 {
			until(t, "it has ended", func() bool {
				return state[remit.Remittance](t, b.Client(), "remittance", fmt.Sprintf("r%d", i)).Phase == remit.Done
			})
		}
		until(t, "all is well", func() bool { return healthOf(t, b.Engine).OK() })
	})
}

// bankOf is a bank whose builds come and go.
type bankOf struct {
	t     *testing.T
	log   *memory.Log
	store *memory.Store
	mail  *post
}

func (b *bankOf) run(v remit.Variant) *node {
	bank, _ := remit.Services(v)
	return runNode(b.t, engine.Config{
		Service: bank, Log: b.log, Store: b.store, Peers: remit.Peers(), Effects: []deja.Performer{remit.Mailer(b.mail.send)},
	})
}

// remits makes a remittance from end to end.
func remits(t *testing.T, n *node, key string) {
	t.Helper()
	must(t, n.Client(), deja.Request{Key: key, Command: remit.Start{From: "ana", To: "bob", Amount: 10, Patience: time.Hour}, Until: deja.AtEnd()})
	until(t, "its receipt is known", func() bool { return state[remit.Remittance](t, n.Client(), "remittance", key).Receipt != "" })
}

func newBank(t *testing.T) *bankOf {
	b := &bankOf{t, memory.NewLog(memory.LogConfig{Partitions: 2}), memory.NewStore(), &post{}}
	_, ledger := remit.Services(remit.Variant{})
	runNode(t, engine.Config{Service: ledger, Log: b.log, Store: memory.NewStore()})
	return b
}

// A build that reacts to an event reacts to what is recorded while it is there: neither to what was carried before it, nor
// to what a build without the row has passed.
func TestAReactionBeginsWithTheBuildThatHasIt(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newTalk(t, nil, nil)
		reacts := deja.React(func(given) string { return "log" }, func(_ folder, d *deja.Decision, e given) error {
			d.Record(heard{e.Size})
			return nil
		})
		carried := func() {
			t.Helper()
			until(t, "the cursors are set", func() bool {
				return carriedAll(t, w.log, [2]string{"desk.route.desk", "office.journal"}, [2]string{"desk.route.office", "desk.journal"})
			})
		}
		deploy := func(build *deja.Service) {
			t.Helper()
			carried()
			w.desk.end()
			w.desk = w.run(build)
		}
		told := func(key, what string) {
			t.Helper()
			w.ask(key, "", what)
			w.hears(key, "", what+": applied")
		}
		told("a", "one")
		deploy(desk(nil, reacts))
		told("b", "two")
		w.hears("log", "", "two")
		carried()
		w.desk.end()
		for p := range int32(2) {
			if err := w.log.SetCursor(t.Context(), "desk.route.desk", "office.journal", p, 0); err != nil { // it is lost
				t.Fatal(err)
			}
		}
		w.desk = w.run(desk(nil, reacts))
		deploy(desk(nil)) // rolled back
		told("c", "three")
		deploy(desk(nil, reacts)) // and forward
		told("d", "four")
		w.hears("log", "", "two", "four")
	})
}

// bankRoutes are what the bank's router reads, each with the name of its cursor.
var bankRoutes = [][2]string{{"bank.route.bank", "bank.journal"}, {"bank.route.ledger", "bank.journal"}, {"bank.route.bank", "ledger.journal"}}

// carriedAll reports whether cursors are behind all that is in the journals.
func carriedAll(t *testing.T, log *memory.Log, routes ...[2]string) bool {
	t.Helper()
	for _, c := range routes {
		for p := range int32(2) {
			reader, topic := c[0], c[1]
			at, err := log.Cursor(t.Context(), reader, topic, p)
			if err != nil {
				t.Fatal(err)
			}
			end := int64(0)
			for _, rec := range topicRecords(t, log, topic) {
				if rec.Partition != p {
					continue
				}
				r, err := wire.NewDecoder(strings.TrimSuffix(topic, ".journal")).Record(p, rec.Value)
				if err != nil {
					t.Fatal(err)
				}
				switch own := strings.HasPrefix(reader, strings.TrimSuffix(topic, "journal")); {
				case r.Marker():
				case own:
					end = r.N
				default:
					end = rec.Offset + 1
				}
			}
			if at < end {
				return false
			}
		}
	}
	return true
}

func TestACursorThatIsLostMakesNothingHappenTwice(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		b := newBank(t)
		v := remit.Variant{Counted: true}
		n := b.run(v)
		must(t, n.Client(), deja.Request{Key: "ana", Command: remit.Deposit{Amount: 100}})
		for i := range 3 {
			remits(t, n, fmt.Sprintf("r%d", i))
		}
		until(t, "all is counted", func() bool { return state[remit.Tally](t, n.Client(), "tally", "bob").Count == 3 })
		until(t, "the cursors are set", func() bool { return carriedAll(t, b.log, bankRoutes...) })
		n.end()
		for _, topic := range []string{"bank.journal", "ledger.journal"} {
			for p := range int32(2) {
				for _, reader := range []string{"bank.route.bank", "bank.route.ledger"} {
					if err := b.log.SetCursor(t.Context(), reader, topic, p, 0); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		before := len(topicRecords(t, b.log, "bank.inbox"))
		n = b.run(v)
		until(t, "all was carried again", func() bool { return carriedAll(t, b.log, bankRoutes...) })
		remits(t, n, "r3")
		until(t, "it is counted", func() bool { return state[remit.Tally](t, n.Client(), "tally", "bob").Count >= 4 })
		if got := len(topicRecords(t, b.log, "bank.inbox")) - before; got < 15 {
			t.Errorf("%d messages came, want all those of three remittances again: nothing is shown", got)
		}
		if got := state[remit.Account](t, n.Client(), "account", "ana").Balance; got != 60 {
			t.Errorf("the balance is %d, want 60", got)
		}
		if got := state[remit.Tally](t, n.Client(), "tally", "bob"); got.Count != 4 || got.Amount != 40 {
			t.Errorf("%d postings of %d were counted, want 4 of 40", got.Count, got.Amount)
		}
		if len(b.mail.sent) != 4 {
			t.Errorf("%d receipts were sent, want 4", len(b.mail.sent))
		}
	})
}

// Processes share the partitions, and come and go while messages are carried: for a while two may carry the same.
func TestProcessesThatCarryAtOnceCarryNothingTwice(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	v := remit.Variant{Counted: true}
	first, second := b.run(v), b.run(v)
	must(t, first.Client(), deja.Request{Key: "ana", Command: remit.Deposit{Amount: 1000}})
	const count = 40
	for i := range count {
		if _, err := first.Client().Send(t.Context(), deja.Request{
			Key: fmt.Sprintf("r%d", i), Command: remit.Start{From: "ana", To: "bob", Amount: 10, Patience: time.Hour},
		}); err != nil {
			t.Fatal(err)
		}
		if i == count/2 {
			second.end()
			second = b.run(v)
		}
	}
	until(t, "all are counted", func() bool { return state[remit.Tally](t, first.Client(), "tally", "bob").Count >= count })
	until(t, "all have ended", func() bool {
		for i := range count {
			if state[remit.Remittance](t, first.Client(), "remittance", fmt.Sprintf("r%d", i)).Receipt == "" {
				return false
			}
		}
		return true
	})
	if got := state[remit.Account](t, first.Client(), "account", "ana").Balance; got != 1000-10*count {
		t.Errorf("the balance is %d", got)
	}
	if got := state[remit.Tally](t, first.Client(), "tally", "bob").Count; got != count || len(b.mail.sent) != count {
		t.Errorf("%d postings were counted and %d receipts sent, want %d", got, len(b.mail.sent), count)
	}
}
