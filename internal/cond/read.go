package cond

import (
	"slices"
	"strings"

	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"github.com/dejalog/deja/internal/canon"
)

// names are the variables. A condition must not use them for others, so that what it reads can be told from its text.
var names = []string{"state", "prev", "event", "events"}

// read finds out what the condition reads.
func (p *Program) read() error {
	r := reader{p: p}
	r.expr(p.ast.NativeRep().Expr())
	if r.err != nil {
		return r.err
	}
	slices.Sort(p.paths)
	p.paths = slices.Compact(p.paths)
	all := p.paths
	p.paths = slices.DeleteFunc(slices.Clone(all), func(path string) bool {
		return slices.ContainsFunc(all, func(above string) bool { return above != path && below(above, path) })
	})
	return nil
}

// below reports whether a path is another one, or leads to something in it.
func below(above, path string) bool {
	rest, ok := strings.CutPrefix(path, above)
	return ok && (above == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
}

type reader struct {
	p   *Program
	err error
}

func (r *reader) expr(e celast.Expr) {
	if path, variable, ok := r.chain(e); ok {
		r.reads(variable, path)
		return
	}
	switch e.Kind() {
	case celast.SelectKind:
		r.expr(e.AsSelect().Operand())
	case celast.CallKind:
		call := e.AsCall()
		if call.IsMemberFunction() {
			r.expr(call.Target())
		}
		r.all(call.Args())
	case celast.ListKind:
		r.all(e.AsList().Elements())
	case celast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			r.expr(entry.AsMapEntry().Key())
			r.expr(entry.AsMapEntry().Value())
		}
	case celast.StructKind:
		for _, field := range e.AsStruct().Fields() {
			r.expr(field.AsStructField().Value())
		}
	case celast.ComprehensionKind:
		r.loop(e)
	case celast.IdentKind, celast.LiteralKind, celast.UnspecifiedExprKind:
	}
}

func (r *reader) all(es []celast.Expr) {
	for _, e := range es {
		r.expr(e)
	}
}

func (r *reader) loop(e celast.Expr) {
	c := e.AsComprehension()
	for _, v := range []string{c.IterVar(), c.IterVar2(), c.AccuVar()} {
		if slices.Contains(names, v) && r.err == nil {
			r.err = placed(r.p.text, r.p.ast.NativeRep().SourceInfo(), e.ID(), v+" is taken; call the variable otherwise")
		}
	}
	r.all([]celast.Expr{c.IterRange(), c.AccuInit(), c.LoopCondition(), c.LoopStep(), c.Result()})
}

func (r *reader) reads(variable, path string) {
	switch variable {
	case "state":
		r.p.paths = append(r.p.paths, path)
	case "prev":
		r.p.paths, r.p.prev = append(r.p.paths, path), true
	default:
		r.p.events = true
	}
}

// chain returns the path and the variable that e reads, if it is a variable, or a field or an entry of one. The path ends where
// the type of what follows is not known, before the element of a list, which is there or not by the list's length, and at what
// can be null or missing, which shows in another field than those in it.
func (r *reader) chain(e celast.Expr) (path, variable string, ok bool) {
	path, variable, _, ok = r.walk(e)
	return path, variable, ok
}

// walk is chain, with the type of e; open is false where the path has ended.
func (r *reader) walk(e celast.Expr) (path, variable string, at step, ok bool) {
	switch e.Kind() {
	case celast.IdentKind:
		name := e.AsIdent()
		return "", name, step{r.p.shape, name == "state" || name == "prev"}, slices.Contains(names, name)
	case celast.SelectKind:
		path, variable, at, ok = r.walk(e.AsSelect().Operand())
		path, at = at.to(path, e.AsSelect().FieldName())
		return path, variable, at, ok
	case celast.CallKind:
		call := e.AsCall()
		if call.FunctionName() != operators.Index || call.Args()[1].Kind() != celast.LiteralKind {
			return "", "", at, false
		}
		path, variable, at, ok = r.walk(call.Args()[0])
		key, _ := call.Args()[1].AsLiteral().(types.String)
		path, at = at.to(path, string(key))
		return path, variable, at, ok
	default:
		return "", "", at, false
	}
}

// A step is how far a path has come.
type step struct {
	in   canon.Type
	open bool // the path can lead on
}

// to leads a path on to a member or an entry.
func (s step) to(path, name string) (string, step) {
	if s.open && s.in.Kind() == canon.Struct {
		if _, member, ok := s.in.Member(name); ok {
			return canon.AppendMember(path, name), step{member, !member.Nullable()}
		}
	}
	if s.open && s.in.Kind() == canon.Map {
		return canon.AppendMember(path, name), step{}
	}
	return path, step{}
}
