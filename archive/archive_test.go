package archive_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/archive"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/testenv"
	"github.com/dejalog/deja/internal/wire"
)

var (
	update = flag.Bool("update", false, "write the golden files anew: only for a new format version")
	seed   = flag.Uint64("seed", 0, "repeat the random test with this seed")
)

func TestMain(m *testing.M) { testenv.Main(m) }

const service = "shop"

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)

// world is a log with a history that hangs together, made record by record.
type world struct {
	t     *testing.T
	log   *memory.Log
	chain []driver.Logged // by partition
	now   time.Time
}

func newWorld(t *testing.T, partitions int32) *world {
	w := &world{t: t, now: epoch, chain: make([]driver.Logged, partitions)}
	w.log = memory.NewLog(memory.LogConfig{Partitions: partitions, Now: func() time.Time { return w.now }})
	for p := range w.chain {
		w.chain[p].Chain = wire.Genesis(service, int32(p))
	}
	return w
}

func (w *world) append(topic string, partition int32, key string, value []byte) int64 {
	w.t.Helper()
	w.now = w.now.Add(time.Second)
	at, err := w.log.Append(w.t.Context(), topic, []driver.Record{{Partition: partition, Key: key, Value: value}})
	if err != nil {
		w.t.Fatal(err)
	}
	return at[0].Offset
}

// decide adds a message and its decision.
func (w *world) decide(partition int32, text string) {
	c := &w.chain[partition]
	id := deja.DeriveID("test", fmt.Sprint(partition, c.N, text))
	offset := w.append(wire.Inbox(service), partition, text, wire.AppendMessage(nil, &deja.Envelope{ID: id, Type: "till.put", Source: service, Actor: text}))
	c.N++
	raw := wire.AppendRecord(nil, &wire.Record{
		Kind: wire.KindDecision, N: c.N, Prev: c.Chain, Incarnation: c.Incarnation, Covers: offset, Time: w.now, Build: "build", Fold: "fold",
		Cause: deja.Envelope{
			ID: id, Type: "till.put", Source: service, Actor: text, Stream: deja.Stream{Aggregate: "till", Key: text},
			Position: deja.Position{Topic: wire.Inbox(service), Partition: partition, Offset: offset},
		},
		Decided: deja.Decided{Status: deja.Ignored},
	})
	c.Chain = wire.Hash(raw)
	w.append(wire.Journal(service), partition, text, raw)
}

// life begins a new incarnation, and lets the old one write on.
func (w *world) life(partition int32) {
	c := &w.chain[partition]
	old := *c
	c.Incarnation = driver.Incarnation{Number: c.Incarnation.Number + 1, Nonce: [16]byte{byte(c.N), 1}}
	w.append(wire.Journal(service), partition, "", wire.AppendRecord(nil, &wire.Record{
		Kind: wire.KindMarker, N: c.N, Prev: c.Chain, Incarnation: c.Incarnation, Time: w.now,
	}))
	mine := *c
	*c = old
	w.decide(partition, "dead")
	*c = mine
}

func (w *world) pull(dir string, bytes int64) []archive.Part {
	w.t.Helper()
	parts, err := archive.Pull(w.t.Context(), dir, archive.Config{Service: service, Log: w.log, Bytes: bytes})
	if err != nil {
		w.t.Fatal(err)
	}
	return parts
}

// same checks that an archive has what the log has.
func (w *world) same(dir string) {
	w.t.Helper()
	l, err := archive.Open(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, topic := range []string{wire.Inbox(service), wire.Journal(service)} {
		want, err := w.log.Topic(w.t.Context(), topic)
		if err != nil {
			w.t.Fatal(err)
		}
		if got, err := l.Topic(w.t.Context(), topic); err != nil || got != want {
			w.t.Errorf("topic %+v, %v, want %+v", got, err, want)
		}
		for p := range w.chain {
			if got, want := records(w.t, l, topic, int32(p)), records(w.t, w.log, topic, int32(p)); !slices.EqualFunc(got, want, equal) {
				w.t.Errorf("%s of partition %d: %d records, want %d", topic, p, len(got), len(want))
			}
		}
	}
	if err := l.Verify(w.t.Context(), nil); err != nil {
		w.t.Error(err)
	}
}

func equal(a, b driver.Record) bool {
	return a.Partition == b.Partition && a.Offset == b.Offset && a.Time.Equal(b.Time) && a.Key == b.Key && bytes.Equal(a.Value, b.Value)
}

func records(t *testing.T, l driver.Log, topic string, p int32) (all []driver.Record) {
	t.Helper()
	first, end, err := l.Bounds(t.Context(), topic, p)
	if err != nil {
		t.Fatal(err)
	}
	for at := (deja.Position{Topic: topic, Partition: p, Offset: first}); at.Offset < end; {
		recs, err := l.Fetch(t.Context(), at, 7)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, recs...)
		at.Offset = recs[len(recs)-1].Offset + 1
	}
	return all
}

func TestPullGoesOnWhereItEnded(t *testing.T) {
	w, dir := newWorld(t, 2), filepath.Join(t.TempDir(), "shop")
	for round := range 4 {
		for i := range 20 {
			w.decide(int32(i%2), fmt.Sprint("key", i))
		}
		if round == 2 {
			w.life(1)
			w.decide(1, "after")
		}
		parts := w.pull(dir, 500)
		w.same(dir)
		if parts[0].Pulled < 10 || parts[0].Files < round+1 {
			t.Errorf("round %d: %+v", round, parts[0])
		}
	}
	for _, p := range w.pull(dir, 500) {
		if p.Pulled != 0 || p.First != 0 || p.Records != p.End {
			t.Errorf("nothing is new: %+v", p)
		}
	}
}

func TestPullUpToAMoment(t *testing.T) {
	w, dir := newWorld(t, 1), t.TempDir()
	for i := range 10 {
		w.decide(0, fmt.Sprint("key", i))
	}
	parts, err := archive.Pull(t.Context(), dir, archive.Config{Service: service, Log: w.log, To: []deja.Position{
		{Topic: wire.Inbox(service), Offset: 3}, {Topic: wire.Journal(service), Offset: -1},
	}})
	if err != nil || parts[0].End != 4 || parts[1].End != 0 {
		t.Fatalf("%+v, %v", parts, err)
	}
	w.pull(dir, 0)
	w.same(dir)
}

// A chain that does not hold is not sealed.
func TestAForkedJournalIsRefused(t *testing.T) {
	w, dir := newWorld(t, 1), t.TempDir()
	w.decide(0, "a")
	w.decide(0, "b")
	w.pull(dir, 0)
	w.chain[0].Chain[0] ^= 1
	w.decide(0, "c")
	_, err := archive.Pull(t.Context(), dir, archive.Config{Service: service, Log: w.log})
	if !errors.Is(err, journal.ErrForked) {
		t.Fatalf("%v, want that history forked", err)
	}
	l, err := archive.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, end, _ := l.Bounds(t.Context(), wire.Journal(service), 0); end != 2 {
		t.Errorf("the archive's journal ends at %d", end)
	}
}

func TestAnotherLogIsRefused(t *testing.T) {
	w, dir := newWorld(t, 1), t.TempDir()
	for range 5 {
		w.decide(0, "a")
	}
	w.pull(dir, 0)
	topic, err := w.log.Topic(t.Context(), wire.Inbox(service))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*bent)
		want   error
	}{
		"cluster":    {func(b *bent) { b.topic.Cluster = "other" }, driver.ErrCluster},
		"recreated":  {func(b *bent) { b.topic.ID = "other" }, driver.ErrRecreated},
		"partitions": {func(b *bent) { b.topic.Partitions = 2 }, driver.ErrPartitions},
		"trimmed":    {func(b *bent) { b.first, b.end = 6, 9 }, driver.ErrTrimmed},
		"truncated":  {func(b *bent) { b.end = 3 }, driver.ErrBeyondEnd},
		"altered":    {func(b *bent) { b.value = []byte("other") }, driver.ErrIdentity},
	} {
		b := &bent{Log: w.log, topic: topic, end: 5}
		c.change(b)
		if _, err := archive.Pull(t.Context(), dir, archive.Config{Service: service, Log: b}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := archive.Pull(t.Context(), dir, archive.Config{Service: "bank", Log: w.log}); err == nil || !strings.Contains(err.Error(), "of the service shop") {
		t.Errorf("another service: %v", err)
	}
	w.same(dir)
}

// bent is a log whose inbox is not what it was.
type bent struct {
	driver.Log
	topic      driver.Topic
	first, end int64
	value      []byte
}

func (b *bent) Topic(ctx context.Context, name string) (driver.Topic, error) {
	if name == b.topic.Name {
		return b.topic, nil
	}
	return b.Log.Topic(ctx, name)
}

func (b *bent) Bounds(ctx context.Context, topic string, p int32) (first, end int64, err error) {
	if topic == b.topic.Name {
		return b.first, b.end, nil
	}
	return b.Log.Bounds(ctx, topic, p)
}

func (b *bent) Fetch(ctx context.Context, from deja.Position, max int) ([]driver.Record, error) {
	recs, err := b.Log.Fetch(ctx, from, max)
	if from.Topic == b.topic.Name && b.value != nil {
		recs[0].Value = b.value
	}
	return recs, err
}

// An archive that was begun when the log had been trimmed says where it begins, and its chain is checked from there.
func TestATrimmedLog(t *testing.T) {
	w, dir := newWorld(t, 1), t.TempDir()
	for range 30 {
		w.decide(0, "a")
	}
	trimmed := &trimmed{w.log, 12}
	parts, err := archive.Pull(t.Context(), dir, archive.Config{Service: service, Log: trimmed, Bytes: 700})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		if p.First != 12 || p.End != 30 || p.Records != 18 {
			t.Errorf("%+v", p)
		}
	}
	l, err := archive.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Fetch(t.Context(), deja.Position{Topic: wire.Inbox(service), Offset: 11}, 1); !errors.Is(err, driver.ErrTrimmed) {
		t.Errorf("before its beginning: %v", err)
	}
	if err := l.Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
	w.decide(0, "b")
	if _, err := archive.Pull(t.Context(), dir, archive.Config{Service: service, Log: trimmed}); err != nil {
		t.Error(err)
	}
}

type trimmed struct {
	driver.Log
	first int64
}

func (l *trimmed) Bounds(ctx context.Context, topic string, p int32) (int64, int64, error) {
	_, end, err := l.Log.Bounds(ctx, topic, p)
	return l.first, end, err
}

func (l *trimmed) Fetch(ctx context.Context, from deja.Position, max int) ([]driver.Record, error) {
	if from.Offset < l.first {
		return nil, driver.ErrTrimmed
	}
	return l.Log.Fetch(ctx, from, max)
}

// Whatever happens to a file, the archive says which it is.
func TestDamageIsNamed(t *testing.T) {
	w, origin := newWorld(t, 1), t.TempDir()
	for i := range 60 {
		w.decide(0, fmt.Sprint("key", i))
	}
	w.pull(origin, 1000)
	files, err := filepath.Glob(filepath.Join(origin, "journal", "0", "*.segment"))
	if err != nil || len(files) < 1 {
		t.Fatal(files, err)
	}
	for i := range 10 {
		w.decide(0, fmt.Sprint("more", i))
		w.pull(origin, 1000)
	}
	files, _ = filepath.Glob(filepath.Join(origin, "journal", "0", "*.segment"))
	for i, file := range files {
		name, err := filepath.Rel(origin, file)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		damages := map[string][]byte{
			"cut by one": data[:len(data)-1], "cut in half": data[:len(data)/2], "cut to its head": data[:40], "emptied": {},
			"grown": append(bytes.Clone(data), 0),
		}
		for _, at := range []int{3, 9, 20, len(data) / 3, len(data) / 2, len(data) - 60, len(data) - 30, len(data) - 4} {
			damages[fmt.Sprintf("bit at %d of %d", at, len(data))] = flip(data, at)
		}
		for what, bytes := range damages {
			dir := copyOf(t, origin)
			write(t, filepath.Join(dir, name), bytes)
			damaged(t, dir, filepath.Join(dir, name), what)
		}
		if i < len(files)-1 { // a missing last file looks as if it was not pulled yet
			dir := copyOf(t, origin)
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			damaged(t, dir, strings.Replace(files[i+1], origin, dir, 1), "the one before it is gone")
		}
	}
}

func flip(data []byte, at int) []byte {
	data = bytes.Clone(data)
	data[at] ^= 4
	return data
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := errors.Join(os.Chmod(path, 0o644), os.WriteFile(path, data, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// damaged checks that opening or verifying an archive names a file.
func damaged(t *testing.T, dir, file, what string) {
	t.Helper()
	l, err := archive.Open(dir)
	if err == nil {
		err = l.Verify(t.Context(), nil)
	}
	// An altered hash is seen in the file that follows.
	if !errors.Is(err, archive.ErrDamaged) || !strings.Contains(err.Error(), file) && !strings.Contains(err.Error(), "does not follow") {
		t.Errorf("%s: %s: %v", filepath.Base(file), what, err)
	}
}

func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestFilesAreSealed(t *testing.T) {
	w, dir := newWorld(t, 1), t.TempDir()
	w.decide(0, "a")
	w.pull(dir, 0)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o222 != 0 && filepath.Base(path) != "archive.lock" {
			t.Errorf("%s may be written: %s", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAnArchiveTakesNothing(t *testing.T) {
	w, dir := newWorld(t, 1), t.TempDir()
	w.decide(0, "a")
	w.pull(dir, 0)
	l, err := archive.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), wire.Inbox(service), []driver.Record{{}}); !errors.Is(err, driver.ErrUnusable) {
		t.Errorf("append: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := l.Fetch(ctx, deja.Position{Topic: wire.Inbox(service), Offset: 1}, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("at its end: %v", err)
	}
	if _, err := l.Fetch(t.Context(), deja.Position{Topic: wire.Inbox(service), Offset: 2}, 1); !errors.Is(err, driver.ErrBeyondEnd) {
		t.Errorf("beyond its end: %v", err)
	}
	if _, err := l.Topic(t.Context(), "other"); !errors.Is(err, driver.ErrNotFound) {
		t.Errorf("another topic: %v", err)
	}
	if _, err := archive.Open(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty directory: %v", err)
	}
	write(t, filepath.Join(dir, "archive.json"), []byte(`{"format":2,"service":"shop"}`))
	if _, err := archive.Open(dir); !errors.Is(err, archive.ErrNewer) {
		t.Errorf("a newer one: %v", err)
	}
}

// A directory that holds something else is left alone.
func TestPullRefusesOtherDirectories(t *testing.T) {
	w, dir := newWorld(t, 1), t.TempDir()
	w.decide(0, "a")
	if err := os.WriteFile(filepath.Join(dir, "mine.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := archive.Pull(t.Context(), dir, archive.Config{Service: service, Log: w.log})
	if err == nil || !strings.Contains(err.Error(), "mine.txt") {
		t.Error(err)
	}
}

// Any order of writing, pulling, giving up in the middle and reading ends with what the log has.
func TestRandomHistories(t *testing.T) {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("repeat: go test ./archive -run TestRandomHistories -seed %d", s)
	r := rand.New(rand.NewPCG(s, 1))
	for range 10 {
		w, dir := newWorld(t, 1+r.Int32N(3)), filepath.Join(t.TempDir(), "shop")
		w.decide(0, "first")
		for range 12 {
			for range r.IntN(40) {
				w.decide(r.Int32N(int32(len(w.chain))), strings.Repeat("x", 1+r.IntN(200)))
			}
			if r.IntN(4) == 0 {
				w.life(r.Int32N(int32(len(w.chain))))
			}
			if r.IntN(3) == 0 { // killed while it pulls
				ctx, cancel := context.WithCancel(t.Context())
				left := r.IntN(5)
				_, err := archive.Pull(ctx, dir, archive.Config{Service: service, Log: w.log, Bytes: 300, Progress: func(int64, int64) {
					if left--; left < 0 {
						cancel()
					}
				}})
				cancel()
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
				continue
			}
			w.pull(dir, 1+r.Int64N(3000))
			w.same(dir)
		}
		w.pull(dir, 0)
		w.same(dir)
	}
}

// What is on users' disks must stay readable: the bytes of a file never change.
func TestSegmentsAreFrozen(t *testing.T) {
	w, dir := newWorld(t, 1), t.TempDir()
	w.decide(0, "a")
	w.decide(0, "b")
	w.pull(dir, 0)
	for _, name := range []string{"inbox/0", "journal/0"} {
		data, err := os.ReadFile(filepath.Join(dir, name, "00000000000000000000.segment"))
		if err != nil {
			t.Fatal(err)
		}
		// What it follows from depends on the log's identity, which differs from run to run; the hash depends on that.
		got := bytes.Clone(data)
		i := bytes.Index(got, []byte(`"previous":"`)) + len(`"previous":"`)
		copy(got[i:i+64], strings.Repeat("0", 64))
		copy(got[len(got)-48:len(got)-16], make([]byte, 32))
		file := filepath.Join("testdata", strings.ReplaceAll(name, "/", "-")+".hex")
		if *update {
			if err := os.WriteFile(file, []byte(hex.Dump(got)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if hex.Dump(got) != string(want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, hex.Dump(got), want)
		}
	}
}
