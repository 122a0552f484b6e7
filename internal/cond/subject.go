package cond

import (
	"slices"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/parser"
)

// A subject is the integer that a condition is about: the left side of its first comparison of integers, less the right side
// where that is no constant either; the right side, where the left one is a constant.
type subject struct {
	text        string // "" if there is none
	value, less cel.Program

	// Where the condition is that comparison, and nothing else: what the subject is compared by, with less or, if that is a
	// constant, with the bound.
	op    string
	bound cel.Program
}

// subject finds the subject of a condition.
func (c *compiler) subject(ast *cel.Ast) subject {
	for _, e := range comparisons(ast.NativeRep().Expr()) {
		left, right := e.AsCall().Args()[0], e.AsCall().Args()[1]
		if !integers(ast, left, right) {
			continue
		}
		op := e.AsCall().FunctionName()
		if constant(left) {
			left, right, op = right, left, turned(op)
		}
		s, ok := c.part(ast, left)
		if !ok || constant(left) {
			continue
		}
		other, ok := c.part(ast, right)
		if !ok {
			continue
		}
		if !constant(right) {
			s.text, s.less = s.text+" - ("+other.text+")", other.value
		}
		if e == ast.NativeRep().Expr() {
			s.op, s.bound = op, other.value
		}
		return s
	}
	return subject{}
}

// turned returns the comparison with its sides changed.
func turned(op string) string {
	switch op {
	case operators.Less:
		return operators.Greater
	case operators.LessEquals:
		return operators.GreaterEquals
	case operators.Greater:
		return operators.Less
	case operators.GreaterEquals:
		return operators.LessEquals
	}
	return op
}

// part compiles a part of a condition.
func (c *compiler) part(ast *cel.Ast, e celast.Expr) (subject, bool) {
	whole := ast.NativeRep()
	text, err := parser.Unparse(e, whole.SourceInfo(), parser.EscapeIdentifiers(true))
	if err != nil {
		return subject{}, false
	}
	part := celast.NewCheckedAST(celast.NewAST(e, whole.SourceInfo()), whole.TypeMap(), whole.ReferenceMap())
	prog, err := c.env.PlanProgram(part, c.limits(ast)...)
	return subject{text: text, value: prog}, err == nil
}

// comparisons returns the comparisons that a condition joins with and, or, not and ?:, in order.
func comparisons(e celast.Expr) (found []celast.Expr) {
	if e.Kind() != celast.CallKind {
		return nil
	}
	switch e.AsCall().FunctionName() {
	case operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals, operators.Equals, operators.NotEquals:
		return []celast.Expr{e}
	case operators.LogicalAnd, operators.LogicalOr, operators.LogicalNot, operators.Conditional:
		for _, arg := range e.AsCall().Args() {
			found = append(found, comparisons(arg)...)
		}
	}
	return found
}

// integers reports whether a comparison is one of integers, as far as types tell: one side surely.
func integers(ast *cel.Ast, left, right celast.Expr) bool {
	sure := false
	for _, e := range []celast.Expr{left, right} {
		switch t := ast.NativeRep().GetType(e.ID()); {
		case t.IsExactType(cel.IntType), t.IsExactType(cel.UintType), t.IsExactType(cel.NullableType(cel.IntType)):
			sure = true
		case t.Kind() != types.DynKind:
			return false
		}
	}
	return sure
}

// constant reports whether an expression reads no variable.
func constant(e celast.Expr) bool {
	reads := false
	celast.PreOrderVisit(e, celast.NewExprVisitor(func(e celast.Expr) {
		reads = reads || e.Kind() == celast.IdentKind && slices.Contains(names, e.AsIdent())
	}))
	return !reads
}
