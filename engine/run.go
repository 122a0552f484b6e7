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
	"github.com/dejalog/deja/internal/wire"
)

// A process beats for itself and its partitions. One that has not for the time to live is taken for dead, and its
// partitions go to others at their next beat: so a partition stands still for ttl + beat at most, and a take-over.
// Partitions that are given back wait for one beat.
const (
	ttl   = 3 * time.Second
	beat  = 500 * time.Millisecond
	grace = 5 * time.Second // for what is under way when a process is asked to stop
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
	late   bool // the crew has a newer fold version
}

// job is a partition being handled.
type job struct {
	p    *partition
	stop context.CancelFunc
	done chan struct{}
	err  error // why it halted
}

// run shares the partitions with the other processes until ctx ends, or all that are this one's have halted.
func (r *run) run(ctx context.Context) error {
	group, err := r.group(ctx)
	if err != nil {
		return err
	}
	tick := time.NewTicker(beat)
	defer tick.Stop()
	defer r.leave()
	var assigned []int32 // by the group
	for {
		if err := r.share(ctx, assigned, group != nil); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			r.stopAll()
			return context.Cause(ctx)
		case ps, ok := <-group:
			if !ok {
				if group, err = r.group(ctx); err != nil {
					r.logger.WarnContext(ctx, "the consumer group was left; joining again", "error", err)
				}
			}
			assigned = ps
		case j := <-r.ended:
			delete(r.jobs, j.p)
			if j.err != nil {
				r.halted[j.p] = j.err
			}
		case <-tick.C:
		}
	}
}

// group joins the consumer group, if there is to be one.
func (r *run) group(ctx context.Context) (<-chan []int32, error) {
	if r.e.cfg.Group == "" {
		return nil, nil
	}
	ch, err := r.e.log.(driver.Grouper).Join(ctx, r.e.cfg.Group, wire.Inbox(r.e.machine.Name()))
	if err != nil {
		return nil, fmt.Errorf("join consumer group %s: %w", r.e.cfg.Group, err)
	}
	return ch, nil
}

// share starts and stops work until this process does its part of it. It returns an error when nothing is left to do
// because all has halted.
func (r *run) share(ctx context.Context, assigned []int32, grouped bool) error {
	mine, free := r.all(), r.all()
	if shared, ok := r.e.store.(driver.Shared); ok {
		crew, err := shared.Beat(ctx, r.member, ttl)
		if err != nil {
			if ctx.Err() == nil {
				r.logger.WarnContext(ctx, "no heartbeat: the store cannot be reached; trying again", "error", err)
			}
			return nil
		}
		mine = r.part(crew.Members)
		if grouped {
			mine = r.onlyCurrent(crew.Members, assigned)
		} else {
			free = r.free(crew.Leases)
		}
	} else if grouped {
		mine = assigned
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
		case j == nil && r.halted[p] == nil && slices.Contains(free, n):
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

// all returns the numbers of all partitions.
func (r *run) all() []int32 {
	ns := make([]int32, len(r.ps))
	for i := range ns {
		ns[i] = int32(i)
	}
	return ns
}

// part returns this process's partitions: those alive take turns. Only processes of one fold version may work at a
// time, or each would fold the store anew for itself: those of the process that joined last.
func (r *run) part(alive []driver.Member) []int32 {
	alive = current(alive)
	at := slices.IndexFunc(alive, func(m driver.Member) bool { return m.ID == r.member.ID })
	r.superseded(at < 0)
	if at < 0 {
		return nil
	}
	var ns []int32
	for n := at; n < len(r.ps); n += len(alive) {
		ns = append(ns, int32(n))
	}
	return ns
}

// onlyCurrent returns what a group assigned, or nothing to a process of another fold version than the newest's.
func (r *run) onlyCurrent(alive []driver.Member, assigned []int32) []int32 {
	late := !slices.ContainsFunc(current(alive), func(m driver.Member) bool { return m.ID == r.member.ID })
	if r.superseded(late); late {
		return nil
	}
	return assigned
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

// free returns the partitions that nobody else holds.
func (r *run) free(leases []driver.Lease) []int32 {
	ns := r.all()
	for _, l := range leases {
		if l.Held && l.Owner != r.member.ID {
			ns = slices.DeleteFunc(ns, func(n int32) bool { return n == l.Partition })
		}
	}
	return ns
}

// start begins to handle a partition.
func (r *run) start(ctx context.Context, p *partition) {
	ctx, cancel := context.WithCancel(ctx)
	j := &job{p: p, stop: cancel, done: make(chan struct{})}
	r.jobs[p] = j
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

// leave ends the membership.
func (r *run) leave() {
	r.stopAll()
	shared, ok := r.e.store.(driver.Shared)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := shared.Leave(ctx, r.member.ID); err != nil {
		r.logger.Warn("the store was not told that this process left: it will find out", "error", err)
	}
}

// alive returns the present member's ID.
func (e *Engine) alive() deja.ID {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.member
}
