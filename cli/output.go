package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/dejalog/deja"
)

// Answer prints one JSON object on one line.
func (e *Env) Answer(v any) error {
	enc := json.NewEncoder(e.Stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// table prints aligned columns.
func (e *Env) table() *tabwriter.Writer { return tabwriter.NewWriter(e.Stdout, 0, 0, 2, ' ', 0) }

// fields prints names and values, the values aligned; empty values are left out.
func (e *Env) fields(pairs ...any) error {
	t := e.table()
	for i := 0; i+1 < len(pairs); i += 2 {
		if v := fmt.Sprint(pairs[i+1]); v != "" {
			fmt.Fprintf(t, "%s\t%s\n", pairs[i], strings.ReplaceAll(v, "\n", "\n\t"))
		}
	}
	return t.Flush()
}

// isTerminal reports whether people read or write at the other end.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// colours reports whether the output may be coloured: https://no-color.org.
func colours(stdout io.Writer, getenv func(string) string) bool {
	return isTerminal(stdout) && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
}

const (
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	red    = "\x1b[31m"
	bold   = "\x1b[1m"
)

// paint colours a text, where it is for people. In a table all texts of a column must be painted.
func (e *Env) paint(colour, text string) string {
	if !e.colour {
		return text
	}
	return colour + text + "\x1b[0m"
}

// status returns an outcome's word, coloured by how good it is.
func (e *Env) status(s deja.Status) string {
	switch s {
	case deja.Applied:
		return e.paint(green, s.String())
	case deja.Rejected, deja.Ignored:
		return e.paint(yellow, s.String())
	default:
		return e.paint(red, s.String())
	}
}

// stamp writes a time for people; "-" for none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

// day writes a business time for people, which is often only a day.
func day(t time.Time) string {
	if !t.IsZero() && t.Equal(t.Truncate(24*time.Hour)) {
		return t.UTC().Format(time.DateOnly)
	}
	return stamp(t)
}

// plural returns a count with its word.
func plural(n int64, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// indented returns JSON on several lines; what is no JSON as it is.
func indented(data []byte) string {
	var v json.RawMessage = data
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return string(data)
	}
	return string(b)
}

// payload returns a payload as a member of an answer: JSON as it is, all else as a text.
func payload(contentType string, data []byte) json.RawMessage {
	if contentType == "application/json" && json.Valid(data) {
		return data
	}
	b, err := json.Marshal(data)
	if err != nil { // bytes always have a JSON form
		return nil
	}
	return b
}
