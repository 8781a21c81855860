package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"
)

// maxSecret bounds a secret file.
const maxSecret = 64 << 10

// interpolate replaces variables in all scalars below n. It works on the tree, after parsing, so a value can hold anything
// and never becomes structure.
//
//	${VAR}           the variable; a mistake if it is not set
//	${VAR:-default}  the variable, or the default if it is not set or empty
//	${file:PATH}     the content of a file, one line break at its end cut off; PATH from the working directory
//	$$               a dollar sign
//
// A dollar sign before anything else is itself, so a regular expression may end with one.
func interpolate(r *report, n *node, lookup func(string) (string, bool)) {
	if n.kind == scalar && strings.Contains(n.text, "$") {
		replace(r, n, lookup)
	}
	for i := range n.pairs {
		interpolate(r, n.pairs[i].value, lookup)
	}
	for _, item := range n.items {
		interpolate(r, item, lookup)
	}
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func replace(r *report, n *node, lookup func(string) (string, bool)) {
	var out strings.Builder
	rest, used := n.text, false
	for {
		i := strings.IndexByte(rest, '$')
		if i < 0 || i+1 >= len(rest) {
			out.WriteString(rest)
			break
		}
		out.WriteString(rest[:i])
		at := utf8.RuneCountInString(n.text[:len(n.text)-len(rest)+i])
		switch rest = rest[i+1:]; rest[0] {
		case '$':
			out.WriteByte('$')
			rest, used = rest[1:], true
			continue
		case '{':
		default:
			out.WriteByte('$')
			continue
		}
		end := strings.IndexByte(rest, '}')
		if end < 0 {
			n.wrong = true
			r.at(n, at, "${ has no } after it; a dollar sign itself is $$")
			return
		}
		value, err := resolve(rest[1:end], lookup)
		if err != nil {
			n.wrong = true
			r.at(n, at, "%s", err)
		}
		out.WriteString(value)
		rest, used = rest[end+1:], true
	}
	if used {
		n.raw, n.text = n.text, out.String()
	}
}

// resolve gives the value of what stands between ${ and }. The error never holds a value.
func resolve(expression string, lookup func(string) (string, bool)) (string, error) {
	if path, ok := strings.CutPrefix(expression, "file:"); ok {
		value, err := readSecret(path)
		if err != nil {
			return "", fmt.Errorf("the file %s cannot be read: %w", path, err)
		}
		return value, nil
	}
	name, fallback, hasDefault := strings.Cut(expression, ":-")
	if !variableName.MatchString(name) {
		return "", fmt.Errorf("%q is not the name of a variable: write ${NAME}, ${NAME:-default} or ${file:PATH}", name)
	}
	if strings.Contains(fallback, "${") {
		return "", fmt.Errorf("the default of ${%s} cannot hold another variable", name)
	}
	value, ok := lookup(name)
	switch {
	case hasDefault && value == "":
		return fallback, nil
	case !ok:
		return "", fmt.Errorf("the variable %s is not set: set it, or write ${%s:-default}", name, name)
	case !utf8.ValidString(value) || strings.ContainsRune(value, 0):
		return "", fmt.Errorf("the variable %s is not text in UTF-8", name)
	}
	return value, nil
}

func readSecret(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", reason(err)
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("it is not a file")
	}
	f, err := os.Open(path)
	if err != nil {
		return "", reason(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	switch {
	case err != nil:
		return "", reason(err)
	case len(b) > maxSecret:
		return "", fmt.Errorf("it has more than %d bytes", maxSecret)
	case !utf8.Valid(b) || strings.ContainsRune(string(b), 0):
		return "", errors.New("it is not text in UTF-8")
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r"), nil
}
