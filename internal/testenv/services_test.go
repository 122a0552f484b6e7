package testenv

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// answer is what a run of scripts/services said.
type answer struct {
	code           int
	stdout, stderr string
}

// services runs scripts/services, with variables of env and none of deja from around the test.
func services(t *testing.T, env []string, args ...string) answer {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("scripts/services starts servers on Linux alone")
	}
	cmd := exec.Command("../../scripts/services", args...) // not bound to t's context: it stops servers after the test
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "DEJA_") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, env...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return answer{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// well is services where nothing may go wrong. It returns what is on stdout.
func well(t *testing.T, args ...string) string {
	t.Helper()
	a := services(t, nil, args...)
	if a.code != 0 {
		t.Fatalf("scripts/services %s: exit code %d\n%s%s", strings.Join(args, " "), a.code, a.stdout, a.stderr)
	}
	return a.stdout
}

func TestServicesRefuseWrongArguments(t *testing.T) {
	for _, args := range []string{
		"", "no", "up kafka", "stop", "stop no", "stop kafka --immediate", "stop postgres --kill", "start kafka --kill",
		"status --purge", "down --own", "up --no", "up --dir", "start kafka more",
	} {
		if a := services(t, nil, strings.Fields(args)...); a.code != 2 || a.stdout != "" || !strings.Contains(a.stderr, "Usage:") {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", args, a.code, a.stdout, a.stderr)
		}
	}
	if help := well(t, "--help"); !strings.Contains(help, "Usage:") {
		t.Errorf("help: %q", help)
	}
}

// nobody returns an address at which nobody listens until the test ends: it is taken, and no connection is accepted there.
func nobody(t *testing.T) string {
	t.Helper()
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(socket) })
	if err := syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := syscall.Getsockname(socket)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(at.(*syscall.SockaddrInet4).Port))
}

// Before anything is started or made, for the variables may be meant and the servers be down.
func TestServicesRefuseAddressesThatDoNotAnswer(t *testing.T) {
	address := nobody(t)
	for _, variable := range []string{
		KafkaVariable + "=" + address,
		PostgresVariable + "=postgres://deja:secret@" + address + "/deja",
	} {
		dir := filepath.Join(t.TempDir(), "services")
		a := services(t, []string{variable}, "up", "--dir", dir)
		name, _, _ := strings.Cut(variable, "=")
		if a.code != 1 || a.stdout != "" || !strings.Contains(a.stderr, name) || strings.Contains(a.stderr, "secret") {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", name, a.code, a.stdout, a.stderr)
		}
		if _, err := os.Stat(filepath.Join(dir, "kafka", "pid")); err == nil {
			t.Errorf("%s: something was started", name)
		}
	}
}

// After a reboot the number of a server's process may be anybody's.
func TestServicesLeaveTheProcessesOfOthersAlone(t *testing.T) {
	other := exec.CommandContext(t.Context(), "sleep", "60")
	if err := other.Start(); err != nil {
		t.Skip(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- other.Wait() }()

	dir := filepath.Join(t.TempDir(), "services")
	for _, file := range []string{"kafka/pid", "postgres/data/postmaster.pid"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.Itoa(other.Process.Pid)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if a := services(t, nil, "status", "--dir", dir); a.code != 1 || a.stdout != "kafka stopped\npostgres stopped\n" {
		t.Errorf("status: exit code %d, %q", a.code, a.stdout)
	}
	for _, args := range []string{"stop kafka --kill", "stop postgres --immediate", "down --purge"} {
		well(t, append(strings.Fields(args), "--dir", dir)...)
		select {
		case err := <-ended:
			t.Fatalf("%s ended the process of somebody else: %v", args, err)
		default:
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("purged, and the folder is there: %v", err)
	}
}

// status reads scripts/services status: by server, its process, or 0 if it does not run.
func status(t *testing.T, dir string) map[string]int {
	t.Helper()
	pids := map[string]int{}
	for line := range strings.Lines(services(t, nil, "status", "--dir", dir).stdout) {
		fields := strings.Fields(line)
		pids[fields[0]] = 0
		if fields[1] == "running" {
			pid, err := strconv.Atoi(strings.TrimPrefix(fields[2], "pid="))
			if err != nil {
				t.Fatalf("status: %q", line)
			}
			pids[fields[0]] = pid
		}
	}
	if len(pids) != 2 {
		t.Fatalf("status: %v", pids)
	}
	return pids
}

// Addresses and what was committed survive, however the servers end. What a run prints is all that a test knows of them.
func TestServicesComeBackAsTheyWere(t *testing.T) {
	if testing.Short() {
		t.Skip("starts servers of its own, which takes half a minute")
	}
	Kafka(t) // where these are, all that servers need is there
	Postgres(t)
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "services")
	t.Cleanup(func() { well(t, "down", "--purge", "--dir", dir) })

	printed := well(t, "up", "--dir", dir)
	var dsn string
	for line := range strings.Lines(printed) {
		if value, ok := strings.CutPrefix(line, PostgresVariable+"="); ok {
			dsn = strings.TrimSpace(value)
		}
	}
	query(t, dsn, "CREATE TABLE kept AS SELECT 7 AS n")

	kill := func(server string) {
		pid := status(t, dir)[server]
		if pid == 0 {
			t.Fatalf("%s does not run", server)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	again := func(args ...string) func() { return func() { well(t, append(args, "--dir", dir)...) } }
	for _, crash := range []struct {
		server    string
		stop, run func()
	}{
		{"kafka", func() { kill("kafka") }, again("up")},
		{"kafka", again("stop", "kafka", "--kill"), again("start", "kafka")},
		{"postgres", func() { kill("postgres") }, again("up")},
		{"postgres", again("stop", "postgres", "--immediate"), again("start", "postgres")},
		{"kafka", again("down"), again("up")},
	} {
		before := status(t, dir)[crash.server]
		crash.stop()
		if pid := status(t, dir)[crash.server]; pid != 0 {
			t.Errorf("%s is stopped, and runs as %d", crash.server, pid)
		}
		crash.run()
		if pid := status(t, dir)[crash.server]; pid == 0 || pid == before {
			t.Errorf("%s was started, and its process is %d, before %d", crash.server, pid, before)
		}
		if now := well(t, "up", "--dir", dir); now != printed {
			t.Errorf("addresses are\n%safter\n%s", now, printed)
		}
		query(t, dsn, "SELECT 1/count(*) FROM kept WHERE n = 7")
	}

	variables := strings.Fields(printed)
	elsewhere := filepath.Join(t.TempDir(), "services")
	if a := services(t, variables, "up", "--dir", elsewhere); a.code != 0 || a.stdout != printed {
		t.Errorf("running servers are not passed through: exit code %d, %q, %s", a.code, a.stdout, a.stderr)
	}
	if _, err := os.Stat(elsewhere); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("running servers are passed through, and a folder was made: %v", err)
	}
}

// query runs a statement in a connection of its own.
func query(t *testing.T, dsn, statement string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}
