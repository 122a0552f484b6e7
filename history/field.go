package history

import (
	"fmt"
	"strings"

	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/replay"
)

// CheckField returns an error that wraps [replay.ErrNotFound] if no state of an aggregate can have a field at a path, nor
// fields below it.
func (h *History) CheckField(aggregate, path string) error {
	_, _, err := h.field(aggregate, path)
	return err
}

// Zero returns the token of a field where a write has "": the zero value of a member. It is "" itself where that stands for
// what is not there: an entry of a map, an element.
func (h *History) Zero(aggregate, path string) string {
	t, optional, err := h.field(aggregate, path)
	switch {
	case err != nil || optional:
		return ""
	case strings.HasSuffix(path, "#"):
		return "0"
	}
	return t.Zero()
}

// field finds the type of what is at a path; optional says that it need not be there.
func (h *History) field(aggregate, path string) (t canon.Type, optional bool, err error) {
	shape := h.machine.Shape(aggregate)
	if shape == nil {
		return t, false, fmt.Errorf("%w: there is no aggregate %q", replay.ErrNotFound, aggregate)
	}
	t = shape.Type()
	for passed, rest := "state", path; rest != ""; {
		step, quoted, after := canon.CutStep(rest)
		switch t.Kind() {
		case canon.Struct:
			_, member, ok := t.Member(step)
			if !ok {
				return t, false, fmt.Errorf("%w: %s has no field %q; it has %s", replay.ErrNotFound, passed, step, members(t))
			}
			t = member
		case canon.List:
			if step == "#" && !quoted && after == "" {
				return t, false, nil
			}
			t, optional = t.Elem(), true
		case canon.Map:
			t, optional = t.Elem(), true
		case canon.Array:
			t = t.Elem()
		case canon.Any:
			return t, true, nil
		case canon.Bool, canon.Int, canon.Text:
			return t, false, fmt.Errorf("%w: %s is no struct, so it has no field %q", replay.ErrNotFound, passed, step)
		}
		passed, rest = passed+"."+step, after
	}
	return t, optional, nil
}

func members(t canon.Type) string {
	var names []string
	for name := range t.Members() {
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}
