package expression

import (
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/millstream-io/millstream/pipeline"
)

// functions returns the built-in functions. All of them give a missing value for a missing argument, except has.
func functions() map[string]Function {
	return map[string]Function{
		"has":    {Params: types(pipeline.Any), Returns: pipeline.Bool, Call: one(func(x any) any { return x != nil })},
		"len":    {Params: types(pipeline.Any), Returns: pipeline.Number, Call: one(length)},
		"lower":  {Params: types(pipeline.Text), Returns: pipeline.Text, Call: onText(strings.ToLower)},
		"upper":  {Params: types(pipeline.Text), Returns: pipeline.Text, Call: onText(strings.ToUpper)},
		"trim":   {Params: types(pipeline.Text), Returns: pipeline.Text, Call: onText(strings.TrimSpace)},
		"number": {Params: types(pipeline.Any), Returns: pipeline.Number, Call: one(number)},
		"text":   {Params: types(pipeline.Any), Returns: pipeline.Text, Call: one(text)},
		"abs":    {Params: types(pipeline.Number), Returns: pipeline.Number, Call: fold(func(x, _ float64) float64 { return math.Abs(x) })},
		"round":  {Params: types(pipeline.Number, pipeline.Number), Optional: 1, Returns: pipeline.Number, Call: round},
		"min":    {Params: types(pipeline.Number, pipeline.Number), Variadic: true, Returns: pipeline.Number, Call: fold(math.Min)},
		"max":    {Params: types(pipeline.Number, pipeline.Number), Variadic: true, Returns: pipeline.Number, Call: fold(math.Max)},
	}
}

func types(t ...pipeline.AttributeType) []pipeline.AttributeType { return t }

func one(f func(x any) any) func(args ...any) (any, error) {
	return func(args ...any) (any, error) { return f(args[0]), nil }
}

func onText(f func(string) string) func(args ...any) (any, error) {
	return one(func(x any) any {
		if s, ok := x.(string); ok {
			return f(s)
		}
		return nil
	})
}

// fold combines numbers from left to right, the first with itself.
func fold(f func(a, b float64) float64) func(args ...any) (any, error) {
	return func(args ...any) (any, error) {
		var total float64
		for i, a := range args {
			x, ok := a.(float64)
			if !ok {
				return nil, nil
			}
			if i == 0 {
				total = f(x, x)
			} else {
				total = f(total, x)
			}
		}
		return finite(total), nil
	}
}

// length is the number of characters of a text, or of elements of a list.
func length(x any) any {
	switch x := x.(type) {
	case string:
		return float64(utf8.RuneCountInString(x))
	case []string:
		return float64(len(x))
	case []any:
		return float64(len(x))
	}
	return nil
}

// number reads a decimal number, with or without space around it: "12", "-0.5", "1e3". A decimal comma, a currency sign or
// a thousands separator is not guessed at. Of a time it is the Unix seconds.
func number(x any) any {
	switch x := x.(type) {
	case float64:
		return finite(x)
	case time.Time:
		return float64(x.UnixMilli()) / 1000
	case string:
		s := strings.TrimSpace(x)
		if strings.Trim(s, "0123456789+-.eE") != "" { // what ParseFloat knows beyond that: hex, underscores, Inf, NaN
			return nil
		}
		if v, err := strconv.ParseFloat(s, 64); err == nil {
			return finite(v)
		}
	}
	return nil
}

// text writes a value: numbers without exponent below 1e21, as JSON does; times in RFC 3339, UTC, with milliseconds.
func text(x any) any {
	switch x := x.(type) {
	case string:
		return x
	case float64:
		if math.Abs(x) < 1e21 {
			return strconv.FormatFloat(x, 'f', -1, 64)
		}
		return strconv.FormatFloat(x, 'g', -1, 64)
	case bool:
		return strconv.FormatBool(x)
	case time.Time:
		return x.UTC().Format(pipeline.TimeFormat)
	}
	return nil
}

// round rounds half away from zero to 0 … 15 digits after the point.
func round(args ...any) (any, error) {
	x, ok := args[0].(float64)
	if !ok {
		return nil, nil
	}
	digits := 0.0
	if len(args) > 1 {
		if digits, ok = args[1].(float64); !ok {
			return nil, nil
		}
	}
	scale := pow10[int(min(max(digits, 0), 15))]
	if scaled := x * scale; math.Abs(scaled) < 1<<53 { // beyond, there is nothing left to round
		x = math.Round(scaled) / scale
	}
	return finite(x), nil
}

var pow10 = [16]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15}
