package trail

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/gofrs/flock"
	"github.com/klauspost/compress/zstd"

	"github.com/dejalog/deja/driver"
)

// A Trail is an open file. Its methods are safe for concurrent use, beside one Builder.
type Trail struct {
	f     file
	path  string // "" if the file has no name, and goes with the process
	cache *cache
	zstd  *zstd.Decoder

	size int64 // of the file; who builds it alone uses this

	mu   sync.RWMutex
	root *root
}

// file is what a Trail needs of one.
type file interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Stat() (fs.FileInfo, error)
	Close() error
}

// cacheBytes bounds what a Trail keeps of what it read.
const cacheBytes = 48 << 20

// maxUnpacked bounds what one section may become in memory.
const maxUnpacked = 1 << 30

// Lock takes the right to build the file at a path. Others may read it meanwhile.
func Lock(path string) (unlock func() error, err error) {
	lock := flock.New(path+".lock", flock.SetPermissions(0o644))
	got, err := lock.TryLock()
	if err == nil && !got {
		err = ErrLocked
	}
	return lock.Unlock, err
}

// Open opens a trail, for writing if it says so. The error wraps [ErrNone] or [ErrDamaged] if it has to be made anew.
func Open(path string, write bool) (*Trail, error) {
	mode := os.O_RDONLY
	if write {
		mode = os.O_RDWR
	}
	f, err := os.OpenFile(path, mode, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	if err != nil {
		return nil, err
	}
	t, err := opened(f, path)
	if err == nil {
		err = t.readRoot()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return t, nil
}

func opened(f file, path string) (*Trail, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxUnpacked))
	return &Trail{f: f, path: path, cache: newCache(cacheBytes), zstd: z}, err
}

// Create makes an empty trail of a history, in place of what is at the path. With an empty path it makes one without a name,
// which is gone when it is closed.
func Create(path, identity string, partitions int32) (*Trail, error) {
	r := &root{identity: identity, marks: make([]driver.Logged, partitions), segments: make([][]*segment, partitions)}
	return create(path, r, nil)
}

// create makes a file with what a root of another one has.
func create(path string, r *root, from *Trail) (t *Trail, err error) {
	dir, name := filepath.Dir(path), filepath.Base(path)
	if path == "" {
		dir, name = os.TempDir(), "deja-history"
	}
	if path != "" {
		removeParts(path)
	}
	f, err := os.CreateTemp(dir, name+".*.part")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
			_ = os.Remove(f.Name())
		}
	}()
	t, err = opened(f, path)
	if err != nil {
		return nil, err
	}
	if err := t.fill(r, from); err != nil {
		return nil, err
	}
	if path == "" {
		return t, os.Remove(f.Name())
	}
	if err := os.Rename(f.Name(), path); err != nil { // it has what messages say: it stays its owner's alone, as CreateTemp made it
		return nil, err
	}
	return t, syncDir(path)
}

// removeParts removes what others left that were killed while they made the file at a path. Who makes it holds the lock.
func removeParts(path string) {
	parts, _ := filepath.Glob(path + ".*.part") // of a path with odd characters they stay
	for _, p := range parts {
		_ = os.Remove(p)
	}
}

// fill writes the header, copies what a root has, and commits it.
func (t *Trail) fill(r *root, from *Trail) error {
	head := make([]byte, headerSize)
	copy(head, magic)
	if _, err := t.f.WriteAt(head, 0); err != nil {
		return err
	}
	t.size = headerSize
	next := &root{identity: r.identity, marks: r.marks, segments: make([][]*segment, len(r.segments))}
	for p, list := range r.segments {
		for _, s := range list {
			moved := *s
			moved.at = t.size
			if _, err := io.Copy(io.NewOffsetWriter(t.f, t.size), io.NewSectionReader(from.f, s.at, s.length)); err != nil {
				return err
			}
			t.size += s.length
			next.segments[p] = append(next.segments[p], &moved)
		}
	}
	return t.commit(next)
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

// commit makes a root the one that counts. What it points to is in the file by now.
func (t *Trail) commit(r *root) error {
	b := r.encode()
	if _, err := t.f.WriteAt(b, t.size); err != nil {
		return err
	}
	at := t.size
	t.size += int64(len(b))
	next := *r
	r = &next
	r.generation, r.end = r.generation+1, t.size
	if err := t.f.Sync(); err != nil {
		return err
	}
	if _, err := t.f.WriteAt(encodeSlot(r.generation, at, b), slotAt(r.generation)); err != nil {
		return err
	}
	if err := t.f.Sync(); err != nil {
		return err
	}
	t.publish(r)
	return nil
}

// publish shows readers a root, which need not be committed yet.
func (t *Trail) publish(r *root) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.root = r
}

func (t *Trail) present() *root {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.root
}

// readRoot finds the root that counts.
func (t *Trail) readRoot() error {
	head := make([]byte, headerSize)
	n, err := t.f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	var best slot
	for g := range uint64(2) {
		if s, ok := parseSlot(head[slotAt(g):][:slotSize]); ok && s.generation%2 == g && s.generation >= best.generation {
			best = s
		}
	}
	name := len(magic) - 1
	switch mine := magic[:min(n, len(magic))]; {
	case string(head[:len(mine)]) == mine && n < headerSize:
		return fmt.Errorf("%w: it is truncated to %d bytes", ErrDamaged, n)
	case string(head[:name]) == magic[:name] && head[name] != magic[name]:
		return fmt.Errorf("%w of version %d: %s has version %d", ErrNone, magic[name], t.path, head[name])
	case !bytes.HasPrefix(head, []byte(magic)) && best.generation > 0:
		return fmt.Errorf("%w: its first bytes are not what they were", ErrDamaged)
	case !bytes.HasPrefix(head, []byte(magic)):
		return fmt.Errorf("%w: %s begins with %q; give another path", ErrForeign, t.path, head[:min(n, len(magic))])
	}
	info, err := t.f.Stat()
	if err != nil {
		return err
	}
	t.size = info.Size()
	if best.generation == 0 || best.at > t.size-best.length {
		return fmt.Errorf("%w: it has no root", ErrDamaged)
	}
	b := make([]byte, best.length)
	if _, err := t.f.ReadAt(b, best.at); err != nil {
		return t.readError(err)
	}
	if crc32.Checksum(b, castagnoli) != best.sum {
		return fmt.Errorf("%w: its root is not the one that was written", ErrDamaged)
	}
	r, err := parseRoot(b, best.at)
	if err != nil {
		return err
	}
	r.generation, r.end = best.generation, best.at+best.length
	t.root = r
	return nil
}

// readError says of a file that ends too early that it is damaged.
func (t *Trail) readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it is truncated: %w", ErrDamaged, err)
	}
	return err
}

// Spoil marks a file as damaged, for whoever opens it next.
func (t *Trail) Spoil() (err error) {
	if t.path == "" {
		return nil
	}
	f, err := os.OpenFile(t.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	mine, err := t.f.Stat()
	if err != nil {
		return err
	}
	if there, err := f.Stat(); err != nil || !os.SameFile(mine, there) {
		return err
	}
	for g := range uint64(2) {
		if _, err := f.WriteAt(make([]byte, slotSize), slotAt(g)); err != nil {
			return err
		}
	}
	return f.Sync()
}

// Copy returns a trail without a name that has what t has.
func (t *Trail) Copy() (*Trail, error) { return create("", t.present(), t) }

// Rewritten returns t or, if more than half of its file is of no use any more, the one that stands in its place without
// that; t is closed then.
func (t *Trail) Rewritten() (*Trail, error) {
	r := t.present()
	if t.size < 1<<20 || t.size < 2*r.live() {
		return t, nil
	}
	next, err := create(t.path, r, t)
	if err != nil {
		return t, err
	}
	return next, t.Close()
}

// Path returns where the file is; "" if it has no name.
func (t *Trail) Path() string { return t.path }

// Identity returns what Create was given.
func (t *Trail) Identity() string { return t.present().identity }

// Partitions returns what Create was given.
func (t *Trail) Partitions() int32 { return int32(len(t.present().marks)) }

// Mark returns the place in the journal right behind a partition's last decision.
func (t *Trail) Mark(partition int32) driver.Logged { return t.present().marks[partition] }

// Size returns the file's bytes, and how many segments it has.
func (t *Trail) Size() (bytes int64, segments int) {
	r := t.present()
	for _, list := range r.segments {
		segments += len(list)
	}
	return r.end, segments
}

// Close closes the file.
func (t *Trail) Close() error {
	t.zstd.Close()
	return t.f.Close()
}
