package emit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// goMod is what `go mod edit -json` tells.
type goMod struct {
	Go      string
	Replace []struct{ Old, New versioned }
	Exclude []versioned
}

type versioned struct{ Path, Version string }

func (v versioned) String() string { return strings.TrimSpace(quoted(v.Path) + " " + v.Version) }

// quoted returns a path as one token of a go.mod.
func quoted(s string) string {
	if strings.ContainsAny(s, " \t\"'`()[]{},;") || strings.Contains(s, "//") {
		return fmt.Sprintf("%q", s)
	}
	return s
}

// major finds the major version in a module's path.
var major = regexp.MustCompile(`[/.](v[1-9][0-9]*)$`)

// unreleased returns a version of a module that a directory stands in for.
func unreleased(path string) string {
	v := "v0"
	if m := major.FindStringSubmatch(path); m != nil {
		v = m[1]
	}
	return v + ".0.0-00010101000000-000000000000"
}

// Path returns the module path of what is written: where the constructor is in an internal package, one that may import it.
func (c *Constructor) Path() string {
	parent := c.Module
	if i := strings.LastIndex("/"+c.Import+"/", "/internal/"); i > 0 {
		parent = strings.TrimSuffix(c.Import[:i], "/")
	}
	return path.Join(parent, "pinned")
}

// Write writes a module into a directory that is there and empty: files by name, and what it takes to build them with the
// sources that the program was built from, whatever the place. It needs no network: all that is needed was needed to build the program.
func (c *Constructor) Write(ctx context.Context, dir string, files map[string][]byte) error {
	var m goMod
	if err := c.query(ctx, c.Root, &m, "mod", "edit", "-json"); err != nil {
		return err
	}
	for name, data := range files {
		if err := write(filepath.Join(dir, filepath.FromSlash(name)), data); err != nil {
			return err
		}
	}
	sum, err := os.ReadFile(filepath.Join(c.Root, "go.sum"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := write(filepath.Join(dir, "go.sum"), sum); err != nil {
		return err
	}
	if err := write(filepath.Join(dir, "go.mod"), []byte(c.goMod(&m))); err != nil {
		return err
	}
	// It fills in what is needed indirectly; so that no command that follows has to change the module.
	_, err = goCommand(ctx, dir, "list", "-mod=mod", "-deps", "-test", "-tags="+c.tags, ".")
	return err
}

// goMod returns the text of a go.mod that builds as the program's does. Only the main module's replacements and exclusions count
// in a build, so they are taken over.
func (c *Constructor) goMod(m *goMod) string {
	var w strings.Builder
	fmt.Fprintf(&w, "module %s\n\ngo %s\n\nrequire %s\n\nreplace %s => %s\n",
		quoted(c.Path()), m.Go, versioned{c.Module, unreleased(c.Module)}, quoted(c.Module), quoted(c.Root))
	for _, r := range m.Replace {
		if to := filepath.FromSlash(r.New.Path); r.New.Version == "" && !filepath.IsAbs(to) {
			r.New.Path = filepath.Join(c.Root, to)
		}
		fmt.Fprintf(&w, "\nreplace %s => %s\n", r.Old, r.New)
	}
	for _, x := range m.Exclude {
		fmt.Fprintf(&w, "\nexclude %s\n", x)
	}
	return w.String()
}

func write(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o666)
}
