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
	fmt.Fprintf(w, "%-40s %10s %10s %12s\n", "two-phase commit, "+fmt.Sprint(e.CPUs)+" CPUs", "refused", "p50 ms", "transfers/s")
	for _, r := range e.Rates {
		how := fmt.Sprintf("%d in flight, each in transactions of its own", r.InFlight)
		if r.How == "batch" {
			how = fmt.Sprintf("%d together in one transaction a side", r.InFlight)
		}
		fmt.Fprintf(w, "%-46s %4.1f %% %10.1f %12.0f\n", how, 100*float64(r.Refused)/float64(r.Transfers), r.P50, r.PerSecond)
	}
}

func (s *scene) print(w io.Writer) {
	fmt.Fprintf(w, "dead for %.1f s: %s\n\n", s.Seconds, s.What)
	table := func(when string, groups []group) {
		fmt.Fprintf(w, "%-46s %9s %9s %9s %9s %9s %9s\n", when, "asked", "completed", "refused", "blocked", "p50 ms", "max ms")
		for _, g := range groups {
			fmt.Fprintf(w, "  %-44s %9d %9d %9d %9d %9.1f %9.1f\n", g.Who, g.Asked, g.Completed, g.Refused, g.Blocked, g.P50, g.Max)
		}
		fmt.Fprintln(w)
	}
	table("meanwhile, other transfers that", s.Groups)
	if len(s.Waited) > 0 {
		fmt.Fprintf(w, "%d without a time limit waited %s s\n", len(s.Waited), strings.Trim(fmt.Sprintf("%.1f", s.Waited), "[]"))
	}
	fmt.Fprintf(w, "a reader of both databases saw %d of %d\n\n", s.MoneySeen, s.Money)
	if len(s.Verdicts) > 0 {
		fmt.Fprintf(w, "resolved by the coordinator's log, %d statements; the first on each side:\n", len(s.Verdicts))
		last := ""
		for _, v := range s.Verdicts {
			if v.Database != last {
				fmt.Fprintf(w, "  %s: %s -- %s\n", v.Database, v.Statement, v.Why)
			}
			last = v.Database
		}
		fmt.Fprintln(w)
	}
	table("afterwards, those that", s.After)
}
