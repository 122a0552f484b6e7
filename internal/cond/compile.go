// Package cond compiles conditions over the states of a key, written in CEL, and evaluates them along the key's messages, from
// the fields that these wrote. It knows JSON, its fields, and nothing of histories.
//
// A condition reads
//
//	state    the state after a message
//	prev     the state before it
//	event    the last event that the message recorded: its fields, and .type; where the payload has a type of its own,
//	         event.payload.type
//	events   all of them, in order
//
// States have the types of their Go structs, so that a field that there is not is refused where it is written. A field that
// is zero is 0, "", false, empty or null, never missing, and has(state.field) says whether it is not zero. Integers are int,
// beyond its range uint, and never double.
package cond

import (
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"

	"github.com/dejalog/deja/internal/canon"
)

// The bounds of a condition.
const (
	MaxText = 10_000    // code points
	MaxCost = 1_000_000 // of an evaluation, in CEL's units: about one for each step
)

// A Program is a compiled condition. It is safe for concurrent use.
type Program struct {
	text   string
	shape  canon.Type
	ast    *cel.Ast
	prog   cel.Program
	paths  []string // of the fields that it reads; none is below another
	prev   bool     // it reads prev
	events bool     // it reads event or events
	near   subject
}

// Compile compiles a condition for an aggregate, whose states have a shape. The error shows the place.
func Compile(aggregate string, shape *canon.Shape, text string) (*Program, error) {
	c, err := newCompiler(aggregate, shape.Type())
	if err != nil {
		return nil, err
	}
	p := &Program{text: text, shape: shape.Type()}
	if p.ast, p.prog, err = c.compile(text); err != nil {
		return nil, err
	}
	if t := p.ast.OutputType(); !t.IsExactType(cel.BoolType) && t.Kind() != types.DynKind {
		return nil, placed(text, p.ast.NativeRep().SourceInfo(), p.ast.NativeRep().Expr().ID(),
			fmt.Sprintf("this is %s: want a condition, such as state.balance < 0", typeName(t)))
	}
	if err := p.read(); err != nil {
		return nil, err
	}
	p.near = c.subject(p.ast)
	return p, nil
}

// Paths returns the paths of the fields that the condition reads, of state or prev, in order; "" is all of a state. All that is
// below a path is read with it.
func (p *Program) Paths() []string { return slices.Clone(p.paths) }

// ReadsEvents reports whether the condition reads events: then any message can make it true or false.
func (p *Program) ReadsEvents() bool { return p.events }

// ReadsPrev reports whether the condition reads the state before a message.
func (p *Program) ReadsPrev() bool { return p.prev }

// A compiler compiles expressions over the states of one aggregate.
type compiler struct {
	env   *cel.Env
	types *provider
	state canon.Type
}

func newCompiler(aggregate string, state canon.Type) (*compiler, error) {
	c := &compiler{types: newProvider(aggregate, state), state: state}
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, err
	}
	c.types.Provider = registry
	c.env, err = cel.NewEnv(
		cel.CustomTypeAdapter(adapter{}),
		cel.CustomTypeProvider(c.types),
		cel.Variable("state", c.types.of(state)),
		cel.Variable("prev", c.types.of(state)),
		cel.Variable("event", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("events", cel.ListType(cel.MapType(cel.StringType, cel.DynType))),
		cel.ParserExpressionSizeLimit(MaxText),
		cel.EnableMacroCallTracking(),
		cel.EnableIdentifierEscapeSyntax(),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals()),
	)
	return c, err
}

func (c *compiler) compile(text string) (*cel.Ast, cel.Program, error) {
	ast, issues := c.env.Compile(text)
	if issues.Err() != nil {
		return nil, nil, c.faults(text, issues)
	}
	prog, err := c.env.Program(ast, c.limits(ast)...)
	if err != nil {
		return nil, nil, fmt.Errorf("condition %s: %w", text, err)
	}
	return ast, prog, nil
}

// limits returns the options that bound what an evaluation costs. Counting costs time too: it is left out where the text alone
// shows that the bound is kept.
func (c *compiler) limits(ast *cel.Ast) []cel.ProgramOption {
	if est, err := c.env.EstimateCost(ast, nil); err == nil && est.Max <= MaxCost {
		return nil
	}
	return []cel.ProgramOption{cel.CostLimit(MaxCost)}
}

// faults returns the error of a text that does not compile.
func (c *compiler) faults(text string, issues *cel.Issues) error {
	var b strings.Builder
	for i, e := range issues.Errors() {
		if i > 0 && strings.HasPrefix(e.Message, "Syntax error") { // it follows from the first
			break
		}
		b.WriteString(caret(text, e.Location.Line(), e.Location.Column(), c.fault(text, e)))
	}
	return &Error{b.String()}
}

// fault says what is wrong in the words of states.
func (c *compiler) fault(text string, e *cel.Error) string {
	if field, ok := quotedIn(e.Message, "undefined field '"); ok {
		return fmt.Sprintf("there is no field %s; %s", field, instead(field, c.types.missing[field]))
	}
	if name, ok := quotedIn(e.Message, "undeclared reference to '"); ok {
		_, _, member := c.state.Member(name)
		switch {
		case strings.HasPrefix(cut(text, e.Location.Line(), e.Location.Column()), "("):
			return fmt.Sprintf("there is no function %s", name)
		case member:
			return fmt.Sprintf("there is no %s; the state's is state.%[1]s", name)
		}
		return fmt.Sprintf("there is no %s; %s", name, instead(name, names))
	}
	if name, ok := quotedIn(e.Message, "no viable alternative at input '."); ok {
		return fmt.Sprintf("%s is a word of CEL itself: as a field, it is written .`%[1]s`", name)
	}
	if op, ok := quotedIn(e.Message, "no matching overload for '"); ok {
		if args, ok := quotedIn(e.Message, "applied to '("); ok {
			return unfit(op, strings.TrimSuffix(args, ")"))
		}
	}
	if strings.Contains(e.Message, "input '<EOF>'") {
		return "it ends too early"
	}
	msg, _, _ := strings.Cut(e.Message, " expecting ")
	return msg
}

// unfit says that a function has no meaning for types.
func unfit(op, args string) string {
	sign := strings.Trim(op, "_")
	left, right, two := strings.Cut(args, ", ")
	msg := fmt.Sprintf("there is no %s(%s)", sign, args)
	if two && op == "_"+sign+"_" {
		msg = fmt.Sprintf("there is no %s %s %s", left, sign, right)
	}
	if strings.Contains(args, "double") {
		msg += "; integers go with integers"
	}
	return msg
}

// cut returns a text from a place on.
func cut(text string, line, column int) string {
	lines := strings.Split(text, "\n")
	if line < 1 || line > len(lines) {
		return ""
	}
	runes := []rune(lines[line-1])
	return string(runes[min(max(column, 0), len(runes)):])
}

// quotedIn returns what stands in a message between a prefix and the next quote.
func quotedIn(msg, prefix string) (string, bool) {
	_, rest, ok := strings.Cut(msg, prefix)
	name, _, closed := strings.Cut(rest, "'")
	return name, ok && closed
}

// An Error says what is wrong with a condition, and shows the place.
type Error struct{ text string }

func (e *Error) Error() string { return "condition:" + e.text }

// caret returns a line of a text, and a message that points at a column of it.
func caret(text string, line, column int, msg string) string {
	lines := strings.Split(text, "\n")
	if line < 1 || line > len(lines) {
		return "\n  " + msg
	}
	if len(lines) > 1 {
		msg += fmt.Sprintf(" (line %d)", line)
	}
	shown := strings.ReplaceAll(strings.TrimRight(lines[line-1], "\r"), "\t", " ")
	return fmt.Sprintf("\n  %s\n  %s^ %s", shown, strings.Repeat(" ", max(column, 0)), msg)
}

// placed returns an error that points at an expression.
func placed(text string, info *celast.SourceInfo, id int64, msg string) error {
	at := info.GetStartLocation(id)
	return &Error{caret(text, at.Line(), at.Column(), msg)}
}

// typeName names a type for people.
func typeName(t *cel.Type) string {
	switch t.Kind() {
	case types.StructKind:
		return "a struct"
	case types.ListKind:
		return "a list"
	case types.MapKind:
		return "a map"
	default:
		return "of type " + t.String()
	}
}
