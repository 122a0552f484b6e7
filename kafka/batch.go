package kafka

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dejalog/deja/driver"
)

// The layout of a record batch, version 2, as it is on the brokers' disks and on the wire.
// Source: https://kafka.apache.org/documentation/#recordbatch
const (
	atLength    = 8 // of what follows
	atEpoch     = 12
	atMagic     = 16
	atCRC       = 17 // of what follows
	atAttrs     = 21
	atLastDelta = 23
	atFirstTime = 27
	atMaxTime   = 35
	atProducer  = 43
	atProdEpoch = 51
	atSequence  = 53
	atCount     = 57
	headerSize  = 61

	magic = 2

	attrCodec   = 0x07
	attrLogTime = 0x08 // the broker's time counts
	attrTxn     = 0x10
	attrControl = 0x20 // markers of transactions, no records

	maxRecordHead = 5 + 1 + 1 + 5 + 5 + 5 + 5 // a record's lengths, deltas and attributes
	maxHeaderHead = 5 + 5
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func compressor(name string) (kgo.Compressor, error) {
	switch cmp.Or(name, defaultCompression) {
	case None:
		return kgo.DefaultCompressor(kgo.NoCompression())
	case Snappy:
		return kgo.DefaultCompressor(kgo.SnappyCompression())
	case LZ4:
		return kgo.DefaultCompressor(kgo.Lz4Compression())
	case Zstd:
		return kgo.DefaultCompressor(kgo.ZstdCompression())
	}
	return nil, fmt.Errorf("no compression %q", name)
}

// recordSize returns the most bytes that a record takes in a batch.
func recordSize(r *driver.Record) int {
	n := maxRecordHead + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += maxHeaderHead + len(h.Name) + len(h.Value)
	}
	return n
}

// appendRecord encodes the i-th record of a batch. Its time is the batch's.
func appendRecord(dst []byte, r *driver.Record, i int) []byte {
	size := 1 + 1 + varintSize(i) + varintSize(len(r.Headers))
	size += bytesSize(len(r.Key), r.Key == "") + bytesSize(len(r.Value), r.Value == nil)
	for _, h := range r.Headers {
		size += bytesSize(len(h.Name), false) + bytesSize(len(h.Value), h.Value == nil)
	}
	dst = binary.AppendVarint(dst, int64(size))
	dst = append(dst, 0, 0) // attributes, time delta
	dst = binary.AppendVarint(dst, int64(i))
	if r.Key == "" {
		dst = binary.AppendVarint(dst, -1)
	} else {
		dst = append(binary.AppendVarint(dst, int64(len(r.Key))), r.Key...)
	}
	dst = appendBytes(dst, r.Value)
	dst = binary.AppendVarint(dst, int64(len(r.Headers)))
	for _, h := range r.Headers {
		dst = append(binary.AppendVarint(dst, int64(len(h.Name))), h.Name...)
		dst = appendBytes(dst, h.Value)
	}
	return dst
}

func appendBytes(dst, b []byte) []byte {
	if b == nil {
		return binary.AppendVarint(dst, -1)
	}
	return append(binary.AppendVarint(dst, int64(len(b))), b...)
}

func varintSize(n int) int {
	u := uint64(n) << 1 // zig-zag of what is not negative
	size := 1
	for ; u >= 0x80; u >>= 7 {
		size++
	}
	return size
}

func bytesSize(n int, null bool) int {
	if null {
		return 1
	}
	return varintSize(n) + n
}

// buffers are what a batch is made in.
type buffers struct {
	raw, batch []byte
	compressed bytes.Buffer
}

// seal makes a batch of encoded records. The result is valid until the buffers are used again.
func (b *buffers) seal(codec kgo.Compressor, count int, by producer) []byte {
	body, kind := b.raw, kgo.CodecNone
	if codec != nil {
		b.compressed.Reset()
		if small, with := codec.Compress(&b.compressed, b.raw); len(small) < len(body) {
			body, kind = small, with
		}
	}
	h := make([]byte, headerSize)
	now := uint64(time.Now().UnixMilli())
	be := binary.BigEndian
	be.PutUint32(h[atLength:], uint32(headerSize-atEpoch+len(body)))
	be.PutUint32(h[atEpoch:], ^uint32(0))
	h[atMagic] = magic
	be.PutUint16(h[atAttrs:], uint16(kind))
	be.PutUint32(h[atLastDelta:], uint32(count-1))
	be.PutUint64(h[atFirstTime:], now)
	be.PutUint64(h[atMaxTime:], now)
	be.PutUint64(h[atProducer:], uint64(by.id))
	be.PutUint16(h[atProdEpoch:], uint16(by.epoch))
	be.PutUint32(h[atSequence:], uint32(by.next))
	be.PutUint32(h[atCount:], uint32(count))
	b.batch = append(append(b.batch[:0], h...), body...)
	be.PutUint32(b.batch[atCRC:], crc32.Checksum(b.batch[atAttrs:], castagnoli))
	return b.batch
}

// A batch is an opened one: what is left of it to give.
type batch struct {
	p          *partition
	body       []byte
	left       int // records in body
	base       int64
	end        int64 // the offset after the batch
	time       time.Time
	first      int64 // time in milliseconds, to which a record's delta is added: the producer's time counts
	byProducer bool  // first counts, not time
}

// header returns a complete batch's length and the offset after it.
func header(raw []byte) (length int, end int64, complete bool) {
	if len(raw) < headerSize {
		return 0, 0, false
	}
	length = int(int32(binary.BigEndian.Uint32(raw[atLength:]))) + atEpoch
	if length < headerSize || length > len(raw) {
		return 0, 0, false
	}
	return length, int64(binary.BigEndian.Uint64(raw)) + int64(binary.BigEndian.Uint32(raw[atLastDelta:])) + 1, true
}

// leaderEpoch returns the epoch of the leader that took a batch.
func leaderEpoch(raw []byte) int32 { return int32(binary.BigEndian.Uint32(raw[atEpoch:])) }

// transactional tells whether a batch belongs to a transaction, or is the marker of one, and of which producer.
func transactional(raw []byte) (producer, base int64, txn, control bool) {
	be := binary.BigEndian
	attrs := be.Uint16(raw[atAttrs:])
	return int64(be.Uint64(raw[atProducer:])), int64(be.Uint64(raw)), attrs&(attrTxn|attrControl) != 0, attrs&attrControl != 0
}

// openBatch opens a complete batch. Control batches, and those that skip wants to, have no records left.
func openBatch(p *partition, raw []byte, skip func(producer int64, base int64, control, aborts bool) bool) (batch, error) {
	be := binary.BigEndian
	_, end, _ := header(raw)
	b := batch{p: p, base: int64(be.Uint64(raw)), end: end}
	if raw[atMagic] != magic {
		return b, p.at(b.base, fmt.Errorf("a record batch of format %d; deja reads format %d", raw[atMagic], magic))
	}
	if got, want := crc32.Checksum(raw[atAttrs:], castagnoli), be.Uint32(raw[atCRC:]); got != want {
		return b, p.at(b.base, fmt.Errorf("a record batch is damaged: its checksum is %08x, not %08x", got, want))
	}
	attrs := be.Uint16(raw[atAttrs:])
	body := raw[headerSize:]
	if codec := kgo.CompressionCodecType(attrs & attrCodec); codec != kgo.CodecNone {
		var err error
		if body, err = decompressor.Decompress(body, codec); err != nil {
			return b, p.at(b.base, fmt.Errorf("decompress a record batch: %w", err))
		}
	}
	if producer, base, txn, control := transactional(raw); txn && skip(producer, base, control, aborts(body)) {
		return b, nil
	}
	b.body, b.left = body, int(int32(be.Uint32(raw[atCount:])))
	if attrs&attrLogTime != 0 {
		b.time = time.UnixMilli(int64(be.Uint64(raw[atMaxTime:]))).UTC()
	} else {
		b.first, b.byProducer = int64(be.Uint64(raw[atFirstTime:])), true
	}
	if b.left < 0 || b.left > len(body) {
		return b, p.at(b.base, fmt.Errorf("a record batch says that it has %d records in %d bytes", b.left, len(body)))
	}
	return b, nil
}

var decompressor = kgo.DefaultDecompressor()

// aborts reports whether a control batch ends a transaction without its records.
func aborts(body []byte) bool {
	r := reader{b: body}
	r.varint() // length
	r.bytes(1)
	r.varint()
	r.varint()
	key := r.bytes(r.varint())
	return !r.bad && len(key) >= 4 && key[2] == 0 && key[3] == 0
}

// read appends up to limit records from an offset on.
func (b *batch) read(rs []driver.Record, from int64, limit int) ([]driver.Record, error) {
	r := reader{b: b.body}
	var ks keys
	for b.left > 0 && len(rs) < limit {
		size := r.varint()
		rec := reader{b: r.bytes(size)}
		rec.bytes(1) // attributes
		delta, offset := rec.varint(), b.base+rec.varint()
		key, value := rec.bytes(rec.varint()), rec.bytes(rec.varint())
		var headers []driver.Header
		if !b.p.topic.own() {
			headers = rec.headers()
		}
		if r.bad || rec.bad || offset >= b.end {
			return rs, b.p.at(b.end-int64(b.left), fmt.Errorf("a record cannot be read, %d before its batch's end", b.left))
		}
		b.left--
		if offset < from {
			continue
		}
		at := b.time
		if b.byProducer {
			at = time.UnixMilli(b.first + delta).UTC()
		}
		rs = append(rs, driver.Record{Partition: b.p.n, Offset: offset, Time: at, Value: value, Headers: headers})
		ks.add(rs, key)
	}
	ks.set(rs)
	b.body = r.b
	return rs, nil
}

// keys are those of the last records, which become parts of one string: fewer allocations, and yet a key that is kept
// does not keep much beside it.
type keys struct {
	last [16][]byte
	n    int
}

func (k *keys) add(rs []driver.Record, key []byte) {
	k.last[k.n] = key
	if k.n++; k.n == len(k.last) {
		k.set(rs)
	}
}

func (k *keys) set(rs []driver.Record) {
	rs = rs[len(rs)-k.n:]
	all := concat(k.last[:k.n])
	for i := range rs {
		n := len(k.last[i])
		rs[i].Key, all = all[:n], all[n:]
	}
	k.n = 0
}

func concat(parts [][]byte) string {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	var all strings.Builder
	all.Grow(size)
	for _, p := range parts {
		all.Write(p)
	}
	return all.String()
}

// A reader reads what a record is made of.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) varint() int64 {
	n, size := binary.Varint(r.b)
	if size <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

// bytes returns the next n bytes, nil if n is negative.
func (r *reader) bytes(n int64) []byte {
	if n < 0 || r.bad {
		return nil
	}
	if n > int64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

// headers returns the headers of a record. Their names are one string.
func (r *reader) headers() []driver.Header {
	n := r.varint()
	if n <= 0 || n > int64(len(r.b)) {
		r.bad = r.bad || n != 0
		return nil
	}
	hs := make([]driver.Header, n)
	names := make([][]byte, 0, 16)
	for i := range hs {
		names = append(names, r.bytes(r.varint()))
		hs[i].Value = r.bytes(r.varint())
	}
	rest := concat(names)
	for i, name := range names {
		hs[i].Name, rest = rest[:len(name)], rest[len(name):]
	}
	return hs
}
