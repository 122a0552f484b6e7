package oracle_test

import (
	"path/filepath"
	"strings"
	"testing"
)

// An archive outlives the topics: what was asked of the log before is answered by it, to the byte.
func TestAnArchiveAnswersWhatTheTopicsHaveLost(t *testing.T) {
	o, rng := shipped(t), newRand(t)
	s := newServers(t, 2)
	w := s.worker(t)
	rows := get(t, transactions)
	sender := s.sender(t)
	half := messages/4 + rng.IntN(messages/2)
	must(t, sender.send(t.Context(), rows[:half]))
	s.settle(t)
	middle := s.point(t, half)

	dir := filepath.Join(t.TempDir(), "archive")
	ok(t, s.bank(t, "archive", dir, "--json"))
	must(t, sender.send(t.Context(), rows[half:]))
	must(t, sender.send(t.Context(), rows[half-100:half+100]))
	s.settle(t)
	w.stop(t)
	ok(t, s.bank(t, "archive", dir, "--json"))

	// Of the log alone: what a store knows more is when it was asked.
	questions := [][]string{
		{"state", "account/*", "--json"},
		{"state", "account/*", "--json", "--at", middle.at()},
		{"state", "account/576", "--json", "--at", "1993-06-30", "--by", "business"},
		{"log", "--json"},
		{"show", rows[half].ID().String(), "--json"},
		{"ledger", rows[half-1].ID().String(), "--json"},
	}
	var before []string
	for _, q := range questions {
		before = append(before, ok(t, runIn(t, s.logAlone(), q...)))
	}
	for p := range s.partitions {
		s.trim(t, inboxTopic, p, s.end(t, inboxTopic, p)-1)
		s.trim(t, journalTopic, p, s.end(t, journalTopic, p)-1)
	}
	if r := runIn(t, s.logAlone(), "replay", "--json"); r.code == 0 && strings.Contains(r.out, get(t, plain).got.StateHash) {
		t.Fatalf("the topics were not trimmed: %s", r)
	}
	ok(t, here(t, "archive", "verify", dir))
	for i, q := range questions {
		if after := ok(t, here(t, append(q, "--db", dir)...)); after != before[i] {
			t.Errorf("%s: the archive answers %.500s, the log answered %.500s", strings.Join(q, " "), after, before[i])
		}
	}
	wantStates(t, "the archive", before[0], o, func(account string) state { return o.after(account, messages) })
	wantStates(t, middle.at(), before[1], o, func(account string) state { return o.after(account, half) })
	for to, want := range map[string]point{"HEAD": {decisions: messages, hash: get(t, plain).got.StateHash, rows: messages}, middle.at(): middle} {
		into := filepath.Join(t.TempDir(), "past.db")
		got := answer[replayed](t, here(t, "replay", "--db", dir, "--to", to, "--into", into, "--json"))
		if got.StateHash != want.hash || got.Messages != want.decisions {
			t.Errorf("replay to %s: %+v, want %+v", to, got, want)
		}
		wantStatement(t, into, o, want.rows)
	}
	// The servers go on without what the archive keeps, and what comes is archived too.
	w = s.worker(t)
	must(t, sender.send(t.Context(), rows[:50]))
	s.settle(t)
	w.stop(t)
	if got := s.hash(t); got != get(t, plain).got.StateHash {
		t.Errorf("after duplicates: hash %s", got)
	}
	ok(t, s.bank(t, "archive", dir, "--json"))
	ok(t, here(t, "archive", "verify", dir))
}
