package history

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// An Operation is one of a JSON Patch, RFC 6902: add, remove or replace.
type Operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"` // a JSON pointer, RFC 6901
	Value any    `json:"value"`
}

// MarshalJSON writes a value that is null, false, 0 or empty, too: only a removal has none.
func (o Operation) MarshalJSON() ([]byte, error) {
	type plain struct {
		Op   string `json:"op"`
		Path string `json:"path"`
	}
	if o.Op == "remove" {
		return json.Marshal(plain{o.Op, o.Path})
	}
	return json.Marshal(struct {
		plain
		Value any `json:"value"`
	}{plain{o.Op, o.Path}, o.Value})
}

// patch appends the operations that make b of a.
func patch(ops []Operation, pointer string, a, b any) []Operation {
	if tokenOf(a) == tokenOf(b) {
		return ops
	}
	switch a := a.(type) {
	case map[string]any:
		if b, ok := b.(map[string]any); ok {
			return patchObject(ops, pointer, a, b)
		}
	case []any:
		if b, ok := b.([]any); ok {
			return patchArray(ops, pointer, a, b)
		}
	}
	return append(ops, Operation{"replace", pointer, b})
}

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

func patchObject(ops []Operation, pointer string, a, b map[string]any) []Operation {
	for _, name := range slices.Sorted(maps.Keys(a)) {
		at := pointer + "/" + pointerEscapes.Replace(name)
		if v, ok := b[name]; ok {
			ops = patch(ops, at, a[name], v)
		} else {
			ops = append(ops, Operation{"remove", at, nil})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b)) {
		if _, ok := a[name]; !ok {
			ops = append(ops, Operation{"add", pointer + "/" + pointerEscapes.Replace(name), b[name]})
		}
	}
	return ops
}

// patchArray leaves what both begin and end with, and makes the rest of one that of the other, element by element.
func patchArray(ops []Operation, pointer string, a, b []any) []Operation {
	begin := 0
	for begin < len(a) && begin < len(b) && tokenOf(a[begin]) == tokenOf(b[begin]) {
		begin++
	}
	endA, endB := len(a), len(b)
	for endA > begin && endB > begin && tokenOf(a[endA-1]) == tokenOf(b[endB-1]) {
		endA, endB = endA-1, endB-1
	}
	at := func(i int) string { return pointer + "/" + strconv.Itoa(i) }
	both := min(endA, endB)
	for i := begin; i < both; i++ {
		ops = patch(ops, at(i), a[i], b[i])
	}
	for i := endA - 1; i >= both; i-- {
		ops = append(ops, Operation{"remove", at(i), nil})
	}
	for i := both; i < endB; i++ {
		ops = append(ops, Operation{"add", at(i), b[i]})
	}
	return ops
}
