package history

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"github.com/dejalog/deja/internal/canon"
)

// parseTree reads a state's JSON; numbers stay as they are written.
func parseTree(data []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	err := dec.Decode(&v)
	return v, err
}

// tokenOf writes a value of a tree in canonical form.
func tokenOf(v any) string {
	data, err := json.Marshal(v)
	if err == nil {
		data, err = canon.Append(nil, data)
	}
	if err != nil { // it was read from JSON
		return ""
	}
	return string(data)
}

// leaves calls fn with the path of each value in a tree that holds no others, in order: scalars, null, and what is empty.
func leaves(path string, v any, fn func(path string, v any)) {
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			leaves(canon.AppendMember(path, name), v[name], fn)
		}
		if len(v) > 0 {
			return
		}
	case []any:
		for i, elem := range v {
			leaves(element(path, i), elem, fn)
		}
		if len(v) > 0 {
			return
		}
	}
	fn(path, v)
}

// element returns the path of an element of an array.
func element(path string, i int) string {
	if path != "" {
		path += "."
	}
	return path + strconv.Itoa(i)
}

// ValueAt returns what a JSON document has at a path, such as a state or a payload. ok is false if it has nothing there.
func ValueAt(document json.RawMessage, path string) (value json.RawMessage, ok bool) {
	v, err := parseTree(document)
	if err != nil {
		return nil, false
	}
	if v, ok = descend(v, path); !ok {
		return nil, false
	}
	return json.RawMessage(tokenOf(v)), true
}

func descend(v any, path string) (any, bool) {
	for path != "" {
		step, quoted, rest := canon.CutStep(path)
		switch in := v.(type) {
		case map[string]any:
			var ok bool
			if v, ok = in[step]; !ok {
				return nil, false
			}
		case []any:
			i, err := strconv.Atoi(step)
			if step == "#" && rest == "" && !quoted {
				return json.Number(strconv.Itoa(len(in))), true
			}
			if err != nil || quoted || i < 0 || i >= len(in) {
				return nil, false
			}
			v = in[i]
		default:
			return nil, false
		}
		path = rest
	}
	return v, true
}

// within reports whether a field is at a path, or below it.
func within(field, path string) bool {
	if len(field) <= len(path) || path == "" {
		return field == path || path == ""
	}
	return field[:len(path)] == path && (field[len(path)] == '.' || field[len(path)] == '[')
}
