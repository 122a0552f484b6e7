package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/term"

	"github.com/dejalog/deja/history"
)

const walkHelp = `  n j space enter right   the next decision of the key; 5n the fifth one
  p k b left              the one before
  g G                     the first and the last one; 17g the one that brought the key to version 17
  /FIELD ?FIELD           the next decision that wrote a field, such as balance; the last one before
  w W                     the same field's next write; the last one before
  u c                     up: the message that caused this one
  d e                     down: what this one caused; 2d the second of these
  '                       back to where u, d, g, G, / or ? was pressed
  h                       these keys
  q                       leave
`

// walk shows one step at a time, and goes where the keys say.
func (e *Env) walk(ctx context.Context, terminal *os.File, h *history.History, p history.Point, atEnd bool) (err error) {
	w := &walker{e: e, h: h, at: p.Step}
	if !atEnd {
		for first, err := range h.Steps(ctx, p, false) {
			if err != nil {
				return err
			}
			w.at = first
			break
		}
	}
	old, err := term.MakeRaw(int(terminal.Fd()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, term.Restore(int(terminal.Fd()), old)) }()
	return w.follow(ctx, bufio.NewReader(terminal))
}

// walker is a walk over the decisions of keys.
type walker struct {
	e     *Env
	h     *history.History
	at    *history.Step
	field string          // that was looked for
	from  []*history.Step // where jumps began, the last one last
	note  string          // for the last line
}

// follow shows the steps that keys lead to, until one leaves or they end.
func (w *walker) follow(ctx context.Context, keys *bufio.Reader) error {
	count := ""
	for ctx.Err() == nil {
		if count == "" {
			if err := w.show(ctx); err != nil {
				return err
			}
		}
		key, err := readKey(keys)
		if errors.Is(err, io.EOF) || key == "q" || key == "escape" {
			break
		}
		if err != nil {
			return err
		}
		if len(key) == 1 && (key >= "1" && key <= "9" || key == "0" && count != "") && len(count) < 18 {
			count += key
			continue
		}
		n, given := 1, count != ""
		if given {
			n, _ = strconv.Atoi(count) // digits
		}
		count, w.note = "", ""
		if key == "/" || key == "?" {
			if w.field, err = w.ask(keys, key); err != nil || w.field == "" {
				continue // of an end the next read tells
			}
		}
		if err := w.press(ctx, key, n, given); err != nil {
			var ok bool
			if w.note, ok = notFound(err); !ok {
				return err
			}
		}
	}
	fmt.Fprint(w.e.Stderr, "\r\n")
	return ctx.Err()
}

// press goes where a key leads, n times; given says that a number was.
func (w *walker) press(ctx context.Context, key string, n int, given bool) error {
	switch key {
	case "n", "j", " ", "\r", "\n", "right", "down":
		return w.repeat(n, func() (*history.Step, error) { return w.h.Next(ctx, w.at) })
	case "p", "k", "b", "left", "up":
		return w.repeat(n, func() (*history.Step, error) { return w.h.Before(ctx, w.at) })
	case "w", "W", "/", "?":
		if w.field == "" {
			w.note = "which field? /FIELD looks for its next write"
			return nil
		}
		if err := w.h.CheckField(w.at.Stream.Aggregate, w.field); err != nil {
			return err
		}
		if key == "/" || key == "?" {
			w.jump()
		}
		return w.repeat(n, func() (*history.Step, error) { return w.h.NextWrite(ctx, w.at, w.field, key == "W" || key == "?") })
	case "g", "home", "G", "end":
		w.jump()
		return w.end(ctx, key == "G" || key == "end", n, given)
	case "u", "c":
		return w.repeat(n, func() (*history.Step, error) {
			cause, err := w.h.Cause(ctx, w.at)
			if err == nil {
				w.jump()
			}
			return cause, err
		})
	case "d", "e":
		return w.down(ctx, n)
	case "'":
		if last := len(w.from) - 1; last >= 0 {
			w.at, w.from = w.from[last], w.from[:last]
		}
	case "h":
		w.note = "\n" + walkHelp
	}
	return nil
}

// repeat goes on n times, or as far as it comes.
func (w *walker) repeat(n int, next func() (*history.Step, error)) error {
	for range n {
		to, err := next()
		if err != nil {
			return err
		}
		w.at = to
	}
	return nil
}

// maxJumps bounds how many jumps are remembered.
const maxJumps = 1000

// jump remembers where a jump begins.
func (w *walker) jump() {
	if w.from = append(w.from, w.at); len(w.from) > maxJumps {
		w.from = w.from[1:]
	}
}

// end goes to the first or the last decision of the key, or to the one of a version.
func (w *walker) end(ctx context.Context, last bool, version int, given bool) error {
	if given {
		to, err := w.h.AtVersion(ctx, w.at.Stream, int64(version))
		if err == nil {
			w.at = to
		}
		return err
	}
	p, err := w.h.At(ctx, w.at.Stream.String()+"@HEAD")
	if err != nil {
		return err
	}
	for s, err := range w.h.Steps(ctx, p, last) {
		if err != nil {
			return err
		}
		w.at = s
		break
	}
	return nil
}

// down goes to the nth message that this one caused.
func (w *walker) down(ctx context.Context, n int) error {
	effects, err := w.h.Effects(ctx, w.at)
	if err != nil {
		return err
	}
	if n > len(effects) {
		w.note = fmt.Sprintf("this caused %s", plural(int64(len(effects)), "message"))
		return nil
	}
	w.jump()
	w.at = effects[n-1]
	return nil
}

// show draws the present step.
func (w *walker) show(ctx context.Context) error {
	d, err := w.h.Entry(ctx, w.at)
	if err != nil {
		return err
	}
	a := stepOf(w.h, w.at, &d)
	if a.State, _, err = w.h.State(ctx, history.Point{Stream: w.at.Stream, Step: w.at}); err != nil {
		return err
	}
	effects, err := w.h.Effects(ctx, w.at)
	if err != nil {
		return err
	}
	text := "\x1b[H\x1b[2J" + w.e.stepText(&a)
	if !w.at.Cause.IsZero() {
		text += fmt.Sprintf("  caused by %s\n", w.at.Cause)
	}
	for i, s := range effects[:min(len(effects), 5)] {
		text += fmt.Sprintf("  caused %d: %s %s of %s\n", i+1, s.ID, s.Type, s.Stream)
	}
	if len(effects) > 5 {
		text += fmt.Sprintf("  … and %d more\n", len(effects)-5)
	}
	text += "\n"
	if w.note != "" {
		text += w.note + "\n"
	}
	text += "n next  p before  /FIELD its next write  u cause  d effect  h keys  q leave"
	fmt.Fprint(w.e.Stderr, strings.ReplaceAll(text, "\n", "\r\n"))
	return nil
}

// ask reads a field's path behind a prompt; "" if it was given up.
func (w *walker) ask(keys *bufio.Reader, prompt string) (string, error) {
	line := ""
	for {
		fmt.Fprintf(w.e.Stderr, "\r\x1b[K%s%s", prompt, line)
		key, err := readKey(keys)
		switch {
		case err != nil:
			return "", err
		case key == "\r" || key == "\n":
			return line, nil
		case key == "escape":
			return "", nil
		case key == "\x7f" || key == "\b":
			if line == "" {
				return "", nil
			}
			line = line[:len(line)-1]
		case len(key) == 1 && key >= " ":
			line += key
		}
	}
}

// readKey reads a key, by its letter or its name.
func readKey(r *bufio.Reader) (string, error) {
	b, err := r.ReadByte()
	if err != nil {
		return "", err
	}
	switch b {
	case 3, 4: // control and C, D: the terminal is raw
		return "escape", nil
	case 0x1b:
	default:
		return string([]byte{b}), nil
	}
	if r.Buffered() < 2 {
		return "escape", nil
	}
	var rest [2]byte
	if _, err := io.ReadFull(r, rest[:]); err != nil {
		return "", err
	}
	return map[string]string{"[A": "up", "[B": "down", "[C": "right", "[D": "left", "[H": "home", "[F": "end"}[string(rest[:])], nil
}
