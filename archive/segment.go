package archive

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

const (
	beginMagic = "dejaseg1"
	endMagic   = "dejaend1"
	hashedEnd  = 1 + 8 + 8     // what the hash covers behind the records: their end, count, the offset after the last
	tailLen    = 32 + 8 + 8    // hash, length of the file, endMagic
	maxHead    = 64 << 10      // of a head
	maxBody    = math.MaxInt32 // of a record
	indexEvery = 64 << 10      // bytes between two places in the index
)

// head begins a file.
type head struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	First     int64  `json:"first"`    // every record has this offset or a later one
	Previous  string `json:"previous"` // the hash of the file before it; of the first, that of the archive's manifest
	Mark      *mark  `json:"mark,omitempty"`
}

// mark is where the chain of a journal is before the file's first record.
type mark struct {
	N           int64  `json:"n"`
	Chain       string `json:"chain"`
	Incarnation int64  `json:"incarnation"`
	Nonce       string `json:"nonce"`
}

func markOf(at driver.Logged) *mark {
	return &mark{at.N, hexHash(at.Chain), at.Incarnation.Number, hex.EncodeToString(at.Incarnation.Nonce[:])}
}

// logged returns the mark at an offset.
func (m *mark) logged(offset int64) (at driver.Logged, err error) {
	at = driver.Logged{Offset: offset, N: m.N}
	at.Incarnation.Number = m.Incarnation
	err = errors.Join(fromHex(at.Chain[:], m.Chain), fromHex(at.Incarnation.Nonce[:], m.Nonce))
	return at, err
}

func hexHash(h [32]byte) string { return hex.EncodeToString(h[:]) }

func fromHex(dst []byte, text string) error {
	b, err := hex.DecodeString(text)
	if err == nil && len(b) != len(dst) {
		err = fmt.Errorf("%q has %d bytes, want %d", text, len(b), len(dst))
	}
	copy(dst, b)
	return err
}

func segmentName(first int64) string { return fmt.Sprintf("%020d%s", first, suffix) }

// segment is a sealed file.
type segment struct {
	path  string
	head  head
	body  int64 // where the records begin
	size  int64
	count int64
	end   int64 // the offset after the last record
	hash  [32]byte

	mu    sync.Mutex
	index []place // nil until the file was read once, and its hash was right
}

// place is where in a file a record begins.
type place struct {
	offset   int64 // of the record
	previous int64 // the offset before it
	at       int64
}

func (s *segment) damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s: %w", ErrDamaged, s.path, fmt.Errorf(format, args...))
}

// openSegment reads head and end of a file.
func openSegment(path string) (_ *segment, err error) {
	s := &segment{path: path}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	s.size = info.Size()
	if err := s.readHead(f); err != nil {
		return nil, err
	}
	if err := s.readEnd(f); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *segment) readHead(f io.ReaderAt) error {
	var begin [len(beginMagic) + 4]byte
	if _, err := f.ReadAt(begin[:], 0); err != nil || string(begin[:len(beginMagic)]) != beginMagic {
		return s.damaged("it is no segment of an archive, or truncated")
	}
	n := int64(binary.BigEndian.Uint32(begin[len(beginMagic):]))
	s.body = int64(len(begin)) + n
	if n > maxHead || s.body+hashedEnd+tailLen > s.size {
		return s.damaged("it is truncated")
	}
	text := make([]byte, n)
	if _, err := f.ReadAt(text, int64(len(begin))); err != nil {
		return s.damaged("read its head: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s.head); err != nil {
		return s.damaged("its head: %w", err)
	}
	return nil
}

func (s *segment) readEnd(f io.ReaderAt) error {
	var end [hashedEnd + tailLen]byte
	if _, err := f.ReadAt(end[:], s.size-int64(len(end))); err != nil {
		return s.damaged("read its end: %w", err)
	}
	b := end[1:]
	s.count, s.end = int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))
	copy(s.hash[:], b[16:])
	size := int64(binary.BigEndian.Uint64(b[48:]))
	if string(b[56:]) != endMagic || end[0] != 0 || size != s.size || s.end <= s.head.First || s.count < 1 {
		return s.damaged("it is truncated, or its end was altered")
	}
	return nil
}

// each reads the whole file in order, checks it against its hash, and calls fn, which may be nil, with each record and its
// place. The last call comes before the hash is known to be right.
func (s *segment) each(ctx context.Context, fn func(driver.Record, place) error) (err error) {
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	r := bufio.NewReaderSize(io.TeeReader(io.LimitReader(f, s.size-tailLen), h), 256<<10)
	if _, err := r.Discard(int(s.body)); err != nil {
		return s.damaged("read it: %w", err)
	}
	at := place{previous: s.head.First - 1, at: s.body}
	var count int64
	for {
		rec, n, err := readRecord(r, s.head.Partition, at.previous, s.size)
		if err != nil {
			return s.damaged("record %d: %w", count, err)
		}
		if n == 0 {
			break
		}
		at.offset = rec.Offset
		if fn != nil {
			if err := fn(rec, at); err != nil {
				return err
			}
		}
		at.previous, at.at = rec.Offset, at.at+int64(n)
		if count++; count%1000 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return s.damaged("read it: %w", err)
	}
	if got := [32]byte(h.Sum(nil)); got != s.hash || count != s.count || at.previous+1 != s.end {
		return s.damaged("it was altered: its hash is %x, its end says %x", got[:8], s.hash[:8])
	}
	return nil
}

// places returns the file's index, made when it is first asked for.
func (s *segment) places(ctx context.Context) ([]place, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index != nil {
		return s.index, nil
	}
	var index []place
	err := s.each(ctx, func(_ driver.Record, at place) error {
		if len(index) == 0 || at.at >= index[len(index)-1].at+indexEvery {
			index = append(index, at)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.index = index
	return index, nil
}

// fetch returns records from a position on; the file has one at or after it.
func (s *segment) fetch(ctx context.Context, from deja.Position, most int) (recs []driver.Record, err error) {
	index, err := s.places(ctx)
	if err != nil {
		return nil, err
	}
	i := sort.Search(len(index), func(i int) bool { return index[i].offset > from.Offset })
	at := index[max(i-1, 0)]
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r := bufio.NewReaderSize(io.NewSectionReader(f, at.at, s.size-tailLen-at.at), 128<<10)
	for size := 0; len(recs) < max(most, 1); {
		rec, n, err := readRecord(r, s.head.Partition, at.previous, s.size)
		if err != nil {
			return nil, s.damaged("after offset %d: %w", at.previous, err)
		}
		if n == 0 {
			break
		}
		at.previous = rec.Offset
		if rec.Offset < from.Offset {
			continue
		}
		if size += len(rec.Value); size > fetchBytes && len(recs) > 0 {
			break
		}
		recs = append(recs, rec)
	}
	return recs, ctx.Err()
}

// readRecord reads the record after an offset, and returns how many bytes it takes: 0 at the end.
func readRecord(r *bufio.Reader, partition int32, previous, limit int64) (rec driver.Record, n int, err error) {
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return rec, 0, noEOF(err)
	}
	if size == 0 {
		return rec, 0, nil
	}
	if size > maxBody || int64(size) > limit {
		return rec, 0, fmt.Errorf("it has %d bytes, more than the file", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return rec, 0, noEOF(err)
	}
	n = len(binary.AppendUvarint(nil, size)) + len(body)
	step, a := binary.Uvarint(body)
	if a <= 0 || step > math.MaxInt64/2 {
		return rec, 0, errRecord
	}
	micros, b := binary.Varint(body[a:])
	if b <= 0 {
		return rec, 0, errRecord
	}
	key, c := binary.Uvarint(body[a+b:])
	rest := body[a+b+max(c, 0):]
	if c <= 0 || key > uint64(len(rest)) {
		return rec, 0, errRecord
	}
	return driver.Record{
		Partition: partition, Offset: previous + 1 + int64(step), Time: time.UnixMicro(micros).UTC(),
		Key: string(rest[:key]), Value: rest[key:],
	}, n, nil
}

var errRecord = errors.New("it is no record")

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// writer writes a file that is there, sealed, only when it is whole.
type writer struct {
	dir   string
	part  string
	head  head
	f     *os.File
	w     *bufio.Writer
	h     hash.Hash
	size  int64
	count int64
	last  int64
	body  []byte
}

// create begins a file.
func create(dir string, h head) (*writer, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	w := &writer{dir: dir, part: filepath.Join(dir, segmentName(h.First)+partSuffix), head: h, h: sha256.New(), last: h.First - 1}
	if w.f, err = os.OpenFile(w.part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644); err != nil {
		return nil, err
	}
	w.w = bufio.NewWriterSize(w.f, 256<<10)
	begin := binary.BigEndian.AppendUint32([]byte(beginMagic), uint32(len(text)))
	if err := w.write(append(begin, text...)); err != nil {
		return nil, errors.Join(err, w.abandon())
	}
	return w, nil
}

// write writes bytes that the hash covers.
func (w *writer) write(b []byte) error {
	w.h.Write(b)
	w.size += int64(len(b))
	_, err := w.w.Write(b)
	return err
}

// add writes a record, whose offset must be above the last one's.
func (w *writer) add(rec driver.Record) error {
	if rec.Offset <= w.last {
		return fmt.Errorf("the log gave offset %d after %d", rec.Offset, w.last)
	}
	body := binary.AppendUvarint(w.body[:0], uint64(rec.Offset-w.last-1))
	body = binary.AppendVarint(body, rec.Time.UnixMicro())
	body = binary.AppendUvarint(body, uint64(len(rec.Key)))
	body = append(append(body, rec.Key...), rec.Value...)
	w.body, w.last = body, rec.Offset
	w.count++
	return errors.Join(w.write(binary.AppendUvarint(nil, uint64(len(body)))), w.write(body))
}

// close seals the file: it is there, whole and durable, or not at all.
func (w *writer) close() (*segment, error) {
	end := binary.BigEndian.AppendUint64([]byte{0}, uint64(w.count))
	end = binary.BigEndian.AppendUint64(end, uint64(w.last+1))
	err := w.write(end)
	tail := binary.BigEndian.AppendUint64(w.h.Sum(nil), uint64(w.size+tailLen))
	_, werr := w.w.Write(append(tail, endMagic...))
	err = errors.Join(err, werr, w.w.Flush(), w.f.Chmod(0o444), w.f.Sync(), w.f.Close())
	if err != nil {
		return nil, err
	}
	path := filepath.Join(w.dir, segmentName(w.head.First))
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("%s is there already", path)
	}
	if err := os.Rename(w.part, path); err != nil {
		return nil, err
	}
	if err := syncDir(w.dir); err != nil {
		return nil, err
	}
	return openSegment(path)
}

// abandon gives the file up.
func (w *writer) abandon() error { return errors.Join(w.f.Close(), os.Remove(w.part)) }

// syncDir makes names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
