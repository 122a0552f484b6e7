package sqlite_test

import (
	"context"
	"database/sql"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/sqlite"
)

// made returns the path of a closed database with one record in topic in.
func made(t testing.TB) string {
	t.Helper()
	path := newPath(t)
	db, err := sqlite.Open(t.Context(), path)
	must(t, err)
	acquire(t, db)
	_, err = db.Log().Append(t.Context(), "in", values("first"))
	must(t, err)
	must(t, db.Close())
	must(t, db.Close())
	return path
}

// openFails opens a database that must not open, and returns why.
func openFails(t testing.TB, path string, target error) string {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path)
	if err == nil {
		must(t, db.Close())
	}
	wantErr(t, err, target)
	return err.Error()
}

// tamper runs a statement with another SQLite client.
func tamper(t testing.TB, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	must(t, err)
	_, err = db.ExecContext(t.Context(), statement)
	must(t, err)
	must(t, db.Close())
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, data, 0o644))
}

func firstRecord(t testing.TB, db *sqlite.DB) string {
	t.Helper()
	rs, err := db.Log().Fetch(t.Context(), deja.Position{Topic: "in"}, 1)
	must(t, err)
	return string(rs[0].Value)
}

func TestReopen(t *testing.T) {
	path := made(t)
	if _, err := os.Stat(path + "-wal"); err == nil {
		t.Error("closing left a write-ahead log")
	}
	db := open(t, path)
	if got := firstRecord(t, db); got != "first" {
		t.Fatal(got)
	}
	size, err := db.Size(t.Context())
	must(t, err)
	if size < 4096 || db.Path() != path {
		t.Fatal(size, db.Path())
	}
}

func TestClosed(t *testing.T) {
	db := open(t, newPath(t))
	_, err := db.Log().Topic(t.Context(), "in")
	must(t, err)
	waiting := make(chan error)
	go func() {
		_, err := db.Log().Fetch(context.Background(), deja.Position{Topic: "in"}, 1)
		waiting <- err
	}()
	must(t, db.Close())
	wantErr(t, <-waiting, sqlite.ErrClosed)
	_, err = db.Log().Append(t.Context(), "in", values("x"))
	wantErr(t, err, sqlite.ErrClosed)
	_, err = db.Store().Progress(t.Context(), 0)
	wantErr(t, err, sqlite.ErrClosed)
	_, _, err = db.Store().Lookup(t.Context(), []deja.ID{id(1)})
	wantErr(t, err, sqlite.ErrClosed)
}

func TestLocked(t *testing.T) {
	path := made(t)
	other := start(t, "hold", path)
	if got := other.line(); got != "open" {
		t.Fatal(got)
	}
	text := openFails(t, path, sqlite.ErrLocked)
	if !strings.Contains(text, path) || !strings.Contains(text, "stop the other process") {
		t.Errorf("error text %q", text)
	}
	wantErr(t, sqlite.Adopt(t.Context(), path), sqlite.ErrLocked)

	reader, err := sqlite.OpenReadOnly(t.Context(), path)
	must(t, err)
	if got := firstRecord(t, reader); got != "first" {
		t.Fatal(got)
	}
	must(t, reader.Close())
	must(t, other.stdin.Close())
	must(t, other.Wait())
	must(t, open(t, path).Close())
}

func TestCopied(t *testing.T) {
	path := made(t)
	dir := t.TempDir()
	for name, prepare := range map[string]func(to string){
		"no-lock":    func(string) {},
		"empty-lock": func(to string) { must(t, os.WriteFile(to+".lock", nil, 0o644)) },
		"other-lock": func(to string) { copyFile(t, made(t)+".lock", to+".lock") },
	} {
		to := filepath.Join(dir, name)
		copyFile(t, path, to)
		prepare(to)
		for range 2 { // the first failure must not make the second attempt succeed
			if text := openFails(t, to, sqlite.ErrCopied); !strings.Contains(text, "adopted") || !strings.Contains(text, to) {
				t.Errorf("error text %q", text)
			}
		}
		db, err := sqlite.OpenReadOnly(t.Context(), to)
		must(t, err)
		if got := firstRecord(t, db); got != "first" {
			t.Fatal(got)
		}
		must(t, db.Close())
	}
}

func TestAdopt(t *testing.T) {
	path := made(t)
	to := newPath(t)
	copyFile(t, path, to)
	must(t, sqlite.Adopt(t.Context(), to))
	db := open(t, to)
	original := open(t, path)
	if a, b := assignment(t, db), assignment(t, original); a.Inbox.Cluster == b.Inbox.Cluster || a.Inbox.ID != b.Inbox.ID {
		t.Errorf("topics %+v and %+v", a.Inbox, b.Inbox)
	}
	if acquire(t, original).Copied {
		t.Error("the original says that it was copied")
	}
	acquire(t, db)
	l := acquire(t, db)
	if !l.Copied {
		t.Fatal("the lease of a copy does not say so")
	}
	step(t, db, l, &driver.Batch{})
	if !acquire(t, db).Copied {
		t.Fatal("forgotten before the incarnation changed")
	}
	l = acquire(t, db)
	to2 := after(l.Progress)
	to2.Incarnation = driver.Incarnation{Number: 1, Nonce: [16]byte{1}}
	tx, err := db.Store().Begin(t.Context(), l)
	must(t, err)
	must(t, tx.Advance(t.Context(), l.Progress, to2))
	must(t, tx.Commit(t.Context()))
	if l = acquire(t, db); l.Copied || l.Progress != to2 {
		t.Fatalf("lease %+v", l)
	}
	wantErr(t, sqlite.Adopt(t.Context(), newPath(t)), fs.ErrNotExist)
}

func TestOlderBackupKeepsItsID(t *testing.T) {
	path := made(t)
	backup := newPath(t)
	copyFile(t, path, backup)
	db := open(t, path)
	_, err := db.Log().Append(t.Context(), "in", values("second"))
	must(t, err)
	must(t, db.Close())
	must(t, os.Remove(path))
	copyFile(t, backup, path)
	if _, end, err := open(t, path).Log().Bounds(t.Context(), "in", 0); err != nil || end != 1 {
		t.Fatal(end, err)
	}
}

func TestCrashWhileMaking(t *testing.T) {
	path := newPath(t)
	must(t, os.WriteFile(path+".lock", []byte("0123456789abcdef0123456789abcdef\n"), 0o644))
	must(t, os.WriteFile(path, nil, 0o644))
	must(t, open(t, path).Close())
}

func TestVanished(t *testing.T) {
	path := made(t)
	must(t, os.Remove(path))
	openFails(t, path, sqlite.ErrCorrupt)
	must(t, os.WriteFile(path, nil, 0o644))
	openFails(t, path, sqlite.ErrCorrupt)
	must(t, os.Remove(path+".lock"))
	must(t, open(t, path).Close())
}

func TestForeignFiles(t *testing.T) {
	text := newPath(t)
	must(t, os.WriteFile(text, []byte(strings.Repeat("no database\n", 1000)), 0o644))
	foreign := newPath(t)
	tamper(t, foreign, "CREATE TABLE mine (x)")
	for _, path := range []string{text, foreign} {
		before, err := os.ReadFile(path)
		must(t, err)
		openFails(t, path, sqlite.ErrNotDeja)
		_, err = sqlite.OpenReadOnly(t.Context(), path)
		wantErr(t, err, sqlite.ErrNotDeja)
		after, err := os.ReadFile(path)
		must(t, err)
		if string(before) != string(after) {
			t.Error("the file was changed")
		}
		if _, err := os.Stat(path + ".lock"); err == nil {
			t.Error("a lock file was left")
		}
	}
}

func TestNewerFormat(t *testing.T) {
	path := made(t)
	tamper(t, path, "PRAGMA user_version = 99")
	openFails(t, path, sqlite.ErrNewer)
	_, err := sqlite.OpenReadOnly(t.Context(), path)
	wantErr(t, err, sqlite.ErrNewer)
}

// A file of format 1 has states that do not say what their streams wait for.
func TestOlderFormat(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	l := acquire(t, db)
	stream := deja.Stream{Aggregate: "account", Key: "1"}
	state := driver.State{Stream: stream, Version: 1, Data: []byte("{}"), N: 1, Open: []byte("timer"), Due: time.UnixMicro(1).UTC()}
	step(t, db, l, &driver.Batch{States: []driver.State{state}, Records: []driver.JournalRecord{{N: 1, Value: []byte("one")}}})
	must(t, db.Close())
	tamper(t, path, `DROP INDEX deja_states_open; DROP INDEX deja_states_due;
		ALTER TABLE deja_states DROP open; ALTER TABLE deja_states DROP due; PRAGMA user_version = 1`)

	_, err := sqlite.OpenReadOnly(t.Context(), path)
	if err == nil || !strings.Contains(err.Error(), "format version 1 is older than 2: open it for writing once") {
		t.Fatalf("opened for reading: %v", err)
	}
	db = open(t, path)
	again := acquire(t, db)
	if again.Progress != (driver.Progress{}) || again.Epoch <= l.Epoch {
		t.Fatalf("the store was not emptied: %+v", again)
	}
	if rs, err := db.Log().Fetch(t.Context(), deja.Position{Topic: "out"}, 9); err != nil || len(rs) != 1 {
		t.Fatalf("%d records, error %v", len(rs), err)
	}
	step(t, db, again, &driver.Batch{States: []driver.State{state}})
	got, err := db.Store().Due(t.Context(), 0, state.Due, driver.State{}, 9)
	must(t, err)
	if len(got) != 1 || string(got[0].Open) != "timer" {
		t.Fatalf("got %+v", got)
	}
}

func TestTruncated(t *testing.T) {
	whole := made(t)
	info, err := os.Stat(whole)
	must(t, err)
	for _, size := range []int64{info.Size() - 1, info.Size() - 4096, 5000, 100, 1} {
		path := newPath(t)
		copyFile(t, whole, path)
		copyFile(t, whole+".lock", path+".lock")
		must(t, os.Truncate(path, size))
		if text := openFails(t, path, sqlite.ErrCorrupt); !strings.Contains(text, path) {
			t.Errorf("error text %q", text)
		}
		if size > 1 { // SQLite takes one byte for an empty file
			_, err = sqlite.OpenReadOnly(t.Context(), path)
			wantErr(t, err, sqlite.ErrCorrupt)
		}
	}
}

// A write-ahead log says how long the file is, so SQLite does not miss pages that are in neither.
func TestTruncatedBesideWAL(t *testing.T) {
	path := made(t)
	db, err := sqlite.Open(t.Context(), path)
	must(t, err)
	_, err = db.Log().Append(t.Context(), "in", []driver.Record{{Value: make([]byte, 100_000)}}) // the file's end
	must(t, err)
	must(t, db.Close())
	db, err = sqlite.Open(t.Context(), path)
	must(t, err)
	_, err = db.Log().Append(t.Context(), "in", values("third"))
	must(t, err)
	to := newPath(t)
	for _, suffix := range []string{"", "-wal", ".lock"} {
		copyFile(t, path+suffix, to+suffix)
	}
	must(t, db.Close())
	whole := newPath(t)
	for _, suffix := range []string{"", "-wal", ".lock"} {
		copyFile(t, to+suffix, whole+suffix)
	}
	if _, end, err := open(t, whole).Log().Bounds(t.Context(), "in", 0); err != nil || end != 3 {
		t.Fatal(end, err)
	}
	info, err := os.Stat(to)
	must(t, err)
	must(t, os.Truncate(to, info.Size()-3*4096))
	if text := openFails(t, to, sqlite.ErrCorrupt); !strings.Contains(text, "truncated") || !strings.Contains(text, "restore a backup") {
		t.Errorf("error text %q", text)
	}
}

func TestLostTables(t *testing.T) {
	path := made(t)
	tamper(t, path, "DROP TABLE deja_log_1")
	openFails(t, path, sqlite.ErrCorrupt)

	for _, lost := range []string{"deja_ledger", "deja_ledger_1", "deja_ledger_parked", "deja_states", "deja_parked", "deja_lease", "deja_tables", "deja_binding", "balances"} {
		path := newPath(t)
		db := open(t, path)
		l := acquire(t, db, deja.TableDef{Name: "balances", DDL: "CREATE TABLE balances (id TEXT PRIMARY KEY)"})
		step(t, db, l, &driver.Batch{
			Records: []driver.JournalRecord{{N: 1, Value: []byte("r")}},
			Ledger:  []driver.Entry{{Key: id(1), N: 1, Status: deja.Applied}},
			States:  []driver.State{{Stream: deja.Stream{Aggregate: "a", Key: "1"}, Version: 1}},
		})
		must(t, db.Close())
		tamper(t, path, "DROP TABLE "+lost)
		db = open(t, path)
		l = acquire(t, db, l.Tables...)
		if l.Progress != (driver.Progress{}) {
			t.Errorf("without %s: progress %+v", lost, l.Progress)
		}
		es, _, err := db.Store().Lookup(t.Context(), []deja.ID{id(1)})
		must(t, err)
		ss, err := db.Store().States(t.Context(), deja.Stream{}, 9)
		must(t, err)
		if _, end, err := db.Log().Bounds(t.Context(), "out", 0); len(es)+len(ss) > 0 || end != 1 || err != nil {
			t.Errorf("without %s: %v, %v, %d, %v", lost, es, ss, end, err)
		}
		_, err = db.Int("SELECT count(*) FROM balances")
		must(t, err)
	}
}

func TestReadOnly(t *testing.T) {
	path := made(t)
	_, err := sqlite.OpenReadOnly(t.Context(), path+"x")
	wantErr(t, err, fs.ErrNotExist)
	if _, err := os.Stat(path + "x"); err == nil {
		t.Fatal("a file was made")
	}
	db, err := sqlite.OpenReadOnly(t.Context(), path)
	must(t, err)
	defer func() { must(t, db.Close()) }()
	_, err = db.Log().Topic(t.Context(), "nope")
	wantErr(t, err, driver.ErrNotFound)
	_, err = db.Log().Append(t.Context(), "in", values("x"))
	wantErr(t, err, sqlite.ErrReadOnly)
	wantErr(t, db.Log().(driver.Importer).Import(t.Context(), "in", values("x")), sqlite.ErrReadOnly)
	_, err = db.Store().Acquire(t.Context(), driver.Assignment{})
	wantErr(t, err, sqlite.ErrReadOnly)
	_, err = db.Store().Begin(t.Context(), driver.Lease{})
	wantErr(t, err, sqlite.ErrReadOnly)
	wantErr(t, db.Store().Logged(t.Context(), driver.Lease{}, driver.Logged{}), sqlite.ErrReadOnly)
	wantErr(t, db.Store().Reset(t.Context(), driver.Lease{}), sqlite.ErrReadOnly)
	_, _, err = db.Store().Lookup(t.Context(), []deja.ID{id(1)})
	must(t, err)
}

// A reader sees what another process appends, while it waits.
func TestReaderBesideWriter(t *testing.T) {
	path := made(t)
	writer := start(t, "append", path)
	writer.line()
	db, err := sqlite.OpenReadOnly(t.Context(), path)
	must(t, err)
	next := int64(0)
	for next < 5000 {
		rs, err := db.Log().Fetch(t.Context(), deja.Position{Topic: "in", Offset: next}, 500)
		must(t, err)
		for i := range rs {
			if rs[i].Offset != next {
				t.Fatalf("record %d, want %d", rs[i].Offset, next)
			}
			next++
		}
	}
	must(t, db.Close())
}

// Permissions do not bind root, so another user does the opening.
func TestWriteProtected(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to become another user")
	}
	dir, err := os.MkdirTemp("", "protected") //nolint:usetesting // t.TempDir lies in a directory that only its owner may enter
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	binary := filepath.Join(dir, "binary")
	copyFile(t, os.Args[0], binary)
	path := filepath.Join(dir, "shop.db")
	copyFile(t, made(t), path)
	must(t, os.Chmod(binary, 0o755))
	must(t, os.Chmod(dir, 0o755))
	nobody := func(cmd *exec.Cmd) {
		cmd.Path, cmd.Args[0] = binary, binary
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	// Directory and file are root's; there is no write-ahead log, so nobody writes.
	if got := start(t, "read", path, nobody).line(); got != "first" {
		t.Errorf("read in a protected directory: %s", got)
	}
	must(t, os.Chmod(dir, 0o777))
	if got := start(t, "read", path, nobody).line(); got != "first" {
		t.Errorf("read of a protected file: %s", got)
	}
	copyFile(t, path, path+".copy")
	must(t, os.WriteFile(path+".lock", nil, 0o666))
	must(t, os.Chmod(path+".lock", 0o666))
	p := start(t, "write", path, nobody)
	all, err := io.ReadAll(readerOf(p))
	must(t, err)
	if got := string(all); !strings.Contains(got, "error:") {
		t.Errorf("write of a protected file: %s", got)
	}
}

// readerOf gives what is left of a child's output.
func readerOf(p *process) io.Reader {
	var sb strings.Builder
	for s := p.line(); s != ""; s = p.line() {
		sb.WriteString(s + "\n")
	}
	return strings.NewReader(sb.String())
}
