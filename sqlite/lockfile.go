package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
)

// lockfile is the file beside a database that one writing process holds locked. Its text is the database's id, and
// a second line once the database is durable.
type lockfile struct {
	lock    *flock.Flock
	created bool // it was not there before
}

// made is the second line. Without it the database may be missing, as a crash came between the two files.
const made = "made"

// lockText is what a lock file says.
type lockText struct {
	id   string
	made bool
}

func lockPath(path string) string { return path + ".lock" }

// takeLock locks the file beside path, making it where it is missing.
func takeLock(path string) (*lockfile, error) {
	_, err := os.Stat(lockPath(path))
	l := &lockfile{lock: flock.New(lockPath(path), flock.SetPermissions(0o644)), created: errors.Is(err, fs.ErrNotExist)}
	got, err := l.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("open %s for writing: lock %s: %w", path, lockPath(path), err)
	}
	if !got {
		return nil, fmt.Errorf("open %s: %w: stop the other process first (%s is locked); commands that only read work meanwhile",
			path, ErrLocked, lockPath(path))
	}
	return l, nil
}

// read returns what the file says; nothing where it is empty.
func (l *lockfile) read() (lockText, error) {
	data, err := os.ReadFile(l.lock.Path())
	if err != nil {
		return lockText{}, err
	}
	lines := strings.Fields(string(data))
	switch {
	case len(lines) == 0:
		return lockText{}, nil
	case len(lines) == 1:
		return lockText{id: lines[0]}, nil
	}
	return lockText{id: lines[0], made: lines[1] == made}, nil
}

// write makes t durable. The file is written in place: another in its stead would not be the locked one.
func (l *lockfile) write(t lockText) (err error) {
	f, err := os.OpenFile(l.lock.Path(), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	text := t.id + "\n"
	if t.made {
		text += made + "\n"
	}
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		return err
	}
	if err := f.Truncate(int64(len(text))); err != nil {
		return err
	}
	return f.Sync()
}

// release gives the lock up. A file that was made for nothing goes: it would lie beside another program's database.
func (l *lockfile) release(unused bool) error {
	if unused && l.created {
		_ = os.Remove(l.lock.Path()) // it stays empty then, which reads as missing
	}
	return l.lock.Unlock()
}

// syncDir makes the names in path's directory durable.
func syncDir(path string) (err error) {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Sync()
}
