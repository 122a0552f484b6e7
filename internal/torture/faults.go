//go:build unix

package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/wire"
)

// A kind of fault. A light one goes on beside those that follow.
type kind struct {
	name   string
	weight int
	light  bool
	do     func(r *run, ctx context.Context, rng *rand.Rand)
}

func kinds() []kind {
	return []kind{
		{"cut", 14, true, (*run).cut},
		{"commit-cut", 14, true, (*run).commitCut},
		{"append-cut", 8, true, (*run).appendCut},
		{"answer-cut", 8, true, (*run).answerCut},
		{"one-way", 10, true, (*run).oneWay},
		{"slow", 6, true, (*run).slow},
		{"partition", 8, true, (*run).partition},
		{"nap", 6, true, (*run).nap},
		{"kill", 8, true, (*run).kill},
		{"freeze", 7, true, (*run).freeze},
		{"restart", 3, true, (*run).restart},
		{"second-relay", 4, true, (*run).secondRelay},
		{"carried-again", 5, true, (*run).carriedAgain},
		{"provider", 3, true, (*run).holdProvider},
		{"postgres", 5, false, (*run).stopPostgres},
		{"broker", 3, false, (*run).killBroker},
		{"service", 3, false, (*run).killService},
		{"store-back", 3, false, (*run).storeBack},
		{"store-back-idle", 1, false, (*run).storeBackIdle},
		{"sleeper", 1, false, (*run).sleeper},
		{"store-lost", 1, false, (*run).storeLost},
	}
}

// opening is what every run begins with: one of each that must not be left to chance.
var opening = []string{
	"append-cut", "commit-cut", "store-back-idle", "sleeper", "kill", "freeze", "postgres", "one-way", "carried-again", "broker", "answer-cut", "service", "provider",
	"store-back", "partition", "store-lost",
}

func kindNames() (names []string) {
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	return names
}

// plan returns the kinds of faults that a run begins with, and those that it goes on with.
func (r *run) plan() (first, then []kind) {
	for _, k := range kinds() {
		if len(r.opt.only) == 0 || slices.Contains(r.opt.only, k.name) {
			then = append(then, k)
		}
	}
	for _, name := range opening {
		if i := slices.IndexFunc(then, func(k kind) bool { return k.name == name }); i >= 0 {
			first = append(first, then[i])
		}
	}
	return first, then
}

// harm does one fault after the other until the time is over and there were enough.
func (r *run) harm(ctx context.Context) {
	if !r.warm(ctx) {
		return
	}
	first, then := r.plan()
	rng := rand.New(rand.NewPCG(r.opt.seed, 2))
	for began := time.Now(); ctx.Err() == nil; {
		var k kind
		switch {
		case len(first) > 0:
			k, first = first[0], first[1:]
		case time.Since(began) > r.opt.length && r.harmed() >= r.opt.faults:
			return
		default:
			k = pick(rng, then)
		}
		own := rand.New(rand.NewPCG(rng.Uint64(), 3))
		if k.light {
			r.light.Go(func() { k.do(r, ctx, own) })
		} else {
			k.do(r, ctx, own)
		}
		sleep(ctx, between(rng, r.opt.pause/4, r.opt.pause/4*7))
	}
}

func (r *run) harmed() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.faults)
}

// pick takes one by the weights.
func pick(rng *rand.Rand, among []kind) kind {
	total := 0
	for _, k := range among {
		total += k.weight
	}
	at := rng.IntN(total)
	for _, k := range among {
		if at -= k.weight; at < 0 {
			return k
		}
	}
	return among[0]
}

// warm waits until the services work.
func (r *run) warm(ctx context.Context) bool {
	for until := time.Now().Add(2 * time.Minute); r.load.dos.Load() < 20 || r.load.ends.Load() < 5; {
		if time.Now().After(until) {
			r.violate("the services do not work, before any fault: %s", r.standing(ctx))
		}
		if sleep(ctx, 100*time.Millisecond); ctx.Err() != nil {
			return false
		}
	}
	return true
}

func between(rng *rand.Rand, least, most time.Duration) time.Duration {
	return (least + time.Duration(rng.Int64N(int64(most-least)))).Round(time.Millisecond)
}

func (r *run) oneOf(rng *rand.Rand, hands []*hand) *hand { return hands[rng.IntN(len(hands))] }

func serverName(i int) string { return [...]string{"Kafka", "PostgreSQL"}[i] }

// cut ends the connections of a process.
func (r *run) cut(_ context.Context, rng *rand.Rand) {
	h, which := r.oneOf(rng, r.behind()), rng.IntN(2)
	r.fault("cut", "%s loses its connections to %s", h.name, serverName(which))
	h.proxies()[which].cut()
}

// commitCut loses answers to COMMIT, some of them after a while.
func (r *run) commitCut(ctx context.Context, rng *rand.Rand) {
	h, n, held := r.oneOf(rng, r.workers()), 1+rng.IntN(3), time.Duration(0)
	if rng.IntN(3) == 0 {
		held = between(rng, 500*time.Millisecond, 4*time.Second)
	}
	r.fault("commit-cut", "%s loses the answers of %d COMMITs, each after %s", h.name, n, held)
	h.pg.loseCommits(n, held)
	sleep(ctx, 2*time.Second)
	h.pg.loseCommits(0, 0)
}

// appendCut loses records that the workers send to Kafka, after a while.
func (r *run) appendCut(ctx context.Context, rng *rand.Rand) {
	n, held := 1+rng.IntN(8), between(rng, 0, 2*time.Second)
	r.fault("append-cut", "each worker loses %d requests to append to topics, each after %s", n, held)
	for _, h := range r.workers() {
		h.kafka.loseAppends(n, held)
	}
	sleep(ctx, 3*time.Second)
	for _, h := range r.workers() {
		h.kafka.loseAppends(0, 0)
	}
}

// answerCut loses any answers.
func (r *run) answerCut(ctx context.Context, rng *rand.Rand) {
	h, which, n := r.oneOf(rng, r.behind()), rng.IntN(2), 1+rng.IntN(4)
	r.fault("answer-cut", "%s loses %d answers of %s", h.name, n, serverName(which))
	h.proxies()[which].loseAnswers(n)
	sleep(ctx, time.Second)
	h.proxies()[which].loseAnswers(0)
}

// oneWay stops one direction, and then ends the connections.
func (r *run) oneWay(ctx context.Context, rng *rand.Rand) {
	h, which, direction, d := r.oneOf(rng, r.workers()), rng.IntN(2), rng.IntN(2), between(rng, 500*time.Millisecond, 5*time.Second)
	r.fault("one-way", "%s and %s: nothing gets to the %s for %s", h.name, serverName(which), [...]string{"server", "process"}[direction], d)
	p := h.proxies()[which]
	p.stall(direction)
	sleep(ctx, d)
	p.cut()
	p.free()
}

// slow delays every piece.
func (r *run) slow(ctx context.Context, rng *rand.Rand) {
	h, which, d := r.oneOf(rng, r.behind()), rng.IntN(2), between(rng, 5*time.Millisecond, 150*time.Millisecond)
	r.fault("slow", "%s and %s: %s more for every piece", h.name, serverName(which), d)
	p := h.proxies()[which]
	p.delay.Store(int64(d))
	sleep(ctx, between(rng, time.Second, 6*time.Second))
	p.delay.Store(0)
}

// partition keeps a process from a server, or from both.
func (r *run) partition(ctx context.Context, rng *rand.Rand) {
	h, which, d := r.oneOf(rng, r.behind()), rng.IntN(3), between(rng, 500*time.Millisecond, 6*time.Second)
	if which == 2 {
		r.fault("partition", "%s reaches neither server for %s", h.name, d)
		h.kafka.refuse(d)
		h.pg.refuse(d)
	} else {
		r.fault("partition", "%s does not reach %s for %s", h.name, serverName(which), d)
		h.proxies()[which].refuse(d)
	}
	sleep(ctx, d)
}

// nap freezes a process for less than the lease.
func (r *run) nap(ctx context.Context, rng *rand.Rand) {
	h := r.oneOf(rng, r.processes())
	r.sleep(ctx, "nap", h, between(rng, 100*time.Millisecond, 2500*time.Millisecond))
}

// freeze freezes a process past the lease.
func (r *run) freeze(ctx context.Context, rng *rand.Rand) {
	r.sleep(ctx, "freeze", r.oneOf(rng, r.workers()), between(rng, 4*time.Second, 9*time.Second))
}

func (r *run) sleep(ctx context.Context, kind string, h *hand, d time.Duration) {
	if !h.running() {
		return
	}
	r.fault(kind, "%s sleeps for %s", h.name, d)
	h.signal(syscall.SIGSTOP)
	sleep(ctx, d)
	h.signal(syscall.SIGCONT)
}

// kill kills a worker and starts another.
func (r *run) kill(ctx context.Context, rng *rand.Rand) {
	r.again(ctx, "kill", r.oneOf(rng, r.workers()), syscall.SIGKILL, between(rng, 0, 3*time.Second))
}

// restart ends a worker in good order and starts another.
func (r *run) restart(ctx context.Context, rng *rand.Rand) {
	r.again(ctx, "restart", r.oneOf(rng, r.workers()), syscall.SIGTERM, between(rng, 0, time.Second))
}

// secondRelay kills or freezes the second relay.
func (r *run) secondRelay(ctx context.Context, rng *rand.Rand) {
	if rng.IntN(2) == 0 {
		r.sleep(ctx, "second-relay", r.second, between(rng, time.Second, 8*time.Second))
		return
	}
	r.again(ctx, "second-relay", r.second, syscall.SIGKILL, between(rng, 0, time.Second))
}

func (r *run) again(ctx context.Context, kind string, h *hand, s syscall.Signal, after time.Duration) {
	if !h.running() {
		return
	}
	r.fault(kind, "%s ends by %s, another begins after %s", h.name, s, after)
	h.end(s)
	sleep(ctx, after)
	if ctx.Err() == nil {
		r.begin(h)
	}
}

// carriedAgain appends a piece of an inbox once more, as a router does that was far behind, asleep, or had lost its cursor.
func (r *run) carriedAgain(ctx context.Context, rng *rand.Rand) {
	s, n := r.oneSide(rng), rng.Int32N(partitions)
	topic := wire.Inbox(s.name)
	_, end, err := r.log.Bounds(ctx, topic, n)
	if err != nil || end == 0 {
		return // the broker is down
	}
	at := rng.Int64N(end)
	recs, err := r.log.Fetch(ctx, deja.Position{Topic: topic, Partition: n, Offset: at}, 1+rng.IntN(150))
	if err != nil {
		return
	}
	r.fault("carried-again", "%d messages of %s/%d, from %d of %d", len(recs), topic, n, at, end)
	for _, rec := range recs {
		again := driver.Record{Partition: n, Key: rec.Key, Value: rec.Value, Headers: rec.Headers}
		if _, err := r.log.Append(ctx, topic, []driver.Record{again}); err != nil {
			return // in order, up to the first that was not taken
		}
	}
}

// holdProvider lets the receipts' provider answer nobody for a while.
func (r *run) holdProvider(ctx context.Context, rng *rand.Rand) {
	d := between(rng, 500*time.Millisecond, 6*time.Second)
	lock := flock.New(r.sides[0].direct.provider + ".lock")
	defer func() { _ = lock.Close() }() // which unlocks it
	if ok, err := lock.TryLockContext(ctx, time.Millisecond); err != nil || !ok {
		return
	}
	r.fault("provider", "it answers nobody for %s", d)
	sleep(ctx, d)
}

// killService kills all workers of a service, and starts others after a while.
func (r *run) killService(ctx context.Context, rng *rand.Rand) {
	s, d := r.oneSide(rng), between(rng, time.Second, 6*time.Second)
	r.fault("service", "all workers of the %s are killed, others begin after %s", s.name, d)
	r.down.Add(1)
	defer r.down.Add(-1)
	for _, h := range s.hands {
		h.end(syscall.SIGKILL)
	}
	sleep(ctx, d)
	for _, h := range s.hands {
		r.begin(h)
	}
}

func (r *run) begin(h *hand) {
	if err := h.start(); err != nil {
		r.violate("%v", err)
	}
}

// stopPostgres lets the database crash.
func (r *run) stopPostgres(ctx context.Context, rng *rand.Rand) {
	d := between(rng, 0, 3*time.Second)
	r.fault("postgres", "it is stopped without a checkpoint, and starts after %s", d)
	r.bounce(ctx, d, "postgres", "--immediate")
}

// killBroker kills the broker.
func (r *run) killBroker(ctx context.Context, rng *rand.Rand) {
	d := between(rng, 0, 2*time.Second)
	r.fault("broker", "it is killed, and starts after %s", d)
	r.bounce(ctx, d, "kafka", "--kill")
}

func (r *run) bounce(ctx context.Context, d time.Duration, server, how string) {
	r.down.Add(1)
	defer r.down.Add(-1)
	_, err := r.s.script(ctx, "stop", server, how)
	if err == nil {
		sleep(ctx, d)
		for try := 0; ; try++ { // the port of one that was killed may be taken for a moment still
			if _, err = r.s.script(context.WithoutCancel(ctx), "start", server); err == nil || try == 5 {
				break
			}
			sleep(ctx, time.Second)
		}
	}
	if err != nil && ctx.Err() == nil {
		r.violate("the run itself failed: %v", err)
	}
}

// storeBack puts one service's store back to where it was some seconds ago, or both, as one does with a backup or a standby
// that lags: in between, nobody reaches the database.
func (r *run) storeBack(ctx context.Context, rng *rand.Rand) {
	which := r.someSides(rng)
	for _, s := range which {
		if !r.dump(ctx, s, "dump") {
			return
		}
	}
	d := between(rng, time.Second, 5*time.Second)
	sleep(ctx, d)
	r.fault("store-back", "%s by more than %s", names(which), d)
	for _, s := range which {
		r.putBack(ctx, s, "dump")
	}
}

func (r *run) oneSide(rng *rand.Rand) *side { return r.sides[rng.IntN(len(r.sides))] }

// someSides returns one of both, or both.
func (r *run) someSides(rng *rand.Rand) []*side {
	if n := rng.IntN(len(r.sides) + 1); n < len(r.sides) {
		return r.sides[n : n+1]
	}
	return r.sides
}

func names(sides []*side) string {
	var all []string
	for _, s := range sides {
		all = append(all, s.name)
	}
	return strings.Join(all, " and ")
}

// dump keeps a service's store as it is now, under a name.
func (r *run) dump(ctx context.Context, s *side, name string) bool {
	err := r.s.dump(ctx, &s.direct, r.dumped(s, name))
	if err != nil && ctx.Err() == nil {
		r.say("no dump: %v", err)
	}
	return err == nil
}

func (r *run) dumped(s *side, name string) string {
	return filepath.Join(r.opt.dir, s.name+"-"+name+".sql")
}

// users are those who work on a service's store through proxies.
func (r *run) users(s *side) []*hand {
	all := append(slices.Clone(s.hands), s.caller)
	if s.name == r.second.place.service {
		all = append(all, r.second)
	}
	return all
}

// putBack puts a service's store back to where it was when it was dumped.
func (r *run) putBack(ctx context.Context, s *side, name string) {
	r.down.Add(1)
	defer r.down.Add(-1)
	for _, h := range r.users(s) {
		h.pg.refuse(time.Hour)
	}
	defer func() {
		for _, h := range r.users(s) {
			h.pg.admit()
		}
	}()
	for try := 0; ctx.Err() == nil; try++ {
		err := r.s.restore(ctx, &s.direct, r.dumped(s, name))
		if err == nil {
			return
		}
		if try > 20 {
			r.violate("the run itself failed: %v", err)
			return
		}
		sleep(ctx, 200*time.Millisecond)
	}
}

// rest lets all come to rest, with the load paused; false: it did not within a while.
func (r *run) rest(ctx context.Context) (resume func(), ok bool) {
	resume = r.load.pause()
	short, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	if !r.settled(short) {
		resume()
		return nil, false
	}
	return resume, true
}

// storeBackIdle puts a store back while nobody works, so that no lost connection tells the workers.
func (r *run) storeBackIdle(ctx context.Context, rng *rand.Rand) {
	r.calm(ctx)
	s := r.oneSide(rng)
	resume, ok := r.rest(ctx)
	if !ok {
		return
	}
	ok = r.dump(ctx, s, "idle")
	resume()
	if !ok {
		return
	}
	sleep(ctx, time.Second)
	if resume, ok = r.rest(ctx); !ok {
		return
	}
	r.fault("store-back-idle", "%s, while all are at rest", s.name)
	r.putBack(ctx, s, "idle")
	resume()
	sleep(ctx, time.Second)
}

// sleeper lets a worker sleep while its store goes back and others take it over, in a new life of the service; and then
// lets those sleep, and the first wake and find something to do. It believes that nothing has happened, and the store
// is again where it left it.
func (r *run) sleeper(ctx context.Context, rng *rand.Rand) {
	r.calm(ctx)
	s := r.oneSide(rng)
	first := r.oneOf(rng, s.hands)
	var others []*hand
	for _, h := range s.hands {
		if h != first {
			others = append(others, h)
			h.end(syscall.SIGTERM)
		}
	}
	r.begin(first)
	for _, h := range others { // they are younger now, and the first partition is the eldest's
		r.begin(h)
	}
	if !r.until(ctx, func() bool { return s.holdsFirst(ctx, first) }) {
		return
	}
	resume, ok := r.rest(ctx)
	if !ok {
		return
	}
	ok = r.dump(ctx, s, "sleeper")
	resume()
	sleep(ctx, time.Second)
	if !ok {
		return
	}
	if resume, ok = r.rest(ctx); !ok {
		return
	}
	defer func() { resume() }()
	if !s.holdsFirst(ctx, first) {
		return
	}
	r.fault("sleeper", "%s sleeps, the store goes back, others take over and sleep, %s wakes", first.name, first.name)
	r.down.Add(1)
	defer r.down.Add(-1)
	first.signal(syscall.SIGSTOP)
	defer first.signal(syscall.SIGCONT)
	for _, h := range others {
		h.end(syscall.SIGKILL)
	}
	r.putBack(ctx, s, "sleeper")
	before := s.takeovers()
	for _, h := range others {
		r.begin(h)
	}
	taken := r.until(ctx, func() bool {
		return s.takeovers() >= before+partitions && slices.ContainsFunc(others, func(h *hand) bool { return s.holdsFirst(ctx, h) })
	})
	if !taken {
		return
	}
	for _, h := range others {
		h.signal(syscall.SIGSTOP)
	}
	defer func() {
		for _, h := range others {
			h.signal(syscall.SIGCONT)
		}
	}()
	r.load.wake(ctx, s)
	first.signal(syscall.SIGCONT)
	sleep(ctx, 2*time.Second)
}

// storeLost drops a store while no worker of its service runs, and makes an empty one; or does so with both.
func (r *run) storeLost(ctx context.Context, rng *rand.Rand) {
	r.calm(ctx)
	r.down.Add(1)
	defer r.down.Add(-1)
	which := r.someSides(rng)
	r.fault("store-lost", "%s: the schema is dropped, with no worker running", names(which))
	for _, s := range which {
		for _, h := range r.users(s) {
			if h != s.caller {
				h.end(syscall.SIGKILL)
			}
		}
		s.caller.pg.refuse(time.Hour)
		var err error
		if !r.until(ctx, func() bool { err = s.remake(ctx); return err == nil }) && ctx.Err() == nil {
			r.violate("the run itself failed: %v", err)
		}
		s.caller.pg.admit()
	}
	if err := r.startAll(); err != nil {
		r.violate("%v", err)
	}
}

// remake makes the store anew.
func (s *side) remake(ctx context.Context) error {
	if err := inDatabase(ctx, s.direct.dsn, "SET lock_timeout = '5s'; DROP SCHEMA IF EXISTS "+s.direct.schema+" CASCADE"); err != nil {
		return err
	}
	db, err := s.direct.openStore(ctx)
	if err != nil {
		return err
	}
	return errors.Join(db.Close(), watchLeases(ctx, s.direct.dsn, s.direct.schema))
}

// until waits for something, for a while.
func (r *run) until(ctx context.Context, so func() bool) bool {
	for end := time.Now().Add(15 * time.Second); ctx.Err() == nil && time.Now().Before(end); sleep(ctx, 100*time.Millisecond) {
		if so() {
			return true
		}
	}
	return false
}

// holdsFirst reports whether a worker has the first partition's newest lease.
func (s *side) holdsFirst(ctx context.Context, h *hand) bool {
	ls, err := s.leases(ctx)
	if err != nil {
		return false
	}
	for _, l := range ls {
		if l.Partition == 0 {
			return l.Held && l.Epoch == h.took(0)
		}
	}
	return false
}
