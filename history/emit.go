package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/format"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/emit"
)

// A TestPlan says which test a pin writes, and where.
type TestPlan struct {
	Dir string // it must not be there yet, or be empty

	// New is the exported function that makes the service, named: the test calls it.
	New func() *deja.Service

	Command string // that wrote the test, for the comment; or ""
}

// A Test is a Go test that was written and was seen to fail.
type Test struct {
	Dir    string `json:"dir"`    // of its module
	Name   string `json:"name"`   // of the test
	Failed string `json:"failed"` // what it said
}

// testName is the name of the tests that are written, each in a module of its own.
const testName = "TestPinned"

// test writes TEST, if it is asked for and there is what it takes.
func (g *pinning) test(ctx context.Context) error {
	if g.Test == nil {
		return nil
	}
	why, err := g.write(ctx)
	if err == nil && why == "" {
		g.pin.reach(TestFails)
	} else if err == nil {
		g.pin.miss(TestFails, "%s", why)
	}
	return err
}

// write writes a test into a place of its own, runs it there, and moves it to where it is wanted if it fails as it should. Else
// it tells why not.
func (g *pinning) write(ctx context.Context) (why string, err error) {
	if g.minimal == nil {
		return "there is no history that fails in the same way on this build", nil
	}
	if g.When.fn != nil {
		return "a predicate that is a Go function cannot be written into a test", nil
	}
	c, err := emit.Find(ctx, g.Test.New)
	if err != nil {
		return err.Error(), ctx.Err()
	}
	files, err := g.files(ctx, c)
	if err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp("", "deja-pin-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := c.Write(ctx, tmp, files); err != nil {
		return fmt.Sprintf("it could not be built: %s", err), ctx.Err()
	}
	run, err := c.Run(ctx, tmp, testName)
	if err != nil {
		return fmt.Sprintf("it could not be run: %s", err), ctx.Err()
	}
	said := failure(run.Output, g.When.String())
	switch {
	case run.Green:
		return fmt.Sprintf("it passes with the sources in %s: this program was built from others, or with other flags", c.Root), nil
	case !run.Red || said == "":
		return "it failed otherwise than it should: " + run.Output, nil
	}
	if err := emit.Move(tmp, g.Test.Dir); err != nil {
		return "", err
	}
	g.pin.Test = &Test{g.Test.Dir, testName, said}
	return "", nil
}

// failure returns the line in which the test said that the predicate holds; "" if there is none.
func failure(output, when string) string {
	for line := range strings.Lines(output) {
		if i := strings.Index(line, when+" holds for "); i >= 0 {
			return strings.TrimSpace(line[i:])
		}
	}
	return ""
}

// files returns the test and its history.
func (g *pinning) files(ctx context.Context, c *emit.Constructor) (map[string][]byte, error) {
	capsule, err := g.minimal.Capsule(ctx, g.h)
	if err != nil {
		return nil, err
	}
	var data bytes.Buffer
	if _, err := capsule.WriteTo(&data); err != nil {
		return nil, err
	}
	source, err := format.Source([]byte(g.source(c)))
	return map[string][]byte{"pinned_test.go": source, "testdata/history.json": data.Bytes()}, err
}

// source returns the text of the test.
func (g *pinning) source(c *emit.Constructor) string {
	name := ""
	if path.Base(c.Import) != c.Package {
		name = c.Package + " "
	}
	var w strings.Builder
	if g.Test.Command != "" {
		fmt.Fprintf(&w, "// %s\n// wrote this test, and saw it fail.\n", comment(g.Test.Command))
	}
	fmt.Fprintf(&w, "package pinned\n\nimport (\n\"testing\"\n\n\"github.com/dejalog/deja/history/historytest\"\n\n%s%q\n)\n\n", name, c.Import)
	fmt.Fprintf(&w, "// The last of the %d messages is %s %s, which was\n// at %s. After it the condition holds, and it must not.\n",
		g.pin.Minimal.Messages+g.pin.Minimal.Causes, g.first.Type, g.first.ID, g.first.Position)
	if n := g.pin.Minimal.Causes; n > 0 {
		fmt.Fprintf(&w, "// %d of them are of other keys, and caused those of this one.\n", n)
	}
	if left := g.pin.Minimal.Of - g.pin.Minimal.Messages; left > 0 {
		fmt.Fprintf(&w, "// Without %d others before it, it makes the same change.\n", left)
	}
	fmt.Fprintf(&w, "func %s(t *testing.T) {\n", testName)
	fmt.Fprintf(&w, "historytest.Relive(t, %s.%s(), \"testdata/history.json\").\nWantNot(%s, %s)\n}\n",
		c.Package, c.Func, literal(g.first.Stream.String()), literal(g.When.String()))
	return w.String()
}

// comment returns a text as part of a line's comment.
func comment(s string) string { return strings.ReplaceAll(s, "\n", " ") }

// literal returns a text as Go: as it is between back quotes, where it can be.
func literal(s string) string {
	if strings.ContainsRune(s, '"') && strconv.CanBackquote(s) {
		return "`" + s + "`"
	}
	return strconv.Quote(s)
}
