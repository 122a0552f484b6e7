package oracle_test

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	zombiezen "zombiezen.com/go/sqlite"
)

// stateAnswer is the answer of state.
type stateAnswer struct {
	Key      string `json:"key"`
	Version  int64  `json:"version"`
	Position string `json:"position"`
	State    struct {
		Balance  int64 `json:"balance"`
		Recorded int64 `json:"recorded"`
	} `json:"state"`
	Hash string `json:"hash"`
}

// differs tells what of an answer is not the oracle's.
func (a stateAnswer) differs(want state) string {
	got := state{want.Row, want.Date, a.Version, a.State.Balance, a.State.Recorded}
	if got == want {
		return ""
	}
	return fmt.Sprintf("%+v, the oracle has %+v", got, want)
}

// statesOf reads the answer about many keys.
func statesOf(t *testing.T, out string) map[string]stateAnswer {
	t.Helper()
	all := map[string]stateAnswer{}
	for lines := bufio.NewScanner(strings.NewReader(out)); lines.Scan(); {
		var a stateAnswer
		must(t, json.Unmarshal(lines.Bytes(), &a))
		all[a.Key] = a
	}
	return all
}

// wantStates compares an answer about all accounts with the oracle: those that had no transaction yet are not in it.
func wantStates(t *testing.T, what, out string, o *oracle, want func(account string) state) {
	t.Helper()
	all, known := statesOf(t, out), 0
	for account := range o.accounts {
		w := want(account)
		if w.Version > 0 {
			known++
		}
		if d := all["account/"+account].differs(w); d != "" {
			t.Errorf("%s: account %s is %s", what, account, d)
			return
		}
	}
	if len(all) != known {
		t.Errorf("%s: %d accounts, the oracle has %d", what, len(all), known)
	}
}

// A moment is a locator, with what the oracle says of it.
type moment struct {
	flags []string
	rows  int    // the CSV's first rows are in it
	date  string // if set, those up to this day are
}

func (m moment) of(o *oracle) func(account string) state {
	if m.date != "" {
		return func(account string) state { return o.on(account, m.date) }
	}
	return func(account string) state { return o.after(account, m.rows) }
}

// A history knows where in an imported file the rows of the CSV are, without asking deja for it.
type history struct {
	ids     []string    // by row
	sorted  []string    // the IDs' digits
	keys    []string    // by row: the account and its version
	offsets []int64     // by row: the position of the first delivery in the inbox
	decided []time.Time // by row, as log says
	dates   []string    // of all days, and one before and after
	inbox   int64       // how many records the inbox has
}

func historyOf(t *testing.T, f file, o *oracle) *history {
	t.Helper()
	h := &history{keys: make([]string, messages)}
	for _, tr := range get(t, transactions) {
		h.ids = append(h.ids, tr.ID().String())
		h.sorted = append(h.sorted, strings.ReplaceAll(tr.ID().String(), "-", ""))
	}
	slices.Sort(h.sorted)
	for account, states := range o.accounts {
		for _, s := range states {
			h.keys[s.Row-1] = fmt.Sprintf("account/%s@%d", account, s.Version)
		}
	}
	// The importer sends the rows in order, and what it sends again is the same to the byte.
	seen := map[string]bool{}
	sql(t, f.path, "SELECT offset, value FROM deja_log_1 ORDER BY offset", func(st *zombiezen.Stmt) {
		value := make([]byte, st.ColumnLen(1))
		st.ColumnBytes(1, value)
		if !seen[string(value)] {
			seen[string(value)] = true
			h.offsets = append(h.offsets, st.ColumnInt64(0))
		}
		h.inbox++
	})
	h.readTimes(t, f)
	for d := time.Date(1992, 12, 31, 0, 0, 0, 0, time.UTC); d.Year() < 1994 || d.Month() < 5; d = d.AddDate(0, 0, 1) {
		h.dates = append(h.dates, d.Format(time.DateOnly))
	}
	if len(h.offsets) != messages || len(h.decided) != messages {
		t.Fatalf("%s: %d rows in the inbox, %d decided", f.path, len(h.offsets), len(h.decided))
	}
	return h
}

func (h *history) readTimes(t *testing.T, f file) {
	t.Helper()
	for lines := bufio.NewScanner(strings.NewReader(ok(t, here(t, "log", "--db", f.path, "--json")))); lines.Scan(); {
		var d struct {
			ID   string    `json:"id"`
			Time time.Time `json:"time"`
		}
		must(t, json.Unmarshal(lines.Bytes(), &d))
		if len(h.decided) == len(h.ids) || d.ID != h.ids[len(h.decided)] {
			t.Fatalf("decision %d is of message %s", len(h.decided)+1, d.ID)
		}
		h.decided = append(h.decided, d.Time)
	}
}

// moment returns a random one; the kinds of locator come in turn.
func (h *history) moment(rng *rand.Rand, turn int) moment {
	row := 1 + rng.IntN(messages)
	day := 1 + rng.IntN(len(h.dates)-1)
	business := []string{"--by", "business", "--at"}
	switch turn % 8 {
	case 0:
		return moment{flags: []string{"--at", h.keys[row-1]}, rows: row}
	case 1:
		at := rng.Int64N(h.inbox)
		n, found := slices.BinarySearch(h.offsets, at)
		if found {
			n++
		}
		return moment{flags: []string{"--at", []string{"", "bank."}[rng.IntN(2)] + "inbox:0:" + strconv.FormatInt(at, 10)}, rows: n}
	case 2: // one life, so no record but the decisions
		return moment{flags: []string{"--at", "journal:0:" + strconv.Itoa(row-1)}, rows: row}
	case 3:
		return moment{flags: []string{"--at", h.ids[row-1]}, rows: row}
	case 4:
		return moment{flags: []string{"--at", h.prefix(h.ids[row-1])}, rows: row}
	case 5: // the end of the day, whether anything happened on it or not
		return moment{flags: append(business, h.dates[day]), date: h.dates[day]}
	case 6: // the bank's dates are midnights: a moment before is the day before
		at, date := h.dates[day]+"T00:00:00Z", h.dates[day]
		if rng.IntN(2) == 0 {
			at, date = h.dates[day-1]+"T23:59:59.999999Z", h.dates[day-1]
		}
		return moment{flags: append(business, at), date: date}
	default: // many are decided at the same time
		at := h.decided[row-1]
		n, _ := slices.BinarySearchFunc(h.decided, at, func(d, at time.Time) int { return cmp.Or(d.Compare(at), -1) })
		return moment{flags: []string{"--at", at.Format(time.RFC3339Nano)}, rows: n}
	}
}

// prefix returns the shortest prefix of an ID that is unique.
func (h *history) prefix(id string) string {
	digits := strings.ReplaceAll(id, "-", "")
	i, _ := slices.BinarySearch(h.sorted, digits)
	n := 4
	for _, other := range h.sorted[max(i-1, 0):min(i+2, len(h.sorted))] {
		for other != digits && strings.HasPrefix(other, digits[:n]) {
			n++
		}
	}
	return digits[:n]
}

// askAll asks for all accounts, and compares each with the oracle.
func askAll(t *testing.T, f file, o *oracle, m moment) map[string]stateAnswer {
	t.Helper()
	out := ok(t, here(t, append([]string{"state", "account/*", "--db", f.path, "--json"}, m.flags...)...))
	wantStates(t, strings.Join(m.flags, " "), out, o, m.of(o))
	return statesOf(t, out)
}

// askOne asks for one account, which is a fold of its own, and compares it with the oracle and the answer about all.
func askOne(t *testing.T, f file, h *history, account string, want state, flags []string, all map[string]stateAnswer) {
	t.Helper()
	got := answer[stateAnswer](t, here(t, append([]string{"state", "account/" + account, "--db", f.path, "--json"}, flags...)...))
	if d := got.differs(want); d != "" {
		t.Errorf("%s: account %s alone is %s", flags, account, d)
	}
	if want.Version == 0 {
		return
	}
	if got != all[got.Key] {
		t.Errorf("%s: account %s alone is %+v, among all %+v", flags, account, got, all[got.Key])
	}
	if at := fmt.Sprintf("bank.inbox:0:%d", h.offsets[want.Row-1]); got.Position != at {
		t.Errorf("%s: account %s changed last at %s; its row was delivered at %s", flags, account, got.Position, at)
	}
}

func TestEveryEarlierMomentIsTheOracles(t *testing.T) {
	t.Parallel()
	points, rng, o := 100, newRand(t), shipped(t)
	if testing.Short() {
		points = 16
	}
	f := get(t, plain)
	h, accounts := historyOf(t, f, o), slices.Sorted(maps.Keys(o.accounts))
	for i := range points {
		if i == points/2 { // and the rest where each second message came twice
			f = get(t, messy)
			h = historyOf(t, f, o)
		}
		m := h.moment(rng, i)
		all := askAll(t, f, o, m)
		account, _, _ := strings.Cut(strings.TrimPrefix(h.keys[max(m.rows, 1)-1], "account/"), "@") // it has just changed
		if rng.IntN(2) == 0 {
			account = accounts[rng.IntN(len(accounts))]
		}
		askOne(t, f, h, account, m.of(o)(account), m.flags, all)
	}
}

// replayed is the answer of replay.
type replayed struct {
	Messages  int64   `json:"messages"`
	Position  string  `json:"position"`
	StateHash string  `json:"state_hash"`
	Seconds   float64 `json:"seconds"`
}

// A past is a file that a replay made, and what the original answered about that moment.
type past struct {
	path, key string
	rows      int
	one, all  string
}

// newPast replays a file into a new one, and asks the original.
func newPast(t *testing.T, db, key string, rows int, flags ...string) past {
	t.Helper()
	p := past{path: filepath.Join(t.TempDir(), "past.db"), key: key, rows: rows}
	to := append([]string{"replay", "--db", db, "--json"}, flags...)
	got := answer[replayed](t, bank(t, append(to, "--into", p.path)...))
	again := answer[replayed](t, bank(t, to...))
	if got.Seconds, again.Seconds = 0, 0; got != again || got.Messages != int64(rows) {
		t.Errorf("%s: into a file %+v, into memory %+v; want %d messages", flags, got, again, rows)
	}
	if whole := get(t, plain).got.StateHash; (rows == messages) != (got.StateHash == whole) {
		t.Errorf("%s: %d rows have the hash %s, all have %s", flags, rows, got.StateHash, whole)
	}
	at := []string{"--db", db, "--json"}
	for _, flag := range flags {
		at = append(at, strings.Replace(flag, "--to", "--at", 1))
	}
	p.one = ok(t, bank(t, append([]string{"state", key}, at...)...))
	p.all = ok(t, bank(t, append([]string{"state", "account/*"}, at...)...))
	return p
}

// want compares the past's answers with the original's, to the byte, and with the oracle.
func (p past) want(t *testing.T, o *oracle, h *history, rng *rand.Rand) {
	t.Helper()
	wantStates(t, p.path, p.all, o, func(account string) state { return o.after(account, p.rows) })
	for _, flags := range [][]string{nil, {"--at", "HEAD"}} {
		at := append([]string{"--db", p.path, "--json"}, flags...)
		one, all := ok(t, bank(t, append([]string{"state", p.key}, at...)...)), ok(t, bank(t, append([]string{"state", "account/*"}, at...)...))
		if one != p.one || all != p.all {
			t.Errorf("%s %s: the answers are not those of the original: %s, was %s", p.path, flags, one, p.one)
		}
	}
	earlier := 1 + rng.IntN(p.rows)
	out := ok(t, bank(t, "state", "account/*", "--db", p.path, "--json", "--at", h.keys[earlier-1]))
	wantStates(t, h.keys[earlier-1], out, o, func(account string) state { return o.after(account, earlier) })
	wantStatement(t, p.path, o, p.rows)
}

// A past outlives its source, and answers other processes as the source did.
func TestAPastOutlivesItsSource(t *testing.T) {
	t.Parallel()
	f, o, rng := get(t, messy), shipped(t), newRand(t)
	db, h := copyOf(t, f), historyOf(t, f, o)
	row, day := 1+rng.IntN(messages-1), h.dates[1+rng.IntN(400)]
	key, _, _ := strings.Cut(h.keys[row-1], "@")
	pasts := []past{
		newPast(t, db, key, messages),
		newPast(t, db, key, row, "--to", h.keys[row-1]),
		newPast(t, db, key, o.through(day), "--to", day, "--by", "business"),
	}
	must(t, os.Rename(filepath.Dir(db), filepath.Join(t.TempDir(), "away")))
	for _, p := range pasts {
		p.want(t, o, h, rng)
	}
	wantWhole(t, pasts[0].path, o)
}
