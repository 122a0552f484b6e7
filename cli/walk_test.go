package cli

import (
	"bufio"
	"bytes"
	"regexp"
	"strings"
	"testing"
)

func TestFollowGoesWhereTheKeysSay(t *testing.T) {
	steps := make([]stepAnswer, 3)
	for i := range steps {
		steps[i].N, steps[i].Key = int64(i+1), "till/a"
	}
	for _, c := range []struct{ keys, shown string }{
		{"", "1"},
		{"nq", "12"},
		{"nnnnpq", "123332"},
		{"Ggq", "131"},
		{"\x1b[C\x1b[B\x1b[D\x1b[A\x1b[F\x1b[Hq", "1232131"},
		{"j k\rq", "12323"},
		{"?\x1b[Zn\x03n", "1112"},
		{"\x1b", "1"},
	} {
		var out bytes.Buffer
		e := &Env{Stderr: &out}
		if err := e.follow(t.Context(), bufio.NewReader(strings.NewReader(c.keys)), steps); err != nil {
			t.Errorf("%q: %v", c.keys, err)
		}
		var shown string
		for _, m := range regexp.MustCompile(`decision (\d)`).FindAllStringSubmatch(out.String(), -1) {
			shown += m[1]
		}
		if shown != c.shown {
			t.Errorf("%q showed %s, want %s", c.keys, shown, c.shown)
		}
	}
}
