package replay

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/canon"
)

// A Hash is a state hash, written in hexadecimal.
type Hash [32]byte

// String returns the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText returns what String returns.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads what String returns.
func (h *Hash) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(h) {
		return fmt.Errorf("%q is no hash of %d bytes in hexadecimal", text, len(h))
	}
	*h = Hash(b)
	return nil
}

// HashState returns the hash of one stream's state: over tenant, aggregate, key, version and the state's fields.
// Fields that are zero are left out, so that a new field changes no old hash.
func HashState(m *deja.Machine, s deja.Stream, version int64, state []byte) (Hash, error) {
	var fields []canon.Field
	if len(state) > 0 {
		var err error
		if fields, err = m.Flatten(nil, s.Aggregate, state); err != nil {
			return Hash{}, fmt.Errorf("hash state of %s: %w", s, err)
		}
	}
	b := []byte("deja/state/1")
	for _, part := range []string{s.Tenant, s.Aggregate, s.Key} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	b = binary.AppendUvarint(b, uint64(version))
	sum := canon.HashFields(fields)
	return sha256.Sum256(append(b, sum[:]...)), nil
}

// hasher makes the hash of a whole service from its states' hashes, in order of streams. It depends on keys,
// versions and states alone: not on partitions, positions or times.
type hasher struct{ h hash.Hash }

func newHasher() hasher {
	h := sha256.New()
	h.Write([]byte("deja/service/1"))
	return hasher{h}
}

func (h hasher) add(state Hash) { h.h.Write(state[:]) }

func (h hasher) sum() Hash { return Hash(h.h.Sum(nil)) }

// HashStore returns the hash of all states of a store, read in bounded memory. The store should stand still.
func HashStore(ctx context.Context, m *deja.Machine, store driver.Reader) (Hash, error) {
	h := newHasher()
	err := EachState(ctx, store, func(row driver.State) error {
		if row.Version == 0 {
			return nil
		}
		sum, err := HashState(m, row.Stream, row.Version, row.Data)
		h.add(sum)
		return err
	})
	return h.sum(), err
}

// hashRows returns the hash of all states among rows, which it sorts.
func hashRows(m *deja.Machine, rows []driver.State) (Hash, error) {
	slices.SortFunc(rows, func(a, b driver.State) int { return a.Stream.Compare(b.Stream) })
	h := newHasher()
	for _, row := range rows {
		if row.Version == 0 {
			continue
		}
		sum, err := HashState(m, row.Stream, row.Version, row.Data)
		if err != nil {
			return Hash{}, err
		}
		h.add(sum)
	}
	return h.sum(), nil
}

// EachState calls fn with every row of a store, in order of streams.
func EachState(ctx context.Context, store driver.Reader, fn func(driver.State) error) error {
	var after deja.Stream
	for {
		rows, err := store.States(ctx, after, 1000)
		if err != nil || len(rows) == 0 {
			return err
		}
		for _, row := range rows {
			if err := fn(row); err != nil {
				return err
			}
		}
		after = rows[len(rows)-1].Stream
	}
}
