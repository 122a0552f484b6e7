package sqlite

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"zombiezen.com/go/sqlite"
)

// checkSize returns an error if the file is shorter than it says. What SQLite finds by itself are whole missing
// pages of a file without a write-ahead log; with one, it takes the log's word, and a checkpoint would then fill the
// gap with zeros.
//
// The database itself is never opened here: closing it would drop the locks that SQLite holds in this process.
func checkSize(c *sqlite.Conn, path string) error {
	size, err := queryInt(c, "PRAGMA page_size")
	if err != nil {
		return err
	}
	pages, err := queryInt(c, "PRAGMA page_count")
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() >= size*pages {
		return err
	}
	logged, err := loggedPages(path+"-wal", size)
	if err != nil {
		return err
	}
	for page := info.Size()/size + 1; page <= pages; page++ {
		if !logged[uint32(page)] {
			return fmt.Errorf("%w: it is truncated: %d bytes, %d pages of %d bytes are missing from it", ErrCorrupt,
				info.Size(), pages-info.Size()/size, size)
		}
	}
	return nil
}

// The layout of a write-ahead log: https://www.sqlite.org/fileformat2.html#walformat.
const (
	walHeader   = 32
	frameHeader = 24
)

// loggedPages returns the pages that a write-ahead log holds.
func loggedPages(path string, pageSize int64) (_ map[uint32]bool, err error) {
	pages := map[uint32]bool{}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return pages, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var head [walHeader]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return pages, eof(err)
	}
	var frame [frameHeader]byte
	for at := int64(walHeader); ; at += frameHeader + pageSize {
		if _, err := f.ReadAt(frame[:], at); err != nil {
			return pages, eof(err)
		}
		if [8]byte(frame[8:16]) != [8]byte(head[16:24]) { // the salts differ: left over from an earlier round
			return pages, nil
		}
		pages[binary.BigEndian.Uint32(frame[:4])] = true
	}
}

// eof makes nil of the end of a file.
func eof(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
