// Package emit writes Go tests into modules of their own and runs them before they are handed over. It finds the module
// that a program was built from, and ends there: what is tested it is told.
package emit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/token"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"
)

// A Constructor is an exported function, as another module calls it, and the module that it is built with.
type Constructor struct {
	Import  string // the path of its package
	Package string // the package's name
	Func    string
	Module  string // the path of the program's main module
	Root    string // where that module's go.mod is

	tags string // build tags of this program
}

// Find returns the function fn, which needs no arguments, as another module can call it. It fails if no other module can, or
// if the module that this program was built from is neither where it was built nor in the working directory.
func Find(ctx context.Context, fn any) (*Constructor, error) {
	v := reflect.ValueOf(fn)
	if v.Kind() != reflect.Func || v.IsNil() {
		return nil, errors.New("the program does not say which function makes its service")
	}
	f := runtime.FuncForPC(v.Pointer())
	path, name := splitName(f.Name())
	if path == "main" || !token.IsExported(name) || !token.IsIdentifier(name) {
		return nil, fmt.Errorf("the service is made by %s, which no other package can call: want a named, exported function of a package that is not main", f.Name())
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Path == "" {
		return nil, errors.New("the program does not say which module it was built from: build it with modules")
	}
	c := &Constructor{Import: path, Func: name, Module: info.Main.Path}
	for _, s := range info.Settings {
		if s.Key == "-tags" {
			c.tags = s.Value
		}
	}
	file, _ := f.FileLine(f.Entry())
	if err := c.locate(ctx, filepath.Dir(file)); err != nil {
		return nil, err
	}
	if err := c.name(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// splitName splits a function's name in the symbol table: dots in the last element of an import path are escaped there.
func splitName(symbol string) (path, name string) {
	i := strings.LastIndexByte(symbol, '/') + 1
	last, name, _ := strings.Cut(symbol[i:], ".")
	if plain, err := url.PathUnescape(last); err == nil {
		last = plain
	}
	return symbol[:i] + last, name
}

// locate finds the root of the main module: from the directory that the function was compiled in, or the present one.
func (c *Constructor) locate(ctx context.Context, compiled string) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	for _, dir := range []string{compiled, here} {
		if !filepath.IsAbs(dir) { // as with -trimpath
			continue
		}
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			continue
		}
		var m struct{ Path, Dir string }
		if err := c.query(ctx, dir, &m, "list", "-m", "-json"); errors.Is(err, exec.ErrNotFound) || ctx.Err() != nil {
			return err
		} else if err == nil && m.Path == c.Module && m.Dir != "" {
			c.Root = m.Dir
			return nil
		}
	}
	return fmt.Errorf("the sources of module %s, which this program was built from, are neither where they were (%s) nor here: run it in the module's directory",
		c.Module, compiled)
}

func (c *Constructor) name(ctx context.Context) error {
	var p struct{ Name string }
	if err := c.query(ctx, c.Root, &p, "list", "-find", "-json=Name", "-tags="+c.tags, c.Import); err != nil {
		return err
	}
	if p.Name == "main" {
		return fmt.Errorf("the service is made by %s.%s, which no other package can call: %s is a program", c.Import, c.Func, c.Import)
	}
	c.Package = p.Name
	return nil
}

// query decodes the first object that a go command answers with.
func (*Constructor) query(ctx context.Context, dir string, answer any, args ...string) error {
	out, err := goCommand(ctx, dir, args...)
	if err != nil {
		return err
	}
	return json.NewDecoder(bytes.NewReader(out)).Decode(answer)
}

// goCommand runs a go command outside of any workspace, and returns what it printed.
func goCommand(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "PWD="+dir)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go %s in %s: %w\n%s", strings.Join(args, " "), dir, err, strings.TrimSpace(said.String()))
	}
	return out.Bytes(), nil
}
