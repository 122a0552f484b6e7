package step_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/fault"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/till"
	"github.com/dejalog/deja/internal/wire"
)

var (
	simSeed = flag.Uint64("sim.seed", 0, "run the simulation of this one seed")
	simRuns = flag.Int("sim.runs", 0, "how many simulations to run; 0: 3000, or 300 with -short")
)

// TestSimulation runs many small worlds. In each, two processes of different builds share up to three partitions; calls of
// log and store fail before or after they took effect; processes crash, pause and wake up; the store goes back to a
// backup; and in some the builds fold differently, so that each folds the whole store anew.
// Whatever happens, at rest the world must have kept deja's word.
func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		simulate(t, *simSeed)
		return
	}
	runs := *simRuns
	if runs == 0 {
		runs = 3000
		if testing.Short() {
			runs = 300
		}
	}
	first := uint64(time.Now().UnixNano())
	t.Logf("seeds %d to %d; repeat one with: go test ./internal/step -run TestSimulation -sim.seed=N", first, first+uint64(runs)-1)
	heard := 0
	for i := range runs {
		if heard += simulate(t, first+uint64(i)); t.Failed() {
			t.Fatalf("repeat with: go test ./internal/step -run TestSimulation -sim.seed=%d", first+uint64(i))
		}
	}
	if runs >= 300 && heard == 0 { // hundreds are usual
		t.Error("no post has heard of anything that it had asked for: what streams wait for was not tried")
	}
}

// sim is one world.
type sim struct {
	t       *testing.T
	rng     *rand.Rand
	log     *memory.Log
	store   *memory.Store
	backup  *memory.Store
	joint   bool
	parts   int32
	folds   bool // the builds fold differently
	forgets bool // the store does not notice that it went back
	now     time.Time
	workers [2]*simProcess
	ids     []deja.ID
	keys    map[deja.ID]string // of the first message of an ID
	mixed   map[deja.ID]bool   // IDs that came with several keys
	posted  []deja.Envelope    // what came for the posts
	heard   int                // how many answers they have heard
	lost    bool               // the store went back unnoticed: it may not know that such an ID is known in another partition
	told    map[deja.ID]told
	quiet   bool // no more faults
	broken  bool // till.Crash fails
	trace   []string
}

// told is an outcome that left the service.
type told struct {
	n       int64
	status  deja.Status
	version int64
}

// simProcess is a process with a worker for each partition.
type simProcess struct {
	s       *sim
	build   int
	in      *fault.Injector
	machine *deja.Machine
	workers []*simWorker
}

// simWorker is a process's worker of one partition.
type simWorker struct {
	*simProcess
	number  int32
	w       *step.Worker
	taken   bool
	pending []step.Settlement
}

// simulate runs one world, and returns how many answers the posts have heard in it.
func simulate(t *testing.T, seed uint64) (heard int) {
	s := &sim{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1e9, 0).UTC(),
		told: map[deja.ID]told{}, keys: map[deja.ID]string{}, mixed: map[deja.ID]bool{}, broken: true,
	}
	s.joint = s.rng.IntN(4) == 0
	s.parts, s.folds = 1+s.rng.Int32N(3), s.rng.IntN(5) == 0
	s.log = memory.NewLog(memory.LogConfig{Partitions: s.parts, Now: func() time.Time { s.now = s.now.Add(time.Millisecond); return s.now }, MaxRecord: 1 << 15})
	options := []memory.StoreOption{memory.Nonces(s.nonce)}
	if s.forgets = s.rng.IntN(2) == 0; s.forgets {
		options = append(options, memory.Forgetful())
	}
	if s.joint {
		options = append(options, memory.Joint(s.log))
	}
	s.store = memory.NewStore(options...)
	for i := range s.workers {
		s.workers[i] = &simProcess{s: s, build: i}
	}
	for range 50 + s.rng.IntN(100) {
		s.event()
	}
	if p := s.rest(); p != nil {
		s.check(p)
	}
	return s.heard
}

func (s *sim) nonce() (n [16]byte) {
	for i := range n {
		n[i] = byte(s.rng.UintN(256))
	}
	return n
}

func (s *sim) note(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf(format, args...))
}

func (s *sim) fail(format string, args ...any) {
	s.t.Helper()
	for i, line := range s.trace {
		s.t.Logf("%3d %s", i, line)
	}
	s.t.Errorf(format, args...)
}

// event lets one thing happen.
func (s *sim) event() {
	switch r := s.rng.IntN(100); {
	case r < 22:
		s.send()
	case r < 38:
		s.write()
	case r < 41 && !s.joint:
		s.backup = s.store.Snapshot()
		s.note("backup")
	case r < 44 && s.backup != nil:
		s.store.Restore(s.backup)
		s.lost = s.forgets
		s.note("the store goes back")
	case r < 46:
		s.broken = !s.broken
	default:
		s.workers[s.rng.IntN(2)].act()
	}
}

var simKeys = []string{"a", "b", "d"} // of three partitions they are in all; of two, in both

// send appends a new message, a repeated one, a conflicting one, or an operator's act.
func (s *sim) send() {
	key := simKeys[s.rng.IntN(len(simKeys))]
	id := deja.DeriveID("sim", fmt.Sprint(len(s.ids)))
	if len(s.ids) > 0 && s.rng.IntN(3) == 0 {
		id = s.ids[s.rng.IntN(len(s.ids))]
		if s.rng.IntN(8) > 0 { // else the ID comes with another key, which is a conflict, or a new message
			key = s.keys[id]
		}
		s.mixed[id] = s.mixed[id] || key != s.keys[id]
	} else {
		s.keys[id] = key
		s.ids = append(s.ids, id)
	}
	env := &deja.Envelope{
		ID: id, Kind: deja.KindCommand, Source: "shop", CorrelationID: id, ContentType: "application/json",
		Stream: deja.Stream{Aggregate: "till", Key: key},
	}
	n := id[0] % 7 // the same ID mostly has the same content
	switch amount := int64(1 + id[1]%100); {
	case s.rng.IntN(10) == 0:
		env.Type, env.Payload = "till.put", []byte(`{"Amount":7}`)
	case n == 0:
		env.Type, env.Payload = "till.crash", []byte(`{"How":"panic"}`)
	case n == 1:
		env.Type, env.Payload = "till.nothing", []byte(`{}`)
	case n == 2:
		env.Type, env.Payload = "till.big", []byte(`{"Bytes":6000}`) // encoded: 36,000 bytes, too large
	case n < 5:
		env.Type, env.Payload = "till.take", fmt.Appendf(nil, `{"Amount":%d}`, amount)
	default:
		env.Type, env.Payload = "till.twice", fmt.Appendf(nil, `{"Amount":%d}`, amount)
	}
	if s.rng.IntN(12) == 0 {
		s.actOn(env, env.Stream)
	}
	s.append(env)
}

// actOn makes env an operator's act on the oldest parked message of a stream, if there is one.
func (s *sim) actOn(env *deja.Envelope, stream deja.Stream) {
	waiting, err := s.store.Parked(context.Background(), place.Partition(stream.Key, s.parts), stream, 0, 1)
	if err != nil || len(waiting) == 0 {
		return
	}
	env.ID, env.Kind, env.Type = deja.DeriveID("sim-act", fmt.Sprint(s.rng.Uint64())), deja.KindAct, deja.ActRetry
	if s.rng.IntN(2) == 0 {
		env.Type = deja.ActSkip
	}
	env.Payload = fmt.Appendf(nil, `{"message":%q}`, waiting[0].Key)
}

func (s *sim) append(env *deja.Envelope) {
	rec := driver.Record{Partition: place.Partition(env.Stream.Key, s.parts), Key: env.Stream.Key, Value: wire.AppendMessage(nil, env)}
	if _, err := s.log.Append(context.Background(), "shop.inbox", []driver.Record{rec}); err != nil {
		s.fail("append: %v", err)
	}
}

// plan lets calls fail, processes die, and the other worker act in the middle of this one's.
func (p *simProcess) plan(_ int, at fault.Step) fault.Mode {
	s := p.s
	if s.quiet {
		return fault.Pass
	}
	switch r := s.rng.IntN(400); {
	case r < 12:
		m := fault.Mode(1 + s.rng.IntN(4))
		s.note("worker %d: %s: %s", p.build, at, m)
		return m
	case r < 16 && p.build == 0:
		s.note("worker 0 pauses at %s", at)
		for range 1 + s.rng.IntN(4) {
			s.workers[1].act()
		}
		s.note("worker 0 wakes up")
	case r < 18 && s.backup != nil && !s.joint:
		s.store.Restore(s.backup)
		s.lost = s.forgets
		s.note("the store goes back while worker %d is at %s", p.build, at)
	}
	return fault.Pass
}

// act lets one of a process's workers take its next step.
func (p *simProcess) act() {
	ctx := context.Background()
	if p.workers == nil || p.in.Crashed() {
		p.restart(ctx)
		return
	}
	p.workers[p.s.rng.IntN(len(p.workers))].act(ctx)
}

func (p *simWorker) act(ctx context.Context) {
	if !p.taken {
		_ = p.takeOver(ctx, p.w.Takeover) // noted
		return
	}
	var err error
	what := "handles"
	switch p.s.rng.IntN(4) {
	case 0:
		what, err = "relays", p.w.Relay(ctx)
	case 1:
		if what, err = "releases", p.w.Release(ctx); err == nil {
			p.tell()
		}
	default:
		var waiting []int32
		if waiting, err = p.w.Ready(ctx); err == nil && len(waiting) == 0 {
			err = p.handle(ctx, 1+p.s.rng.IntN(5))
		}
	}
	p.failed(err, what)
}

// shortLog gives few records at a time, so that what is read together does not always come together.
type shortLog struct {
	driver.Log
	most int
}

func (l shortLog) Fetch(ctx context.Context, from deja.Position, limit int) ([]driver.Record, error) {
	return l.Log.Fetch(ctx, from, min(limit, l.most))
}

// takeOver takes over, or rebuilds.
func (p *simWorker) takeOver(ctx context.Context, how func(context.Context) error) error {
	err := how(ctx)
	if err == nil {
		_, err = p.w.Ready(ctx)
	}
	p.failed(err, "takes over")
	return err
}

func (p *simProcess) restart(ctx context.Context) {
	p.in, p.workers = fault.New(p.plan), nil
	v := till.Variant{Broken: func() bool { return p.s.broken }}
	if p.build == 1 {
		v.MaxTake = 50
		if p.s.folds {
			v.Fold = 2
		}
	}
	var err error
	if p.machine == nil {
		svc := till.Service(v)
		svc.Aggregates = append(svc.Aggregates, newPost(v.Broken))
		if p.machine, err = deja.Compile(svc); err != nil {
			p.s.t.Fatal(err)
		}
	}
	log, store := p.in.Log(p.s.log), p.in.Store(p.s.store)
	if !p.s.joint { // a joint store would not know it for its own
		log = shortLog{log, 2}
	}
	for n := range p.s.parts {
		w, err := step.New(ctx, step.Config{
			Machine: p.machine, Log: log, Store: store, Partition: n, Build: fmt.Sprint(p.build), NewNonce: p.s.nonce,
		})
		if err != nil {
			p.workers = nil
			return
		}
		p.workers = append(p.workers, &simWorker{simProcess: p, number: n, w: w})
	}
	p.s.note("process %d starts", p.build)
}

func (p *simWorker) handle(ctx context.Context, max int) error {
	recs := p.next(ctx, max)
	if len(recs) == 0 {
		return nil
	}
	ms := step.NewPreparer(p.machine, p.s.parts).Prepare(recs)
	handle := p.w.Handle
	if step.Run(ms) == len(ms) && p.s.rng.IntN(2) == 0 {
		handle = p.overlap
	}
	done, err := handle(ctx, ms)
	p.pending = append(p.pending, done...)
	if err == nil {
		p.tell()
	}
	return err
}

// overlap decides messages in batches, each before the one before it is committed, as a runner does.
func (p *simWorker) overlap(ctx context.Context, ms []step.Message) (all []step.Settlement, err error) {
	var flying []*step.Batch
	commit := func() {
		var done []step.Settlement
		done, err = p.w.Commit(ctx, flying[0])
		all, flying = append(all, done...), flying[1:]
	}
	for len(ms) > 0 && err == nil {
		var b *step.Batch
		n := 1 + p.s.rng.IntN(len(ms))
		if b, err = p.w.Decide(ctx, ms[:n]); err != nil {
			return all, err
		}
		ms, flying = ms[n:], append(flying, b)
		for len(flying) > p.s.rng.IntN(3) && err == nil {
			commit()
		}
	}
	for len(flying) > 0 && err == nil {
		commit()
	}
	return all, err
}

// next fetches without waiting, undisturbed.
func (p *simWorker) next(ctx context.Context, max int) []driver.Record {
	at := p.w.Position()
	_, end, err := p.s.log.Bounds(ctx, at.Topic, p.number)
	if err != nil || at.Offset >= end {
		return nil
	}
	recs, err := p.s.log.Fetch(ctx, at, max)
	if err != nil {
		p.s.fail("fetch: %v", err)
	}
	return recs
}

// failed notes what happened, and lets the worker take over next if it must.
func (p *simWorker) failed(err error, what string) {
	s := p.s
	switch {
	case err == nil && what == "takes over":
		p.taken = true
	case err == nil:
	default:
		p.taken, p.pending = false, nil
		if errors.Is(err, deja.ErrHalted) && s.joint {
			s.fail("worker %d.%d %s: halted: %v", p.build, p.number, what, err)
		}
	}
	at := p.w.Progress()
	s.note("worker %d.%d %s: position %d, n %d, released %d, life %d, %v", p.build, p.number, what, at.Position, at.N, p.w.Released(), at.Incarnation.Number, err)
}

// tell lets released outcomes out. What was told once must be told for ever.
func (p *simWorker) tell() {
	var wait []step.Settlement
	for _, d := range p.pending {
		if d.Entry.N > p.w.Released() {
			wait = append(wait, d)
			continue
		}
		if d.Entry.Status == deja.Conflicted || d.Entry.Status == deja.Parked {
			continue
		}
		now := told{d.Entry.N, d.Entry.Status, 0}
		if d.Record != nil {
			now.version = d.Record.Version
		}
		before, again := p.s.told[d.Entry.Key]
		if again && (!p.s.lost || !p.s.mixed[d.Entry.Key]) && (before.n != now.n || before.status != now.status) {
			p.s.fail("message %s was told %v, and is now told %v", d.Entry.Key, before, now)
		}
		if !again || before.version == 0 {
			p.s.told[d.Entry.Key] = now
		}
	}
	p.pending = wait
}

// rest ends all faults and lets one process finish what there is. It returns that; nil if there is none.
func (s *sim) rest() *simProcess {
	s.quiet, s.broken = true, false
	s.note("rest")
	p := s.workers[s.rng.IntN(2)]
	for range 3 { // a store that is halted by a living twin takes over once that is gone
		p.restart(context.Background())
		err := p.finish(context.Background())
		if err == nil {
			return p
		}
		if errors.Is(err, journal.ErrForked) && s.lost {
			// A sleeper woke up in a store that had gone back to before its successor, and published beside it. That
			// is the one thing that deja cannot set right; it must say so, and stop.
			return nil
		}
	}
	s.fail("the world does not come to rest")
	return nil
}

// finish takes all partitions over, and handles all there is.
func (p *simProcess) finish(ctx context.Context) error {
	for _, w := range p.workers {
		err := w.takeOver(ctx, w.w.Takeover)
		if err != nil {
			err = w.takeOver(ctx, w.w.Takeover) // as a runner does: it may find out something from the first one
		}
		if errors.Is(err, journal.ErrForked) && !p.s.lost {
			p.s.fail("two histories, though the store noticed that it went back: %v", err)
		}
		switch {
		case errors.Is(err, journal.ErrForked): // a sleeper woke up in a store that went back to before its successor: for an operator
			if err := w.takeOver(ctx, w.w.Rebuild); err != nil {
				return err
			}
			return p.finish(ctx) // a rebuild is of all partitions
		case errors.Is(err, driver.ErrFenced):
			return p.finish(ctx)
		case err != nil:
			return err
		}
	}
	for _, w := range p.workers {
		switch waiting, err := w.w.Ready(ctx); {
		case errors.Is(err, driver.ErrFenced): // another partition had the store folded anew
			return p.finish(ctx)
		case err != nil || len(waiting) > 0:
			return fmt.Errorf("partitions %v are not ready: %w", waiting, err)
		}
		if err := w.finish(ctx); err != nil {
			w.failed(err, "at rest")
			return err
		}
	}
	return nil
}

func (p *simWorker) finish(ctx context.Context) error {
	for more := true; more; {
		if more = len(p.next(ctx, 1)) > 0; more {
			if err := p.handle(ctx, 7); err != nil {
				return err
			}
		}
		if err := p.w.Relay(ctx); err != nil {
			return err
		}
		if err := p.w.Release(ctx); err != nil {
			return err
		}
	}
	p.tell()
	return nil
}

// check compares inbox, journal and store at rest.
func (s *sim) check(p *simProcess) {
	ctx := context.Background()
	inbox := s.inbox(ctx)
	decided := map[deja.ID]journal.Entry{}
	var all []journal.Entry
	for n := range s.parts {
		entries := s.journal(ctx, n)
		s.checkOrder(entries, decided)
		all = append(all, entries...)
	}
	for _, env := range inbox {
		if _, ok := decided[env.ID]; !ok && (!s.lost || !s.mixed[env.ID]) {
			s.fail("message %s at %d was never decided", env.ID, env.Position.Offset)
		}
	}
	for id, was := range s.told {
		if s.lost && s.mixed[id] {
			continue
		}
		if e := decided[id]; e.N != was.n || e.Decided.Status != was.status || was.version != 0 && e.Version != was.version {
			s.fail("message %s was told %v; the journal says %d %s version %d", id, was, e.N, e.Decided.Status, e.Version)
		}
	}
	s.checkStates(ctx, all)
	s.checkPosts(ctx, all)
	s.checkLedger(ctx, decided, inbox)
	if !s.lost {
		s.checkVerified(ctx, p)
	}
}

// checkOrder checks a partition's journal, and notes the last decision about each message.
func (s *sim) checkOrder(entries []journal.Entry, decided map[deja.ID]journal.Entry) {
	var lastOffset int64 = -1
	for i, e := range entries {
		if e.N != int64(i+1) {
			s.fail("decision %d comes as number %d", e.N, i+1)
		}
		if e.Decided.Status == deja.Conflicted {
			continue
		}
		if s.lost && s.mixed[e.Cause.ID] {
			continue
		}
		if before, again := decided[e.Cause.ID]; again && before.Decided.Status != deja.Parked {
			s.fail("message %s was decided at %d and again at %d", e.Cause.ID, before.N, e.N)
		} else if !again && e.Cause.Position.Offset < lastOffset {
			s.fail("decision %d: message at %d was first decided after the one at %d", e.N, e.Cause.Position.Offset, lastOffset)
		}
		if e.Act.IsZero() {
			lastOffset = e.Cause.Position.Offset
		}
		decided[e.Cause.ID] = e
	}
}

func (s *sim) journal(ctx context.Context, partition int32) []journal.Entry {
	_, end, err := s.log.Bounds(ctx, "shop.journal", partition)
	if err != nil {
		s.fail("%v", err)
	}
	var all []journal.Entry
	r := journal.NewReader(s.log, "shop", partition, driver.Logged{})
	for {
		entries, err := r.Next(ctx, end, 100)
		if err != nil {
			s.fail("read the journal: %v", err)
		}
		if all = append(all, entries...); len(entries) == 0 || err != nil {
			return all
		}
	}
}

func (s *sim) inbox(ctx context.Context) (envs []*deja.Envelope) {
	dec := wire.NewDecoder("shop")
	for n := range s.parts {
		_, end, err := s.log.Bounds(ctx, "shop.inbox", n)
		if err != nil || end == 0 {
			continue
		}
		recs, err := s.log.Fetch(ctx, deja.Position{Topic: "shop.inbox", Partition: n}, int(end))
		if err != nil {
			s.fail("read the inbox: %v", err)
		}
		for _, rec := range recs {
			env, err := dec.Message(rec.Value)
			if err != nil {
				s.fail("inbox: %v", err)
			}
			env.Position.Offset = rec.Offset
			envs = append(envs, env)
		}
	}
	return envs
}

// checkStates folds the journal by hand and compares.
func (s *sim) checkStates(ctx context.Context, entries []journal.Entry) {
	balances, parked := map[string]int64{}, map[string]int64{}
	for _, e := range entries {
		if e.Cause.Stream.Aggregate != "till" {
			continue
		}
		key := e.Cause.Stream.Key
		switch waits := e.Decided.Status == deja.Parked; { // by hand: the core has its own word for it
		case waits && e.Act.IsZero():
			parked[key]++
		case !waits && !e.Act.IsZero():
			parked[key]--
		}
		for _, ev := range e.Decided.Events {
			var n int64
			if _, err := fmt.Sscanf(string(ev.Payload), `{"Amount":%d}`, &n); err != nil {
				s.fail("event payload %s", ev.Payload)
			}
			if ev.Type == "till.removed" {
				n = -n
			}
			if balances[key] += n; balances[key] < 0 {
				s.fail("decision %d: balance of %s is %d", e.N, key, balances[key])
			}
		}
	}
	for _, key := range simKeys {
		rows, err := s.store.Load(ctx, []deja.Stream{{Aggregate: "till", Key: key}})
		if err != nil {
			s.fail("%v", err)
		}
		var got, waiting int64
		if len(rows) > 0 {
			waiting = rows[0].Parked
			if _, err := fmt.Sscanf(string(rows[0].Data), `{"balance":%d`, &got); err != nil && rows[0].Version > 0 {
				s.fail("state %s", rows[0].Data)
			}
		}
		if got != balances[key] || waiting != parked[key] {
			s.fail("%s: the store has balance %d and %d parked, the journal gives %d and %d", key, got, waiting, balances[key], parked[key])
		}
		ps, err := s.store.Parked(ctx, place.Partition(key, s.parts), deja.Stream{Aggregate: "till", Key: key}, 0, 1000)
		if err != nil || int64(len(ps)) != waiting {
			s.fail("%s: %d pointers, %d counted, %v", key, len(ps), waiting, err)
		}
	}
}

func (s *sim) checkLedger(ctx context.Context, decided map[deja.ID]journal.Entry, inbox []*deja.Envelope) {
	deliveries := map[deja.ID]int64{}
	for _, env := range inbox {
		deliveries[env.ID]++
	}
	for id, e := range decided {
		es, _, err := s.store.Lookup(ctx, []deja.ID{id})
		if err != nil || len(es) != 1 || es[0].N != e.N || es[0].Status != e.Decided.Status || es[0].Hash != e.Hash {
			s.fail("ledger of %s: %+v, %v; the journal has decision %d, %s", id, es, err, e.N, e.Decided.Status)
		}
		reps, err := s.store.Repeats(ctx, id)
		if err != nil {
			s.fail("%v", err)
		}
		n := int64(1)
		for _, r := range reps {
			n += r.Count
		}
		if n != deliveries[id] {
			s.fail("message %s came %d times, %d are counted (%+v)", id, deliveries[id], n, reps)
		}
	}
}
