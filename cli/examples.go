package cli

import "strings"

// examples writes command lines for a command's help.
func (e *Env) examples(lines ...string) string {
	for i, l := range lines {
		lines[i] = "  " + e.name + " " + l
	}
	return strings.Join(lines, "\n")
}

// exampleKey returns a key of the service's first aggregate.
func (e *Env) exampleKey(key string) string {
	for _, a := range e.app.Service.Aggregates {
		return a.Name() + "/" + key
	}
	return key
}
