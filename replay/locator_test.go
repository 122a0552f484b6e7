package replay

import (
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
)

func TestLocators(t *testing.T) {
	day := time.Date(1993, 6, 30, 23, 59, 59, 999999000, time.UTC)
	for text, check := range map[string]func(Locator) bool{
		"":     func(l Locator) bool { return l.kind == atHead && l.String() == "HEAD" },
		"HEAD": func(l Locator) bool { return l.kind == atHead },
		"account/576@3": func(l Locator) bool {
			return l.stream == deja.Stream{Aggregate: "account", Key: "576"} && l.version == 3
		},
		"account/a@b@3":                        func(l Locator) bool { return l.stream.Key == "a@b" && l.version == 3 },
		"inbox:0:12":                           func(l Locator) bool { return l.positions[0] == deja.Position{Topic: "inbox", Offset: 12} },
		"bank.journal:1:2,bank.journal:0:7":    func(l Locator) bool { return len(l.positions) == 2 && l.positions[0].Partition == 1 },
		"1993-06-30":                           func(l Locator) bool { return l.time.Equal(day) },
		"1993-06-30T12:00:00Z":                 func(l Locator) bool { return l.time.Equal(day.Add(-12*time.Hour + time.Microsecond)) },
		"1993-06-30 12:00":                     func(l Locator) bool { return l.IsTime() && l.time.Hour() == 12 },
		"9320b8e2":                             func(l Locator) bool { return l.lo[0] == 0x93 && l.lo[4] == 0 && l.hi[4] == 0xff },
		"932b":                                 func(l Locator) bool { return l.kind == atMessage },
		"19930630":                             func(l Locator) bool { return l.kind == atMessage }, // digits without hyphens are no day
		"9320b8e2-ec5f-8fb2-aaf7-3e765fd3e355": func(l Locator) bool { return l.lo == l.hi },
	} {
		l, err := ParseLocator(text)
		if err != nil || !check(l) {
			t.Errorf("%q is %+v, %v", text, l, err)
		}
	}
}

// A locator that is wrong shows where, under what was typed.
func TestLocatorErrorsPointAtTheFault(t *testing.T) {
	for text, column := range map[string]int{
		"account/576@x": 12, "account/576@0": 12, "Account/576@1": 0, "inbox:x:1": 6, "inbox:0:y": 8, "inbox:0": 0, "outbox:0:1": 0,
		"inbox:0:1,inbox:0:z": 18, "932": 0, "93zz": 2, "1993-13-45": 0, "1993-06-30Tnoon": 10, "hello": 0, "1993": 4, "account/576": 11,
	} {
		_, err := ParseLocator(text)
		if err == nil {
			t.Errorf("%q is taken", text)
			continue
		}
		lines := strings.Split(err.Error(), "\n")
		if len(lines) < 3 || lines[1] != "  "+text || strings.Index(lines[2], "^") != column+2 {
			t.Errorf("%q: the caret is not at column %d:\n%v", text, column, err)
		}
	}
}
