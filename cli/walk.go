package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// walk shows one step at a time, and goes where the keys say.
func (e *Env) walk(ctx context.Context, terminal *os.File, steps []stepAnswer) (err error) {
	old, err := term.MakeRaw(int(terminal.Fd()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, term.Restore(int(terminal.Fd()), old)) }()
	return e.follow(ctx, bufio.NewReader(terminal), steps)
}

// follow shows the steps that keys lead to, until one leaves or they end.
func (e *Env) follow(ctx context.Context, keys *bufio.Reader, steps []stepAnswer) error {
	for at := 0; ctx.Err() == nil; {
		head := fmt.Sprintf("%d of %d   n next  p before  g first  G last  q leave", at+1, len(steps))
		text := "\x1b[H\x1b[2J" + e.stepText(&steps[at]) + "\n" + head
		fmt.Fprint(e.Stderr, strings.ReplaceAll(text, "\n", "\r\n"))
		key, err := readKey(keys)
		if errors.Is(err, io.EOF) || key == "q" {
			break
		}
		if err != nil {
			return err
		}
		at = goTo(key, at, len(steps))
	}
	fmt.Fprint(e.Stderr, "\r\n")
	return ctx.Err()
}

// goTo returns where a key leads.
func goTo(key string, at, n int) int {
	switch key {
	case "n", "j", " ", "\r", "right", "down":
		at++
	case "p", "k", "left", "up":
		at--
	case "g", "home":
		at = 0
	case "G", "end":
		at = n - 1
	}
	return min(max(at, 0), n-1)
}

// readKey reads a key, by its letter or its name.
func readKey(r *bufio.Reader) (string, error) {
	b, err := r.ReadByte()
	if err != nil {
		return "", err
	}
	switch b {
	case 3, 4: // control and C, D: the terminal is raw
		return "q", nil
	case 0x1b:
	default:
		return string(rune(b)), nil
	}
	if r.Buffered() < 2 {
		return "q", nil // escape
	}
	var rest [2]byte
	if _, err := io.ReadFull(r, rest[:]); err != nil {
		return "", err
	}
	return map[string]string{"[A": "up", "[B": "down", "[C": "right", "[D": "left", "[H": "home", "[F": "end"}[string(rest[:])], nil
}
