package replay

import (
	"errors"
	"net/url"
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
		"business:1993-06-30":                  func(l Locator) bool { return l.IsTime() && l.time.Equal(day) && l.by(Decided) == Business },
		"decided:1993-06-30 12:00":             func(l Locator) bool { return l.IsTime() && l.by(Business) == Decided },
		"business:account/7@3":                 func(l Locator) bool { return l.stream.Tenant == "business" && l.version == 3 },
		"account/a@b@HEAD":                     func(l Locator) bool { return l.kind == atKey && l.stream.Key == "a@b" && l.upTo.kind == atHead },
		"account/7@1993-06-30":                 func(l Locator) bool { return l.kind == atKey && l.upTo.time.Equal(day) },
		"account/7@business:1993-06-30":        func(l Locator) bool { return l.kind == atKey && l.upTo.by(Decided) == Business },
		"account/7@inbox:0:12,inbox:1:7":       func(l Locator) bool { return l.kind == atKey && len(l.upTo.positions) == 2 },
		"~3":                                   func(l Locator) bool { return l.kind == atHead && l.moves[0] == move{back, 3} },
		"HEAD~":                                func(l Locator) bool { return l.kind == atHead && l.moves[0] == move{back, 1} },
		"9320~~2~cause~root":                   func(l Locator) bool { return l.kind == atMessage && len(l.moves) == 4 && l.moves[3].kind == toRoot },
		"account/a~3@7~2":                      func(l Locator) bool { return l.stream.Key == "a~3" && l.version == 7 && l.moves[0].n == 2 },
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
		"HEAD~x": 5, "9320~2~effect": 7, "account/576@17~-1": 15, "account/576@~2": 12, "account/576@noon": 12, "account/576@inbox:0:y": 20,
		"acme:account/576": 16, "business:9320": 9, "account/576@business:x": 21, "account/a~3": 9, "zz~1": 0, "HEAD~9223372036854775808": 5,
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

func TestRanges(t *testing.T) {
	for text, want := range map[string][2]string{
		"":                                       {"", "HEAD"},
		"..":                                     {"", "HEAD"},
		"1993-06-30..":                           {"1993-06-30", "HEAD"},
		"..9320~1":                               {"", "9320~1"},
		"account/a..b@3..account/a..b@7":         {"account/a..b@3", "account/a..b@7"},
		"inbox:0:1..HEAD~2":                      {"inbox:0:1", "HEAD~2"},
		"account/7@3..account/7@HEAD":            {"account/7@3", "account/7@HEAD"},
		"business:1993-01-01..business:1993-6-1": {},
		"9320":                                   {},
	} {
		r, err := ParseRange(text)
		if want[1] == "" {
			if err == nil {
				t.Errorf("%q is taken as %s", text, r)
			}
			continue
		}
		from := ""
		if r.From != nil {
			from = r.From.String()
		}
		if err != nil || from != want[0] || r.To.String() != want[1] {
			t.Errorf("%q is from %q to %q, %v", text, from, r.To, err)
		}
		if again, err := ParseRange(r.String()); err != nil || again.String() != r.String() {
			t.Errorf("%q is written %q, which is read as %q, %v", text, r, again, err)
		}
	}
}

func TestRangeErrorsPointAtTheFault(t *testing.T) {
	for text, column := range map[string]int{
		"9320": 4, "1993-13-45..": 0, "9320..1993-13-45": 6, "account/7@3..account/7@0": 23, "inbox:0:1..inbox:0:z": 19, "zz..": 0,
	} {
		_, err := ParseRange(text)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || syntax.At != column || !strings.Contains(err.Error(), "\n  "+text+"\n  "+strings.Repeat(" ", column)+"^ ") {
			t.Errorf("%q: the caret is not at column %d:\n%v", text, column, err)
		}
	}
}

// What is written by String and put into a URL's query needs no escape, so that it can be typed there.
func TestALocatorNeedsNoEscapeInAURL(t *testing.T) {
	for _, text := range []string{
		"HEAD~3", "inbox:0:1,inbox:1:2~root", "account/576@17~cause", "9320..HEAD", "business:1993-06-30", "1993-06-30T12:00:00Z", "account/5@HEAD",
	} {
		u, err := url.Parse("http://localhost/state?at=" + text)
		if err != nil || u.Query().Get("at") != text || u.String() != "http://localhost/state?at="+text {
			t.Errorf("%s is read as %q, %v", text, u.Query().Get("at"), err)
		}
	}
}
