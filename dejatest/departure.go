package dejatest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dejalog/deja/internal/fault"
)

// A departure is one way in which an explored run departs from the usual course, at one of its steps.
type departure struct {
	step int
	kind departureKind
	call int        // of a crash: the call in the step, from 1
	mode fault.Mode // of a crash
}

type departureKind string

// The kinds of departures.
const (
	wait  departureKind = "wait"  // who would go next has to wait, from now on, until nothing else can happen
	twice departureKind = "twice" // what the step delivers is delivered twice
	lost  departureKind = "lost"  // the cursor of a route is lost: it is carried again from the beginning
	crash departureKind = "crash" // the service that takes the step dies at one of its calls, and starts again
)

// String returns a departure as scenarios spell it: wait@12, or crash@12/3/after.
func (d departure) String() string {
	text := fmt.Sprintf("%s@%d", d.kind, d.step)
	if d.kind == crash {
		text += fmt.Sprintf("/%d/%s", d.call, moments[d.mode])
	}
	return text
}

// usual is the scenario without departures.
const usual = "usual"

// A plan is the departures of a run, in order of steps.
type plan []departure

// String returns a plan as the flag takes it.
func (p plan) String() string {
	if len(p) == 0 {
		return usual
	}
	texts := make([]string, len(p))
	for i, d := range p {
		texts[i] = d.String()
	}
	return strings.Join(texts, ",")
}

var errScenario = errors.New("want departures such as wait@12, twice@12, lost@12 or crash@12/3/after, with commas between them")

// parsePlan reads what String has written.
func parsePlan(text string) (plan, error) {
	var p plan
	if text == usual {
		return p, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		d, ok := parseDeparture(part)
		if !ok || len(p) > 0 && d.step < p[len(p)-1].step {
			return nil, fmt.Errorf("scenario %q: %q: %w", text, part, errScenario)
		}
		p = append(p, d)
	}
	return p, nil
}

func parseDeparture(text string) (d departure, ok bool) {
	kind, at, _ := strings.Cut(text, "@")
	d.kind = departureKind(kind)
	parts := strings.Split(at, "/")
	step, err := strconv.Atoi(parts[0])
	d.step = step
	switch d.kind {
	case wait, twice, lost:
		return d, err == nil && len(parts) == 1
	case crash:
		if err != nil || len(parts) != 3 {
			return d, false
		}
		for m, name := range moments {
			if name == parts[2] {
				d.mode = m
			}
		}
		d.call, err = strconv.Atoi(parts[1])
		return d, err == nil && d.mode != fault.Pass
	}
	return d, false
}

// with returns the plan with one departure more, which comes last.
func (p plan) with(d departure) plan { return append(slices.Clone(p), d) }

// sorted returns departures in order of steps; of one step those that wait come first.
func sorted(p plan) plan {
	slices.SortStableFunc(p, func(a, b departure) int {
		return cmp.Or(cmp.Compare(a.step, b.step), cmp.Compare(b2i(a.kind != wait), b2i(b.kind != wait)))
	})
	return p
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
