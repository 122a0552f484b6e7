package canon

import "slices"

// maxDiffer bounds the paths that [Differ] returns.
const maxDiffer = 16

// unread is what [Differ] says of a payload as a whole.
const unread = "payload"

// anything is the shape of JSON whose type is unknown. All that is in it shows.
var anything = func() ref {
	r := ref{&node{kind: open}, always}
	r.elem = r
	return r
}()

// Differ returns the paths at which two JSON payloads differ, sorted: at most
// 16, and then "…". It returns nil if they have the same content, and "payload"
// alone if they differ as a whole, or if one cannot be read. Numbers that
// [Append] refuses are read, and compared by their digits.
//
// Differ is for reports to people. It may be called concurrently, and does not
// keep its arguments.
func Differ(a, b []byte) []string {
	before, okA := expand(a)
	after, okB := expand(b)
	if !okA || !okB {
		return []string{unread}
	}
	var paths []string
	for _, c := range Diff(before, after) {
		if c.Path != "" || !filled(c) {
			paths = append(paths, c.Path)
		}
	}
	return shorten(slices.Compact(paths))
}

// filled reports whether c stands for an empty container that has something in
// it on the other side, where the paths of that tell more.
func filled(c Change) bool {
	one := c.Old + c.New
	return one == "{}" || one == "[]"
}

func expand(payload []byte) ([]Field, bool) {
	f := newFlattener(payload, lenient)
	defer f.free()
	f.document(anything, nil)
	if f.err != nil {
		return nil, false
	}
	return f.appendFields(nil), true
}

func shorten(paths []string) []string {
	switch {
	case len(paths) > 0 && paths[0] == "":
		return []string{unread}
	case len(paths) > maxDiffer:
		return append(paths[:maxDiffer], "…")
	}
	return paths
}
