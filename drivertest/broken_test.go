package drivertest_test

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/memory"
)

var brokenDrivers = slices.Concat(
	brokenLogs, brokenViews, brokenFences, brokenOwners, brokenCrews, brokenTransactions, brokenTables, brokenOpen, brokenSegments,
)

var brokenLogs = []broken{
	{
		name: "the log drops repeats", caughtBy: "append stores repeats",
		log: func(l *memory.Log) driver.Log {
			seen := map[string]deja.Position{}
			return &bentLog{Log: l, append: func(l *memory.Log, topic string, rs []driver.Record) ([]deja.Position, error) {
				var out []deja.Position
				for _, r := range rs {
					if _, ok := seen[string(r.Value)]; !ok {
						ps, err := l.Append(background, topic, []driver.Record{r})
						if err != nil {
							return out, err
						}
						seen[string(r.Value)] = ps[0]
					}
					out = append(out, seen[string(r.Value)])
				}
				return out, nil
			}}
		},
	},
	{
		name: "the log reorders", caughtBy: "append gives positions",
		log: func(l *memory.Log) driver.Log {
			return &bentLog{Log: l, append: func(l *memory.Log, topic string, rs []driver.Record) ([]deja.Position, error) {
				rs = slices.Clone(rs)
				slices.Reverse(rs)
				return l.Append(background, topic, rs)
			}}
		},
	},
	{
		name: "the log loses what many append", caughtBy: "append by many",
		log: func(l *memory.Log) driver.Log {
			var n atomic.Int64
			return &bentLog{Log: l, append: func(l *memory.Log, topic string, rs []driver.Record) ([]deja.Position, error) {
				if n.Add(1)%50 == 0 {
					return make([]deja.Position, len(rs)), nil
				}
				return l.Append(background, topic, rs)
			}}
		},
	},
	{
		name: "the log appends before it refuses", caughtBy: "append refuses what is too large",
		log: func(l *memory.Log) driver.Log {
			return &bentLog{Log: l, append: func(l *memory.Log, topic string, rs []driver.Record) (ps []deja.Position, err error) {
				for _, r := range rs {
					p, err := l.Append(background, topic, []driver.Record{r})
					if err != nil {
						return ps, err
					}
					ps = append(ps, p...)
				}
				return ps, nil
			}}
		},
	},
	{
		name: "fetch returns nothing at the end", caughtBy: "fetch waits and wakes",
		log: func(l *memory.Log) driver.Log {
			return &bentLog{Log: l, fetch: func(ctx context.Context, l *memory.Log, from deja.Position, max int) ([]driver.Record, error) {
				ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
				defer cancel()
				rs, err := l.Fetch(ctx, from, max)
				if errors.Is(err, context.DeadlineExceeded) {
					return nil, nil
				}
				return rs, err
			}}
		},
	},
	{
		name: "fetch goes on at the beginning", caughtBy: "fetch beyond the end",
		log: fetchAgain(driver.ErrBeyondEnd),
	},
	{
		name: "fetch passes over what was trimmed", caughtBy: "fetch what was trimmed",
		log: fetchAgain(driver.ErrTrimmed),
	},
	{
		name: "fetch returns more than max", caughtBy: "fetch from anywhere",
		log: func(l *memory.Log) driver.Log {
			return &bentLog{Log: l, fetch: func(ctx context.Context, l *memory.Log, from deja.Position, _ int) ([]driver.Record, error) {
				return l.Fetch(ctx, from, 100)
			}}
		},
	},
	{name: "the log forgets its topics", caughtBy: "topic is the same after reopening", forgets: true},
	{name: "the log forgets its records", caughtBy: "append is durable", forgets: true},
}

// fetchAgain returns a log that fetches from the first record where it should return an error.
func fetchAgain(instead error) func(l *memory.Log) driver.Log {
	return func(l *memory.Log) driver.Log {
		return &bentLog{Log: l, fetch: func(ctx context.Context, l *memory.Log, from deja.Position, max int) ([]driver.Record, error) {
			rs, err := l.Fetch(ctx, from, max)
			if !errors.Is(err, instead) {
				return rs, err
			}
			if from.Offset, _, err = l.Bounds(ctx, from.Topic, from.Partition); err != nil {
				return nil, err
			}
			return l.Fetch(ctx, from, max)
		}}
	}
}

var brokenFences = []broken{
	{
		name: "a zombie writes where it left", caughtBy: "fenced by a later lease",
		store: bend(func(s *bentStore) { s.lease = func(_, newest driver.Lease) driver.Lease { return newest } }),
	},
	{
		name: "the epoch is ignored", caughtBy: "fenced by epoch",
		store: bend(func(s *bentStore) {
			s.lease = func(l, newest driver.Lease) driver.Lease { l.Epoch = newest.Epoch; return l }
		}),
	},
	{
		name: "a newer epoch passes", caughtBy: "fenced by epoch",
		store: bend(func(s *bentStore) {
			s.lease = func(l, newest driver.Lease) driver.Lease { l.Epoch = min(l.Epoch, newest.Epoch); return l }
		}),
	},
	{
		name: "the nonce is ignored", caughtBy: "fenced by nonce",
		store: bend(func(s *bentStore) {
			s.lease = func(l, newest driver.Lease) driver.Lease { l.Nonce = newest.Nonce; return l }
		}),
	},
	{
		name: "a store that went back goes on", caughtBy: "whole where the store went back",
		store: func(s *memory.Store) driver.Store {
			memory.Forgetful()(s)
			return s
		},
	},
	{
		name: "the nonce is ignored after a restore", caughtBy: "fenced where an epoch came again",
		store: bend(func(s *bentStore) {
			memory.Forgetful()(s.Store)
			s.lease = func(l, newest driver.Lease) driver.Lease { l.Nonce = newest.Nonce; return l }
		}),
	},
	{
		name: "the position is compared with <=", caughtBy: "fenced by position",
		store: bend(func(s *bentStore) { s.from = atMost }),
	},
	{
		name: "the position is compared with <= after a restore", caughtBy: "fenced where the store went back",
		store: bend(func(s *bentStore) {
			memory.Forgetful()(s.Store)
			s.from = atMost
		}),
	},
	{
		name: "the number is ignored", caughtBy: "fenced by number",
		store: bend(func(s *bentStore) {
			s.from = func(p, now driver.Progress) driver.Progress { p.N = now.N; return p }
		}),
	},
	{
		name: "the chain is ignored", caughtBy: "fenced by chain",
		store: bend(func(s *bentStore) {
			s.from = func(p, now driver.Progress) driver.Progress { p.Chain = now.Chain; return p }
		}),
	},
	{
		name: "transactions do not compare where they began", caughtBy: "fenced by another transaction",
		store: bend(func(s *bentStore) { s.from = func(_, now driver.Progress) driver.Progress { return now } }),
	},
	{
		name: "what the engine rolled back goes on", caughtBy: "fenced when the engine rolled back",
		store: bend(func(s *bentStore) { s.tx = func(t *bentTx) driver.Tx { return &piecemealTx{bentTx: t} } }),
	},
	{
		name: "logged and reset are not fenced", caughtBy: "fenced outside transactions",
		store: bend(func(s *bentStore) { s.lease = func(_, newest driver.Lease) driver.Lease { return newest } }),
	},
	unfenced("Logged"), unfenced("Ready"), unfenced("Attempt"), unfenced("Release"),
	{
		name: "acquire issues the lease again", caughtBy: "acquire",
		store: bend(func(s *bentStore) {
			s.acquire = func(s *bentStore, a driver.Assignment) (driver.Lease, error) {
				if l, ok := s.leases()[a.Partition]; ok {
					p, err := s.Progress(background, a.Partition)
					l.Progress = p
					return l, err
				}
				return s.Store.Acquire(background, a)
			}
		}),
	},
	{
		name: "acquire fences all partitions", caughtBy: "acquire by partition",
		store: bend(func(s *bentStore) {
			s.acquire = func(s *bentStore, a driver.Assignment) (driver.Lease, error) {
				other := a
				other.Partition = 1 - a.Partition
				if _, err := s.Store.Acquire(background, other); err != nil {
					return driver.Lease{}, err
				}
				return s.Store.Acquire(background, a)
			}
		}),
	},
	{
		name: "acquire is not bound", caughtBy: "acquire is bound",
		store: bend(func(s *bentStore) {
			var bound driver.Assignment
			s.acquire = func(s *bentStore, a driver.Assignment) (driver.Lease, error) {
				if bound.Inbox.Name == "" {
					bound = a
				}
				a.Inbox, a.Journal = bound.Inbox, bound.Journal
				return s.Store.Acquire(background, a)
			}
		}),
	},
	{
		name: "acquire does not say what is another", caughtBy: "acquire is bound",
		store: bend(func(s *bentStore) {
			s.acquire = func(s *bentStore, a driver.Assignment) (driver.Lease, error) {
				l, err := s.Store.Acquire(background, a)
				if errors.Is(err, driver.ErrIdentity) {
					err = driver.ErrIdentity
				}
				return l, err
			}
		}),
	},
	{
		name: "acquire tells the last difference", caughtBy: "acquire is bound",
		store: bend(func(s *bentStore) {
			bound := ""
			s.acquire = func(s *bentStore, a driver.Assignment) (driver.Lease, error) {
				bound = cmp.Or(bound, a.Inbox.ID)
				l, err := s.Store.Acquire(background, a)
				if errors.Is(err, driver.ErrCluster) && a.Inbox.ID != bound {
					err = driver.ErrRecreated
				}
				return l, err
			}
		}),
	},
	{
		name: "a copy is not told", caughtBy: "acquire of a copy",
		store: bend(func(s *bentStore) {
			s.acquire = func(s *bentStore, a driver.Assignment) (driver.Lease, error) {
				l, err := s.Store.Acquire(background, a)
				l.Copied = false
				return l, err
			}
		}),
	},
	{
		name: "a copy is told once", caughtBy: "acquire of a copy",
		store: bend(func(s *bentStore) {
			told := false
			s.acquire = func(s *bentStore, a driver.Assignment) (driver.Lease, error) {
				l, err := s.Store.Acquire(background, a)
				l.Copied, told = l.Copied && !told, told || l.Copied
				return l, err
			}
		}),
	},
	{
		name: "a copy is told for ever", caughtBy: "acquire of a copy",
		store: bend(func(s *bentStore) {
			ever := false
			s.acquire = func(s *bentStore, a driver.Assignment) (driver.Lease, error) {
				l, err := s.Store.Acquire(background, a)
				ever = ever || l.Copied
				l.Copied = ever
				return l, err
			}
		}),
	},
	{
		name: "a commit lands after acquire", caughtBy: "acquire beside a commit",
		store: bend(func(s *bentStore) { s.tx = func(t *bentTx) driver.Tx { return &lateTx{bentTx: t} } }),
	},
	{name: "the store forgets its epochs", caughtBy: "acquire after reopening", forgets: true},
}

// unfenced returns a driver in which one call outside transactions takes any lease.
func unfenced(call string) broken {
	return broken{
		name: call + " is not fenced", caughtBy: "fenced outside transactions",
		store: bend(func(s *bentStore) {
			s.only, s.lease = call, func(_, newest driver.Lease) driver.Lease { return newest }
		}),
	}
}

// atMost lets a position pass that is ahead of the store's.
func atMost(p, now driver.Progress) driver.Progress {
	if now.Position <= p.Position {
		return now
	}
	return p
}

// piecemealTx goes on in a transaction of its own when the engine rolled the first one back.
type piecemealTx struct {
	*bentTx
	last driver.Batch
}

func (t *piecemealTx) Write(ctx context.Context, b *driver.Batch) error {
	t.last = *b
	return t.bentTx.Write(ctx, b)
}

func (t *piecemealTx) Advance(ctx context.Context, from, to driver.Progress) error {
	err := t.Tx.Advance(ctx, from, to)
	if errors.Is(err, driver.ErrFenced) {
		return t.store.replay(t.bentTx, &t.last, to)
	}
	return err
}

// replay begins a transaction anew under the newest lease and takes it to where Commit is next.
func (s *bentStore) replay(t *bentTx, b *driver.Batch, to driver.Progress) error {
	now, err := s.Progress(background, t.partition)
	if err != nil {
		return err
	}
	if t.Tx, err = s.Store.Begin(background, s.leases()[t.partition]); err != nil {
		return err
	}
	return errors.Join(t.Tx.Write(background, b), t.Tx.Advance(background, now, to))
}

// lateTx commits although it was fenced between Advance and Commit.
type lateTx struct {
	*bentTx
	batch driver.Batch
	to    driver.Progress
}

func (t *lateTx) Write(ctx context.Context, b *driver.Batch) error {
	t.batch = *b
	return t.bentTx.Write(ctx, b)
}

func (t *lateTx) Advance(ctx context.Context, from, to driver.Progress) error {
	t.to = to
	return t.bentTx.Advance(ctx, from, to)
}

func (t *lateTx) Commit(ctx context.Context) error {
	err := t.Tx.Commit(ctx)
	if !errors.Is(err, driver.ErrFenced) {
		return err
	}
	if err := t.store.replay(t.bentTx, &t.batch, t.to); err != nil {
		return err
	}
	return t.Tx.Commit(ctx)
}

var brokenTransactions = []broken{
	{
		name: "a part of a commit shows", caughtBy: "commit shows all together",
		store: bend(func(s *bentStore) { s.tx = func(t *bentTx) driver.Tx { return &tornTx{bentTx: t} } }),
	},
	{
		name: "advance commits and a crash shows it", caughtBy: "crash between any two steps",
		store: bend(func(s *bentStore) { s.tx = func(t *bentTx) driver.Tx { return &eagerTx{bentTx: t} } }),
	},
	{
		name: "advance commits", caughtBy: "rollback",
		store: bend(func(s *bentStore) { s.tx = func(t *bentTx) driver.Tx { return &eagerTx{bentTx: t} } }),
	},
	{
		name: "write keeps its argument", caughtBy: "commit keeps no argument",
		store: bend(func(s *bentStore) { s.tx = func(t *bentTx) driver.Tx { return &lazyTx{bentTx: t} } }),
	},
	{name: "the store forgets what committed", caughtBy: "commit survives the process", forgets: true},
	{
		name: "a field is not written", caughtBy: "commit writes all",
		store: bend(func(s *bentStore) {
			s.batch = func(_ *bentStore, b driver.Batch) driver.Batch {
				b.States = slices.Clone(b.States)
				for i := range b.States {
					b.States[i].Parked = 0
				}
				return b
			}
		}),
	},
	{
		name: "a failed commit is believed", caughtBy: "commit whose answer was lost",
		store: bend(func(s *bentStore) {
			s.acquire = func(s *bentStore, a driver.Assignment) (driver.Lease, error) {
				last, ok := s.leases()[a.Partition]
				l, err := s.Store.Acquire(background, a)
				if ok {
					l.Progress = last.Progress
				}
				return l, err
			}
		}),
	},
	{
		name: "a store says it is joint and is not", caughtBy: "commit appends to a joint log",
		store: func(s *memory.Store) driver.Store { return falselyJoint{s} },
	},
}

// tornTx commits in two transactions: first the ledger, then the rest.
type tornTx struct {
	*bentTx
	batch    driver.Batch
	from, to driver.Progress
}

func (t *tornTx) Write(_ context.Context, b *driver.Batch) error {
	t.batch = *b
	return nil
}

func (t *tornTx) Advance(_ context.Context, from, to driver.Progress) error {
	t.from, t.to = from, to
	return nil
}

func (t *tornTx) Commit(ctx context.Context) error {
	ledger := driver.Batch{Ledger: t.batch.Ledger}
	if err := errors.Join(t.Tx.Write(ctx, &ledger), t.Tx.Advance(ctx, t.from, t.from), t.Tx.Commit(ctx)); err != nil {
		return err
	}
	time.Sleep(time.Millisecond)
	t.batch.Ledger = nil
	if err := t.store.replay(t.bentTx, &t.batch, t.to); err != nil {
		return err
	}
	return t.Tx.Commit(ctx)
}

// eagerTx commits when it advances.
type eagerTx struct{ *bentTx }

func (t *eagerTx) Advance(ctx context.Context, from, to driver.Progress) error {
	if err := t.bentTx.Advance(ctx, from, to); err != nil {
		return err
	}
	return t.Tx.Commit(ctx)
}

func (t *eagerTx) Commit(context.Context) error { return nil }

// lazyTx writes when it advances.
type lazyTx struct {
	*bentTx
	batch *driver.Batch
}

func (t *lazyTx) Write(_ context.Context, b *driver.Batch) error {
	t.batch = b
	return nil
}

func (t *lazyTx) Advance(ctx context.Context, from, to driver.Progress) error {
	return errors.Join(t.bentTx.Write(ctx, t.batch), t.bentTx.Advance(ctx, from, to))
}

type falselyJoint struct{ *memory.Store }

func (falselyJoint) Joint(driver.Log) bool { return true }

var brokenTables = []broken{
	{
		name: "the ledger ignores a key that it has", caughtBy: "ledger refuses a key twice",
		store: bend(func(s *bentStore) {
			s.batch = dropEntries(func(e driver.Entry) bool { return e.Status != deja.Parked })
		}),
	},
	{
		name: "the ledger does not replace what is parked", caughtBy: "ledger replaces what is parked",
		store: bend(func(s *bentStore) { s.batch = dropEntries(func(driver.Entry) bool { return true }) }),
	},
	{
		name: "the ledger is one per partition", caughtBy: "ledger is one for all partitions",
		store: bend(func(s *bentStore) { s.batch = dropEntries(func(e driver.Entry) bool { return e.Partition == 0 }) }),
	},
	{
		name: "find leaves the last out", caughtBy: "find a range",
		store: func(s *memory.Store) driver.Store { return halfOpen{s} },
	},
	{
		name: "states are sorted by language", caughtBy: "states in order",
		store: func(s *memory.Store) driver.Store { return folded{s} },
	},
	{
		name: "states repeat at the page's edge", caughtBy: "commit writes all",
		store: func(s *memory.Store) driver.Store { return overlapping{s} },
	},
	{
		name: "parked messages of other streams are told", caughtBy: "parked messages",
		store: func(s *memory.Store) driver.Store { return unfiltered{s} },
	},
	{
		name: "unparked messages stay", caughtBy: "parked messages",
		store: bend(func(s *bentStore) {
			s.batch = func(_ *bentStore, b driver.Batch) driver.Batch { b.Unparked = nil; return b }
		}),
	},
	{
		name: "repeats forget the first", caughtBy: "repeats add up",
		store: func(s *memory.Store) driver.Store { return forgetful{s} },
	},
	{
		name: "times are local", caughtBy: "acquire",
		store: func(s *memory.Store) driver.Store { return local{s} },
	},
	{
		name: "logged goes back", caughtBy: "logged never goes back",
		store: func(s *memory.Store) driver.Store { return &goingBack{Store: s} },
	},
	{
		name: "logged forgets whose it is", caughtBy: "logged never goes back",
		store: bend(func(s *bentStore) {
			s.tell = func(ls []driver.Lease) []driver.Lease {
				for i := range ls {
					ls[i].Logged.Incarnation = driver.Incarnation{}
				}
				return ls
			}
		}),
	},
	{
		name: "the records of an answer are not bounded", caughtBy: "records are told in parts",
		store: func(s *memory.Store) driver.Store { return unbounded{s} },
	},
	{
		name: "records go once they are logged ahead of time", caughtBy: "records are kept",
		store: func(s *memory.Store) driver.Store { return impatient{s} },
	},
	{
		name: "reset empties one partition", caughtBy: "reset",
		store: func(s *memory.Store) driver.Store { return &sparing{s, map[int32]driver.Progress{}} },
	},
	{
		name: "reset drops what is to be logged", caughtBy: "reset",
		store: func(s *memory.Store) driver.Store { return &dropping{Store: s} },
	},
	{name: "reset fences nobody", caughtBy: "reset", store: bend(asTheStoreHasIt)},
	{
		name: "a random run finds it too", caughtBy: "model",
		store: bend(func(s *bentStore) { s.from = atMost }),
	},
}

// dropEntries drops entries whose key the ledger has, where the one it has is of a kind.
func dropEntries(kind func(driver.Entry) bool) func(*bentStore, driver.Batch) driver.Batch {
	return func(s *bentStore, b driver.Batch) driver.Batch {
		b.Ledger = slices.DeleteFunc(slices.Clone(b.Ledger), func(e driver.Entry) bool {
			has, _, err := s.Lookup(background, []deja.ID{e.Key})
			return err == nil && len(has) == 1 && kind(has[0])
		})
		return b
	}
}

type halfOpen struct{ *memory.Store }

func (s halfOpen) Find(ctx context.Context, lo, hi deja.ID, max int) ([]driver.Entry, error) {
	es, err := s.Store.Find(ctx, lo, hi, max)
	return slices.DeleteFunc(es, func(e driver.Entry) bool { return e.Key == hi }), err
}

type folded struct{ *memory.Store }

func (s folded) States(ctx context.Context, after deja.Stream, max int) ([]driver.State, error) {
	sts, err := s.Store.States(ctx, deja.Stream{}, 1_000_000)
	order := func(a, b deja.Stream) int {
		return cmp.Or(
			cmp.Compare(strings.ToLower(a.Tenant), strings.ToLower(b.Tenant)), cmp.Compare(a.Tenant, b.Tenant),
			cmp.Compare(a.Aggregate, b.Aggregate),
			cmp.Compare(strings.ToLower(a.Key), strings.ToLower(b.Key)), cmp.Compare(a.Key, b.Key),
		)
	}
	slices.SortFunc(sts, func(a, b driver.State) int { return order(a.Stream, b.Stream) })
	i := slices.IndexFunc(sts, func(st driver.State) bool { return order(st.Stream, after) > 0 })
	if i < 0 {
		return nil, err
	}
	return sts[i:min(i+max, len(sts))], err
}

type overlapping struct{ *memory.Store }

func (s overlapping) States(ctx context.Context, after deja.Stream, max int) ([]driver.State, error) {
	at, err := s.Load(ctx, []deja.Stream{after})
	if err != nil {
		return nil, err
	}
	sts, err := s.Store.States(ctx, after, max-len(at))
	return append(at, sts...), err
}

type unfiltered struct{ *memory.Store }

func (s unfiltered) Parked(ctx context.Context, partition int32, _ deja.Stream, from int64, max int) ([]driver.Parked, error) {
	return s.Store.Parked(ctx, partition, deja.Stream{}, from, max)
}

type forgetful struct{ *memory.Store }

func (s forgetful) Repeats(ctx context.Context, key deja.ID) ([]driver.Repeat, error) {
	rs, err := s.Store.Repeats(ctx, key)
	for i := range rs {
		rs[i].First = rs[i].Last
	}
	return rs, err
}

type local struct{ *memory.Store }

func (s local) Progress(ctx context.Context, partition int32) (driver.Progress, error) {
	p, err := s.Store.Progress(ctx, partition)
	p.Time = p.Time.In(time.FixedZone("CET", 3600))
	return p, err
}

type goingBack struct {
	*memory.Store
	last driver.Logged
}

func (s *goingBack) Logged(ctx context.Context, l driver.Lease, to driver.Logged) error {
	s.last = to
	return s.Store.Logged(ctx, l, to)
}

func (s *goingBack) Acquire(ctx context.Context, a driver.Assignment) (driver.Lease, error) {
	l, err := s.Store.Acquire(ctx, a)
	l.Logged = s.last
	return l, err
}

type unbounded struct{ *memory.Store }

func (s unbounded) Unlogged(ctx context.Context, partition int32, after int64, max int) ([]driver.JournalRecord, error) {
	var all []driver.JournalRecord
	for {
		rs, err := s.Store.Unlogged(ctx, partition, after, max-len(all))
		if err != nil || len(rs) == 0 {
			return all, err
		}
		all = append(all, rs...)
		after = rs[len(rs)-1].N
	}
}

type impatient struct{ *memory.Store }

func (s impatient) Unlogged(ctx context.Context, partition int32, after int64, max int) ([]driver.JournalRecord, error) {
	return s.Store.Unlogged(ctx, partition, after+1, max)
}

// sparing tells the old progress of the partitions that were reset under another's lease.
type sparing struct {
	*memory.Store
	spared map[int32]driver.Progress
}

func (s *sparing) Reset(ctx context.Context, l driver.Lease) error {
	for p := range l.Inbox.Partitions {
		if p != l.Partition {
			s.spared[p], _ = s.Store.Progress(ctx, p)
		}
	}
	return s.Store.Reset(ctx, l)
}

func (s *sparing) Progress(ctx context.Context, partition int32) (driver.Progress, error) {
	if p, ok := s.spared[partition]; ok {
		return p, nil
	}
	return s.Store.Progress(ctx, partition)
}

type dropping struct {
	*memory.Store
	dropped bool
}

func (s *dropping) Reset(ctx context.Context, l driver.Lease) error {
	s.dropped = true
	return s.Store.Reset(ctx, l)
}

func (s *dropping) Unlogged(ctx context.Context, partition int32, after int64, max int) ([]driver.JournalRecord, error) {
	rs, err := s.Store.Unlogged(ctx, partition, after, max)
	if s.dropped {
		rs = nil
	}
	return rs, err
}

// asTheStoreHasIt gives the newest acquired lease the epoch and nonce that the store holds now.
func asTheStoreHasIt(s *bentStore) {
	s.lease = func(l, newest driver.Lease) driver.Lease {
		ls, _ := s.Leases(background)
		for _, now := range ls {
			if now.Partition == l.Partition && l.Nonce == newest.Nonce {
				l.Epoch, l.Nonce = now.Epoch, now.Nonce
			}
		}
		return l
	}
}
