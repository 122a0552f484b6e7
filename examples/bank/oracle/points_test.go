package oracle_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dejalog/deja/examples/bank/service"
	"github.com/dejalog/deja/replay"
)

// A point is a moment at which the store stood still: how far it was, and the hash that it had.
type point struct {
	positions []int64
	decisions int64
	hash      string
	rows      int // of the CSV, if just these were in; else 0
}

// at returns the point as a locator.
func (p point) at() string {
	var parts []string
	for n, position := range p.positions {
		parts = append(parts, fmt.Sprintf("inbox:%d:%d", n, position-1))
	}
	return strings.Join(parts, ",")
}

// point notes where the store stands. Nobody may be at work.
func (s *servers) point(t *testing.T, rows int) point {
	t.Helper()
	p := point{hash: s.hash(t), rows: rows}
	for _, l := range s.leases(t.Context()) {
		p.positions, p.decisions = append(p.positions, l.Progress.Position), p.decisions+l.Progress.N
	}
	return p
}

// pointsOf imports all transactions, and notes at random points what the live store has: between two portions, when all
// is handled, and in the middle of one, when the workers were stopped.
func pointsOf(t *testing.T, s *servers, portions, stops int) (points []point) {
	t.Helper()
	rng, rows := newRand(t), get(t, transactions)
	sender := s.sender(t)
	w := s.worker(t)
	sent := 0
	send := func(n int) {
		must(t, sender.send(t.Context(), rows[sent:sent+n]))
		if again := rng.IntN(sent + n); rng.IntN(2) == 0 {
			must(t, sender.send(t.Context(), rows[again:min(again+100, sent+n)]))
		}
		sent += n
	}
	send(500)
	for range portions {
		s.settle(t)
		points = append(points, s.point(t, sent))
		send(1 + rng.IntN(2*(messages/2-500)/portions))
	}
	s.settle(t)
	for range stops {
		behind := s.handled(t.Context())
		n := min(1+rng.IntN(2*(len(rows)-sent)/stops), len(rows)-sent)
		if n == 0 {
			break
		}
		send(n)
		s.reach(t, behind+rng.Int64N(int64(n)))
		w.stop(t)
		points = append(points, s.point(t, 0))
		w = s.worker(t)
	}
	send(len(rows) - sent)
	s.settle(t)
	w.stop(t)
	return append(points, s.point(t, messages))
}

// The past is the log's alone: no store takes part.
func TestAReplayFromKafkaHasTheHashOfTheLiveStore(t *testing.T) {
	o := shipped(t)
	s := newServers(t, 4)
	points := pointsOf(t, s, 14, 6)
	last := points[len(points)-1]
	if last.decisions != messages || last.hash != get(t, plain).got.StateHash {
		t.Fatalf("the live store ends at %+v", last)
	}
	must(t, s.exec(t.Context(), "DROP SCHEMA "+s.schema+" CASCADE"))
	ctx, log := t.Context(), s.log(t)

	snapshot := filepath.Join(t.TempDir(), "snapshot.db")
	begin := points[len(points)/2]
	kept := answer[replayed](t, runIn(t, s.logAlone(), "snapshot", "--at", begin.at(), "--into", snapshot, "--json"))
	if kept.StateHash != begin.hash || kept.Messages != begin.decisions {
		t.Errorf("the snapshot at %s: %+v, the live store had %+v", begin.at(), kept, begin)
	}
	source, err := replay.Open(ctx, replay.Config{Service: service.Service(), Log: log})
	must(t, err)
	for i, p := range points {
		to, err := replay.ParseLocator(p.at())
		must(t, err)
		past, err := source.Fold(ctx, replay.Options{To: to})
		must(t, err)
		h, err := past.Hash()
		must(t, err)
		if h.String() != p.hash || past.Messages != p.decisions {
			t.Errorf("point %d, %s: %d decisions with the hash %s; the live store had %d with %s", i, p.at(), past.Messages, h, p.decisions, p.hash)
		}
		if i >= len(points)/2 {
			got := answer[replayed](t, runIn(t, s.logAlone(), "replay", "--from", snapshot, "--to", p.at(), "--json"))
			if got.StateHash != p.hash || got.Messages != p.decisions {
				t.Errorf("point %d, %s, from the snapshot: %+v, the live store had %+v", i, p.at(), got, p)
			}
		}
	}
	for i, flags := range map[int][]string{
		3: nil, len(points) - 3: {"--from", snapshot}, len(points) - 1: {"--from", snapshot}, len(points) - 2: nil,
	} {
		p, into := points[i], filepath.Join(t.TempDir(), "past.db")
		got := answer[replayed](t, runIn(t, s.logAlone(), append([]string{"replay", "--to", p.at(), "--into", into, "--json"}, flags...)...))
		if got.StateHash != p.hash || got.Messages != p.decisions {
			t.Errorf("point %d, %s, %s into a file: %+v, the live store had %+v", i, p.at(), flags, got, p)
		}
		if p.rows > 0 {
			out := ok(t, here(t, "state", "account/*", "--db", into, "--json"))
			wantStates(t, p.at(), out, o, func(account string) state { return o.after(account, p.rows) })
			wantStatement(t, into, o, p.rows)
		}
	}
}
