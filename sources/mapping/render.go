package mapping

import (
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/millstream-io/millstream/pipeline"
)

// row gives the values of one row.
type row interface {
	// value appends the JSON of a leaf; it appends nothing if the row has no value there.
	value(dst []byte, n *node) ([]byte, error)
	// extras are what no leaf names, sorted by name; nil for tables, whose columns are leaves.
	extras() []extra
}

type extra struct {
	name string
	raw  []byte // JSON
}

// render appends the object of n, nothing if it would be empty.
func render(dst []byte, n *node, r row) ([]byte, error) {
	var more []extra
	if n.extras {
		more = r.extras()
	}
	start := len(dst)
	dst = append(dst, '{')
	for _, c := range n.children {
		for len(more) > 0 && more[0].name <= c.name {
			if more[0].name < c.name { // what the configuration names wins
				dst = appendExtra(dst, more[0])
			}
			more = more[1:]
		}
		before := len(dst)
		dst = append(dst, c.key...)
		filled := len(dst)
		var err error
		if c.leaf != nil {
			dst, err = r.value(dst, c)
		} else {
			dst, err = render(dst, c, r)
		}
		if err != nil {
			return dst, err
		}
		if len(dst) == filled {
			dst = dst[:before]
		} else {
			dst = append(dst, ',')
		}
	}
	for _, e := range more {
		dst = appendExtra(dst, e)
	}
	if len(dst) == start+1 {
		return dst[:start], nil
	}
	dst[len(dst)-1] = '}'
	return dst, nil
}

func appendExtra(dst []byte, e extra) []byte {
	dst = append(appendString(dst, e.name), ':')
	return append(append(dst, e.raw...), ',')
}

// appendValue appends the result of an expression. Numbers are rounded to 15 significant digits, the most that every
// decimal number keeps through a float64: 6 * 2.55 is 15.3, not 15.299999999999999, so sums of money are exact.
func appendValue(dst []byte, v any, l *leaf) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return dst, nil
	case string:
		return appendString(dst, v), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return dst, pipeline.Reject(codeValue, "the expression of %s gives no finite number", l.name())
		}
		var buf [32]byte
		rounded, err := strconv.ParseFloat(string(strconv.AppendFloat(buf[:0], v, 'e', 14, 64)), 64)
		if err != nil {
			rounded = v // rounding up went beyond the largest number
		}
		if a := math.Abs(rounded); a != 0 && (a < 1e-9 || a >= 1e21) {
			return strconv.AppendFloat(dst, rounded, 'e', -1, 64), nil
		}
		return strconv.AppendFloat(dst, rounded+0, 'f', -1, 64), nil
	case time.Time:
		return appendString(dst, v.UTC().Format(pipeline.TimeFormat)), nil
	case []string:
		dst = append(dst, '[')
		for i, s := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendString(dst, s)
		}
		return append(dst, ']'), nil
	}
	return dst, fmt.Errorf("an expression gave a %T, which is no value of events", v)
}

const hex = "0123456789abcdef"

// appendString appends s, which is UTF-8, as a JSON string with no more escapes than needed.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, `\n`...)
		case c == '\r':
			dst = append(dst, `\r`...)
		case c == '\t':
			dst = append(dst, `\t`...)
		case c < 0x20:
			dst = append(dst, `\u00`...)
			dst = append(dst, hex[c>>4], hex[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

func validUTF8(fields []string) bool {
	for _, f := range fields {
		if !utf8.ValidString(f) {
			return false
		}
	}
	return true
}
