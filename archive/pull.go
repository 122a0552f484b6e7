package archive

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/wire"
)

const (
	defaultBytes = 64 << 20 // of a file
	chunk        = 2000     // records that are fetched at once
)

// Config says what is pulled. All fields but Service and Log may be left zero.
type Config struct {
	Service  string
	Log      driver.Log
	To       []deja.Position // the last records to pull of their partitions; of others all is pulled
	Bytes    int64           // a file that has so many is sealed; 64 MiB by default
	Progress func(done, total int64)
}

// ErrBusy is returned by [Pull] while another process pulls into the same archive.
var ErrBusy = errors.New("another process is pulling into this archive")

// Pull takes what is new in a log into the archive in a directory, which it makes if there is none. Another log than the
// one that the archive began with is refused, as is a journal whose chain does not hold, and a log that no longer has what
// comes next. What was pulled before an error stays; Pull again goes on from there. Memory does not grow with the log.
func Pull(ctx context.Context, dir string, cfg Config) (parts []Part, err error) {
	cfg.Bytes = cmp.Or(cfg.Bytes, defaultBytes)
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	m, err := identity(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	lock := flock.New(filepath.Join(dir, lockName), flock.SetPermissions(0o644))
	switch got, err := lock.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("lock %s: %w", lock.Path(), err)
	case !got:
		return nil, fmt.Errorf("%w: %s", ErrBusy, dir)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := begin(dir, m); err != nil {
		return nil, err
	}
	l, err := Open(dir)
	if err != nil {
		return nil, err
	}
	if err := l.of(ctx, cfg); err != nil {
		return nil, err
	}
	pulled, err := l.pull(ctx, cfg)
	parts = l.Parts()
	for i := range parts {
		parts[i].Pulled = pulled[slot{parts[i].Topic, parts[i].Partition}]
	}
	return parts, err
}

// identity returns the manifest of an archive of a log.
func identity(ctx context.Context, cfg Config) (manifest, error) {
	m := manifest{Format: format, Service: cfg.Service}
	inbox, err := cfg.Log.Topic(ctx, wire.Inbox(cfg.Service))
	if err != nil {
		return m, err
	}
	own, err := cfg.Log.Topic(ctx, wire.Journal(cfg.Service))
	m.Inbox, m.Journal = bindingOf(inbox), bindingOf(own)
	return m, err
}

// begin writes the manifest of a new archive. A directory with other things in it is refused.
func begin(dir string, m manifest) error {
	path := filepath.Join(dir, manifestName)
	if Is(dir) {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != lockName && e.Name() != manifestName+partSuffix {
			return fmt.Errorf("%s is no archive, and not empty (it has %s): name an archive or a new directory", dir, e.Name())
		}
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.Create(path + partSuffix)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Chmod(0o444), f.Sync(), f.Close()); err == nil {
		err = os.Rename(path+partSuffix, path)
	}
	return errors.Join(err, syncDir(dir))
}

// of checks that the archive is of this service and log.
func (l *Log) of(ctx context.Context, cfg Config) error {
	if l.manifest.Service != cfg.Service {
		return fmt.Errorf("%s is an archive of the service %s, not of %s", l.dir, l.manifest.Service, cfg.Service)
	}
	for name, b := range l.bindings() {
		t, err := cfg.Log.Topic(ctx, name)
		if err == nil {
			err = b.same(t)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// slot is a partition of a topic.
type slot struct {
	topic     string
	partition int32
}

// job is what is to be pulled of a partition.
type job struct {
	slot
	from, end int64
}

// pull pulls every partition. The journals come last and their ends are looked at first, so that every decision's message
// is in the archive.
func (l *Log) pull(ctx context.Context, cfg Config) (map[slot]int64, error) {
	var jobs []job
	var total int64
	for _, name := range []string{wire.Journal(cfg.Service), wire.Inbox(cfg.Service)} {
		for p := range l.topics[name].Partitions {
			j, err := l.job(ctx, cfg, name, p)
			if err != nil {
				return nil, err
			}
			jobs = append(jobs, j)
			total += max(j.end-j.from, 0)
		}
	}
	pulled := map[slot]int64{}
	var done int64
	for i := range jobs {
		j := jobs[len(jobs)-1-i]
		if j.from >= j.end {
			continue
		}
		w := &puller{log: cfg.Log, part: l.topics[j.topic].partitions[j.partition], bytes: cfg.Bytes, job: j, added: func(n int64) {
			done += n
			pulled[j.slot] += n
			if cfg.Progress != nil {
				cfg.Progress(done, total)
			}
		}}
		if err := w.run(ctx, l, cfg.Service); err != nil {
			return pulled, fmt.Errorf("archive %s, partition %d: %w", j.topic, j.partition, err)
		}
	}
	return pulled, nil
}

// job finds what is to be pulled of a partition, and checks that the log still goes on where the archive ends.
func (l *Log) job(ctx context.Context, cfg Config, name string, p int32) (job, error) {
	j := job{slot: slot{name, p}}
	first, end, err := cfg.Log.Bounds(ctx, name, p)
	if err != nil {
		return j, err
	}
	part := l.topics[name].partitions[p]
	_, have := part.bounds()
	j.from, j.end = have, end
	switch {
	case len(part.segments) == 0:
		j.from = first
	case first > have:
		return j, fmt.Errorf("%w: %s of partition %d begins at %d now, the archive ends at %d: what is between is lost; "+
			"begin a new archive in another directory", driver.ErrTrimmed, name, p, first, have)
	case end < have:
		return j, fmt.Errorf("%w: %s of partition %d ends at %d, the archive at %d", driver.ErrBeyondEnd, name, p, end, have)
	case first < have:
		if err := l.sameRecord(ctx, cfg.Log, j.slot, part); err != nil {
			return j, err
		}
	}
	for _, to := range cfg.To {
		if to.Topic == name && to.Partition == p {
			j.end = min(j.end, to.Offset+1)
		}
	}
	return j, nil
}

// sameRecord checks that the archive's last record is the log's.
func (l *Log) sameRecord(ctx context.Context, log driver.Log, in slot, part *partition) error {
	_, end := part.bounds()
	at := deja.Position{Topic: in.topic, Partition: in.partition, Offset: end - 1}
	own, err := l.Fetch(ctx, at, 1)
	if err != nil {
		return err
	}
	first, _, err := log.Bounds(ctx, at.Topic, at.Partition)
	if err != nil || at.Offset < first {
		return err
	}
	theirs, err := log.Fetch(ctx, at, 1)
	if err != nil {
		return err
	}
	if theirs[0].Offset != at.Offset || !theirs[0].Time.Equal(own[0].Time) || string(theirs[0].Value) != string(own[0].Value) {
		return fmt.Errorf("%w: its record at %s is not the one that was archived", driver.ErrIdentity, at)
	}
	return nil
}

// puller pulls one partition.
type puller struct {
	log   driver.Log
	part  *partition
	bytes int64
	added func(n int64)
	job
	open *writer
	mark func() *mark // of a journal: where its chain is
}

func (w *puller) run(ctx context.Context, l *Log, service string) error {
	if err := w.clean(); err != nil {
		return err
	}
	err := w.read(ctx, l, service)
	if w.open == nil {
		return err
	}
	if err != nil {
		return errors.Join(err, w.open.abandon())
	}
	return w.seal()
}

// clean makes the directory, and removes what an earlier run left unfinished.
func (w *puller) clean() error {
	if err := os.MkdirAll(w.part.dir, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(w.part.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), partSuffix) {
			if err := os.Remove(filepath.Join(w.part.dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return syncDir(filepath.Dir(w.part.dir))
}

func (w *puller) read(ctx context.Context, l *Log, service string) error {
	if w.topic != wire.Journal(service) {
		at := deja.Position{Topic: w.topic, Partition: w.partition, Offset: w.from}
		for at.Offset < w.end {
			recs, err := w.fetch(ctx, at, chunk)
			if err != nil {
				return err
			}
			if len(recs) == 0 { // a gap reaches over the end
				return nil
			}
			at.Offset = recs[len(recs)-1].Offset + 1
		}
		return nil
	}
	from, err := w.chain(ctx, l, service)
	if err != nil {
		return err
	}
	r := journal.NewReader(&tap{Log: w.log, w: w}, service, w.partition, from)
	w.mark = func() *mark { return markOf(r.Mark()) }
	for {
		entries, err := r.Next(ctx, w.end, chunk)
		if err != nil || len(entries) == 0 {
			return err
		}
	}
}

// chain returns where the journal's chain is at the archive's end.
func (w *puller) chain(ctx context.Context, l *Log, service string) (driver.Logged, error) {
	if len(w.part.segments) == 0 {
		at, err := journal.Begin(ctx, w.log, service, w.partition)
		at.Offset = w.from
		return at, err
	}
	last := w.part.segments[len(w.part.segments)-1]
	return last.follow(ctx, l, service)
}

// follow reads a journal's file, whose chain must hold, and returns where the chain is at its end.
func (s *segment) follow(ctx context.Context, l *Log, service string) (driver.Logged, error) {
	if s.head.Mark == nil {
		return driver.Logged{}, s.damaged("its head has no mark")
	}
	at, err := s.head.Mark.logged(s.head.First)
	if err != nil {
		return at, s.damaged("its mark: %w", err)
	}
	r := journal.NewReader(l, service, s.head.Partition, at)
	for {
		entries, err := r.Next(ctx, s.end, chunk)
		if err != nil || len(entries) == 0 {
			return r.Mark(), err
		}
	}
}

// tap is the log, of which all that is fetched goes into the archive.
type tap struct {
	driver.Log
	w *puller
}

// Fetch implements [driver.Log].
func (t *tap) Fetch(ctx context.Context, from deja.Position, max int) ([]driver.Record, error) {
	return t.w.fetch(ctx, from, max)
}

// fetch reads records below the end, and writes them. A file ends between two calls only: there the chain's place is known.
func (w *puller) fetch(ctx context.Context, from deja.Position, most int) ([]driver.Record, error) {
	recs, err := w.log.Fetch(ctx, from, int(min(int64(most), w.end-from.Offset)))
	if err != nil {
		return nil, err
	}
	all := recs
	for len(recs) > 0 && recs[len(recs)-1].Offset >= w.end {
		recs = recs[:len(recs)-1]
	}
	if w.open != nil && w.open.size >= w.bytes {
		if err := w.seal(); err != nil {
			return nil, err
		}
	}
	if w.open == nil && len(recs) > 0 {
		if err := w.start(from.Offset); err != nil {
			return nil, err
		}
	}
	for _, rec := range recs {
		if err := w.open.add(rec); err != nil {
			return nil, err
		}
	}
	w.added(int64(len(recs)))
	if w.mark != nil {
		return all, nil // a reader of the journal stops at the end by itself
	}
	return recs, nil
}

func (w *puller) start(at int64) (err error) {
	previous, end := w.part.tail()
	if len(w.part.segments) > 0 {
		at = end
	}
	h := head{Topic: w.topic, Partition: w.partition, First: at, Previous: hexHash(previous)}
	if w.mark != nil {
		h.Mark = w.mark()
	}
	w.open, err = create(w.part.dir, h)
	return err
}

func (w *puller) seal() error {
	open := w.open
	w.open = nil
	s, err := open.close()
	if err != nil {
		if rerr := os.Remove(open.part); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
		return err
	}
	w.part.segments = append(w.part.segments, s)
	return nil
}
