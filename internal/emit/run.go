package emit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A Result is what a run of a test came to.
type Result struct {
	Red    bool // it was compiled, and the test itself failed
	Green  bool // it was compiled, and passed
	Output string
}

// Run compiles the module in a directory, as plain `go test` does there, and runs one of its tests.
func (c *Constructor) Run(ctx context.Context, dir, test string) (r Result, err error) {
	tmp, err := os.MkdirTemp("", "deja-emit-")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	bin := filepath.Join(tmp, "pinned.test")
	if _, err := goCommand(ctx, dir, "test", "-c", "-tags="+c.tags, "-o", bin, "."); err != nil {
		return r, fmt.Errorf("compile the test: %w", err)
	}
	cmd := exec.CommandContext(ctx, bin, "-test.run", "^"+test+"$", "-test.v", "-test.count=1", "-test.timeout=10m")
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && ctx.Err() == nil {
		err = nil
		r.Red = exit.ExitCode() == 1 && said(out.String(), "--- FAIL: "+test+" ")
	} else if err == nil {
		r.Green = said(out.String(), "--- PASS: "+test+" ")
	}
	r.Output = out.String()
	return r, err
}

// said reports whether a line begins so.
func said(out, begin string) bool { return strings.Contains("\n"+out, "\n"+begin) }

// Move moves a module, written elsewhere, to a directory that is not there yet, or is empty.
func Move(from, to string) error {
	if err := Free(to); err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o777); err != nil {
		return err
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil { // a rename does not leave a file system
		return err
	}
	return os.RemoveAll(from)
}

// Free returns an error unless a directory can be made at a path, or is there and empty.
func Free(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s is not empty: name a directory that is not there yet", path)
	}
	return err
}
