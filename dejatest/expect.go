package dejatest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/canon"
)

// Recorded says that the last message was applied and recorded these events, no others, in this order.
func (c *Case[S]) Recorded(events ...deja.Event) *Case[S] {
	c.t.Helper()
	c.applied()
	want := make([]string, len(events))
	for i, e := range events {
		env := c.event(e)
		want[i] = line(&env)
	}
	if d := diff(want, eventLines(c.got)); d != "" {
		c.t.Fatalf("%s recorded other events (- wanted, + recorded):%s", c.subject, d)
	}
	return c
}

// Sent says that the last message was applied and sent a command to the instance key of the command's aggregate,
// among others or not.
func (c *Case[S]) Sent(key string, cmd deja.Command) *Case[S] {
	c.t.Helper()
	c.applied()
	env := c.payload(deja.KindCommand, cmd.CommandType(), cmd)
	aggregate, err := deja.Target(env.Type)
	if err != nil {
		c.t.Fatalf("%v", err)
	}
	env.Stream.Aggregate, env.Stream.Key = aggregate, key
	c.among("send", sentLine(&env), sentLines(c.got))
	return c
}

// Scheduled says that the last message was applied and scheduled a command under a name, due some time after the
// decision.
func (c *Case[S]) Scheduled(name string, after time.Duration) *Case[S] {
	c.t.Helper()
	c.applied()
	due := c.now.Add(after).Truncate(time.Microsecond)
	if !slices.ContainsFunc(c.got.Timers, func(t deja.Timer) bool { return t.Name == name && t.Due.Equal(due) }) {
		c.t.Fatalf("%s did not schedule %q in %s; it scheduled:%s", c.subject, name, after, listed(timerLines(c.got, c.now)))
	}
	return c
}

// Cancelled says that the last message was applied and cancelled what was scheduled under a name.
func (c *Case[S]) Cancelled(name string) *Case[S] {
	c.t.Helper()
	c.applied()
	c.among("cancel", name, c.got.Cancelled)
	return c
}

// Effect says that the last message was applied and asked for an effect, among others or not.
func (c *Case[S]) Effect(e deja.Effect) *Case[S] {
	c.t.Helper()
	c.applied()
	env := c.payload(deja.KindEffect, e.EffectType(), e)
	c.among("ask for", line(&env), effectLines(c.got))
	return c
}

// Ended says that the last message was applied and ended the saga, by one of its [deja.Ends] rows.
func (c *Case[S]) Ended() *Case[S] {
	c.t.Helper()
	return c.comes("end the saga", c.m.Saga(c.stream.Aggregate).Ended)
}

// Stuck says that the last message was applied and left the saga stuck, by one of its [deja.Sticks] rows.
func (c *Case[S]) Stuck() *Case[S] {
	c.t.Helper()
	return c.comes("leave the saga stuck", c.m.Saga(c.stream.Aggregate).Stuck)
}

// comes says that the last message was applied, and that the last event which it recorded is one of some kind.
func (c *Case[S]) comes(what string, is func(event string) bool) *Case[S] {
	c.t.Helper()
	c.applied()
	if n := len(c.got.Events); n == 0 || !is(c.got.Events[n-1].Type) {
		c.t.Fatalf("%s did not %s; it recorded:%s", c.subject, what, listed(eventLines(c.got)))
	}
	return c
}

// Nothing says that the last message was applied, and that nothing came of it: no event, no command, no timer set or
// cancelled, no effect.
func (c *Case[S]) Nothing() *Case[S] {
	c.t.Helper()
	c.applied()
	if all := describe(c.got, c.now); len(all) > 1 {
		c.t.Fatalf("%s was to do nothing:%s", c.subject, listed(all[1:]))
	}
	return c
}

// Rejected says that the last message was refused with a rejection of target's code, in the sense of [errors.Is].
func (c *Case[S]) Rejected(target error) *Case[S] {
	c.t.Helper()
	c.decided()
	if c.got.Status != deja.Rejected || !errors.Is(&c.got.Reason, target) {
		c.t.Fatalf("%s was not rejected with %v:%s", c.subject, target, listed(describe(c.got, c.now)))
	}
	c.said = true
	return c
}

// Fails says that the handler of the last message returned an error that is no rejection, or panicked, or asked for
// what the aggregate's table has no row for. A service parks such a message, and its key with it.
func (c *Case[S]) Fails() *Case[S] {
	c.t.Helper()
	c.decided()
	if c.got.Status != deja.Parked {
		c.t.Fatalf("%s did not fail:%s", c.subject, listed(describe(c.got, c.now)))
	}
	c.said = true
	return c
}

// State says what the state is, after all that was given and recorded. Zero fields and missing ones are the same, as
// are nil and empty slices and maps.
func (c *Case[S]) State(want S) *Case[S] {
	c.t.Helper()
	c.settled()
	data, err := json.Marshal(&want)
	if err != nil {
		c.t.Fatalf("encode the state wanted: %v", err)
	}
	if d := c.diffStates(data, c.encode(c.load())); d != "" {
		c.t.Fatalf("state of %s at version %d (- wanted, + is):%s", c.stream, c.version, d)
	}
	return c
}

// decided ends the test if nothing was decided yet.
func (c *Case[S]) decided() {
	c.t.Helper()
	if c.got == nil {
		c.t.Fatalf("nothing was decided yet: When comes first")
	}
}

// applied ends the test if the last message was not applied.
func (c *Case[S]) applied() {
	c.t.Helper()
	c.decided()
	if c.got.Status != deja.Applied {
		c.t.Fatalf("%s was not applied but %s", c.subject, verdict(c.got))
	}
}

// among ends the test unless want is one of the lines.
func (c *Case[S]) among(verb, want string, got []string) {
	c.t.Helper()
	if !slices.Contains(got, want) {
		c.t.Fatalf("%s did not %s %s, but:%s", c.subject, verb, want, listed(got))
	}
}

func listed(lines []string) string {
	if len(lines) == 0 {
		return "\n  nothing"
	}
	return indent("", lines)
}

// fieldDiff shows the fields that differ.
func fieldDiff(want, got []canon.Field) string {
	lines := func(fs []canon.Field) []string {
		ls := make([]string, len(fs))
		for i, f := range fs {
			ls[i] = fmt.Sprintf("%s: %s", f.Path, f.Value)
		}
		return ls
	}
	return diff(lines(want), lines(got))
}
