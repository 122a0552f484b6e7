package cond

import (
	"strconv"

	"cel.dev/cel-go/common/types/ref"

	"github.com/dejalog/deja/internal/canon"
)

// A node is a part of a state, kept by the writes of its fields alone. As a value of CEL it stands for a struct; see
// value for the others.
type node struct {
	is    canon.Type
	plain canon.Type // without regard to where it is used
	up    *node
	token string // of a scalar, or of an empty entry; "" if there is none
	set   int    // the fields that are there, at and below the node: where there are none, it is zero, null, or no entry
	kids  []*node
	named map[string]*node // entries of a map
	count int              // elements of a list
	made  ref.Val          // the value, until something below changes
}

func newNode(t canon.Type, up *node) *node {
	n := &node{is: t, plain: t.Plain(), up: up}
	switch t.Kind() {
	case canon.Struct, canon.Array:
		n.kids = make([]*node, t.Len())
	case canon.Map:
		n.named = map[string]*node{}
	default: // those that need no room
	}
	return n
}

// write sets the field at a path below n; an empty token removes it. It reports false for a path that the type has not.
func (n *node) write(path, token string) bool {
	for path != "" {
		step, quoted, rest := canon.CutStep(path)
		if n.is.Kind() == canon.List && step == "#" && !quoted {
			n.resize(token)
			return true
		}
		if n = n.kid(step); n == nil {
			return false
		}
		path = rest
	}
	n.put(token)
	return true
}

// kid returns what a step leads to, and makes it if need be; nil if it leads nowhere.
func (n *node) kid(step string) *node {
	switch n.is.Kind() {
	case canon.Struct:
		if i, _, ok := n.is.Member(step); ok {
			return n.member(i)
		}
	case canon.Map:
		k := n.named[step]
		if k == nil {
			k = newNode(n.is.Elem(), n)
			n.named[step] = k
		}
		return k
	case canon.List, canon.Array:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < maxElements {
			return n.element(i)
		}
	default: // nothing is in it
	}
	return nil
}

// maxElements bounds what a path can make a list grow to.
const maxElements = 1 << 24

// member returns the member i of a struct.
func (n *node) member(i int) *node {
	if n.kids[i] == nil {
		_, t := memberAt(n.is, i)
		n.kids[i] = newNode(t, n)
	}
	return n.kids[i]
}

func memberAt(t canon.Type, at int) (name string, member canon.Type) {
	i := 0
	for name, member = range t.Members() {
		if i == at {
			break
		}
		i++
	}
	return name, member
}

// element returns the element i of a list or array.
func (n *node) element(i int) *node {
	for len(n.kids) <= i {
		n.kids = append(n.kids, nil)
	}
	if n.kids[i] == nil {
		n.kids[i] = newNode(n.is.Elem(), n)
	}
	return n.kids[i]
}

// resize sets the number of a list's elements; "" is none.
func (n *node) resize(token string) {
	count, _ := strconv.Atoi(token)
	n.changed(min(count, 1) - min(n.count, 1))
	n.count = count
}

// put sets the token of n.
func (n *node) put(token string) {
	n.changed(min(len(token), 1) - min(len(n.token), 1))
	n.token = token
}

// changed notes that a field of n came (1), went (-1), or is another (0).
func (n *node) changed(more int) {
	for at := n; at != nil; at = at.up {
		at.set += more
		at.made = nil
	}
}

// clear makes n what it is in an empty state.
func (n *node) clear() {
	if n.set == 0 && n.made == nil {
		return
	}
	n.token, n.set, n.count, n.made = "", 0, 0, nil
	for _, k := range n.kids {
		if k != nil {
			k.clear()
		}
	}
	clear(n.named)
}

// holds reports whether an entry or a pointer is there.
func (n *node) holds() bool { return n.set > 0 }
