package canon

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
)

// Change is a field that differs between two states. Old or New is "" where
// the field is absent; no token is.
type Change struct {
	Path string
	Old  string
	New  string
}

// Diff returns the changes that lead from the fields of one state to those of
// another, sorted by path: nil if there are none. Both must be sorted, as
// [Shape.Flatten] leaves them. The changes share the strings of the fields.
func Diff(before, after []Field) []Change {
	if slices.Equal(before, after) {
		return nil
	}
	changes := make([]Change, 0, 4) // few change at once
	for len(before) > 0 || len(after) > 0 {
		switch order := compareHeads(before, after); {
		case order < 0:
			changes = append(changes, Change{Path: before[0].Path, Old: before[0].Value})
			before = before[1:]
		case order > 0:
			changes = append(changes, Change{Path: after[0].Path, New: after[0].Value})
			after = after[1:]
		default:
			if before[0].Value != after[0].Value {
				changes = append(changes, Change{before[0].Path, before[0].Value, after[0].Value})
			}
			before, after = before[1:], after[1:]
		}
	}
	return changes
}

// compareHeads orders the first fields of a and b; one that is missing comes
// last.
func compareHeads(a, b []Field) int {
	switch {
	case len(b) == 0:
		return -1
	case len(a) == 0:
		return +1
	}
	return strings.Compare(a[0].Path, b[0].Path)
}

// The hashes are recorded in journals: these names change whenever the form of
// what is hashed does.
const (
	fieldsDomain  = "deja/canon/fields/1"
	changesDomain = "deja/canon/changes/1"
)

// HashFields returns the hash of a state by its fields, sorted as
// [Shape.Flatten] leaves them. It is the SHA-256 of a name for this kind of
// hash and of every path and value, each of these strings after its length.
func HashFields(fields []Field) [sha256.Size]byte {
	var local [1024]byte
	buf := appendString(local[:0], fieldsDomain)
	for _, f := range fields {
		buf = appendString(appendString(buf, f.Path), f.Value)
	}
	return sha256.Sum256(buf)
}

// HashChanges returns the hash of a write-set, sorted as [Diff] leaves it, made
// like that of [HashFields] but never equal to one.
func HashChanges(changes []Change) [sha256.Size]byte {
	var local [1024]byte
	buf := appendString(local[:0], changesDomain)
	for _, c := range changes {
		buf = appendString(appendString(appendString(buf, c.Path), c.Old), c.New)
	}
	return sha256.Sum256(buf)
}

// appendString appends s after its length, a varint.
func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}
