package replay

import (
	"fmt"
	"time"

	"github.com/dejalog/deja"
)

// calendar cuts by business time, which need not rise along the log: each partition, or each stream for itself, before its
// first applied decision of a later one. Messages without a business time go with those around them.
type calendar struct {
	at  time.Time
	per bool // each stream for itself

	ended  map[scope]bool
	rising map[int32]time.Time // by partition: the latest business time so far, of all that is asked for
	late   int64               // decisions left out although their business time is early enough
	falls  int64               // decisions whose business time is before an earlier one's
}

// scope is what is cut at one place: a partition, or a stream of it.
type scope struct {
	partition int32
	stream    deja.Stream
}

func newCalendar(at time.Time, per bool) *calendar {
	return &calendar{at: at, per: per, ended: map[scope]bool{}, rising: map[int32]time.Time{}}
}

// admit tells whether the next decision is taken.
func (c *calendar) admit(f Found) bool {
	at := scope{partition: f.Partition}
	if c.per {
		at.stream = f.Stream
	}
	if t := f.BusinessTime; f.Applied && !t.IsZero() {
		if t.Before(c.rising[f.Partition]) {
			c.falls++
		} else {
			c.rising[f.Partition] = t
		}
		if t.After(c.at) {
			c.ended[at] = true
		} else if c.ended[at] {
			c.late++
		}
	}
	return !c.ended[at]
}

// notes returns what the reader of an answer has to know, if business time did fall.
func (c *calendar) notes(at Locator) []string {
	if c.falls == 0 {
		return nil
	}
	what := "the history was"
	if c.per {
		what = "each stream was"
	}
	return []string{fmt.Sprintf("business time does not rise along the log (%s dated before an earlier one): %s cut before its first decision dated after %s, which leaves out %s dated up to it",
		decisions(c.falls), what, at, decisions(c.late))}
}

func decisions(n int64) string {
	if n == 1 {
		return "1 decision"
	}
	return fmt.Sprintf("%d decisions", n)
}
