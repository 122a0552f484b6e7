package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// balances tells, in plain Go, the accounts after the first n rows of a CSV: version, own sum and the bank's figure.
func balances(rows [][]string, n int) map[string][3]int64 {
	accounts := map[string][3]int64{}
	for _, row := range rows[:n] {
		amount, _ := strconv.ParseInt(row[6], 10, 64)
		figure, _ := strconv.ParseInt(row[7], 10, 64)
		if row[3] == "debit" {
			amount = -amount
		}
		a := accounts[row[1]]
		accounts[row[1]] = [3]int64{a[0] + 1, a[1] + amount, figure}
	}
	return accounts
}

// TestStatesOfThePast compares all accounts at random moments with a sum of the rows up to them.
func TestStatesOfThePast(t *testing.T) {
	path, db := firstRows(t, 4000), filepath.Join(t.TempDir(), "bank.db")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(string(text))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	rows = rows[1:]
	must(t, "import", path, "--db", db)
	must(t, "rebuild", "--db", db)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 100 {
		n := 1 + random.IntN(len(rows))
		compareStates(t, db, fmt.Sprintf("inbox:0:%d", n-1), balances(rows, n))
	}
}

// compareStates compares all accounts at a moment.
func compareStates(t *testing.T, db, at string, want map[string][3]int64) {
	t.Helper()
	out := must(t, "state", "account/*", "--at", at, "--db", db, "--json")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != len(want) {
		t.Errorf("at %s: %d accounts, want %d", at, len(lines), len(want))
	}
	for _, line := range lines {
		var got struct {
			Key     string
			Version int64
			State   struct{ Balance, Recorded int64 }
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		if w := want[strings.TrimPrefix(got.Key, "account/")]; w != [3]int64{got.Version, got.State.Balance, got.State.Recorded} {
			t.Errorf("%s at %s: %+v, want %v", got.Key, at, got, w)
		}
	}
}
