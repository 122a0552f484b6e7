package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

// A process beats for itself and its partitions. One that has not for the time to live is taken for dead, and its
// partitions go to others at their next beat: so a partition stands still for ttl + beat at most, and a take-over.
// Partitions that are given back wait for one beat.
const (
	ttl     = 3 * time.Second
	beat    = 500 * time.Millisecond
	meeting = 100 * time.Millisecond // from the first beat to the taking of partitions: processes that start together would take each other's
	grace   = 5 * time.Second        // for what is under way when a process is asked to stop
	leaving = time.Second            // for the store to hear that a process leaves
)

// run is one Run of an engine: a member of the crew that works on the store.
type run struct {
	e      *Engine
	ps     []*partition
	member driver.Member
	logger *slog.Logger

	jobs   map[*partition]*job // of the partitions that this process handles
	ended  chan *job
	halted map[*partition]error
	lost   map[*partition]bool // another process took them over: they are its own until it gives them back
	late   bool                // the crew has a newer fold version

	group    <-chan []int32     // what the consumer group assigns; nil while this process is in none
	quit     context.CancelFunc // leaves the group; nil if there is nothing to leave
	assigned []int32            // by the group

	deaf bool      // the last beat failed: others were not heard either
	from time.Time // no partition is taken before: the others have the time to say that they are alive
}

// job is a partition being handled.
type job struct {
	p    *partition
	stop context.CancelFunc
	done chan struct{}
	err  error // why it halted, or errLost
}

// run shares the partitions with the other processes until ctx ends, or all that are this one's have halted.
func (r *run) run(ctx context.Context) error {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	defer r.leave()
	if err := r.regroup(ctx); err != nil {
		return err
	}
	var met <-chan time.Time
	if _, shared := r.e.store.(driver.Shared); shared {
		r.from, met = time.Now().Add(meeting), time.After(meeting)
	}
	for {
		if err := r.share(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case ps, ok := <-r.group:
			if r.assigned = ps; !ok {
				r.quitGroup() // and joined again at the next beat
			}
		case j := <-r.ended:
			delete(r.jobs, j.p)
			if errors.Is(j.err, errLost) {
				r.lost[j.p] = true
			} else if j.err != nil {
				r.halted[j.p] = j.err
			}
		case <-met:
		case <-tick.C:
			if err := r.regroup(ctx); err != nil {
				return err
			}
		}
	}
}

// regroup joins the consumer group, if there is to be one and this process is not in it. A process that stands by
// leaves it: else nobody would handle what the group gave it.
func (r *run) regroup(ctx context.Context) error {
	switch {
	case r.e.cfg.Group == "":
		return nil
	case r.late:
		r.quitGroup()
		return nil
	case r.group != nil:
		return nil
	}
	joined, quit := context.WithCancel(ctx)
	ch, err := r.e.log.(driver.Grouper).Join(joined, r.e.cfg.Group, wire.Inbox(r.e.machine.Name()))
	if err == nil {
		r.group, r.quit = ch, quit
		return nil
	}
	quit()
	if err = step.Halt(fmt.Errorf("join consumer group %s: %w", r.e.cfg.Group, err)); errors.Is(err, deja.ErrHalted) {
		return err
	}
	if ctx.Err() == nil {
		r.logger.WarnContext(ctx, "not in the consumer group; joining again", "error", err)
	}
	return nil
}

// quitGroup leaves the consumer group, with all that it has assigned.
func (r *run) quitGroup() {
	if r.quit != nil {
		r.quit()
	}
	r.group, r.quit, r.assigned = nil, nil, nil
}

// share starts and stops work until this process does its part of it. It returns an error when nothing is left to do
// because all has halted, or when trying again cannot help.
func (r *run) share(ctx context.Context) error {
	mine, free := r.all(), r.all()
	if r.e.cfg.Group != "" {
		mine = r.assigned
	}
	held := make([]holding, len(r.ps))
	for i, p := range r.ps {
		held[i] = p.holds()
	}
	crew, err := r.beat(ctx)
	if err = step.Halt(err); errors.Is(err, deja.ErrHalted) {
		return err
	}
	if err != nil {
		if ctx.Err() == nil {
			r.logger.WarnContext(ctx, "no heartbeat: the store cannot be reached; trying again", "error", err)
		}
		r.deaf = true
		return nil
	}
	if r.deaf {
		r.deaf, r.from = false, time.Now().Add(beat)
	}
	mine = r.part(crew.Members, mine)
	if _, ok := r.e.store.(driver.Shared); ok {
		free = r.free(crew.Leases)
	}
	r.giveBack(ctx, crew.Leases, mine)
	for i, p := range r.ps {
		p.check(held[i], crew.Leases)
	}
	for _, l := range crew.Leases {
		if p := r.ps[l.Partition]; r.halted[p] != nil && !p.haltedUnder(l) {
			delete(r.halted, p) // all were fenced, as the store was put back or emptied: the others wait for it
		}
	}
	working := 0
	for i, p := range r.ps {
		n := int32(i)
		j := r.jobs[p]
		switch {
		case j != nil && !slices.Contains(mine, n):
			j.stop()
		case j == nil && !slices.Contains(mine, n):
			p.note(elsewhere, nil)
			delete(r.halted, p)
		case j == nil && r.halted[p] == nil && !time.Now().Before(r.from) && slices.Contains(free, n):
			r.start(ctx, p)
			working++
		case r.halted[p] == nil:
			working++
		}
	}
	if working > 0 || len(r.halted) == 0 {
		return nil
	}
	var errs []error
	for _, p := range r.ps {
		errs = append(errs, r.halted[p])
	}
	return errors.Join(errs...)
}

// beat tells the store that this process is alive, and returns who is, and who holds what. Of a store that is not shared
// it is this process alone. A connection that hangs is not waited for longer than others would wait for this process.
func (r *run) beat(ctx context.Context) (driver.Crew, error) {
	ctx, cancel := context.WithTimeout(ctx, ttl)
	defer cancel()
	if shared, ok := r.e.store.(driver.Shared); ok {
		return shared.Beat(ctx, r.member, ttl)
	}
	leases, err := r.e.store.Leases(ctx)
	return driver.Crew{Members: []driver.Member{r.member}, Leases: leases}, err
}

// all returns the numbers of all partitions.
func (r *run) all() []int32 {
	ns := make([]int32, len(r.ps))
	for i := range ns {
		ns[i] = int32(i)
	}
	return ns
}

// part returns this process's partitions: what the group assigned, or, without one, those that come to it as all alive
// take turns. Only processes of one fold version may work at a time, or each would fold the store anew for itself: those
// of the process that joined last.
func (r *run) part(alive []driver.Member, assigned []int32) []int32 {
	alive = current(alive)
	at := slices.IndexFunc(alive, func(m driver.Member) bool { return m.ID == r.member.ID })
	r.superseded(at < 0)
	switch {
	case at < 0:
		return nil
	case r.e.cfg.Group != "":
		return assigned
	}
	var ns []int32
	for n := at; n < len(r.ps); n += len(alive) {
		ns = append(ns, int32(n))
	}
	return ns
}

// current returns the members with the fold version of the one that joined last.
func current(alive []driver.Member) []driver.Member {
	if len(alive) == 0 {
		return nil
	}
	newest := slices.MaxFunc(alive, func(a, b driver.Member) int {
		if c := a.Started.Compare(b.Started); c != 0 {
			return c
		}
		return slices.Compare(a.ID[:], b.ID[:])
	})
	return slices.DeleteFunc(slices.Clone(alive), func(m driver.Member) bool { return m.Fold != newest.Fold })
}

// superseded says once that a newer process folds otherwise, and this one stands by.
func (r *run) superseded(late bool) {
	if late && !r.late {
		r.logger.Warn("a process that joined later folds otherwise: this one stands by until that one is gone", "fold", r.member.Fold)
	}
	r.late = late
}

// free returns the partitions that nobody else holds. What a group assigns is taken from whoever holds it, as he may be
// out of the group and not know it; but not from one who took it from this process, which may not know it either.
func (r *run) free(leases []driver.Lease) []int32 {
	ns := r.all()
	for _, l := range leases {
		if l.Held && l.Owner != r.member.ID && (r.e.cfg.Group == "" || r.lost[r.ps[l.Partition]]) {
			ns = slices.DeleteFunc(ns, func(n int32) bool { return n == l.Partition })
		}
	}
	return ns
}

// giveBack releases what this process holds, is another's now, and is not worked on: a partition that halted, or one
// whose take-over was stopped before its answer came. The heartbeats would keep it from everyone else.
func (r *run) giveBack(ctx context.Context, leases []driver.Lease, mine []int32) {
	for _, l := range leases {
		if !l.Held || l.Owner != r.member.ID || r.jobs[r.ps[l.Partition]] != nil || slices.Contains(mine, l.Partition) {
			continue
		}
		if err := r.e.store.Release(ctx, l); err != nil && !errors.Is(err, driver.ErrFenced) {
			r.logger.WarnContext(ctx, "a partition was not given back; trying again", "partition", l.Partition, "error", err)
		}
	}
}

// start begins to handle a partition.
func (r *run) start(ctx context.Context, p *partition) {
	ctx, cancel := context.WithCancel(ctx)
	j := &job{p: p, stop: cancel, done: make(chan struct{})}
	r.jobs[p] = j
	delete(r.lost, p)
	go func() {
		defer close(j.done)
		defer cancel()
		j.err = p.run(ctx, r.member.ID)
		r.ended <- j
	}()
}

// stopAll ends all work, and waits until the partitions are given back.
func (r *run) stopAll() {
	for _, j := range r.jobs {
		j.stop()
	}
	for _, j := range r.jobs {
		<-j.done
	}
	clear(r.jobs)
}

// leave ends all work, and the memberships in group and crew: those first, so that nobody waits with taking a partition
// over for another that is slow in ending.
func (r *run) leave() {
	r.quitGroup()
	for _, j := range r.jobs {
		j.stop()
	}
	if shared, ok := r.e.store.(driver.Shared); ok {
		ctx, cancel := context.WithTimeout(context.Background(), leaving)
		defer cancel()
		if err := shared.Leave(ctx, r.member.ID); err != nil {
			r.logger.Warn("the store was not told that this process left: it will find out", "error", err)
		}
	}
	r.stopAll()
}

// alive returns the present member's ID.
func (e *Engine) alive() deja.ID {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.member
}
