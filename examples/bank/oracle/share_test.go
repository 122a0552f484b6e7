package oracle_test

import (
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"testing"

	"github.com/dejalog/deja/internal/testenv"
)

// The same file, whatever the log, the store, the partitions and the processes: the same numbers, and the same hash.
func TestTheImportIsTheSameOnServers(t *testing.T) {
	o := shipped(t)
	for _, c := range []struct {
		partitions, workers int
		redeliver           string
	}{{1, 3, ""}, {2, 1, "0.5"}, {4, 3, ""}} {
		t.Run(fmt.Sprintf("%d partitions, %d workers", c.partitions, c.workers), func(t *testing.T) {
			s := newServers(t, c.partitions)
			workers := s.workers(t, c.workers)
			args := []string{"import", "--send-only", "--json"}
			if c.redeliver != "" {
				args = append(args, "--redeliver", c.redeliver)
			}
			got := answer[imported](t, s.bank(t, args...)).counts()
			want := imported{Messages: got.Messages, Applied: messages, Duplicates: got.Messages - messages, StateHash: get(t, plain).got.StateHash}
			if got != want || (got.Duplicates > messages*45/100) != (c.redeliver != "") {
				t.Errorf("got %+v, want %+v", got, want)
			}
			s.wantWhole(t, o)
			for _, w := range workers {
				w.stop(t)
			}
			for _, l := range s.leases(t.Context()) {
				if l.Held {
					t.Errorf("partition %d was not given back", l.Partition)
				}
			}
		})
	}
}

// The script of the example, as a user runs it. It makes topics and a schema of its own each time, and leaves them.
func TestTheScriptPrintsTheSameHashEachTime(t *testing.T) {
	s := newServers(t, 1) // is skipped where there are no servers
	for _, args := range [][]string{{"--json"}, {"--json", "--partitions", "2", "--workers", "1"}} {
		cmd := exec.CommandContext(t.Context(), "../../../scripts/bank-on-kafka", args...)
		cmd.Env = environment("DEJA_TEST_KAFKA="+strings.Join(s.brokers, ","), "DEJA_TEST_POSTGRES="+s.dsn)
		var errs testenv.Output
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s%s", err, out, errs.String())
		}
		lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
		var got imported
		must(t, reply{args: args, out: lines[len(lines)-1] + "\n", err: errs.String()}.decode(&got))
		want := imported{Messages: messages, Applied: messages, StateHash: get(t, plain).got.StateHash}
		if got.counts() != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if strings.Contains(string(out)+errs.String(), password(t, s.dsn)) {
			t.Error("it prints the password")
		}
		s.forgetRun(t, errs.String())
	}
}

// forgetRun removes what a run of the script left.
func (s *servers) forgetRun(t *testing.T, told string) {
	t.Helper()
	var run, schema string
	for line := range strings.Lines(told) {
		if _, err := fmt.Sscanf(line, "topics %s and %s schema %s", &run, new(string), &schema); err == nil {
			break
		}
	}
	run, _, found := strings.Cut(run, inboxTopic)
	if !found || !strings.HasPrefix(schema, "bank_run") {
		t.Fatalf("the script does not tell its topics and its schema: %s", told)
	}
	must(t, s.exec(t.Context(), "DROP SCHEMA "+schema+" CASCADE"))
	adm := s.admin(t)
	defer adm.Close()
	_, err := adm.DeleteTopics(t.Context(), run+inboxTopic, run+journalTopic)
	must(t, err)
}

// password returns the password of a URL.
func password(t *testing.T, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	must(t, err)
	if p, set := u.User.Password(); set {
		return p
	}
	return "a URL without a password"
}
