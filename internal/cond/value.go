package cond

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/dejalog/deja/internal/canon"
)

// value returns n as CEL sees it. The value is valid until the next write.
func (n *node) value() ref.Val {
	if n.made == nil {
		n.made = n.make()
	}
	return n.made
}

func (n *node) make() ref.Val {
	if n.is.Nullable() && !n.holds() {
		return types.NullValue
	}
	switch n.is.Kind() {
	case canon.Struct:
		return n
	case canon.Map:
		return n.entries()
	case canon.List:
		return n.elements(n.count)
	case canon.Array:
		return n.elements(len(n.kids))
	default:
		return scalar(cmp.Or(n.token, n.is.Zero()))
	}
}

func (n *node) entries() ref.Val {
	m := make(map[string]any, len(n.named))
	for key, k := range n.named {
		if k.holds() {
			m[key] = k.value()
		}
	}
	return newMap(m)
}

func (n *node) elements(count int) ref.Val {
	vs := make([]ref.Val, count)
	for i := range vs {
		vs[i] = n.element(i).value()
	}
	return types.NewRefValList(adapter{}, vs)
}

// scalar returns the value of a JSON token; of "", null.
func scalar(token string) ref.Val {
	if token == "" {
		return types.NullValue
	}
	switch c := token[0]; {
	case c == '-', c >= '0' && c <= '9':
		return integer(token)
	case token == "true":
		return types.True
	case token == "false":
		return types.False
	case c == '"' && !strings.ContainsRune(token, '\\'):
		return types.String(token[1 : len(token)-1])
	}
	return decoded([]byte(token))
}

// errBig is the error of an integer that CEL has no type for.
var errBig = errors.New("an integer beyond 64 bits cannot be computed with")

// integer returns an integer: as int where it fits, else as uint. It is never a double, whose digits end.
func integer(token string) ref.Val {
	if i, err := strconv.ParseInt(token, 10, 64); err == nil {
		return types.Int(i)
	}
	if u, err := strconv.ParseUint(token, 10, 64); err == nil {
		return types.Uint(u)
	}
	if f, err := strconv.ParseFloat(token, 64); err == nil && strings.ContainsAny(token, ".eE") {
		return types.Double(f)
	}
	return types.WrapErr(errBig)
}

// decoded returns any JSON.
func decoded(data []byte) ref.Val {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return types.NewErr("not JSON: %v", err)
	}
	return adapter{}.NativeToValue(v)
}

// An adapter makes values of decoded JSON.
type adapter struct{}

// NativeToValue implements [types.Adapter].
func (a adapter) NativeToValue(v any) ref.Val {
	switch v := v.(type) {
	case ref.Val:
		return v
	case json.Number:
		return integer(v.String())
	case map[string]any:
		return newMap(v)
	case []any:
		return types.NewDynamicList(a, v)
	}
	return types.DefaultTypeAdapter.NativeToValue(v)
}

// A mapping is a map whose keys come in order, so that equal states give equal answers.
type mapping struct {
	traits.Mapper
	keys []string
}

func newMap(m map[string]any) ref.Val {
	return &mapping{types.NewStringInterfaceMap(adapter{}, m), slices.Sorted(maps.Keys(m))}
}

// Iterator implements [traits.Iterable].
func (m *mapping) Iterator() traits.Iterator {
	return types.NewStringList(adapter{}, m.keys).Iterator()
}

// Value returns the map itself: the other values would come without their order.
func (m *mapping) Value() any { return m }

// A node is the value of a struct.
var (
	_ traits.Indexer     = (*node)(nil)
	_ traits.FieldTester = (*node)(nil)
)

// ConvertToNative implements [ref.Val].
func (n *node) ConvertToNative(t reflect.Type) (any, error) {
	return nil, fmt.Errorf("a part of a state does not become a %v", t)
}

// ConvertToType implements [ref.Val].
func (n *node) ConvertToType(t ref.Type) ref.Val {
	return types.NewErr("a part of a state does not become a %s", t.TypeName())
}

// Equal implements [ref.Val].
func (n *node) Equal(other ref.Val) ref.Val {
	o, ok := other.(*node)
	if !ok || o.plain != n.plain {
		return types.False
	}
	for i := range n.kids {
		if eq := n.member(i).value().Equal(o.member(i).value()); eq != types.True {
			return eq
		}
	}
	return types.True
}

// Type implements [ref.Val].
func (n *node) Type() ref.Type { return structType }

// structType is the type of all parts of a state at run time; the checker knows them apart.
var structType = types.NewObjectType("deja.Struct", traits.IndexerType|traits.FieldTesterType)

// Value implements [ref.Val].
func (n *node) Value() any { return n }

// Get implements [traits.Indexer].
func (n *node) Get(index ref.Val) ref.Val {
	name, ok := index.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(index)
	}
	i, _, ok := n.is.Member(string(name))
	if !ok {
		return types.NewErr("no such key: %s", name)
	}
	return n.member(i).value()
}

// IsSet implements [traits.FieldTester].
func (n *node) IsSet(field ref.Val) ref.Val {
	name, ok := field.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(field)
	}
	i, _, ok := n.is.Member(string(name))
	return types.Bool(ok && n.member(i).isSet())
}

// isSet reports whether a member is not zero.
func (n *node) isSet() bool { return n.holds() }

// number returns an integer value.
func number(v ref.Val) (wide, bool) {
	switch v := v.(type) {
	case types.Int:
		return wideOf(int64(v)), true
	case types.Uint:
		return wide{0, uint64(v)}, true
	}
	return wide{}, false
}

// wideOf returns i.
func wideOf(i int64) wide {
	w := wide{0, uint64(i)} //nolint:gosec // the sign goes into hi
	if i < 0 {
		w.hi = math.MaxUint64
	}
	return w
}
