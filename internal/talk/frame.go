// Package talk lets one build of a service ask another how it decides: the other runs as a process of its own, a worker, and the
// two talk over its standard input and output. docs/formats.md has the protocol. Nothing a worker does can harm who
// asks: it is given messages and gives decisions, has no log and no store, and where it crashes, hangs or speaks
// nonsense, that is an answer, a [Fault].
package talk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Protocol is the version of what is spoken. A worker of another one is not understood.
const Protocol = 1

// magic is what a worker says first. What comes before it was printed by the program while it started.
const magic = "dejatalk"

const (
	maxFrame = 64 << 20 // bytes of a frame's body
	maxNoise = 64 << 10 // bytes that may come before the magic
)

// The kinds of frame. Their numbers are part of the protocol.
const (
	frameHello   = 'H' // from the worker, first: a Hello
	frameBegin   = 'B' // to it: a Begin; all that it lived before is forgotten
	frameRow     = 'W' // to it, after Begin: a row; from it: the answer to Ask
	frameParked  = 'P' // to it, after Begin: a parked message
	frameMessage = 'M' // to it: a message to live
	frameAnswer  = 'A' // from it: what a message came to; one for each, in order
	frameAsk     = 'Q' // to it: a stream, whose row is asked for
	frameFailed  = 'F' // from it, last: a text, why it cannot go on
)

// errGarbage is returned for bytes that are no frame.
var errGarbage = errors.New("what it wrote is no frame")

// A frame is four bytes of length and four of checksum, big endian, of what follows them: a byte, its kind, and a body.
// No text begins with a length: its first byte would make it too large.
const headLen = 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendFrame appends a frame whose body is what fill appends.
func appendFrame(dst []byte, kind byte, fill func([]byte) []byte) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, headLen)...)
	dst = fill(append(dst, kind))
	rest := dst[at+headLen:]
	binary.BigEndian.PutUint32(dst[at:], uint32(len(rest)))
	binary.BigEndian.PutUint32(dst[at+4:], crc32.Checksum(rest, castagnoli))
	return dst
}

// readFrame reads a frame. The error is io.EOF if there is none any more.
func readFrame(r io.Reader) (kind byte, body []byte, err error) {
	var head [headLen]byte
	switch n, err := io.ReadFull(r, head[:]); {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return 0, nil, fmt.Errorf("%w: %q", errGarbage, head[:n])
	case err != nil:
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 1 || n > maxFrame {
		return 0, nil, fmt.Errorf("%w: %q", errGarbage, head)
	}
	body = make([]byte, n)
	if m, err := io.ReadFull(r, body); err != nil {
		return 0, nil, fmt.Errorf("%w: it ends after %d of %d bytes", errGarbage, m, n)
	}
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(head[4:]) {
		return 0, nil, fmt.Errorf("%w: its checksum is wrong", errGarbage)
	}
	return body[0], body[1:], nil
}

// findMagic reads up to the magic and past it, and returns what came before.
func findMagic(r io.ByteReader) (noise []byte, err error) {
	for range maxNoise {
		b, err := r.ReadByte()
		if err != nil {
			return noise, err
		}
		noise = append(noise, b)
		if n := len(noise) - len(magic); n >= 0 && string(noise[n:]) == magic {
			return noise[:n], nil
		}
	}
	return noise, errGarbage
}
