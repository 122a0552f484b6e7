//go:build unix

package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/dejalog/deja/internal/place"
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
		{"postgres", 5, false, (*run).stopPostgres},
		{"broker", 3, false, (*run).killBroker},
		{"store-back", 3, false, (*run).storeBack},
		{"store-back-idle", 1, false, (*run).storeBackIdle},
		{"sleeper", 1, false, (*run).sleeper},
		{"store-lost", 1, false, (*run).storeLost},
	}
}

// opening is what every run begins with: one of each that must not be left to chance.
var opening = []string{
	"append-cut", "commit-cut", "store-back-idle", "sleeper", "kill", "freeze", "postgres", "one-way", "broker", "answer-cut", "store-back", "partition", "store-lost",
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

// warm waits until the service works.
func (r *run) warm(ctx context.Context) bool {
	for until := time.Now().Add(2 * time.Minute); r.load.dos.Load() < 20; {
		if time.Now().After(until) {
			r.violate("the service does not work, before any fault: %s", r.standing(ctx))
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
	h, n, held := r.oneOf(rng, r.hands), 1+rng.IntN(3), time.Duration(0)
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
	for _, h := range r.hands {
		h.kafka.loseAppends(n, held)
	}
	sleep(ctx, 3*time.Second)
	for _, h := range r.hands {
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
	h, which, direction, d := r.oneOf(rng, r.hands), rng.IntN(2), rng.IntN(2), between(rng, 500*time.Millisecond, 5*time.Second)
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
	r.sleep(ctx, "freeze", r.oneOf(rng, r.hands), between(rng, 4*time.Second, 9*time.Second))
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
	r.again(ctx, "kill", r.oneOf(rng, r.hands), syscall.SIGKILL, between(rng, 0, 3*time.Second))
}

// restart ends a worker in good order and starts another.
func (r *run) restart(ctx context.Context, rng *rand.Rand) {
	r.again(ctx, "restart", r.oneOf(rng, r.hands), syscall.SIGTERM, between(rng, 0, time.Second))
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

// storeBack puts the store back to where it was some seconds ago, as one does with a backup or a standby that lags: in
// between, nobody reaches the database.
func (r *run) storeBack(ctx context.Context, rng *rand.Rand) {
	file := filepath.Join(r.opt.dir, "dump.sql")
	if !r.dump(ctx, file) {
		return
	}
	d := between(rng, time.Second, 5*time.Second)
	sleep(ctx, d)
	r.fault("store-back", "by more than %s", d)
	r.putBack(ctx, file)
}

func (r *run) dump(ctx context.Context, file string) bool {
	err := r.s.dump(ctx, r.direct.schema, file)
	if err != nil && ctx.Err() == nil {
		r.say("no dump: %v", err)
	}
	return err == nil
}

func (r *run) putBack(ctx context.Context, file string) {
	r.down.Add(1)
	defer r.down.Add(-1)
	for _, h := range r.behind() {
		h.pg.refuse(time.Hour)
	}
	defer func() {
		for _, h := range r.behind() {
			h.pg.admit()
		}
	}()
	for try := 0; ctx.Err() == nil; try++ {
		err := r.s.restore(ctx, r.direct.schema, file)
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

// storeBackIdle puts the store back while nobody works, so that no lost connection tells the workers.
func (r *run) storeBackIdle(ctx context.Context, _ *rand.Rand) {
	r.calm(ctx)
	resume, ok := r.rest(ctx)
	if !ok {
		return
	}
	file := filepath.Join(r.opt.dir, "idle.sql")
	ok = r.dump(ctx, file)
	resume()
	if !ok {
		return
	}
	sleep(ctx, time.Second)
	if resume, ok = r.rest(ctx); !ok {
		return
	}
	r.fault("store-back-idle", "while all are at rest")
	r.putBack(ctx, file)
	resume()
	sleep(ctx, time.Second)
}

// sleeper lets a worker sleep while the store goes back and others take it over, in a new life of the service; and then
// lets those sleep, and the first wake and find something to do. It believes that nothing has happened, and the store
// is again where it left it.
func (r *run) sleeper(ctx context.Context, rng *rand.Rand) {
	r.calm(ctx)
	first := r.oneOf(rng, r.hands)
	var others []*hand
	for _, h := range r.hands {
		if h != first {
			others = append(others, h)
			h.end(syscall.SIGTERM)
		}
	}
	r.begin(first)
	for _, h := range others { // they are younger now, and the first partition is the eldest's
		r.begin(h)
	}
	if !r.until(ctx, func() bool { return r.holdsFirst(ctx, first) }) {
		return
	}
	resume, ok := r.rest(ctx)
	if !ok {
		return
	}
	file := filepath.Join(r.opt.dir, "sleeper.sql")
	ok = r.dump(ctx, file)
	resume()
	sleep(ctx, time.Second)
	if !ok {
		return
	}
	if resume, ok = r.rest(ctx); !ok {
		return
	}
	defer func() { resume() }()
	if !r.holdsFirst(ctx, first) {
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
	r.putBack(ctx, file)
	before := [2]int64{others[0].takeovers.Load(), others[1].takeovers.Load()}
	for _, h := range others {
		r.begin(h)
	}
	taken := r.until(ctx, func() bool {
		return others[0].takeovers.Load()+others[1].takeovers.Load() >= before[0]+before[1]+partitions &&
			(r.holdsFirst(ctx, others[0]) || r.holdsFirst(ctx, others[1]))
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
	for n := range accounts {
		if place.Partition(accountKey(n), partitions) == 0 {
			r.load.one(ctx, n)
		}
	}
	first.signal(syscall.SIGCONT)
	sleep(ctx, 2*time.Second)
}

// storeLost drops the store while no worker runs, and makes an empty one.
func (r *run) storeLost(ctx context.Context, _ *rand.Rand) {
	r.calm(ctx)
	r.down.Add(1)
	defer r.down.Add(-1)
	r.fault("store-lost", "its schema is dropped, with no worker running")
	for _, h := range r.processes() {
		h.end(syscall.SIGKILL)
	}
	r.caller.pg.refuse(time.Hour)
	defer r.caller.pg.admit()
	var err error
	if !r.until(ctx, func() bool { err = r.remake(ctx); return err == nil }) && ctx.Err() == nil {
		r.violate("the run itself failed: %v", err)
	}
	if err := r.startAll(); err != nil {
		r.violate("%v", err)
	}
}

// remake makes the store anew.
func (r *run) remake(ctx context.Context) error {
	if err := inDatabase(ctx, r.direct.dsn, "SET lock_timeout = '5s'; DROP SCHEMA IF EXISTS "+r.direct.schema+" CASCADE"); err != nil {
		return err
	}
	db, err := r.direct.openStore(ctx)
	if err != nil {
		return err
	}
	return errors.Join(db.Close(), watchLeases(ctx, r.direct.dsn, r.direct.schema))
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
func (r *run) holdsFirst(ctx context.Context, h *hand) bool {
	ls, err := r.leases(ctx)
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
