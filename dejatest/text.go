package dejatest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/step"
)

// readable returns a payload as canonical JSON, or quoted where it is none.
func readable(contentType string, payload []byte) string {
	if contentType == "application/json" {
		if b, err := canon.Append(nil, payload); err == nil {
			return string(b)
		}
	}
	return fmt.Sprintf("%q", payload)
}

// line returns an emitted or handled message on one line: its wire name and its payload.
func line(e *deja.Envelope) string { return e.Type + " " + readable(e.ContentType, e.Payload) }

func eventLines(d *deja.Decided) []string {
	lines := make([]string, len(d.Events))
	for i := range d.Events {
		lines[i] = line(&d.Events[i])
	}
	return lines
}

func sentLine(e *deja.Envelope) string { return line(e) + " to " + e.Stream.String() }

func sentLines(d *deja.Decided) []string {
	lines := make([]string, len(d.Commands))
	for i := range d.Commands {
		lines[i] = sentLine(&d.Commands[i])
	}
	return lines
}

func timerLines(d *deja.Decided, now time.Time) []string {
	lines := make([]string, len(d.Timers))
	for i, t := range d.Timers {
		lines[i] = fmt.Sprintf("%q in %s: %s", t.Name, t.Due.Sub(now), line(&t.Command))
	}
	return lines
}

func effectLines(d *deja.Decided) []string {
	lines := make([]string, len(d.Effects))
	for i := range d.Effects {
		lines[i] = line(&d.Effects[i])
	}
	return lines
}

// verdict names how a message was settled, with the reason.
func verdict(d *deja.Decided) string {
	switch d.Status {
	case deja.Applied:
		return "applied"
	case deja.Parked:
		return "failed: " + d.Reason.Detail
	default:
		return d.Status.String() + ": " + d.Reason.Error()
	}
}

// describe returns all that a decision holds, a line each.
func describe(d *deja.Decided, now time.Time) []string {
	lines := []string{verdict(d)}
	add := func(what string, more []string) {
		for _, l := range more {
			lines = append(lines, what+" "+l)
		}
	}
	add("recorded", eventLines(d))
	add("sent", sentLines(d))
	add("scheduled", timerLines(d, now))
	add("cancelled", d.Cancelled)
	add("asked for", effectLines(d))
	return lines
}

// indent puts lines under one another, each after a mark.
func indent(mark string, lines []string) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString("\n  " + mark + l)
	}
	return b.String()
}

// maxDiff bounds the lines that a failure shows of each side.
const maxDiff = 20

// diff shows the lines that only one side has, "-" those wanted and "+" those got; or both sides in full if only
// their order differs. It is empty for equal sides.
func diff(want, got []string) string {
	if slices.Equal(want, got) {
		return ""
	}
	missing, extra := without(want, got), without(got, want)
	if len(missing)+len(extra) == 0 {
		missing, extra = want, got
	}
	return indent("- ", shorten(missing)) + indent("+ ", shorten(extra))
}

// without returns the lines of a that are not in b, as often as they are not.
func without(a, b []string) []string {
	count := map[string]int{}
	for _, l := range b {
		count[l]++
	}
	var left []string
	for _, l := range a {
		if count[l] > 0 {
			count[l]--
			continue
		}
		left = append(left, l)
	}
	return left
}

func shorten(lines []string) []string {
	if len(lines) <= maxDiff {
		return lines
	}
	return append(slices.Clone(lines[:maxDiff]), fmt.Sprintf("… and %d more", len(lines)-maxDiff))
}

// routeLines returns carried messages, a line each.
func routeLines(ms []deja.Envelope) []string {
	lines := make([]string, len(ms))
	for i := range ms {
		m := &ms[i]
		lines[i] = fmt.Sprintf("%s %s to %s", m.Kind, m.Type, m.Stream)
	}
	return lines
}

// orNothing joins what there is.
func orNothing(lines []string) string {
	if len(lines) == 0 {
		return "nothing"
	}
	return strings.Join(lines, ", ")
}

// settlementText tells how a delivery was settled.
func settlementText(s *step.Settlement) string {
	if s.Record == nil {
		return fmt.Sprintf("a copy of what decision %d has settled", s.Entry.N)
	}
	r := s.Record
	return fmt.Sprintf("%s %s of %s: %s", r.Cause.Kind, r.Cause.Type, r.Cause.Stream, strings.Join(describe(&r.Decided, r.Time), "; "))
}
