package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/big"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/history"
	"github.com/dejalog/deja/replay"
)

const predicateHelp = `A PREDICATE is a condition in CEL (https://cel.dev), such as 'state.balance < 0', about
  state    the state after a message, its fields named as in JSON
  prev     the state before it
  event    the last event that the message recorded: its fields, and event.type; event.payload is all of it
  events   all of the events, in order
A field that is zero is 0, "", false, null or empty, never missing; has(state.owner) says whether it is not zero. Of maps and
events it says whether there is such an entry. A field whose name is a word of CEL is written state.` + "`in`" + `. Integers stay
integers of 64 bits; an overflow is an error. Before a key's first message a predicate is false, and it is never evaluated
between two events of one message.`

const scopeHelp = `A SCOPE is a key (account/42), those that begin so (account/4*), those of an aggregate (account/*), of a tenant
(tenant:account/*), of all tenants (*:account/*), or all keys (*).`

// limits are the flags that bound what of a history is asked.
type limits struct {
	at   moment
	text string // of a range
	part replay.Range
}

func (l *limits) addFlags(cmd *cobra.Command) {
	l.at.addFlags(cmd, "at", "the end, a `LOCATOR`; else the present")
	cmd.Flags().StringVar(&l.text, "range", "", "a part of the history, `A..B`, both included")
	cmd.MarkFlagsMutuallyExclusive("at", "range")
}

func (l *limits) parse(e *Env) (err error) {
	if err := l.at.parse(e); err != nil {
		return err
	}
	if l.part, err = replay.ParseRange(l.text); err != nil {
		return Usagef("--range: %w", err)
	}
	return nil
}

// resolve implements part.
func (l *limits) resolve(ctx context.Context, h *history.History) (history.Limits, []string, error) {
	if l.text != "" {
		return h.Range(ctx, l.part, l.at.clock)
	}
	return l.at.resolve(ctx, h)
}

// String says where the limits are.
func (l *limits) String() string {
	if l.text != "" {
		return "in " + l.text
	}
	return "up to " + l.at.at.String()
}

// whenAsked is what the command line says to when.
type whenAsked struct {
	limits limits
	assume string
	count  bool
}

func (e *Env) whenCommand() *cobra.Command {
	var asked whenAsked
	cmd := &cobra.Command{
		Use:   "when SCOPE PREDICATE",
		Short: "Show all intervals in which a condition holds, and how low or high it went",
		Long: `Show all intervals in which a condition holds, and how low or high it went.

` + scopeHelp + `

` + predicateHelp + `

The answer is exact: the predicate is evaluated after each message that writes a field that it reads ("scan":"writes"), or, if
it reads events, after each that recorded one ("all"). An interval begins with the first message after which it holds, and ends
with the first after which it does not any more; one that holds at the end has no end. Min and max are of the predicate's
subject, the left side of its first comparison of integers, less the right side where that is no constant either: of
'state.balance < 0' the balance, of 'state.balance != state.recorded' the difference. An interval that began before a --range
is given whole.

With --assume sticky the predicate is taken to stay true once it is, and is evaluated at few messages: at most one interval of a
key is found, and what recovers is missed. Such an answer says "assumed":"sticky".

With --json there is one object for a key, and of a scope of many keys one a line, with its "key":
  {"intervals":[{"from":{"id","position","version","type","payload"},"to":{…}|null,"min":N|null,"max":N|null}],
   "complete":true,"scan":"writes","up_to":"…"}
complete is false where the history has no longer all of the key's messages; up_to is the last message looked at. With --count
there is {"keys","holding","intervals","open","complete"}. Exit code 1: it never holds.`,
		Example: e.examples(
			"when "+e.exampleKey("576")+" 'state.balance < 0'",
			"when '"+e.exampleKey("*")+"' 'state.balance != state.recorded' --at 1995-01-01 --by business",
			"when '"+e.exampleKey("*")+"' 'state.balance < 0 && prev.balance >= 0' --count --json",
		),
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: e.completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := asked.limits.parse(e); err != nil {
				return err
			}
			if asked.assume != "" && asked.assume != "sticky" {
				return Usagef("--assume %s: want sticky", asked.assume)
			}
			scope, p, err := e.predicate(args[0], args[1])
			if err != nil {
				return err
			}
			return e.when(cmd.Context(), scope, p, &asked)
		},
	}
	asked.limits.addFlags(cmd)
	cmd.Flags().StringVar(&asked.assume, "assume", "", "search binarily, assuming that the predicate is `sticky`: it stays true once it is")
	complete(cmd, "assume", "sticky")
	cmd.Flags().BoolVar(&asked.count, "count", false, "only count keys and intervals")
	e.addIndexFlags(cmd)
	return cmd
}

// predicate reads a scope, and a predicate about the keys in it.
func (e *Env) predicate(scope, text string) (history.Scope, history.Predicate, error) {
	s, err := e.scope(scope)
	if err != nil {
		return s, history.Predicate{}, err
	}
	p, err := history.Compile(e.machine, s, text)
	if err != nil {
		return s, p, &exitError{exitUsage, err}
	}
	return s, p, nil
}

// whenFlag reads the predicate of --when, about the keys of a scope.
func (e *Env) whenFlag(s history.Scope, text string) (history.Predicate, error) {
	p, err := history.Compile(e.machine, s, text)
	if err != nil {
		return p, Usagef("--when: %w", err)
	}
	return p, nil
}

// whenCount is what --count answers.
type whenCount struct {
	Keys      int64  `json:"keys"`
	Holding   int64  `json:"holding"` // keys with an interval
	Intervals int64  `json:"intervals"`
	Open      int64  `json:"open"` // intervals without an end
	Complete  bool   `json:"complete"`
	Assumed   string `json:"assumed,omitempty"`

	Empty bool `json:"-"` // no key has a message
}

func (c *whenCount) add(found *history.Holding) {
	c.Keys++
	c.Complete = c.Complete && found.Complete
	c.Assumed = found.Assumed
	c.Empty = c.Empty && found.UpTo == (deja.Position{})
	if len(found.Intervals) == 0 {
		return
	}
	c.Holding++
	c.Intervals += int64(len(found.Intervals))
	if found.Intervals[len(found.Intervals)-1].To == nil {
		c.Open++
	}
}

func (e *Env) when(ctx context.Context, s history.Scope, p history.Predicate, asked *whenAsked) (err error) {
	db, h, lim, err := e.openPart(ctx, &asked.limits)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	ask := h.WhenBrief
	switch {
	case asked.assume == "sticky":
		ask = h.WhenSticky
	case e.json && !asked.count:
		ask = h.When
	}
	_, single := s.Single()
	count, err := e.whenAnswers(ask(ctx, s, p, lim), func(t io.Writer, found *history.Holding) error {
		switch {
		case asked.count:
			return nil
		case e.json && single:
			return e.Answer(found)
		case e.json:
			return e.Answer(keyHolding{found.Key.String(), found})
		}
		return e.whenRows(t, found)
	})
	if err != nil {
		return err
	}
	if asked.count && e.json {
		err = e.Answer(count)
	}
	return errors.Join(err, e.whenEnd(s, p, asked, count))
}

// keyHolding is an answer about one key of several.
type keyHolding struct {
	Key string `json:"key"`
	*history.Holding
}

// whenAnswers shows answers as they come, and counts them.
func (e *Env) whenAnswers(answers iter.Seq2[*history.Holding, error], show func(io.Writer, *history.Holding) error) (whenCount, error) {
	count := whenCount{Complete: true, Empty: true}
	t := e.table()
	tell, end := e.Progress("keys")
	defer end()
	for found, err := range answers {
		if err == nil {
			count.add(found)
			tell(count.Keys, 0)
			err = show(t, found)
		}
		if err != nil {
			return count, errors.Join(err, t.Flush())
		}
	}
	return count, t.Flush()
}

// whenRows shows a line for each interval.
func (e *Env) whenRows(t io.Writer, found *history.Holding) error {
	for i := range found.Intervals {
		in := &found.Intervals[i]
		until := "still\t\t"
		if in.To != nil {
			until = moments(in.To)
		}
		extremes := ""
		if in.Min != nil {
			extremes = "\t" + extreme(in.Min, in.Max)
		}
		if _, err := fmt.Fprintf(t, "%s\t%s\t→\t%s%s\n", found.Key, moments(&in.From), until, extremes); err != nil {
			return err
		}
	}
	return nil
}

// moments names a message in three columns: the key's version after it, when it was in the world, or, where it does not say so,
// when it was decided, and its ID.
func moments(m *history.Message) string {
	at := day(m.Step.BusinessTime)
	if m.Step.BusinessTime.IsZero() {
		at = stamp(m.Step.Time)
	}
	return fmt.Sprintf("@%d\t%s\t%s", m.Version, at, m.ID)
}

func extreme(low, high *big.Int) string {
	if low.Cmp(high) == 0 {
		return low.String()
	}
	return fmt.Sprintf("%s to %s", low, high)
}

// whenEnd says what was found in all.
func (e *Env) whenEnd(s history.Scope, p history.Predicate, asked *whenAsked, c whenCount) error {
	if !c.Complete {
		e.Notef("note: the history no longer has the first messages of all these keys: what was before them is not known")
	}
	if c.Assumed != "" {
		e.Notef("assumed %s: found by binary search, which misses what recovers; without --assume the answer is exact", c.Assumed)
	}
	if key, ok := s.Single(); ok && c.Empty {
		e.Notef("nothing was decided for %s %s; `%s` lists the keys", key, &asked.limits, e.hint("state "+quote(key.Aggregate+"/*")))
	}
	if c.Holding == 0 {
		return Nof("%s: never true of %s, %s", p, s, &asked.limits)
	}
	total := e.Stderr
	if asked.count && !e.json {
		total = e.Stdout
	}
	if _, err := fmt.Fprintf(total, "%s of %s, %d of them still open, %s; %s looked at\n",
		plural(c.Intervals, "interval"), plural(c.Holding, "key"), c.Open, &asked.limits, plural(c.Keys, "key")); err != nil {
		return err
	}
	if subject := p.Subject(); subject != "" && !asked.count && c.Assumed == "" {
		e.Notef("the last column is of %s", subject)
	}
	return nil
}
