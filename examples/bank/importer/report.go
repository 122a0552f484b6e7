package importer

import (
	"fmt"

	"github.com/dejalog/deja"
)

// A Report counts the messages of a run, by what became of them. Every delivery is a message.
type Report struct {
	Messages   int64 `json:"messages"`
	Applied    int64 `json:"applied"`
	Duplicates int64 `json:"duplicates"`
	Conflicts  int64 `json:"conflicts"`
	Rejected   int64 `json:"rejected"`
	Dead       int64 `json:"dead"`
	Parked     int64 `json:"parked"`

	Seconds   float64 `json:"seconds"` // from the first message sent to the last one handled, restart included
	PerSecond float64 `json:"per_second"`
}

// add counts a decision.
func (r *Report) add(s deja.Status) {
	switch s {
	case deja.Applied:
		r.Applied++
	case deja.Conflicted:
		r.Conflicts++
	case deja.Rejected:
		r.Rejected++
	case deja.DeadLetter:
		r.Dead++
	case deja.Parked:
		r.Parked++
	default: // the bank ignores nothing: check will tell
	}
}

// check returns an error unless every message that was sent is accounted for.
func (r *Report) check() error {
	if n := r.Applied + r.Duplicates + r.Conflicts + r.Rejected + r.Dead + r.Parked; n != r.Messages {
		return fmt.Errorf("%d messages were sent, but %d accounted for: %+v", r.Messages, n, *r)
	}
	return nil
}
