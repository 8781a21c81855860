// Package expression is the language of conditions and computed values: `orders_90d >= 3 and revenue > 500`,
// `number(Quantity) * number(UnitPrice)`. The grammar is that of github.com/expr-lang/expr, whose parser reads it; types and
// evaluation are ours, because customer data has holes and expr treats a missing value as an error.
//
// The rules, all of them:
//
//   - Values are numbers (float64), texts, booleans, times and lists of texts; or missing (nil).
//   - A comparison (==, !=, <, <=, >, >=, in, contains, startsWith, endsWith, matches) with a missing value is false, also
//     with !=. The same holds for values of different types and for NaN. It is never an error.
//   - `and`, `or`, `not`, `?:` are plain boolean logic over that: if x is missing, `x > 3` is false and `not (x > 3)` is true.
//     Whatever is not true counts as false.
//   - Arithmetic (+ - * / %) with a missing value, a division by zero or a result that is not finite is missing.
//   - has(x) tells whether x is there; coalesce(a, b, …) and a ?? b give the first that is there.
//   - Time - Time is seconds. A time compares with a constant text such as "2026-03-01" or "2026-03-01T10:00:00Z" (UTC).
//   - days_since(x) is how many days of 24 hours have passed since a time, where the scope has a clock; x may be a text such as
//     "2026-03-01".
//   - A name must be in the Scope, a mistake of types that shows before the first event is an error of Compile.
//
// There are no loops and no side effects, and the only clock is the time that the caller gives; size is bounded (maxSource, maxNodes, maxText), so an evaluation is
// bounded too, and gives the same bits in every run.
package expression

import (
	"fmt"
	"slices"

	"github.com/millstream-io/millstream/pipeline"
)

// Vars returns the value of a name: nil (missing), string, float64, bool, time.Time or []string. A member of a root comes
// with dots ("properties.currency"); a key that contains a dot is in quotes, as in pipeline.Path.
type Vars = func(name string) any

// List is the type of lists of texts, for Scope.Names and Function.Params.
const List pipeline.AttributeType = 100

// Scope says which names an expression may use.
type Scope struct {
	// Names are plain names with their types. A value of another type at run time counts as it is: comparisons are false.
	Names map[string]pipeline.AttributeType
	// Roots are open namespaces, such as "properties": all members exist and are Any.
	Roots []string
	// Clock says that Vars has the time of the evaluation under Now, so that days_since can be used.
	Clock bool
	// Functions are known besides the built-in ones, and shadow them.
	Functions map[string]Function
}

// Function is a function that expressions can call. It must be deterministic and safe for concurrent use. Either Call or
// Lookup is set.
type Function struct {
	Params   []pipeline.AttributeType // checked at compile time where the argument's type is known
	Optional int                      // how many of the last Params may be left out
	Variadic bool                     // the last of Params may be repeated
	Returns  pipeline.AttributeType

	// Check, if set, looks at the arguments at compile time.
	Check func(args []Argument) error
	// Call computes the result. An argument may be missing (nil), and of any type if its type was not known. The slice is
	// valid during the call. An error ends the evaluation.
	Call func(args ...any) (any, error)
	// Lookup makes a call a variable: it returns the name under which Vars has the value, so that what belongs to the record
	// in hand, such as column("Unit Price") or entered("vip"), needs no other way in.
	Lookup func(args []Argument) (name string, err error)
}

// Argument is an argument of a call, as far as it is known at compile time.
type Argument struct {
	Constant bool
	Value    any // of a constant
}

// Text returns a constant text.
func (a Argument) Text() (string, bool) {
	s, ok := a.Value.(string)
	return s, ok && a.Constant
}

// Error is a mistake in an expression.
type Error struct {
	Column  int    // where, counted in characters from 0
	Message string // what is wrong and what to do
}

func (e *Error) Error() string { return fmt.Sprintf("character %d: %s", e.Column+1, e.Message) }

// Program is a compiled expression. It is immutable and safe for concurrent use.
type Program struct {
	root      node
	names     []string
	crossings []crossing
	borders   map[string][]float64
}

// Compile checks and compiles an expression. The error is always an *Error.
func Compile(source string, scope Scope) (*Program, error) {
	tree, err := parse(source)
	if err != nil {
		return nil, err
	}
	c := compiler{scope: scope, names: map[string]bool{}, borders: map[string][]float64{}}
	root := c.compile(tree)
	if c.err != nil {
		return nil, c.err
	}
	p := &Program{root: root, crossings: c.crossings, borders: c.borders}
	for n := range c.names {
		p.names = append(p.names, n)
	}
	slices.Sort(p.names)
	return p, nil
}

// CompileBool is Compile for a condition: a result that is known to be something else is an error. At run time a result
// that is not true, whatever it is, counts as false.
func CompileBool(source string, scope Scope) (*Program, error) {
	p, err := Compile(source, scope)
	if err != nil {
		return nil, err
	}
	if t := p.root.typ; t != pipeline.Bool && t != pipeline.Any {
		return nil, &Error{0, fmt.Sprintf("the expression is %s, a condition is needed: compare it with something", describe(t))}
	}
	p.root = node{typ: pipeline.Bool, eval: truth(p.root.eval)}
	return p, nil
}

// Names returns the names that the expression looks up, sorted; members of roots as "traits.plan". The result belongs to
// the program.
func (p *Program) Names() []string { return p.names }

// Borders returns the constant numbers that the expression compares a name with, as in engagement >= 50: where the result may
// change when the name's value passes them. A name that is compared after a computation, as in 2 * engagement > 100, has none.
func (p *Program) Borders(name string) []float64 { return p.borders[name] }

// Type is what the value will be, Any if that depends on the data. The value may be missing in any case.
func (p *Program) Type() pipeline.AttributeType { return p.root.typ }

// Value evaluates the expression. An error comes only from a Function's Call.
func (p *Program) Value(vars Vars) (value any, err error) {
	f := frame{vars: vars}
	value = p.root.eval(&f)
	if f.err != nil {
		return nil, f.err
	}
	return value, nil
}

// Bool evaluates a condition; a missing result is false. A result that is neither is an error, unless CompileBool was used.
func (p *Program) Bool(vars Vars) (bool, error) {
	v, err := p.Value(vars)
	if err != nil || v == nil {
		return false, err
	}
	b, ok := v.(bool)
	if !ok {
		return false, fmt.Errorf("evaluate condition: the result is %s, not true or false", describe(typeOf(v)))
	}
	return b, nil
}
