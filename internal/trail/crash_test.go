package trail

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/dejalog/deja/driver"
)

// disk is a file in memory that remembers what is not synced yet.
type disk struct {
	rng     *rand.Rand
	data    []byte
	synced  []byte
	pending []pending
	crashed [][]byte // what would be there, had the machine gone down at some moments
}

type pending struct {
	at int64
	b  []byte
}

// ReadAt implements [file].
func (d *disk) ReadAt(b []byte, at int64) (int, error) { return bytes.NewReader(d.data).ReadAt(b, at) }

// WriteAt implements [file].
func (d *disk) WriteAt(b []byte, at int64) (int, error) {
	d.data = written(d.data, at, b)
	d.pending = append(d.pending, pending{at, bytes.Clone(b)})
	if d.rng.IntN(3) == 0 {
		d.crash()
	}
	return len(b), nil
}

func written(data []byte, at int64, b []byte) []byte {
	if grow := int(at) + len(b) - len(data); grow > 0 {
		data = append(data, make([]byte, grow)...)
	}
	copy(data[at:], b)
	return data
}

// Sync implements [file].
func (d *disk) Sync() error {
	d.crash()
	d.synced, d.pending = bytes.Clone(d.data), nil
	return nil
}

// crash notes what a crash at this moment may leave: what is synced, and any part of the rest in any order.
func (d *disk) crash() {
	left := bytes.Clone(d.synced)
	for _, i := range d.rng.Perm(len(d.pending)) {
		if w := d.pending[i]; d.rng.IntN(2) == 0 {
			left = written(left, w.at, w.b[:d.rng.IntN(len(w.b)+1)])
		}
	}
	d.crashed = append(d.crashed, left)
}

// Stat implements [file].
func (d *disk) Stat() (fs.FileInfo, error) { return sizeOf(len(d.data)), nil }

// Close implements [file].
func (d *disk) Close() error { return nil }

type sizeOf int64

func (s sizeOf) Size() int64      { return int64(s) }
func (sizeOf) Name() string       { return "" }
func (sizeOf) Mode() fs.FileMode  { return 0 }
func (sizeOf) ModTime() time.Time { return time.Time{} }
func (sizeOf) IsDir() bool        { return false }
func (sizeOf) Sys() any           { return nil }

// Wherever a machine goes down, what is on its disk is a trail that is right as far as it goes, once there was a first one.
func TestARootIsWrittenLast(t *testing.T) {
	first := cmp.Or(seedFromEnv(t), uint64(time.Now().UnixNano()))
	runs := uint64(30)
	if testing.Short() {
		runs = 3
	}
	for i := range runs {
		seed := first + i
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Logf("repeat with: DEJA_SEED=%d go test ./internal/trail -run TestARootIsWrittenLast", seed)
			p := newPast(seed)
			d := &disk{rng: p.rng}
			tr, err := opened(d, "")
			if err == nil {
				n := len(p.partitions)
				err = tr.fill(&root{identity: "mine", marks: make([]driver.Logged, n), segments: make([][]*segment, n)}, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			d.crashed = nil // a file gets its name only now
			for range 4 {
				p.grow(p.rng.IntN(60))
				p.build(t, tr, Limits{Rows: 1 + p.rng.IntN(30), Data: 1 << 20, Block: 500})
			}
			for _, left := range d.crashed {
				p.checkCrashed(t, left)
			}
		})
	}
}

// checkCrashed opens what a crash left, and checks that it is a beginning of the past.
func (p *past) checkCrashed(t *testing.T, left []byte) {
	t.Helper()
	tr, err := opened(&disk{rng: p.rng, data: left}, "")
	if err == nil {
		err = tr.readRoot()
	}
	if err != nil {
		t.Fatalf("it cannot be opened: %v", err)
	}
	q := *p
	q.partitions = nil
	for part, list := range p.partitions {
		q.partitions = append(q.partitions, list[:tr.Mark(int32(part)).N])
	}
	q.check(t, tr)
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
}

// A file that has become mostly useless is written anew, and answers as before.
func TestAFileIsRewritten(t *testing.T) {
	if testing.Short() {
		t.Skip("only a file of some size is rewritten, and it is written by one goroutine")
	}
	seed := cmp.Or(seedFromEnv(t), uint64(time.Now().UnixNano()))
	t.Logf("repeat with: DEJA_SEED=%d go test ./internal/trail -run TestAFileIsRewritten", seed)
	p := newPast(seed)
	p.partitions = p.partitions[:1]
	path := filepath.Join(t.TempDir(), "index")
	tr, err := Create(path, "mine", 1)
	if err != nil {
		t.Fatal(err)
	}
	rewritten := false
	for range 120 {
		p.grow(60)
		p.build(t, tr, DefaultLimits) // takes all that is there into one segment, again and again
		before, _ := tr.Size()
		if tr, err = tr.Rewritten(); err != nil {
			t.Fatal(err)
		}
		if after, _ := tr.Size(); after < before {
			rewritten = true
			p.check(t, tr)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if live := tr.present().live(); !rewritten || info.Size() > 1<<20 && info.Size() > 3*live {
		t.Errorf("rewritten: %v; %d bytes, %d of use", rewritten, info.Size(), live)
	}
	p.check(t, tr)
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	if parts, _ := filepath.Glob(path + ".*"); len(parts) > 0 {
		t.Errorf("it leaves %v", parts)
	}
}

// Of a header that was cut off anywhere, or is another file's, it is told which of the two it is.
func TestHeaders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "index")
	tr, err := Create(path, "mine", 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		data []byte
		want error
	}{
		{"empty", nil, ErrDamaged},
		{"three bytes", whole[:3], ErrDamaged},
		{"half a header", whole[:2000], ErrDamaged},
		{"no root", whole[:headerSize], ErrDamaged},
		{"another version", append([]byte("dejatrl\x02"), whole[8:]...), ErrNone},
		{"magic damaged", append([]byte("dejatXl\x01"), whole[8:]...), ErrDamaged},
		{"another file", []byte("SQLite format 3\x00"), ErrForeign},
		{"a larger other file", bytes.Repeat([]byte("text\n"), 4000), ErrForeign},
	} {
		if err := os.WriteFile(path, c.data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path, true); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, true); !errors.Is(err, ErrNone) {
		t.Errorf("no file: %v", err)
	}
}
