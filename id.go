package deja

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// An ID is the UUID of a message (RFC 9562). The zero ID is the nil UUID and identifies nothing.
//
// IDs are compared byte by byte; those of version 7 sort by the millisecond in which they were made.
type ID [16]byte

// NewID returns a fresh UUID of version 7: a millisecond time stamp, then random bits. It is safe for concurrent use.
func NewID() ID {
	var id ID
	_, _ = rand.Read(id[:]) // never fails: crypto/rand.Read crashes the program where there is no randomness
	id.setTime(time.Now().UnixMilli())
	return id.tagged(7)
}

// DeriveID returns the name-based ID of key in space: the same two strings always give the same ID. It is a UUID of
// version 8 made from SHA-256. Put into space all that keeps one caller's keys from another's: tenant, user, purpose.
func DeriveID(space, key string) ID {
	return derive("deja/name/1", space, key)
}

// derivedID returns the id of what a decision emits, made from the service, the emitter's stream, the cause, the
// emission's type and its number among those of its type in the decision. An index over all emissions would collide
// between two aggregates that handle one cause, and shift when a build inserts an emission.
//
// A cause of version 7 lends its time prefix and version, which keeps indexes of derived ids local; any other cause
// gives a pure hash of version 8.
func derivedID(service string, stream Stream, cause ID, typ string, nth int) ID {
	id := derive("deja/derived/1", service, stream.Tenant, stream.Aggregate, stream.Key, string(cause[:]), typ, strconv.Itoa(nth))
	if cause.Version() != 7 {
		return id
	}
	copy(id[:6], cause[:6])
	return id.tagged(7)
}

// derive hashes length-prefixed parts, so that no two lists of parts run together.
func derive(parts ...string) ID {
	var local [512]byte
	b := local[:0]
	for _, p := range parts {
		b = append(binary.BigEndian.AppendUint64(b, uint64(len(p))), p...)
	}
	sum := sha256.Sum256(b)
	return ID(sum[:16]).tagged(8)
}

func (id *ID) setTime(ms int64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(ms)<<16)
	copy(id[:6], b[:6])
}

func (id ID) tagged(version byte) ID {
	id[6] = id[6]&0x0f | version<<4
	id[8] = id[8]&0x3f | 0x80
	return id
}

// Errors of [ParseID].
var (
	errIDForm    = errors.New("not a UUID: want 8-4-4-4-12 hexadecimal digits")
	errIDNil     = errors.New("the nil UUID identifies nothing")
	errIDMax     = errors.New("the max UUID identifies nothing")
	errIDVariant = errors.New("not a UUID of RFC 9562: wrong variant or version")
)

// ParseID reads the canonical text form of a UUID, in either case. Every version of RFC 9562 (1 to 8) is accepted;
// the nil and max UUIDs, other variants and other forms (braces, urn:, no hyphens) are refused.
func ParseID(s string) (ID, error) {
	id, err := parseUUID(s)
	if err == nil {
		err = id.Valid()
	}
	if err != nil {
		return ID{}, fmt.Errorf("parse id %q: %w", s, err)
	}
	return id, nil
}

func parseUUID(s string) (ID, error) {
	var id ID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return id, errIDForm
	}
	digits := s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil {
		return id, errIDForm
	}
	return id, nil
}

// Valid returns nil if id may identify a message: a UUID of RFC 9562 of version 1 to 8, neither nil nor max.
func (id ID) Valid() error {
	switch {
	case id.IsZero():
		return errIDNil
	case bytes.Count(id[:], []byte{0xff}) == len(id):
		return errIDMax
	case id[8]&0xc0 != 0x80, id.Version() < 1, id.Version() > 8:
		return errIDVariant
	}
	return nil
}

// Version returns the UUID's version, 0 to 15.
func (id ID) Version() int { return int(id[6] >> 4) }

// IsZero reports whether id is the nil UUID.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the canonical form, in lower case.
func (id ID) String() string {
	var b [36]byte
	hex.Encode(b[:8], id[:4])
	hex.Encode(b[9:13], id[4:6])
	hex.Encode(b[14:18], id[6:8])
	hex.Encode(b[19:23], id[8:10])
	hex.Encode(b[24:], id[10:])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// MarshalText returns the canonical form; the zero ID gives an empty text.
func (id ID) MarshalText() ([]byte, error) {
	if id.IsZero() {
		return []byte{}, nil
	}
	return []byte(id.String()), nil
}

// UnmarshalText reads what MarshalText wrote, by the rules of [ParseID]; an empty text gives the zero ID.
func (id *ID) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*id = ID{}
		return nil
	}
	v, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = v
	return nil
}
