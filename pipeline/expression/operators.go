package expression

import (
	"cmp"
	"math"
	"strings"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// truth makes a condition of a value: true if it is the boolean true.
func truth(x func(f *frame) any) func(f *frame) any {
	return func(f *frame) any {
		b, ok := x(f).(bool)
		return ok && b
	}
}

// logic is or (and without or), left to right; the right side is skipped when the left decides.
func logic(or bool, l, r func(f *frame) any) func(f *frame) any {
	return func(f *frame) any {
		if l(f).(bool) == or {
			return or
		}
		return r(f)
	}
}

// operator is a comparison by what it accepts.
type operator struct{ less, equal, more bool }

var operators = map[string]operator{
	"==": {equal: true},
	"!=": {less: true, more: true},
	"<":  {less: true},
	"<=": {less: true, equal: true},
	">":  {more: true},
	">=": {equal: true, more: true},
}

func (o operator) holds(order int) bool {
	switch {
	case order < 0:
		return o.less
	case order > 0:
		return o.more
	}
	return o.equal
}

// compare orders two values of one type; ok is false if they have none in common, one is missing, or one is not a number.
func compare(a, b any) (order int, ok bool) {
	switch a := a.(type) {
	case float64:
		b, ok := b.(float64)
		return orderOf(a, b), ok && a == a && b == b
	case string:
		b, ok := b.(string)
		return strings.Compare(a, b), ok
	case time.Time:
		b, ok := b.(time.Time)
		return a.Compare(b), ok
	case bool:
		b, ok := b.(bool)
		if a == b {
			return 0, ok
		}
		return 1, ok
	}
	return 0, false
}

func orderOf[T cmp.Ordered](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// contains tells whether x is an element of a list.
func contains(list, x any) bool {
	switch list := list.(type) {
	case []string:
		s, ok := x.(string)
		if !ok {
			return false
		}
		for _, item := range list {
			if item == s {
				return true
			}
		}
	case []any:
		for _, item := range list {
			if order, ok := compare(item, x); ok && order == 0 {
				return true
			}
		}
	}
	return false
}

func arithmetic(op byte, l, r func(f *frame) any) func(f *frame) any {
	return func(f *frame) any {
		a, b := l(f), r(f)
		switch a := a.(type) {
		case float64:
			if b, ok := b.(float64); ok {
				return finite(calculate(op, a, b))
			}
		case string:
			if b, ok := b.(string); ok && op == '+' && len(a)+len(b) <= maxText {
				return a + b
			}
		case time.Time:
			if b, ok := b.(time.Time); ok && op == '-' {
				return float64(a.UnixMilli()-b.UnixMilli()) / 1000
			}
		}
		return nil
	}
}

func calculate(op byte, a, b float64) float64 {
	switch op {
	case '+':
		return a + b
	case '-':
		return a - b
	case '*':
		return a * b
	case '/':
		return a / b // by zero: not finite, so missing
	}
	return math.Mod(a, b)
}

// finite is x, or missing if x is no number that a table or a JSON document could hold.
func finite(x float64) any {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return nil
	}
	return x
}

func parseTime(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}

// typeOf is the type of a value.
func typeOf(v any) pipeline.AttributeType {
	switch v.(type) {
	case float64:
		return pipeline.Number
	case string:
		return pipeline.Text
	case time.Time:
		return pipeline.Time
	case bool:
		return pipeline.Bool
	case []string, []any:
		return List
	}
	return none
}

// describe is a type in words.
func describe(t pipeline.AttributeType) string {
	switch t {
	case pipeline.Number:
		return "a number"
	case pipeline.Text:
		return "a text"
	case pipeline.Time:
		return "a time"
	case pipeline.Bool:
		return "a condition"
	case List:
		return "a list"
	case none:
		return "nil"
	}
	return "a value"
}
