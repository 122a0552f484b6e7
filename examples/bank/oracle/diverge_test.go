package oracle_test

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/dejalog/deja/examples/bank/berka"
)

// wrongFrom is the day from which on the wrong build books transactions without a symbol with the wrong sign.
const wrongFrom = "1993-07-01"

// wrong is a build of the bank with a fault in a handler, put there as an overlay over the source.
var wrong = sync.OnceValues(func() (string, error) {
	source, err := filepath.Abs("../account/account.go")
	if err != nil {
		return "", err
	}
	good, err := os.ReadFile(source)
	if err != nil {
		return "", err
	}
	const at, imports = "\tswitch c.Direction {\n", "import (\n"
	bad := strings.Replace(string(good), at, "\tif c.Symbol == \"\" && d.Message().BusinessTime.Format(time.DateOnly) >= \""+wrongFrom+"\" {\n\t\tc.Amount = -c.Amount\n\t}\n"+at, 1)
	bad = strings.Replace(bad, imports, imports+"\t\"time\"\n", 1)
	if strings.Count(bad, "\n") != strings.Count(string(good), "\n")+4 {
		return "", fmt.Errorf("%s is not what the fault was made for", source)
	}
	file, overlay := filepath.Join(shared, "account.go"), filepath.Join(shared, "overlay.json")
	text, err := json.Marshal(map[string]map[string]string{"Replace": {source: file}})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
		return "", err
	}
	if err := os.WriteFile(overlay, text, 0o600); err != nil {
		return "", err
	}
	return build("wrong", "-overlay="+overlay)
})

// faulty is what the wrong build recorded.
var faulty = sync.OnceValues(func() (file, error) {
	f := file{path: filepath.Join(shared, "faulty.db")}
	bin, err := wrong()
	if err != nil {
		return f, err
	}
	r := runProgram(bin, "import", "--db", f.path, "--json", "--redeliver", "0.2")
	if r.code != 0 {
		return f, fmt.Errorf("%s", r)
	}
	return f, r.decode(&f.got)
})

// strayed is what becomes of the accounts, told from the CSV: in plain Go, nothing of deja takes part.
type strayed struct {
	first       map[string]int64 // of each account, the first transaction that is booked wrongly
	off         map[string]int64 // by how much the balance is off in the end
	reconverged []string         // accounts that were off, and are not in the end
	equalFrom   map[string]int64 // of these, the transaction from which on the balance is right
}

func stray(t *testing.T) strayed {
	t.Helper()
	data, err := berka.Data()
	must(t, err)
	defer data.Close()
	rows, err := csv.NewReader(data).ReadAll()
	must(t, err)
	s := strayed{first: map[string]int64{}, off: map[string]int64{}, equalFrom: map[string]int64{}}
	for _, row := range rows[1:] {
		number, account, date, direction, symbol := row[0], "account/"+row[1], row[2], row[3], row[5]
		if symbol != "" || date < wrongFrom {
			continue
		}
		n, err := strconv.ParseInt(number, 10, 64)
		must(t, err)
		amount, err := strconv.ParseInt(row[6], 10, 64)
		must(t, err)
		if direction == "debit" {
			amount = -amount
		}
		if _, ok := s.first[account]; !ok {
			s.first[account] = n
		}
		if s.off[account] -= 2 * amount; s.off[account] == 0 {
			s.equalFrom[account] = n
		}
	}
	for account, off := range s.off {
		if off == 0 {
			s.reconverged = append(s.reconverged, account)
		}
	}
	slices.Sort(s.reconverged)
	return s
}

// parting is a key of diverge's answer.
type parting struct {
	Key     string `json:"key"`
	Message struct {
		Type    string `json:"type"`
		Payload struct {
			Transaction int64 `json:"transaction"`
		} `json:"payload"`
	} `json:"message"`
	Field  string `json:"field"`
	States string `json:"states"`
	Again  *struct {
		Payload struct {
			Transaction int64 `json:"transaction"`
		} `json:"payload"`
	} `json:"equal_from"`
	Fields []struct {
		Path string `json:"path"`
		A, B int64
	} `json:"fields"`
}

// divergence is diverge's answer, as far as it is compared.
type divergence struct {
	Equal       bool      `json:"equal"`
	Complete    bool      `json:"complete"`
	Messages    int64     `json:"messages"`
	Keys        int64     `json:"keys"`
	Differ      []parting `json:"differ"`
	StillDiffer []string  `json:"still_differ"`
	Reconverged []string  `json:"reconverged"`
	Clusters    []struct {
		Type  string `json:"type"`
		Field string `json:"field"`
		Keys  int64  `json:"keys"`
	} `json:"clusters"`
}

func diverge(t *testing.T, wantCode int, args ...string) (d divergence) {
	t.Helper()
	r := bank(t, append([]string{"diverge", "--json", "--no-index"}, args...)...)
	if r.code != wantCode {
		t.Fatal(r)
	}
	must(t, json.Unmarshal([]byte(r.out), &d))
	return d
}

// A wrong sign on one kind of transaction, from a day on, is found by diverge: of each account the first transaction that is
// booked wrongly, and which accounts are right again in the end, as amounts cancelled out.
func TestDivergeFindsAWrongSign(t *testing.T) {
	t.Parallel()
	want, good, bad := stray(t), get(t, program), get(t, wrong)
	if len(want.reconverged) == 0 || len(want.reconverged) == len(want.first) {
		t.Fatalf("%d of %d accounts are right in the end: this shows nothing", len(want.reconverged), len(want.first))
	}
	t.Logf("%d accounts are booked wrongly, %v are right in the end", len(want.first), want.reconverged)
	for name, args := range map[string][]string{
		"the record":        {"--db", get(t, faulty).path, "--b", good},
		"two builds":        {"--db", get(t, plain).path, "--a", bad, "--b", good},
		"of another record": {"--db", get(t, faulty).path, "--a", bad, "--b", good},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := diverge(t, 1, args...)
			if d.Equal || !d.Complete || d.Messages != messages || len(d.Differ) != len(want.first) {
				t.Errorf("equal %v, complete %v, %d messages, %d of %d keys", d.Equal, d.Complete, d.Messages, len(d.Differ), len(want.first))
			}
			first := map[string]int64{}
			for _, p := range d.Differ {
				first[p.Key] = p.Message.Payload.Transaction
				checkStray(t, &p, want)
			}
			if !maps.Equal(first, want.first) {
				t.Error("the first transactions are not the oracle's")
			}
			if !slices.Equal(d.Reconverged, want.reconverged) || len(d.StillDiffer)+len(d.Reconverged) != len(want.first) {
				t.Errorf("re-converged: %v, want %v; %d still differ", d.Reconverged, want.reconverged, len(d.StillDiffer))
			}
			if len(d.Clusters) == 0 || d.Clusters[0].Type != "account.enter" || d.Clusters[0].Field != "events[0].payload.amount" {
				t.Errorf("clusters %+v", d.Clusters)
			}
		})
	}
}

// checkStray compares what is said of an account with the oracle.
func checkStray(t *testing.T, p *parting, want strayed) {
	t.Helper()
	off := want.off[p.Key]
	switch {
	case off != 0 && (p.States != "differ" || len(p.Fields) != 1 || p.Fields[0].Path != "balance" || p.Fields[0].A-p.Fields[0].B != off):
		t.Errorf("%s: %+v, want the balance off by %d", p.Key, p, off)
	case off == 0 && (p.States != "reconverged" || len(p.Fields) != 0 || p.Again == nil || p.Again.Payload.Transaction != want.equalFrom[p.Key]):
		t.Errorf("%s: %+v, want equal from %d on", p.Key, p, want.equalFrom[p.Key])
	}
}

// Builds that decide the same are equal, whatever else differs in them; of a part of the history too.
func TestDivergeOfEqualBuilds(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"--db", get(t, plain).path, "--b", get(t, rebuilt)},
		{"--db", get(t, messy).path, "--a", get(t, rebuilt)},
		{"--db", get(t, plain).path, "--b", get(t, wrong), "--range", "..inbox:0:4000"}, // the fault begins later
	} {
		if d := diverge(t, 0, args...); !d.Equal || !d.Complete || d.Messages == 0 || len(d.Differ) != 0 {
			t.Errorf("%v: %+v", args, d)
		}
	}
}
