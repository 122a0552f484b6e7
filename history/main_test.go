package history

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/remit"
	"github.com/dejalog/deja/internal/talk"
	"github.com/dejalog/deja/internal/till"
)

// variantVariable says which build of the till this test's program is, when it is started as a worker.
const variantVariable = "HISTORY_TEST_VARIANT"

func TestMain(m *testing.M) {
	if v := os.Getenv(variantVariable); v != "" && len(os.Args) > 1 && os.Args[1] == talk.Command {
		out := os.Stdout
		os.Stdout = os.Stderr
		if err := talk.Serve(context.Background(), serviceOf(v), v, os.Stdin, out); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		return
	}
	os.Exit(m.Run())
}

// bankBuild is the variant that is the bank.
const bankBuild = "bank"

func serviceOf(variant string) *deja.Service {
	if variant == bankBuild {
		bank, _ := remit.Services(remit.Variant{Counted: true})
		return bank
	}
	return tillOf(variant)
}

// tillOf returns a build of the till: "max=N" takes no more than N, "off" sets slots wrongly, "broken" fails at till.crash, "exit", "hang" and "print" do
// that there.
func tillOf(variant string) *deja.Service {
	var v till.Variant
	for word := range strings.FieldsSeq(variant) {
		if n, ok := strings.CutPrefix(word, "max="); ok {
			v.MaxTake, _ = strconv.ParseInt(n, 10, 64)
			continue
		}
		v.Broken = func() bool {
			switch word {
			case "exit":
				fmt.Fprintln(os.Stderr, "gone")
				os.Exit(9) //nolint:revive // as a handler that kills its process
			case "hang":
				time.Sleep(time.Hour)
			case "print":
				fmt.Println("a handler prints")
			}
			return word == "broken"
		}
	}
	s := till.Service(v)
	s.Aggregates = append(s.Aggregates, slots(strings.Contains(variant, "off")))
	return s
}

// slot is an aggregate that forgets: what was wrong once is right after the next command.
type (
	slot    struct{ Value int64 }
	setSlot struct{ Value int64 }
	slotSet struct{ Value int64 }
)

func (setSlot) CommandType() string { return "slot.set" }
func (slotSet) EventType() string   { return "slot.set" }

// slots returns the aggregate; off is a build of it that sets another value than an even one.
func slots(off bool) *deja.Aggregate[slot] {
	return deja.NewAggregate("slot",
		deja.Handle(func(_ slot, d *deja.Decision, c setSlot) error {
			if off && c.Value%2 == 0 {
				c.Value++
			}
			d.Record(slotSet(c))
			return nil
		}),
		deja.Apply(func(s *slot, e slotSet) { s.Value = e.Value }),
	)
}

// buildOf returns the path of a program that is a build of the till.
func buildOf(t *testing.T, variant string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), strings.NewReplacer("=", "-", " ", "-").Replace("till-"+variant))
	self, err := os.Executable()
	if err == nil {
		err = os.WriteFile(path, fmt.Appendf(nil, "#!/bin/sh\n%s=%q exec %q \"$@\"\n", variantVariable, variant, self), 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}
