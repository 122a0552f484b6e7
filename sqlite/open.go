package sqlite

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

const (
	busyTimeout = 10 * time.Second // only other programs, such as a shell, make us wait
	readers     = 4                // connections that read beside the one that writes
)

// Open opens the database at path for writing, and creates it if there is none. The error wraps [ErrLocked],
// [ErrCopied], [ErrNotDeja], [ErrNewer], [ErrCorrupt] or [ErrReadOnly] where one applies; nothing was written then.
// The context bounds the opening only.
func Open(ctx context.Context, path string) (*DB, error) { return openWriting(ctx, path, keepID) }

// identity says what becomes of a file's id when it is opened for writing.
type identity uint8

const (
	keepID  identity = iota // it must be the lock file's
	freshID                 // a new one: the file was made from another for this purpose
	adoptID                 // a new one, and the next lease says that the store was copied
)

// Adopt makes a copied database one of its own: it gives it a new id, and lets the next lease say that the store was
// copied. Adopting what is no copy is harmless, and right for a copy that was made together with its lock file.
func Adopt(ctx context.Context, path string) error {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("adopt: %w", err)
	}
	db, err := openWriting(ctx, path, adoptID)
	if err != nil {
		return err
	}
	return db.Close()
}

// Clone copies the database at from, which may be in use, into a new file: a database of its own that goes on where
// from is now. It is for going on with a past, in which nothing is decided; a copy that is to live on as a service's
// must be adopted. The error wraps [fs.ErrExist] where to exists.
func Clone(ctx context.Context, from, to string) error {
	to, err := resolve(ctx, to)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(to); err == nil {
		return fmt.Errorf("clone %s: %s: %w", from, to, fs.ErrExist)
	}
	src, err := OpenReadOnly(ctx, from)
	if err != nil {
		return err
	}
	part := to + ".part" // what is at to is whole, or not there
	err = os.Remove(part)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = src.vacuumInto(ctx, part)
	}
	if err = errors.Join(err, src.Close()); err == nil {
		err = os.Rename(part, to)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("clone %s into %s: %w", from, to, err), removeAny(part))
	}
	db, err := openWriting(ctx, to, freshID)
	if err != nil {
		return err
	}
	return db.Close()
}

// removeAny removes a file that may not be there.
func removeAny(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (db *DB) vacuumInto(ctx context.Context, to string) error {
	c, err := db.pool.Take(ctx)
	if err != nil {
		return err
	}
	defer db.pool.Put(c)
	return exec(c, "VACUUM INTO ?", to)
}

func openWriting(ctx context.Context, path string, id identity) (_ *DB, err error) {
	path, err = resolve(ctx, path)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open %s for writing: %w: it is no regular file", path, ErrNotDeja)
	}
	lock, err := takeLock(path)
	if err != nil {
		return nil, err
	}
	c, err := openConn(path)
	if err != nil {
		return nil, errors.Join(openingToWrite(path, err), lock.release(true))
	}
	db := newDB(path)
	db.lock, db.conn, db.guard = lock, c, new(guard)
	if err := db.prepare(id); err != nil {
		// Of a database that is not this program's, nothing may be left lying about.
		return nil, errors.Join(openingToWrite(path, err), c.Close(), lock.release(errors.Is(err, ErrNotDeja) || errors.Is(err, ErrCopied)))
	}
	db.pool, err = openPool(path, sqlite.OpenReadOnly)
	if err != nil {
		return nil, errors.Join(opening(path, err), c.Close(), lock.release(false))
	}
	return db, nil
}

// resolve makes path absolute, so that it never means one of SQLite's special names.
func resolve(ctx context.Context, path string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if path == "" {
		return "", errors.New("open database: the path is empty")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	// One file has one lock file, whatever links lead to it.
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target, nil
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		path = filepath.Join(dir, filepath.Base(path))
	}
	return path, nil
}

// openConn opens the connection that writes. Nothing is written yet.
func openConn(path string) (*sqlite.Conn, error) {
	c, err := sqlite.OpenConn(path, sqlite.OpenReadWrite|sqlite.OpenCreate)
	if err != nil {
		return nil, err
	}
	c.SetBusyTimeout(busyTimeout)
	for _, pragma := range []string{
		"PRAGMA synchronous = FULL",
		"PRAGMA fullfsync = ON", // on macOS a plain fsync leaves the data in the drive's cache
		"PRAGMA checkpoint_fullfsync = ON",
		"PRAGMA cache_size = -65536",    // kB; the ledger's working set
		"PRAGMA wal_autocheckpoint = 0", // we checkpoint ourselves, see DB.checkpoint
		"PRAGMA temp_store = MEMORY",
	} {
		if err := exec(c, pragma); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// prepare checks the file, then brings it to the newest format.
func (db *DB) prepare(id identity) error {
	version, err := format(db.conn)
	if err != nil {
		return err
	}
	text, err := db.lock.read()
	if err != nil {
		return err
	}
	if err := db.identify(version, text, id); err != nil {
		return err
	}
	if err := db.setUp(version, id); err != nil {
		return err
	}
	if err := exec(db.conn, "PRAGMA journal_mode = WAL"); err != nil {
		return err
	}
	if now := (lockText{db.id, true}); text != now {
		if err := db.lock.write(now); err != nil {
			return err
		}
		if err := syncDir(db.path); err != nil {
			return err
		}
	}
	// The authorizer stays for good: setting one expires every prepared statement.
	return db.conn.SetAuthorizer(db.guard)
}

// identify settles which database this is. It writes nothing but a fresh one's id into its lock file: if a crash
// comes before the database is made, the next Open finds an id without a database and begins again.
func (db *DB) identify(version int, text lockText, id identity) (err error) {
	if version == 0 {
		if text.made {
			return fmt.Errorf("%w: it is missing or empty, but its lock file %s says that it was made; "+
				"to begin with an empty one remove the lock file too", ErrCorrupt, db.lock.lock.Path())
		}
		db.id = randomText()
		return db.lock.write(lockText{id: db.id})
	}
	if err := checkSize(db.conn, db.path); err != nil {
		return err
	}
	db.id, err = fileID(db.conn)
	switch {
	case err != nil:
		return err
	case id != keepID:
		db.id = randomText()
	case text.id != db.id:
		return fmt.Errorf("%w (its lock file %s is missing, empty or another database's)", ErrCopied, db.lock.lock.Path())
	}
	return nil
}

// setUp writes what is missing in one transaction, and reads back what is kept in memory.
func (db *DB) setUp(version int, id identity) error {
	if err := exec(db.conn, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := db.setUpTables(version, id)
	if err == nil {
		err = exec(db.conn, "COMMIT")
	}
	if err != nil {
		db.rollback()
		return err
	}
	if err := db.topics.load(db.conn); err != nil {
		return err
	}
	for _, p := range db.parts.all() {
		if err := p.loadTables(p.on(db.conn)); err != nil {
			return err
		}
	}
	return nil
}

func (db *DB) setUpTables(version int, identity identity) error {
	if err := migrate(db.conn, version); err != nil {
		return err
	}
	id, err := hex.DecodeString(db.id)
	if err != nil {
		return err
	}
	if version == 0 {
		if err := exec(db.conn, "INSERT INTO deja_file (one, id) VALUES (1, ?)", id); err != nil {
			return err
		}
	}
	if err := checkLog(db.conn); err != nil {
		return err
	}
	ps, err := db.findParts(db.conn)
	if err != nil {
		return err
	}
	for _, p := range ps {
		c := p.on(db.conn)
		if err := repairStore(c); err != nil {
			return err
		}
		p.made.Store(true)
		if identity == keepID {
			continue
		}
		// The store goes on to belong to its own log, under the log's new name.
		if err := c.exec("UPDATE deja_binding SET cluster = ? WHERE cluster = (SELECT lower(hex(id)) FROM deja_file)", db.id); err != nil {
			return err
		}
	}
	if identity == keepID {
		return nil
	}
	return exec(db.conn, "UPDATE deja_file SET id = ?, adopted = adopted + ?", id, identity == adoptID)
}

// OpenReadOnly opens the database at path for reading, while another process may write it. It creates nothing: if
// there is no file, the error wraps [fs.ErrNotExist].
func OpenReadOnly(ctx context.Context, path string) (*DB, error) {
	path, err := resolve(ctx, path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("open %s for reading: there is no database: %w", path, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("open %s for reading: %w: it is no regular file", path, ErrNotDeja)
	case info.Size() == 0:
		return nil, fmt.Errorf("open %s for reading: %w: the file is empty", path, ErrNotDeja)
	}
	db, err := openReading(ctx, path, path, sqlite.OpenReadOnly)
	if cannotShare(err) && !hasWAL(path) {
		// The files that readers and writers share cannot be made, and there are none: nobody writes.
		db, err = openReading(ctx, path, immutable(path), sqlite.OpenReadOnly|sqlite.OpenURI)
	}
	if err != nil {
		return nil, opening(path, err)
	}
	return db, nil
}

func openReading(ctx context.Context, path, uri string, flags sqlite.OpenFlags) (*DB, error) {
	pool, err := openPool(uri, flags)
	if err != nil {
		return nil, err
	}
	db := newDB(path)
	db.pool = pool
	if err := db.inspect(ctx); err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	return db, nil
}

// inspect checks a file that is open for reading.
func (db *DB) inspect(ctx context.Context) error {
	c, err := db.pool.Take(ctx)
	if err != nil {
		return err
	}
	defer db.pool.Put(c)
	// In a snapshot, beside which a writer does not move what is measured.
	return inSnapshot(c, db.inspectSnapshot)
}

func (db *DB) inspectSnapshot(c *sqlite.Conn) error {
	version, err := format(c)
	switch {
	case err != nil:
		return err
	case version == 0:
		return fmt.Errorf("%w: an empty SQLite database", ErrNotDeja)
	case version < len(migrations):
		return fmt.Errorf("format version %d is older than %d: open it for writing once, which brings it up to date", version, len(migrations))
	}
	if err := checkSize(c, db.path); err != nil {
		return err
	}
	if err := checkLog(c); err != nil {
		return err
	}
	p := db.part("")
	if err := checkStore(p.on(c)); err != nil {
		return err
	}
	p.made.Store(true)
	db.id, err = fileID(c)
	return err
}

func openPool(uri string, flags sqlite.OpenFlags) (*sqlitex.Pool, error) {
	return sqlitex.NewPool(uri, sqlitex.PoolOptions{Flags: flags, PoolSize: readers, PrepareConn: func(c *sqlite.Conn) error {
		c.SetBusyTimeout(busyTimeout)
		return exec(c, "PRAGMA cache_size = -8192")
	}})
}

// cannotShare reports whether SQLite could not make or open the files beside a database in WAL mode.
func cannotShare(err error) bool {
	switch sqlite.ErrCode(err).ToPrimary() {
	case sqlite.ResultCantOpen, sqlite.ResultReadOnly, sqlite.ResultPerm:
		return true
	}
	return false
}

func hasWAL(path string) bool {
	info, err := os.Stat(path + "-wal")
	return err == nil && info.Size() > 0 || err != nil && !errors.Is(err, fs.ErrNotExist)
}

// immutable names the file such that SQLite takes no locks and looks for no other files.
func immutable(path string) string {
	u := url.URL{Scheme: "file", Path: filepath.ToSlash(path), RawQuery: "immutable=1"}
	return u.String()
}
