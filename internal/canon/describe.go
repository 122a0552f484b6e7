package canon

import (
	"fmt"
	"strings"
)

// String describes the shape: a text that changes when a member comes, goes, or becomes of another kind.
func (s *Shape) String() string {
	var b strings.Builder
	describe(&b, s.root, map[*node]int{})
	return b.String()
}

// describe writes a node once; where it occurs again, recursion included, its number.
func describe(b *strings.Builder, r ref, seen map[*node]int) {
	if n, ok := seen[r.node]; ok {
		fmt.Fprintf(b, "#%d", n)
		return
	}
	seen[r.node] = len(seen)
	fmt.Fprintf(b, "%d:%d", r.kind, r.shown)
	if r.elem.node != nil {
		b.WriteByte('[')
		describe(b, r.elem, seen)
		b.WriteByte(']')
	}
	for _, f := range r.fields {
		b.WriteByte('{')
		b.Write(f.name)
		b.WriteByte(' ')
		describe(b, f.ref, seen)
		b.WriteByte('}')
	}
}
