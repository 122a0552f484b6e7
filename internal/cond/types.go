package cond

import (
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/dejalog/deja/internal/canon"
)

// A provider tells the checker the types of a state.
type provider struct {
	types.Provider
	structs map[string]canon.Type // by name
	names   map[canon.Type]string
	missing map[string][]string // of fields that were asked for in vain: those of the struct
}

func newProvider(name string, state canon.Type) *provider {
	p := &provider{structs: map[string]canon.Type{}, names: map[canon.Type]string{}, missing: map[string][]string{}}
	p.name(name, state)
	return p
}

// name gives all structs in t a name: the path to the first of a type.
func (p *provider) name(name string, t canon.Type) {
	switch t.Kind() {
	case canon.Struct:
		if _, ok := p.names[t.Plain()]; ok {
			return
		}
		p.names[t.Plain()], p.structs[name] = name, t
		for member, mt := range t.Members() {
			p.name(name+"."+member, mt)
		}
	case canon.Map, canon.List, canon.Array:
		p.name(name+".x", t.Elem())
	default: // nothing is in it
	}
}

// of returns the type of CEL for a type of a state.
func (p *provider) of(t canon.Type) *cel.Type {
	var c *cel.Type
	switch t.Kind() {
	case canon.Bool:
		c = cel.BoolType
	case canon.Int:
		c = cel.IntType
	case canon.Text:
		c = cel.StringType
	case canon.Struct:
		return cel.ObjectType(p.names[t.Plain()]) // null is one of its values for CEL
	case canon.Map:
		c = cel.MapType(cel.StringType, p.of(t.Elem()))
	case canon.List, canon.Array:
		c = cel.ListType(p.of(t.Elem()))
	default:
		return cel.DynType
	}
	switch {
	case !t.Nullable():
		return c
	case t.Kind() == canon.Map, t.Kind() == canon.List, t.Kind() == canon.Array:
		return cel.DynType
	}
	return cel.NullableType(c)
}

// FindStructType implements [types.Provider].
func (p *provider) FindStructType(name string) (*types.Type, bool) {
	if _, ok := p.structs[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Provider.FindStructType(name)
}

// FindStructFieldNames implements [types.Provider].
func (p *provider) FindStructFieldNames(name string) ([]string, bool) {
	t, ok := p.structs[name]
	if !ok {
		return p.Provider.FindStructFieldNames(name)
	}
	return members(t), true
}

func members(t canon.Type) (names []string) {
	for name := range t.Members() {
		names = append(names, name)
	}
	return names
}

// FindStructFieldType implements [types.Provider].
func (p *provider) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	t, ok := p.structs[name]
	if !ok {
		return p.Provider.FindStructFieldType(name, field)
	}
	i, member, ok := t.Member(field)
	if !ok {
		p.missing[field] = members(t)
		return nil, false
	}
	return &types.FieldType{
		Type: p.of(member),
		IsSet: func(target any) bool {
			n, ok := target.(*node)
			return ok && n.member(i).isSet()
		},
		GetFrom: func(target any) (any, error) {
			n, ok := target.(*node)
			if !ok {
				return nil, fmt.Errorf("no such field: %s, of null", field)
			}
			return n.member(i).value(), nil
		},
	}, true
}

// NewValue implements [types.Provider].
func (p *provider) NewValue(name string, fields map[string]ref.Val) ref.Val {
	if _, ok := p.structs[name]; ok {
		return types.NewErr("a condition makes no states")
	}
	return p.Provider.NewValue(name, fields)
}

// instead says which of the names that there are may be meant by one: those at most a third of it away, the nearest first;
// else all, as far as they are few.
func instead(name string, all []string) string {
	near := slices.DeleteFunc(slices.Clone(all), func(s string) bool {
		return distance(name, s) > max(len(name), len(s))/3 && !strings.HasPrefix(s, name+"-") // which reads as a difference
	})
	slices.SortStableFunc(near, func(a, b string) int { return distance(name, a) - distance(name, b) })
	if len(near) > 0 {
		for i, s := range near {
			if strings.Contains(s, "-") {
				near[i] = "`" + s + "`"
			}
		}
		return "did you mean " + strings.Join(near, " or ") + "?"
	}
	const few = 12
	if len(all) > few {
		all = append(slices.Clone(all[:few]), "…")
	}
	return "there are " + strings.Join(all, ", ")
}

// distance returns how many letters must be put, taken, changed or swapped with their neighbours to make b of a.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
