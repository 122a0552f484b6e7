package cond_test

import "testing"

func TestLacks(t *testing.T) {
	for text, want := range map[string]string{
		"state.balance < -20":                  "15",
		"state.balance <= -20":                 "15",
		"-20 > state.balance":                  "15",
		"state.balance > 20":                   "25",
		"state.balance >= state.recorded":      "12",
		"state.recorded <= state.balance":      "12",
		"state.balance == 7":                   "12",
		"state.balance == state.recorded":      "12",
		"7 == state.balance":                   "12",
		"state.recorded == state.balance":      "12",
		"state.large < state.balance":          "18446744073709551620",
		"state.balance != -5":                  "", // it lacks nothing that could be measured
		"state.balance < 0 && state.balance>3": "", // which of the two?
		"!(state.balance < 0)":                 "",
		"state.owner.name == 'x'":              "",
		"state.opt > 3":                        "",
		"true":                                 "",
	} {
		n, ok := run(t, text, "balance=-5", "recorded=7", "large=18446744073709551615").Lacks()
		got := ""
		if ok {
			got = n.Big().String()
		}
		if got != want {
			t.Errorf("%s: it lacks %q, want %q", text, got, want)
		}
	}
}
