package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/millstream-io/millstream/internal/suggest"
)

// decoder fills Go values from nodes: structs by their yaml tags, maps with text keys, slices, pointers, scalars, types with
// UnmarshalText or UnmarshalYAML(func(any) error). Fields that the YAML does not name keep what they hold. Unlike go-yaml's
// own decoder it does not stop at the first mistake.
type decoder struct {
	report *report
}

// yamlUnmarshaler is go-yaml's InterfaceUnmarshaler.
type yamlUnmarshaler interface {
	UnmarshalYAML(decode func(any) error) error
}

// decode fills target, which must be settable. at is the key of n, for what is said about mappings and missing values; what
// names it in messages.
func (d *decoder) decode(n, at *node, what string, target reflect.Value) {
	if n.wrong {
		return // reported already
	}
	if target.Kind() == reflect.Pointer && !target.Type().Implements(reflect.TypeFor[yamlUnmarshaler]()) {
		if n.kind == null {
			return
		}
		if target.IsNil() {
			target.Set(reflect.New(target.Type().Elem()))
		}
		d.decode(n, at, what, target.Elem())
		return
	}
	if target.CanAddr() {
		switch t := target.Addr().Interface().(type) {
		case yamlUnmarshaler:
			d.custom(n, at, what, t)
			return
		case encoding.TextUnmarshaler:
			d.text(n, at, what, t)
			return
		}
	}
	switch target.Kind() {
	case reflect.Struct:
		d.fields(n, at, what, target)
	case reflect.Map:
		d.entries(n, at, what, target)
	case reflect.Slice:
		if !d.is(n, at, what, sequence) {
			return
		}
		out := reflect.MakeSlice(target.Type(), len(n.items), len(n.items))
		for i, item := range n.items {
			d.decode(item, item, fmt.Sprintf("entry %d of %s", i+1, what), out.Index(i))
		}
		target.Set(out)
	case reflect.Interface:
		if v := d.natural(n); v != nil {
			target.Set(reflect.ValueOf(v))
		}
	default:
		if d.is(n, at, what, scalar) {
			d.scalar(n, what, target)
		}
	}
}

// fail reports a mistake of a node.
func (d *decoder) fail(n *node, format string, args ...any) {
	d.failAt(n, 0, format, args...)
}

// failAt reports a mistake of a node, at a character of it if it is a scalar; a value that came from a variable is shown as the variable.
func (d *decoder) failAt(n *node, index int, format string, args ...any) {
	n.wrong = true
	message := fmt.Sprintf(format, args...)
	if n.kind == scalar && n.raw != "" && n.text != "" {
		message = strings.ReplaceAll(message, strconv.Quote(n.text), n.raw)
		if strings.Contains(message, n.text) {
			message = "the value of " + n.raw + " does not fit here"
		}
	}
	d.report.at(n, index, "%s", message)
}

// is checks the kind of a node. Null is an empty mapping or sequence.
func (d *decoder) is(n, at *node, what string, kind nodeKind) bool {
	if n.kind == kind || n.kind == null && kind != scalar {
		return true
	}
	words := map[nodeKind]string{scalar: "a single value", mapping: "keys and values", sequence: "a list"}
	if n.kind == null {
		d.fail(at, "%s needs %s, it is empty", what, words[kind])
		n.wrong = true
		return false
	}
	d.fail(n, "%s needs %s, not %s", what, words[kind], words[n.kind])
	return false
}

func (d *decoder) custom(n, at *node, what string, target yamlUnmarshaler) {
	var last *report
	err := target.UnmarshalYAML(func(v any) error {
		last = &report{file: d.report.file, lines: d.report.lines}
		sub := decoder{report: last}
		sub.decode(n, at, what, reflect.ValueOf(v).Elem())
		if len(last.list) == 0 {
			return nil
		}
		n.wrong, at.wrong = false, false // another form may fit
		return errors.New(last.list[0].Message)
	})
	switch {
	case err == nil:
	case last != nil && len(last.list) > 0 && err.Error() == last.list[0].Message:
		n.wrong = true
		d.report.list = append(d.report.list, last.list...)
	default:
		d.fail(n, "%s", err)
	}
}

func (d *decoder) text(n, at *node, what string, target encoding.TextUnmarshaler) {
	if !d.is(n, at, what, scalar) {
		return
	}
	if err := target.UnmarshalText([]byte(n.text)); err != nil {
		d.fail(n, "%s", err)
		return
	}
	n.canon = n.text
	if s, ok := target.(fmt.Stringer); ok { // a Secret says only that it is one
		n.canon = s.String()
	}
}

func (d *decoder) fields(n, at *node, what string, target reflect.Value) {
	if !d.is(n, at, what, mapping) {
		return
	}
	known := make([]string, 0, target.NumField())
	byName := map[string]int{}
	for i := range target.NumField() {
		name, _, _ := strings.Cut(target.Type().Field(i).Tag.Get("yaml"), ",")
		if name != "" && name != "-" {
			known = append(known, name)
			byName[name] = i
		}
	}
	for _, p := range n.pairs {
		i, ok := byName[p.key]
		if !ok {
			d.unknown(p.at, p.key, what, known)
			continue
		}
		d.decode(p.value, p.at, p.key, target.Field(i))
	}
}

func (d *decoder) unknown(at *node, key, what string, known []string) {
	hint := suggest.DidYouMean(key, known)
	switch {
	case hint != "":
	case len(known) == 0:
		hint = ", it has no settings"
	default:
		hint = ", it has " + strings.Join(known, ", ")
	}
	d.fail(at, "%s has no key %q%s", what, key, hint)
}

func (d *decoder) entries(n, at *node, what string, target reflect.Value) {
	if !d.is(n, at, what, mapping) {
		return
	}
	if target.IsNil() {
		target.Set(reflect.MakeMapWithSize(target.Type(), len(n.pairs)))
	}
	for _, p := range n.pairs {
		v := reflect.New(target.Type().Elem()).Elem()
		d.decode(p.value, p.at, p.key, v)
		target.SetMapIndex(reflect.ValueOf(p.key).Convert(target.Type().Key()), v)
	}
}

// natural is a value without a type of its own, as YAML reads it.
func (d *decoder) natural(n *node) any {
	switch n.kind {
	case scalar:
		n.canon = n.text
		if n.style != plain {
			return n.text
		}
		if b, err := strconv.ParseBool(n.text); err == nil && (n.text == "true" || n.text == "false") {
			return b
		}
		if !decimal(n.text) {
			return n.text
		}
		if i, err := strconv.ParseInt(n.text, 10, 64); err == nil {
			return i
		}
		if f, err := strconv.ParseFloat(n.text, 64); err == nil {
			return f
		}
		return n.text
	case mapping:
		out := make(map[string]any, len(n.pairs))
		for _, p := range n.pairs {
			out[p.key] = d.natural(p.value)
		}
		return out
	case sequence:
		out := make([]any, len(n.items))
		for i, item := range n.items {
			out[i] = d.natural(item)
		}
		return out
	}
	return nil
}

// decimal tells whether a text looks like a number in YAML 1.2: what Go's parser knows beyond that is text. A number with a
// leading zero is a text too: a postcode, not an octal number.
func decimal(s string) bool {
	digits := strings.TrimLeft(s, "+-")
	if len(digits) > 1 && digits[0] == '0' && digits[1] != '.' && digits[1] != 'e' && digits[1] != 'E' {
		return false
	}
	return s != "" && strings.Trim(s, "0123456789+-.eE") == ""
}

func (d *decoder) scalar(n *node, what string, target reflect.Value) {
	quoted := n.style != plain && n.raw == "" // "${PORT}" in quotes is what the variable holds
	wrong := func(needs string) {
		if quoted {
			needs += " without quotes"
		}
		d.fail(n, "%s needs %s, not %s", what, needs, strconv.Quote(n.text))
	}
	n.canon = n.text
	switch target.Kind() {
	case reflect.String:
		target.SetString(n.text)
	case reflect.Bool:
		if quoted || n.text != "true" && n.text != "false" {
			wrong("true or false")
			return
		}
		target.SetBool(n.text == "true")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		i, err := strconv.ParseInt(n.text, 10, target.Type().Bits())
		if err != nil || quoted {
			wrong("a whole number")
			return
		}
		target.SetInt(i)
		n.canon = strconv.FormatInt(i, 10)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		u, err := strconv.ParseUint(n.text, 10, target.Type().Bits())
		if err != nil || quoted {
			wrong("a whole number from 0")
			return
		}
		target.SetUint(u)
		n.canon = strconv.FormatUint(u, 10)
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(n.text, target.Type().Bits())
		if err != nil || quoted || !decimal(n.text) {
			wrong("a number")
			return
		}
		target.SetFloat(f)
		n.canon = strconv.FormatFloat(f, 'g', -1, 64)
	default:
		d.fail(n, "%s cannot be set here", what)
	}
}
