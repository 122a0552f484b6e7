package main

import (
	"fmt"
	"io"
	"strings"
)

// print prints what was found as tables.
func (e *experiment) print(w io.Writer) {
	for _, s := range e.Scenes {
		s.print(w)
	}
	if len(e.Rates) == 0 {
		return
	}
	const head, row = "%-50s %9s %7s %9s %12s\n", "%-50s %9d %5.1f %% %9s %12.0f\n"
	fmt.Fprintf(w, head, fmt.Sprintf("%d CPUs for all", e.CPUs), "in flight", "undone", "p50 ms", "transfers/s")
	for _, r := range e.Rates {
		p50 := "-"
		if r.P50 > 0 {
			p50 = fmt.Sprintf("%.1f", r.P50)
		}
		fmt.Fprintf(w, row, r.By, r.InFlight, 100*float64(r.Undone)/float64(r.Transfers), p50, r.PerSecond)
	}
}

func (s *scene) print(w io.Writer) {
	fmt.Fprintf(w, "%s; %d transfers in flight\n\n", s.Dead, s.InFlight)
	printGroups(w, meanwhile, s.Meanwhile)
	if s.Money > 0 {
		fmt.Fprintf(w, "a reader of both databases saw %d of %d\n", s.MoneySeen, s.Money)
	}
	if len(s.Waited) > 0 {
		fmt.Fprintf(w, "transfers without a time limit waited %s s\n", strings.Trim(fmt.Sprintf("%.1f", s.Waited), "[]"))
	}
	last := ""
	for i, v := range s.Verdicts {
		if i == 0 {
			fmt.Fprintf(w, "done by hand, from the coordinator's log: %d statements, of which the first in each database\n", len(s.Verdicts))
		}
		if v.Database != last {
			fmt.Fprintf(w, "  %s: %s -- %s\n", v.Database, v.Statement, v.Why)
		}
		last = v.Database
	}
	if len(s.After) == 0 {
		fmt.Fprintf(w, "%.1f s after the death all that had waited had ended\n\n", s.Seconds)
		return
	}
	fmt.Fprintf(w, "dead for %.1f s; all that had waited had ended %.1f s later\n", s.Seconds, s.Ended)
	for i, g := range s.InTheEnd {
		if s.Meanwhile[i].Waiting > 0 {
			fmt.Fprintf(w, "  %s: %d completed, %d undone\n", g.Who, g.Completed, g.Undone)
		}
	}
	fmt.Fprintln(w)
	printGroups(w, afterwards, s.After)
}

func printGroups(w io.Writer, when string, groups []group) {
	if len(groups) == 0 {
		return
	}
	const head, row = "%-46s %9s %9s %7s %7s %7s %7s %7s %7s\n", "  %-44s %9d %9d %7d %7d %7d %7d %7.1f %7.1f\n"
	fmt.Fprintf(w, head, when, "asked", "completed", "undone", "waiting", "gave up", "late", "p50 ms", "max ms")
	for _, g := range groups {
		fmt.Fprintf(w, row, g.Who, g.Asked, g.Completed, g.Undone, g.Waiting, g.GaveUp, g.Late, g.P50, g.Max)
	}
	fmt.Fprintln(w)
}
