package oracle_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	zombiezen "zombiezen.com/go/sqlite"

	"github.com/dejalog/deja/sqlite"
)

func TestEachTransactionIsAppliedOnce(t *testing.T) {
	t.Parallel()
	o, first := shipped(t), get(t, plain)
	want := imported{Messages: messages, Applied: messages, StateHash: first.got.StateHash}
	if got := first.got.counts(); got != want {
		t.Errorf("first import: %+v, want %+v", got, want)
	}
	path := copyOf(t, first)
	want = imported{Messages: messages, Duplicates: messages, StateHash: first.got.StateHash}
	if got := answer[imported](t, bank(t, "import", "--db", path, "--json")).counts(); got != want {
		t.Errorf("second import: %+v, want %+v", got, want)
	}
	wantWhole(t, path, o)
}

func TestRedeliveryChangesNoHash(t *testing.T) {
	t.Parallel()
	o, f := shipped(t), get(t, messy)
	want := imported{Messages: f.got.Messages, Applied: messages, Duplicates: f.got.Messages - messages, StateHash: get(t, plain).got.StateHash}
	if got := f.got.counts(); got != want || got.Duplicates < messages*45/100 || got.Duplicates > messages*55/100 {
		t.Errorf("got %+v, want %+v, about a half of them duplicates", got, want)
	}
	wantWhole(t, f.path, o)
}

// A killer imports, and is killed at random moments of it.
type killer struct {
	rng   *rand.Rand
	o     *oracle
	whole time.Duration // how long an import takes that nobody disturbs

	path     string  // of the file at work
	kills    int     // of it
	killedAt []int64 // how far the service had come
}

// strike starts an import and kills it after a random part of the time that a whole one takes.
func (k *killer) strike(t *testing.T) (r reply, killed bool) {
	t.Helper()
	var out, errs bytes.Buffer
	args := []string{"import", "--db", k.path, "--json"}
	cmd := exec.Command(get(t, program), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	must(t, cmd.Start())
	kill := time.AfterFunc(time.Duration(k.rng.Int64N(int64(k.whole))), func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	kill.Stop()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	code := cmd.ProcessState.ExitCode()
	return reply{args, code, out.String(), errs.String()}, code == -1
}

// look notes how far the killed import had come, as a reader sees it.
func (k *killer) look(t *testing.T) {
	t.Helper()
	info, err := os.Stat(k.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		k.killedAt = append(k.killedAt, -1) // before there was a database
		return
	}
	db, err := sqlite.OpenReadOnly(t.Context(), k.path)
	must(t, err)
	at, err := db.Store().Progress(t.Context(), 0)
	must(t, errors.Join(err, db.Close()))
	k.killedAt = append(k.killedAt, at.N)
}

// finish checks the file's end, and goes on with a fresh file.
func (k *killer) finish(t *testing.T, r reply) {
	t.Helper()
	got := answer[imported](t, r).counts()
	want := imported{Messages: messages, Applied: got.Applied, Duplicates: messages - got.Applied, StateHash: get(t, plain).got.StateHash}
	if got != want {
		t.Errorf("after %d kills: %+v, want %+v", k.kills, got, want)
	}
	if k.kills > 0 {
		wantWhole(t, k.path, k.o)
	}
	k.fresh(t)
}

func (k *killer) fresh(t *testing.T) {
	t.Helper()
	k.path, k.kills = filepath.Join(t.TempDir(), "bank.db"), 0
}

// run kills n imports. What a killed one left, the next one goes on with, until one comes to its end.
func (k *killer) run(t *testing.T, n int) {
	t.Helper()
	k.fresh(t)
	began := time.Now()
	r := bank(t, "import", "--db", k.path, "--json")
	k.whole = time.Since(began)
	k.finish(t, r)
	files := 1 // the last one is finished below
	for tries := 0; n > 0; tries++ {
		began := time.Now()
		r, killed := k.strike(t)
		if !killed {
			if k.kills == 0 { // nobody disturbed it: other tests make the machine slow at times
				k.whole = time.Since(began)
			}
			k.finish(t, r)
			files++
			if tries > 1000 {
				t.Fatalf("%d imports were not killed: they are done within %v", tries, k.whole)
			}
			continue
		}
		n, k.kills = n-1, k.kills+1
		if k.rng.IntN(2) == 0 { // a reader recovers a file in another way than the next writer
			k.look(t)
		}
	}
	k.finish(t, bank(t, "import", "--db", k.path, "--json"))
	t.Logf("an import took %v; it ended on %d files; killed at decisions %v", k.whole, files, k.killedAt)
}

// The moments are random, so the same seed gives other ones on another machine.
func TestAnImportThatIsKilledEndsAsIfItWasNot(t *testing.T) {
	t.Parallel()
	kills, rng := 50, newRand(t)
	if testing.Short() {
		kills = 5
	}
	for lane, n := range []int{kills / 2, kills - kills/2} {
		k := killer{rng: rand.New(rand.NewPCG(rng.Uint64(), 0)), o: shipped(t)}
		t.Run(strconv.Itoa(lane), func(t *testing.T) {
			t.Parallel()
			k.run(t, n)
		})
	}
}

// begin starts an import into a new file, and waits until the service came to a decision of it.
func begin(t *testing.T, path string, decision int64) (cmd *exec.Cmd, answer *bytes.Buffer) {
	t.Helper()
	answer = new(bytes.Buffer)
	cmd = exec.CommandContext(t.Context(), get(t, program), "import", "--db", path, "--json")
	cmd.Stdout = answer
	must(t, cmd.Start())
	await(t, "decision "+strconv.FormatInt(decision, 10), func() bool {
		db, err := sqlite.OpenReadOnly(t.Context(), path)
		if err != nil { // it is not made yet
			return false
		}
		at, err := db.Store().Progress(t.Context(), 0)
		return errors.Join(err, db.Close()) == nil && at.N >= decision
	})
	return cmd, answer
}

// restore puts a backup over a file, as an operator would, and imports again. It tells how much was decided anew.
func restore(t *testing.T, backup, path string, o *oracle) imported {
	t.Helper()
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	copyFile(t, backup, path)
	got := answer[imported](t, bank(t, "import", "--db", path, "--json"))
	if got.Applied+got.Duplicates != messages || got.StateHash != get(t, plain).got.StateHash {
		t.Errorf("import after the restore: %+v", got)
	}
	wantWhole(t, path, o)
	return got
}

// decided counts a file's decisions.
func decided(t *testing.T, path string) (n int64) {
	t.Helper()
	sql(t, path, "SELECT n FROM deja_lease", func(st *zombiezen.Stmt) { n = st.ColumnInt64(0) })
	return n
}

func TestABackupOfAMomentInMidRunIsPutBack(t *testing.T) {
	t.Parallel()
	o, rng := shipped(t), newRand(t)
	dir := t.TempDir()
	path, backup := filepath.Join(dir, "bank.db"), filepath.Join(dir, "backup.db")
	cmd, out := begin(t, path, 1+rng.Int64N(messages*2/3))
	sql(t, path, "VACUUM INTO ?", nil, backup)
	must(t, cmd.Wait())
	whole := answer[imported](t, reply{out: out.String()})
	if whole.Applied != messages || whole.StateHash != get(t, plain).got.StateHash {
		t.Errorf("the import that was backed up: %+v", whole)
	}
	sent := inInbox(t, backup)
	t.Logf("backed up at decision %d of %d that were sent", decided(t, backup), sent)
	// What was in the backup's inbox is decided before the import counts.
	if got := restore(t, backup, path, o); got.Applied != messages-sent {
		t.Errorf("the backup had %d messages in its inbox, the import after it: %+v", sent, got)
	}
}

// inInbox returns how many messages were sent to the inbox that a file has.
func inInbox(t *testing.T, path string) int64 {
	t.Helper()
	db, err := sqlite.OpenReadOnly(t.Context(), path)
	must(t, err)
	_, end, err := db.Log().Bounds(t.Context(), inboxTopic, 0)
	must(t, errors.Join(err, db.Close()))
	return end
}

func TestABackupOfAStoppedImportIsPutBack(t *testing.T) {
	t.Parallel()
	o, rng := shipped(t), newRand(t)
	dir := t.TempDir()
	path, backup := filepath.Join(dir, "bank.db"), filepath.Join(dir, "backup.db")
	cmd, _ := begin(t, path, 1+rng.Int64N(messages/2))
	must(t, cmd.Process.Signal(os.Interrupt))
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 4) {
		t.Fatalf("the interrupted import: %v", err)
	}
	copyFile(t, path, backup)
	had := decided(t, backup)
	t.Logf("stopped at decision %d", had)
	if got := answer[imported](t, bank(t, "import", "--db", path, "--json")); got.StateHash != get(t, plain).got.StateHash {
		t.Errorf("the import that goes on: %+v", got)
	}
	wantWhole(t, path, o)
	restore(t, backup, path, o)
}
