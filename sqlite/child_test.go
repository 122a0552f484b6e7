package sqlite_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/sqlite"
)

// A test that needs a second process runs this binary again, with what it is to do in the environment.
const childEnv, pathEnv = "SQLITE_TEST_CHILD", "SQLITE_TEST_PATH"

func TestMain(m *testing.M) {
	if task := os.Getenv(childEnv); task != "" {
		if err := child(task, os.Getenv(pathEnv)); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(task, path string) error {
	ctx := context.Background()
	switch task {
	case "hold": // the file open until standard input ends
		db, err := sqlite.Open(ctx, path)
		if err != nil {
			return err
		}
		fmt.Println("open")
		_, err = io.Copy(io.Discard, os.Stdin)
		return errors.Join(err, db.Close())
	case "append": // without end, telling what is acknowledged
		return appendForever(ctx, path)
	case "read": // what a reader does on the first record
		db, err := sqlite.OpenReadOnly(ctx, path)
		if err != nil {
			return err
		}
		rs, err := db.Log().Fetch(ctx, deja.Position{Topic: "in"}, 1)
		if err != nil {
			return err
		}
		fmt.Println(string(rs[0].Value))
		return db.Close()
	case "write":
		db, err := sqlite.Open(ctx, path)
		if err != nil {
			return err
		}
		return db.Close()
	}
	return fmt.Errorf("no task %q", task)
}

func appendForever(ctx context.Context, path string) error {
	db, err := sqlite.Open(ctx, path)
	if err != nil {
		return err
	}
	for {
		rs := make([]driver.Record, 50)
		for i := range rs {
			rs[i].Value = fmt.Appendf(nil, "%0200d", i)
		}
		at, err := db.Log().Append(ctx, "in", rs)
		if err != nil {
			return err
		}
		fmt.Println(at[len(at)-1].Offset)
	}
}

// A process is a child that runs.
type process struct {
	*exec.Cmd
	stdin io.Closer
	lines *bufio.Scanner
}

// start runs this binary, or another copy of it, for a task.
func start(t testing.TB, task, path string, change ...func(*exec.Cmd)) *process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+task, pathEnv+"="+path)
	for _, f := range change {
		f(cmd)
	}
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &process{cmd, in, bufio.NewScanner(out)}
}

// line returns the next line that the child prints; "" at its end.
func (p *process) line() string {
	p.lines.Scan()
	return strings.TrimSpace(p.lines.Text())
}
